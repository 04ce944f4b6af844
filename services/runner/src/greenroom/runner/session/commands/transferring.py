"""Hands a caller over, where the transport can do that: Daily by SIP, phone calls by their carrier.

A carrier takes the call away from the bot: its media socket is closed, mostly before the carrier has said that it does
so. From then on nothing else may be done with the call, so there is no second transfer once one was carried out.

A warm one needs a room: an operator is called into it, told what it is about, and left there with the caller. Until
then the call is the bot's, and stays it if the operator can't be reached or hangs up.
"""

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, Protocol, cast

from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, TransferTargetInvalid
from greenroom.common.commands import TRANSFER_TARGET, Transfer
from greenroom.runner.session.commands.briefing import Briefing, Room
from greenroom.runner.session.commands.parts import hand

# Imported by whoever uses it, and by nobody else: it is large.
_DAILY: Final = "pipecat.transports.daily.transport"
_TARGET: Final = re.compile(TRANSFER_TARGET)

type By = Literal["carrier", "sip", "operator"]


class Transfers(Protocol):
    """A session's transport that has its caller handed over by a carrier."""

    async def transfer(self, target: str) -> None:
        """Have the carrier take the call; raises a GreenroomError if it doesn't."""
        ...


class Transferring:
    """What became of a session's caller.

    Attributes:
        done: the call has another end; the session is over.

    Args:
        on_done: called once that is so, with who has taken the call.
        briefing: tells operators what it is about.
    """

    def __init__(self, on_done: Callable[[By], None], briefing: Briefing) -> None:
        self.done = False
        self._under_way = False
        self._on_done = on_done
        self._briefing = briefing
        self._warm: asyncio.Task[None] | None = None

    async def transfer(self, transport: object, outputs: list[BaseOutputTransport], command: Transfer) -> By:
        """Hand the caller over; return who does it.

        Raises:
            TransferTargetInvalid: it is neither a phone number nor a SIP URI.
            CommandUnsupported: nobody here can.
            CommandNotDone: it is being done already.
            TransferFailed: the operator isn't there.
            GreenroomError: the carrier doesn't.
        """
        if not _TARGET.match(command.target):
            raise TransferTargetInvalid
        if command.mode == "warm":
            if not isinstance(transport, Room):
                raise CommandUnsupported("The session's transport has no room that an operator could be called into.")
            await self._once(self._to_operator(transport, command))
            return self._over("operator")
        if hasattr(transport, "transfer"):
            await self._once(cast("Transfers", transport).transfer(command.target))
            return self._over("carrier")
        daily: Any = sys.modules.get(_DAILY)
        if daily is not None and outputs and isinstance(outputs[0], daily.DailyOutputTransport):
            # Behind what the bot is saying; of the active dial-out or dial-in session.
            await hand(outputs[0], daily.DailySIPTransferFrame(settings={"toEndPoint": command.target}))
            return "sip"
        raise CommandUnsupported("The session's transport can't hand a caller over.")

    def give_up(self) -> None:
        """Hang up on an operator who hasn't taken the call yet: it is over."""
        if self._warm is not None and not self.done:
            self._warm.cancel()

    async def _to_operator(self, room: Room, command: Transfer) -> None:
        warm = self._briefing.hand_over(room, command.target, command.summary, command.answer_timeout_s)
        self._warm = asyncio.get_running_loop().create_task(warm, name="warm transfer")
        await self._warm

    async def _once(self, work: Coroutine[Any, Any, None]) -> None:
        if self._under_way or self.done:
            work.close()
            raise CommandNotDone("The caller is being handed over already.")
        self._under_way = True
        try:
            await work
        finally:
            self._under_way = False

    def _over(self, by: By) -> By:
        self.done = True
        self._on_done(by)
        return by
