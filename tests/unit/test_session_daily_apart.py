"""Who hears whom while an operator is told what a call is about, where Daily doesn't answer."""

import asyncio
from typing import Any

import pytest

from greenroom.common.command_errors import TransferFailed
from greenroom.runner.session.transports.daily import DailyRoom
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session


class _Silent:
    """A transport whose library never says that it is done."""

    async def update_remote_participants(self, _updates: Any) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


def test_a_library_that_says_nothing_holds_up_nobody() -> None:
    """The transfer fails within seconds, and the call is the bot's."""

    async def scenario() -> None:
        broker: Any = MemoryServer().connect()
        room = DailyRoom(new_session("echo", transport="daily"), broker, lambda *_: None, lambda *_: None)
        inside: Any = room
        inside._daily, inside._operator = _Silent(), "operator"
        async with asyncio.timeout(60):
            with pytest.raises(TransferFailed, match="no answer in 5 s"):
                await room.set_apart(apart=True)

    run_virtual(scenario())
