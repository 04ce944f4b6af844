"""The end of a session whose supervision broke."""

import asyncio
from datetime import timedelta

import pytest

from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Leased, Outcome, Requeued, Session, State
from greenroom.runner import last_word
from greenroom.runner.last_word import write_last_word
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.simulated_runner import request_session

RUNNER = "runner-1"
CAUSE = ExceptionGroup("several", [ExceptionGroup("more", [KeyError("what was said")]), ValueError()])


class World:
    """A leased session, the runner's own connection, and the others'."""

    def __init__(self) -> None:
        server = MemoryServer()
        self.broker: MemoryBroker = server.connect()
        self.clock = LoopClock()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.others = Ledger(server.connect(), clock=self.clock)

    async def lease(self) -> Entry:
        """Lease a new session to the runner."""
        session = await request_session(self.others)
        entry = await self.others.last(session.tenant, session.id)
        assert entry is not None
        expires_at = self.clock.now() + timedelta(seconds=10)
        return await self.others.advance(entry, Leased(runner_id=RUNNER, epoch=1, expires_at=expires_at))

    async def now(self, entry: Entry) -> Session:
        """Return the session as it is now."""
        last = await self.others.last(entry.session.tenant, entry.session.id)
        assert last is not None
        return last.session


def test_it_fails_the_session_with_the_type_of_the_error() -> None:
    """The session has failed; the detail names the class of the first error, and nothing of its text."""

    async def scenario() -> None:
        world = World()
        entry = await world.lease()
        await write_last_word(world.ledger, world.clock, entry.session, CAUSE)
        ended = await world.now(entry)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.FAILED, "process-killed", "runner")
        assert ended.detail == "the runner failed to supervise it (KeyError)"

    run_virtual(scenario())


def test_it_leaves_what_belongs_to_others() -> None:
    """A session that was put back meanwhile stays in the queue."""

    async def scenario() -> None:
        world = World()
        entry = await world.lease()
        await world.others.advance(entry, Requeued(epoch=1, reason="runner-lost"))
        await write_last_word(world.ledger, world.clock, entry.session, CAUSE)
        assert (await world.now(entry)).state is State.REQUESTED

    run_virtual(scenario())


@pytest.mark.parametrize(("away_s", "state"), [(30.0, State.ENDED), (300.0, State.LEASED)])
def test_it_waits_for_the_broker_but_not_for_ever(away_s: float, state: State) -> None:
    """An outage delays the last word; one that is too long is left to the scheduler."""

    async def scenario() -> None:
        world = World()
        entry = await world.lease()
        world.broker.connected = False
        began = world.clock.monotonic()

        async def heal() -> None:
            await world.clock.sleep(away_s)
            world.broker.connected = True

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(heal())
            await write_last_word(world.ledger, world.clock, entry.session, CAUSE)
            assert world.clock.monotonic() - began < last_word.GIVE_UP_S + 20
        assert (await world.now(entry)).state is state

    run_virtual(scenario())
