"""Calls out of a room, one at a time: somebody is rung for so long, and is there or isn't.

What Daily says of a call names it by a `sessionId`, the id of the participant that it becomes:

    dialout_connected   it rings; the participant may be in the room by then
    dialout_answered    he has picked up
    dialout_stopped     it is over: before it was answered, nobody picked up, or he refused
    dialout_error       it couldn't be put through; perhaps before it had an id

Daily has no code for what became of a call that wasn't answered: whether the number was busy is read from its words.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from greenroom.common.reasons import Reason

ANSWERED: Final = "answered"
STOPPED: Final = "stopped"
ERROR: Final = "error"
_BUSY: Final = re.compile(r"\b(busy|declined?|rejected|486|600|603)\b", re.IGNORECASE)
_MAX_TEXT: Final = 200
# Of a bot that has left the room, Daily's library may never say that it is done.
_HANG_UP_S: Final = 2.0


class Dials(Protocol):
    """What calls: Pipecat's transport for Daily."""

    async def start_dialout(self, settings: Any = None) -> tuple[str, Any]:
        """Begin to call; return the call's id and an error, or None."""
        ...

    async def stop_dialout(self, participant_id: Any) -> Any:
        """Hang up."""
        ...


class NotReached(Exception):
    """Nobody is there.

    Attributes:
        reason: how a session ends that was for this call.
        detail: Daily's words.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail[:_MAX_TEXT]


def reason_of(kind: str, data: Mapping[str, Any]) -> Reason:
    """Return why a call wasn't answered, of which that was said."""
    if _BUSY.search(words_of(data)):
        return Reason.CALL_BUSY
    return Reason.CALL_NOT_ANSWERED if kind == STOPPED else Reason.CALL_NOT_PUT_THROUGH


def words_of(data: Mapping[str, Any]) -> str:
    """Return what was said of a call in words."""
    words = (data.get(name) for name in ("errorMsg", "callState", "reason", "code"))
    return " ".join(str(word) for word in words if word)


class Call:
    """A call that isn't answered yet, and perhaps has no id yet either.

    Attributes:
        session_id: its id; None until it is known.
        outcome: None while it rings; then the kind of what decided, and its data.

    Args:
        before: the ids of calls that were made before: what is said of them isn't about this one.
    """

    def __init__(self, before: frozenset[str] = frozenset()) -> None:
        self.session_id: str | None = None
        self.outcome: tuple[str, Mapping[str, Any]] | None = None
        self._before = before

    def hear(self, kind: str, data: Mapping[str, Any]) -> bool:
        """Take what is said of a call; return whether it decides this one."""
        named = str(data["sessionId"]) if data.get("sessionId") else None
        if self.outcome is not None or kind not in {ANSWERED, STOPPED, ERROR} or named in self._before:
            return False
        if named is not None and self.session_id not in {None, named}:
            return False
        if named is None and kind != ERROR:
            # Only what couldn't be begun has no name.
            return False
        self.session_id = self.session_id or named
        self.outcome = (kind, data)
        return True


class Dialler:
    """Calls somebody into the room.

    Attributes:
        transport: what calls; None until the bot has one.
    """

    def __init__(self) -> None:
        self.transport: Dials | None = None
        self._call: Call | None = None
        self._decided = asyncio.Event()
        self._before: set[str] = set()

    @property
    def rings(self) -> bool:
        """Whether somebody is being called who hasn't picked up."""
        return self._call is not None and self._call.outcome is None

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take what Daily says of a call."""
        if self._call is not None:
            if self._call.hear(kind, data):
                self._decided.set()
        elif data.get("sessionId"):
            # Perhaps a call of the bot's own.
            self._before.add(str(data["sessionId"]))

    async def dial(self, settings: dict[str, Any], ring_s: float) -> str:
        """Call somebody; return the call's id once he has picked up. Given up, or canceled, it is hung up.

        Args:
            settings: Daily's, of the call.
            ring_s: how long to ring.

        Raises:
            NotReached: he isn't there.
        """
        if self.transport is None or self._call is not None:
            raise NotReached(Reason.CALL_NOT_PUT_THROUGH, "The bot can't call now.")
        call = self._call = Call(frozenset(self._before))
        self._decided.clear()
        try:
            async with asyncio.timeout(ring_s):
                named, error = await self.transport.start_dialout(settings)
                if error:
                    raise NotReached(Reason.CALL_NOT_PUT_THROUGH, str(error))
                call.session_id = call.session_id or named
                await self._decided.wait()
        except TimeoutError:
            raise NotReached(Reason.CALL_NOT_ANSWERED, f"Nobody picked up in {ring_s:g} s.") from None
        finally:
            self._call = None
            if call.session_id is not None:
                self._before.add(call.session_id)
                if call.outcome is None:
                    await self.hang_up(call.session_id)
        kind, data = call.outcome or (ERROR, {})
        if kind != ANSWERED or call.session_id is None:
            raise NotReached(reason_of(kind, data), words_of(data))
        return call.session_id

    async def hang_up(self, session_id: str) -> None:
        """End a call; that it is over already, or the bot out of the room, is no matter."""
        if self.transport is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANG_UP_S):
                await self.transport.stop_dialout(session_id)
