"""Hands a caller over, where the transport can do that itself: Daily by SIP, others if their adapter knows how."""

import sys
from typing import Any, Final, Protocol, cast

from pipecat.transports.base_output import BaseOutputTransport

from greenroom.runner.session.commands.parts import hand

# Imported by whoever uses it, and by nobody else: it is large.
_DAILY: Final = "pipecat.transports.daily.transport"


class Transfers(Protocol):
    """A session's transport that can hand its caller over, for example through the carrier's API."""

    async def transfer(self, target: str) -> None:
        """Hand the caller over to a SIP URI or phone number; raises a GreenroomError if that isn't possible."""
        ...


async def transfer(transport: object, outputs: list[BaseOutputTransport], target: str) -> str | None:
    """Hand the caller over; return who does it (`carrier`, `sip`), or None where nobody here can."""
    if hasattr(transport, "transfer"):
        await cast("Transfers", transport).transfer(target)
        return "carrier"
    daily: Any = sys.modules.get(_DAILY)
    if daily is not None and outputs and isinstance(outputs[0], daily.DailyOutputTransport):
        # Behind what the bot is saying; of the active dial-out or dial-in session.
        await hand(outputs[0], daily.DailySIPTransferFrame(settings={"toEndPoint": target}))
        return "sip"
    return None
