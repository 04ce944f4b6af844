"""Schedulers as processes on a real NATS server, with simulated runners."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

from greenroom.common import messages, subjects, topology_admin
from greenroom.common.clock import SystemClock
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Limits, Session, State
from greenroom.common.messages import LeaderClaim
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.policy import Policy
from tests.support.simulated_runner import SimulatedRunner

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

    async def decide(self, policy: Policy) -> None:
        """Publish a policy, as the api does."""
        await self.broker.append(subjects.POLICY.format(name="current"), messages.encode(policy))

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


def started(*runners: SimulatedRunner) -> Counter[str]:
    """Return how often each session was started."""
    return Counter(session_id for runner in runners for session_id, _ in runner.started)
