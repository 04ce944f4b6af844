"""Schedulers as processes on a real NATS server, with simulated runners: what is killed is really killed."""

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from greenroom.common import messages, subjects, topology_admin
from greenroom.common.clock import SystemClock
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Limits, OnLoss, Outcome, Session, State
from greenroom.common.messages import LeaderClaim
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.simulated_runner import SimulatedRunner, request_session

PATIENCE_S = 30.0
WAITS_LONG = Limits(queue_timeout_s=300)


class Field:
    """A server, a client's connection, and whatever schedulers and runners a test starts."""

    def __init__(self, url: str, folder: Path, broker: NatsBroker, stack: contextlib.AsyncExitStack) -> None:
        self.url = url
        self.broker = broker
        self.ledger = Ledger(broker)
        self._folder = folder
        self._stack = stack

    async def scheduler(self, name: str) -> asyncio.subprocess.Process:
        """Start a scheduler process; its log is a file in the test's folder."""
        env = {
            **os.environ,
            "NATS_URL": self.url,
            "GREENROOM_INSTANCE_ID": name,
            "GREENROOM_LOG_FORMAT": "json",
        }
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "greenroom.scheduler", env=env, stdout=log, stderr=log
        )
        self._stack.push_async_callback(_end, process)
        return process

    async def runner(self, runner_id: str, *, slots: int = 4, call_s: float | None = None) -> SimulatedRunner:
        """Start a simulated runner with a connection of its own."""
        broker = await NatsBroker.connect(self.url, name=runner_id, timeout_s=5)
        self._stack.push_async_callback(broker.close)
        runner = SimulatedRunner(broker, SystemClock(), runner_id, slots=slots, call_s=call_s)
        await runner.start()
        self._stack.push_async_callback(runner.kill)
        return runner

    async def leader(self, *, other_than: str | None = None) -> str:
        """Wait for a leader and return its name."""
        subject = subjects.LEADER.format(name="scheduler-default")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.broker.last("LEADERS", subject)
                if message is not None:
                    claim = messages.decode(message.data, LeaderClaim)
                    if not claim.released and claim.holder != other_than:
                        return claim.holder
                await asyncio.sleep(0.02)

    async def reach(self, session: Session, state: State, within_s: float = PATIENCE_S) -> Session:
        """Wait until a session is in a state and return it."""
        async with asyncio.timeout(within_s):
            while True:
                entry = await self.ledger.last(session.tenant, session.id)
                if entry is not None and entry.session.state is state:
                    return entry.session
                await asyncio.sleep(0.01)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def field_on(url: str, folder: Path) -> AsyncGenerator[Field]:
    """Give a field with the topology applied, and end all that was started on it."""
    async with contextlib.AsyncExitStack() as stack:
        broker = await NatsBroker.connect(url, name="client", timeout_s=5)
        stack.push_async_callback(broker.close)
        await topology_admin.apply(broker)
        yield Field(url, folder, broker, stack)


@pytest.fixture
async def field(nats_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    """A field on the server of the run."""
    async with field_on(nats_url, tmp_path) as field:
        yield field


def started(*runners: SimulatedRunner) -> Counter[str]:
    """Return how often each session was started."""
    return Counter(session_id for runner in runners for session_id, _ in runner.started)


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


async def test_no_timer_lies_between_a_request_and_its_start(field: Field) -> None:
    """No start waits for the tick of 250 ms: then half of them would take more than half of that."""
    await field.scheduler("one")
    runner = await field.runner("r1", slots=100, call_s=0.0)
    await field.reach(await request_session(field.ledger), State.ENDED)
    took_ms: list[float] = []
    for _ in range(30):
        session = await request_session(field.ledger)
        await field.reach(session, State.ENDED)
        took_ms.append((runner.asked_at[-1] - session.requested_at).total_seconds() * 1000)
    assert statistics.median(took_ms) < 125
