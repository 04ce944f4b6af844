"""Daily's rate limits, in virtual time: what ends all at once is cleared up by and by, and nobody else notices."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from greenroom.api.transports import Transports
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Outcome, Requested, Session
from tests.support import adapter_cases
from tests.support.adapter_cases import ASKED
from tests.support.daily_stub import DailyStub
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.provider_stub import Asked, Said

SESSIONS = 60


class _World:
    """Daily's adapter among the parts of the api that use it, before an account with rate limits."""

    def __init__(self) -> None:
        broker, self.clock = MemoryServer().connect(), LoopClock()
        case = adapter_cases.daily(broker, self.clock)
        assert isinstance(case.provider, DailyStub)
        self.stub = case.provider
        self.stub.limit()
        self.ledger = Ledger(broker, clock=self.clock)
        self.transports = Transports([case.adapter], broker=broker, ledger=self.ledger, clock=self.clock)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Carry out releases for the time of the block."""
        task = asyncio.create_task(self.transports.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def begin(self) -> Session:
        """Have a session requested, with its room; takes no time unless Daily does."""
        now = self.clock.now()
        values: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": "daily", "tenant": "default"}
        session = Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **values)
        session, public = await self.transports.prepare(ASKED, session, {})
        await self.ledger.create(Requested(session=session))
        await self.transports.answer(ASKED, session.id, public, again=False)
        return session

    async def begin_many(self) -> list[Session]:
        """Have as many as there are in these tests, as quickly as Daily's limit allows (three requests each)."""
        begun: list[Session] = []
        for _ in range(SESSIONS):
            begun.append(await self.begin())
            await asyncio.sleep(0.2)
        return begun

    async def end(self, *sessions: Session) -> None:
        """End sessions."""
        for session in sessions:

            def decide(now: Session) -> Ended:
                return Ended(by="api", epoch=now.epoch, outcome=Outcome.CANCELED, reason="client-canceled")

            await self.ledger.move(session.tenant, session.id, decide)

    def left(self, *sessions: Session) -> int:
        """Count the rooms that are still there."""
        return sum(self.stub.has(f"gr-{session.id}") for session in sessions)


def test_rooms_of_sessions_that_end_at_once_are_all_deleted() -> None:
    """As fast as Daily's limit allows; new rooms are made meanwhile without a wait, for a limit isn't an outage."""

    async def scenario() -> None:
        world = _World()
        async with world.running():
            begun = await world.begin_many()
            assert world.left(*begun) == SESSIONS
            await world.end(*begun)
            ended_at, meanwhile = world.clock.monotonic(), list[Session]()
            while world.left(*begun):
                at = world.clock.monotonic()
                # Raises if the breaker is open.
                meanwhile.append(await world.begin())
                assert world.clock.monotonic() == at
                await asyncio.sleep(1)
                # Two a second, after a look that may be ten seconds off; some tries are in vain.
                assert world.clock.monotonic() - ended_at < SESSIONS / 2 + 20
            assert world.left(*meanwhile) == len(meanwhile)
            assert world.stub.deletions is not None
            assert world.stub.deletions.refused, "the limit was reached"

    run_virtual(scenario())


def test_a_room_goes_in_time_however_many_stay() -> None:
    """Looking whether other sessions are over holds up nobody's release."""

    async def scenario() -> None:
        world = _World()
        async with world.running():
            begun = await world.begin_many()
            await asyncio.sleep(60)
            await world.end(begun[7])
            await asyncio.sleep(11)
            assert not world.left(begun[7])
            assert world.left(*begun) == SESSIONS - 1

    run_virtual(scenario())


def test_rooms_that_cant_be_deleted_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Daily refuses is tried again and again, and the others go meanwhile."""

    async def scenario() -> None:
        world = _World()
        async with world.running():
            begun = await world.begin_many()
            stay, carry_out = begun[:20], world.stub.carry_out
            paths = {f"/v1/rooms/gr-{session.id}" for session in stay}

            def refuse(asked: Asked) -> Said:
                if asked.method == "DELETE" and asked.path in paths:
                    return Said(status=403, body={"error": "forbidden-error"})
                return carry_out(asked)

            monkeypatch.setattr(world.stub, "carry_out", refuse)
            await world.end(*stay)
            await asyncio.sleep(60)
            await world.end(begun[-1])
            await asyncio.sleep(11)
            assert not world.left(begun[-1])
            monkeypatch.undo()
            await asyncio.sleep(30)
            assert not world.left(*stay)
            assert world.left(*begun) == SESSIONS - 21

    run_virtual(scenario())
