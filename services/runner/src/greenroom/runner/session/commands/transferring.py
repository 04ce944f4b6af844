"""Hands a caller over, where the transport can do that: Daily by SIP, phone calls by their carrier.

A carrier takes the call away from the bot: its media socket is closed, mostly before the carrier has said that it does
so. From then on nothing else may be done with the call, so there is no second transfer once one was carried out.
"""

import re
import sys
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, cast

from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, TransferTargetInvalid
from greenroom.common.commands import TRANSFER_TARGET
from greenroom.runner.session.commands.parts import hand

# Imported by whoever uses it, and by nobody else: it is large.
_DAILY: Final = "pipecat.transports.daily.transport"
_TARGET: Final = re.compile(TRANSFER_TARGET)

type By = Literal["carrier", "sip"]


class Transfers(Protocol):
    """A session's transport that has its caller handed over by a carrier."""

    async def transfer(self, target: str) -> None:
        """Have the carrier take the call; raises a GreenroomError if it doesn't."""
        ...


class Transferring:
    """What became of a session's caller.

    Attributes:
        done: the carrier has taken the call; the session is over.

    Args:
        on_done: called once that is so.
    """

    def __init__(self, on_done: Callable[[], None]) -> None:
        self.done = False
        self._under_way = False
        self._on_done = on_done

    async def transfer(self, transport: object, outputs: list[BaseOutputTransport], target: str) -> By:
        """Hand the caller over; return who does it.

        Raises:
            TransferTargetInvalid: it is neither a phone number nor a SIP URI.
            CommandUnsupported: nobody here can.
            CommandNotDone: it is being done already.
            GreenroomError: the carrier doesn't.
        """
        if not _TARGET.match(target):
            raise TransferTargetInvalid
        if hasattr(transport, "transfer"):
            await self._by_carrier(cast("Transfers", transport), target)
            return "carrier"
        daily: Any = sys.modules.get(_DAILY)
        if daily is not None and outputs and isinstance(outputs[0], daily.DailyOutputTransport):
            # Behind what the bot is saying; of the active dial-out or dial-in session.
            await hand(outputs[0], daily.DailySIPTransferFrame(settings={"toEndPoint": target}))
            return "sip"
        raise CommandUnsupported("The session's transport can't hand a caller over.")

    async def _by_carrier(self, transport: Transfers, target: str) -> None:
        if self._under_way or self.done:
            raise CommandNotDone("The caller is being handed over already.")
        self._under_way = True
        try:
            await transport.transfer(target)
        finally:
            self._under_way = False
        self.done = True
        self._on_done()
