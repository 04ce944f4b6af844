"""Schedulers as processes on a real NATS server, with simulated runners: what is killed is really killed."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from greenroom.common.lifecycle import OnLoss, Outcome, Session, State
from greenroom.common.policy import Policy
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.pinned import crash, live, pin, pinned, place
from tests.support.scheduler_field import PATIENCE_S, WAITS_LONG, Field, field_on, started
from tests.support.simulated_runner import request_session


@pytest.fixture
async def field(nats_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    """A field on the server of the run."""
    async with field_on(nats_url, tmp_path) as field:
        yield field


async def test_two_hundred_sessions_over_four_slots_each_run_once(field: Field) -> None:
    """All end, none twice, never more than two on a runner of two slots."""
    await field.scheduler("one")
    runners = [await field.runner(f"r{number}", slots=2, call_s=0.05) for number in range(2)]
    sessions = await asyncio.gather(*(request_session(field.ledger, limits=WAITS_LONG) for _ in range(200)))
    for session in sessions:
        ended = await field.reach(session, State.ENDED)
        assert (ended.outcome, ended.attempt) == (Outcome.COMPLETED, 1)
    assert started(*runners) == Counter(session.id for session in sessions)
    assert [runner.most for runner in runners] == [2, 2]


async def test_a_killed_leader_is_replaced_and_nothing_is_placed_twice(field: Field) -> None:
    """Of three, the leader is killed with requests under way: the gap is 4 s at most, and every session runs once."""
    processes = {name: await field.scheduler(name) for name in ("one", "two", "three")}
    runners = [await field.runner(f"r{number}", slots=100, call_s=0.2) for number in range(2)]
    first = await field.leader()
    await field.reach(await request_session(field.ledger), State.ENDED)
    sessions: list[Session] = []
    placed: list[float] = []

    async def keep_asking() -> None:
        while True:
            sessions.append(await request_session(field.ledger, limits=WAITS_LONG))
            await asyncio.sleep(0.01)

    async def watch() -> None:
        while True:
            count = sum(started(*runners).values())
            if len(placed) < count:
                placed.extend([time.monotonic()] * (count - len(placed)))
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(keep_asking()), asyncio.create_task(watch())]
    await asyncio.sleep(0.5)
    killed_at = time.monotonic()
    processes[first].send_signal(signal.SIGKILL)
    second = await field.leader(other_than=first)
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    assert second != first
    resumed_at = min(at for at in placed if at > killed_at + 0.2)
    assert resumed_at - killed_at <= 4.0
    for session in sessions:
        ended = await field.reach(session, State.ENDED)
        assert ended.outcome is Outcome.COMPLETED
    counts = started(*runners)
    assert {counts[session.id] for session in sessions} == {1}


async def test_a_stopped_leader_hands_over_at_once(field: Field) -> None:
    """SIGTERM: exit code 0, and the next session is placed by another without a wait of seconds."""
    processes = {name: await field.scheduler(name) for name in ("one", "two")}
    await field.runner("r1")
    first = await field.leader()
    await field.reach(await request_session(field.ledger), State.READY)
    stopped_at = time.monotonic()
    processes[first].send_signal(signal.SIGTERM)
    session = await request_session(field.ledger)
    ready = await field.reach(session, State.READY)
    assert time.monotonic() - stopped_at <= 2.0
    assert ready.attempt == 1
    async with asyncio.timeout(10):
        assert await processes[first].wait() == 0


async def test_a_lost_runner_s_sessions_end_after_six_seconds(field: Field) -> None:
    """Or go elsewhere, as their agent wants it."""
    await field.scheduler("one")
    gone = await field.runner("r1")
    doomed = await request_session(field.ledger, on_loss=OnLoss.NEVER)
    moved = await request_session(field.ledger)
    for session in (doomed, moved):
        await field.reach(session, State.READY)
    await field.runner("r2")
    await gone.kill()
    killed_at = time.monotonic()
    ended = await field.reach(doomed, State.ENDED)
    assert 5.0 <= time.monotonic() - killed_at <= 8.0
    assert (ended.outcome, ended.reason) == (Outcome.LOST, "runner-lost")
    ready = await field.reach(moved, State.READY)
    assert (ready.runner_id, ready.epoch) == ("r2", 2)


async def test_a_killed_broker_loses_no_session_and_no_runner(own_nats: EmbeddedNats, tmp_path: Path) -> None:
    """The server dies with sessions waiting and running: back again, the ones are placed and the others live on."""
    async with field_on(own_nats.url, tmp_path) as field:
        await field.scheduler("one")
        runner = await field.runner("r1", slots=1)
        running = await request_session(field.ledger, on_loss=OnLoss.NEVER, limits=WAITS_LONG)
        await field.reach(running, State.READY)
        waiting = await request_session(field.ledger, limits=WAITS_LONG)
        await own_nats.kill()
        await asyncio.sleep(8)  # longer than it takes for a runner to be lost
        await own_nats.start()
        async with asyncio.timeout(PATIENCE_S):
            while not field.broker.connected:
                await asyncio.sleep(0.05)
        other = await field.runner("r2", slots=1)
        await field.reach(waiting, State.READY)
        assert (await field.reach(running, State.READY)).epoch == 1
        assert started(runner, other) == Counter([running.id, waiting.id])


async def test_a_killed_leader_leaves_as_many_pinned_sessions_as_there_should_be(field: Field) -> None:
    """It is killed as it asks for them; the next one completes them, one in each slot, and replaces what fails."""
    processes = {name: await field.scheduler(name) for name in ("one", "two", "three")}
    await field.runner("r1", slots=60)
    first = await field.leader()
    await field.reach(await request_session(field.ledger), State.READY)
    count = 40
    await field.decide(Policy(revision=1, pins=(pin(count),)))
    async with asyncio.timeout(PATIENCE_S):
        while not await pinned(field.broker):
            await asyncio.sleep(0.001)
    processes[first].send_signal(signal.SIGKILL)
    await field.leader(other_than=first)

    async def reach(expected: list[tuple[int, int]]) -> list[Session]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                sessions = await pinned(field.broker)
                running = [place(each) for each in sessions if each.state is State.READY]
                if running == expected:
                    return sessions
                assert max(Counter(slot for slot, _ in live(sessions)).values()) == 1
                await asyncio.sleep(0.05)

    sessions = await reach([(slot, 1) for slot in range(1, count + 1)])
    await crash(field.ledger, sessions[0])
    await reach([(1, 2), *((slot, 1) for slot in range(2, count + 1))])
    await asyncio.sleep(1.5)
    assert len(await pinned(field.broker)) == count + 1
