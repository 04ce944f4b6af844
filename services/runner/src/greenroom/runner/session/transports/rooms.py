"""Rooms at a provider: the bot goes in by itself, by Pipecat's own transport, and so does its user.

Nothing of their media passes here. What the session has to know is heard from the events of Pipecat's transport,
beside the bot's own handlers and without changing it:

    somebody came in                      connected, the first time
    the room has been empty for 5 s       the user has left: who loads a page anew, or changes networks, is back by then
    the bot ends while the room is empty  the user has left: the bot doesn't wait for him
    the bot was put out, or never got in  the way is lost (also where Pipecat calls its transport unusable, and goes on)

What the bot gets in with was laid down by the api and is taken once, when the session is opened, and once for each room
that it goes to later. On its way from one to another it is in none: what is heard then is of the room that it has left.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, override

import msgspec
import structlog
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_transport import BaseTransport

from greenroom.common.broker import Broker
from greenroom.common.lifecycle import OnLoss, Session
from greenroom.common.secrets import ROOM_TOKEN, SecretBox, token_of
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports.base import (
    AWAY,
    CLOSE_ABNORMAL,
    CLOSE_NORMAL,
    NOT_OPEN,
    WAY_LOST,
    NotMoved,
    NotRunnable,
    OnConnected,
    OnDisconnected,
    SessionTransport,
)

_log = structlog.get_logger()

# How long a room may be empty after somebody was in it.
REJOIN_S: Final = 5.0
_EMPTY: Final = "the room is empty"
_FIXED: Final = "the bot can't change rooms of this provider"


class RoomCounts(msgspec.Struct, kw_only=True):
    """Who came and went, for the call's last event."""

    joined: int = 0
    left: int = 0


class RoomTransport(SessionTransport):
    """A room at a provider; subclasses say which transports of Pipecat are meant, and what the bot is called with.

    Args:
        session: whose it is.
        broker: has the secrets.
        on_connected: see `base`.
        on_disconnected: see `base`.
    """

    # The two ends of Pipecat's transport in a pipeline.
    ends: ClassVar[tuple[type[FrameProcessor], ...]]
    # What the session has to know of its room.
    needs: ClassVar[tuple[str, ...]]
    # What else Pipecat's transport says, by the names of its handlers.
    news: ClassVar[Mapping[str, Callable[..., dict[str, Any]]]] = {}

    def __init__(
        self, session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
    ) -> None:
        self.session = session
        # Of the room that the bot is in.
        self.info = session.transport_info
        self._token: str | None = None
        # On the way to another room, or back; and has left the one without having come to the other.
        self._moving = self._between = False
        self.secrets: dict[str, str] = {}
        self._box = SecretBox(broker)
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._counts = RoomCounts()
        self._present: set[str] = set()
        self._hooked: set[int] = set()
        self._came = self._away = self._over = False
        self._farewell: tuple[int, str] | None = None
        self._leaving: asyncio.TimerHandle | None = None

    @property
    @override
    def connected(self) -> bool:
        return bool(self._present) and not self._over

    @property
    @override
    def counts(self) -> RoomCounts:
        return self._counts

    @override
    async def open(self) -> None:
        self.secrets = await self._taken()
        self._token = token_of(self.secrets, self.info.get("room"))
        if any(name not in self.info for name in self.needs):
            raise NotRunnable("the session has no room")
        if self._token is None:
            raise NotRunnable("the token for the room was taken already, or is a day old")

    @override
    def attach(self, attachment: Attachment) -> None:
        for end in (*attachment.inputs, *attachment.outputs):
            if isinstance(end, self.ends) and self._first(end):
                end.add_event_handler("on_usable_changed", self._on_usable)
                transport: BaseTransport = vars(end)["_transport"]
                if self._first(transport):
                    self.hook(transport)

    def hook(self, transport: BaseTransport) -> None:
        """Hear of who comes and goes."""
        transport.add_event_handler("on_client_connected", self._on_joined)
        transport.add_event_handler("on_client_disconnected", self._on_left)
        for name, data_of in self.news.items():
            transport.add_event_handler(name, self._teller(name.removeprefix("on_"), data_of))

    @override
    async def welcome(self) -> None:
        # The bot has heard of it from its own transport.
        return

    @override
    def prepare_to_close(self, code: int, reason: str) -> None:
        self._farewell = (code, reason)

    @override
    def bot_ends(self) -> None:
        # Most bots end when they hear that their user has left, long before nobody waits for him any more.
        if self._leaving is not None and self._farewell is None:
            self.gone(_EMPTY)

    @override
    async def close(self) -> None:
        if self.connected:
            self._end("bot", *(self._farewell or (CLOSE_NORMAL, "")))
        elif self._leaving is not None:
            self.gone(_EMPTY)
        self._over = True
        self._stay()

    @override
    async def watch(self) -> None:
        return

    @property
    def token(self) -> str:
        """What the bot gets in with.

        Raises:
            NotRunnable: nothing was taken yet.
        """
        if self._token is None:
            raise NotRunnable(NOT_OPEN)
        return self._token

    async def change(self, info: dict[str, str], token: str) -> None:  # noqa: ARG002 where it can't be
        """Leave the room that the bot is in, if it is, say so (`left`), and join another one.

        Raises:
            NotMoved: it hasn't joined.
        """
        raise NotMoved(_FIXED)

    def left(self) -> None:
        """Note that nobody is there: who is in the other room is told of when the bot has joined it."""
        self._stay()
        self._present.clear()
        self._came = self._away = self._between = False

    def refuse_change(self) -> str | None:
        """Return why the bot can't go to another room; None: it can."""
        return _FIXED

    @override
    async def move(self, info: dict[str, str]) -> None:
        if (why := self.refuse_change()) is not None:
            raise NotMoved(why)
        token = (await self._taken()).get(f"{ROOM_TOKEN}.{info.get('room')}")
        if token is None:
            raise NotMoved("the token for the room isn't there")
        self._moving = True
        try:
            await self._change(info, token)
        except NotMoved:
            await self._go_back()
            raise
        finally:
            self._moving = False
        news = {"from": self.info.get("room"), "to": info.get("room")}
        self.info, self._token = info, token
        self.on_news("moved", news)

    async def _go_back(self) -> None:
        try:
            await self._change(self.info, self.token)
        except NotMoved as error:
            self._moving = False
            self.lost("the bot couldn't go back to its room")
            raise NotMoved(f"{error}, nor go back to its own") from error

    async def _change(self, info: dict[str, str], token: str) -> None:
        self._between = True
        try:
            await self.change(info, token)
        except NotMoved:
            raise
        except Exception as error:
            # The library's, or a handler's of the bot's.
            _log.exception("room_not_changed")
            raise NotMoved(f"the bot couldn't join the room ({type(error).__name__})") from error

    async def _taken(self) -> dict[str, str]:
        session = self.session
        # Another try, should this process be lost, needs them again.
        keep = session.on_loss is not OnLoss.NEVER
        return await self._box.take(session.tenant, session.id, keep=keep)

    def lost(self, why: str) -> None:
        """Note that the bot isn't in the room, and nobody has sent it away; `why` may be shown to anybody."""
        if self._farewell is None and not self._moving:
            self._end(WAY_LOST, CLOSE_ABNORMAL, why)

    def gone(self, why: str) -> None:
        """Note that the user won't come (any more)."""
        self._end("client", CLOSE_NORMAL, why)

    def _first(self, part: FrameProcessor | BaseTransport) -> bool:
        """Tell whether a part of the bot's transport is met for the first time."""
        seen = id(part) in self._hooked
        self._hooked.add(id(part))
        return not seen

    def _teller(self, kind: str, data_of: Callable[..., dict[str, Any]]) -> Callable[..., None]:
        def tell(_transport: BaseTransport, *said: Any) -> None:
            if not self._over:
                self.on_news(kind, data_of(*said))

        return tell

    def _on_usable(self, _end: FrameProcessor, usable: bool) -> None:  # noqa: FBT001 Pipecat's own signature
        # Pipecat itself goes on without it, unless the bot says otherwise: silent, and not in the room.
        if not usable:
            self.lost("the bot's transport can no longer do its job")

    def _on_joined(self, _transport: BaseTransport, client: Mapping[str, Any]) -> None:
        first = self._away or not self._came
        # Rooms can't be closed to guests: who comes while the session ends is in it, but isn't taken.
        if self._over or self._between or (first and self._farewell is not None):
            return
        self._counts.joined += 1
        self._present.add(str(client["id"]))
        self._stay()
        if first:
            self._came, self._away = True, False
            self._on_connected(str(client["id"]))

    def _on_left(self, _transport: BaseTransport, client: Mapping[str, Any]) -> None:
        if self._over or self._between or str(client["id"]) not in self._present:
            return
        self._counts.left += 1
        self._present.discard(str(client["id"]))
        if self._present:
            return
        if self.session.limits.rejoin_timeout_s > 0:
            # How long that is waited for is for the session to say.
            self._away = True
            self._on_disconnected(AWAY, CLOSE_NORMAL, _EMPTY)
        else:
            self._leaving = asyncio.get_running_loop().call_later(REJOIN_S, self.gone, _EMPTY)

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _end(self, by: str, code: int, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._stay()
        self._on_disconnected(by, code, reason)
