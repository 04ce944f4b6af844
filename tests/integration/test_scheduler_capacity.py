"""More callers than there is room for, on a real NATS server, and a leader that dies in the middle of them."""

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.policy import AtLimit, Limit, Policy, Scope
from tests.support.scheduler_field import WAITS_LONG, Field, field_on, started
from tests.support.simulated_runner import SimulatedRunner, request_session

OFFERED = 375
CAPACITY = 250


@pytest.fixture
async def field(nats_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    """A field on the server of the run."""
    async with field_on(nats_url, tmp_path) as field:
        yield field


async def test_a_leader_killed_in_a_burst_of_five_hundred_leaves_none_out(field: Field) -> None:
    """Three schedulers, the leader killed with -9 in mid-burst: each session is placed once, and the gap is ≤ 4 s."""
    processes = {name: await field.scheduler(name) for name in ("one", "two", "three")}
    runners = [await field.runner(f"r{number}", slots=100) for number in range(5)]
    first = await field.leader()
    placed_at: list[float] = []

    async def watch() -> None:
        while len(placed_at) < 500:
            count = sum(started(*runners).values())
            placed_at.extend([time.monotonic()] * (count - len(placed_at)))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    burst = [asyncio.create_task(request_session(field.ledger, limits=WAITS_LONG)) for _ in range(500)]
    async with asyncio.timeout(20):
        while len(placed_at) < 100:
            await asyncio.sleep(0.002)
    processes[first].send_signal(signal.SIGKILL)
    sessions = await asyncio.gather(*burst)
    async with asyncio.timeout(30):
        await watching
    gap_s = max(later - earlier for earlier, later in itertools.pairwise(placed_at))
    assert gap_s <= 4.0
    for session in sessions:
        await field.reach(session, State.READY)
    assert started(*runners) == Counter(session.id for session in sessions)


@pytest.mark.parametrize("at_limit", AtLimit)
async def test_what_is_beyond_a_limit_is_refused_or_waits_as_the_limit_says(field: Field, at_limit: AtLimit) -> None:
    """375 are offered at 250: 250 are in, 125 are refused or wait, none is lost; who waits gets in as others end."""
    limit = Limit(id="all", scope=Scope.TENANT, max_sessions=CAPACITY, at_limit=at_limit)
    await field.decide(Policy(revision=1, limits=(limit,)))
    await field.scheduler("one")
    runners = [await field.runner(f"r{number}", slots=100) for number in range(4)]
    sessions = await asyncio.gather(*(request_session(field.ledger, limits=WAITS_LONG) for _ in range(OFFERED)))
    beyond = State.ENDED if at_limit is AtLimit.REFUSE else State.REQUESTED
    await _settled(field, sessions, {State.READY: CAPACITY, beyond: OFFERED - CAPACITY})
    assert len(started(*runners)) == CAPACITY
    if at_limit is AtLimit.REFUSE:
        for session in [each for each in await _now(field, sessions) if each.state is State.ENDED]:
            assert (session.outcome, session.reason) == (Outcome.REJECTED, "limit-reached")
            assert session.retry_after_s is not None
            assert session.retry_after_s >= 1
        return
    await _end_some(runners, 100)
    await _settled(field, sessions, {State.ENDED: 100, State.READY: CAPACITY, State.REQUESTED: 25})
    assert set(started(*runners).values()) == {1}


async def test_what_is_beyond_the_slots_waits(field: Field) -> None:
    """The same without a limit, where there are 250 slots: nobody is refused for that."""
    await field.scheduler("one")
    runners = [await field.runner(f"r{number}", slots=50) for number in range(5)]
    sessions = await asyncio.gather(*(request_session(field.ledger, limits=WAITS_LONG) for _ in range(OFFERED)))
    await _settled(field, sessions, {State.READY: CAPACITY, State.REQUESTED: OFFERED - CAPACITY})
    assert [runner.most for runner in runners] == [50] * 5


async def _now(field: Field, sessions: list[Session]) -> list[Session]:
    entries = await asyncio.gather(*(field.ledger.last(session.tenant, session.id) for session in sessions))
    return [entry.session for entry in entries if entry is not None]


async def _settled(field: Field, sessions: list[Session], wanted: dict[State, int]) -> None:
    """Wait until so many sessions are in each state, and see that it stays so."""
    counts: Counter[State] = Counter()
    async with asyncio.timeout(30):
        while counts != wanted:
            await asyncio.sleep(0.2)
            counts = Counter(session.state for session in await _now(field, sessions))
    await asyncio.sleep(0.5)
    assert Counter(session.state for session in await _now(field, sessions)) == wanted


async def _end_some(runners: list[SimulatedRunner], count: int) -> None:
    """Have runners end sessions, all together so many."""
    for runner in runners:
        for session_id in list(runner.held)[:count]:
            await runner.end(session_id)
            count -= 1
