"""Schedulers, runners and clients on one memory broker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from greenroom.common import messages, subjects
from greenroom.common.clock import Clock
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Requeued, Session, State
from greenroom.common.messages import QueuePosition, QueueQuery
from greenroom.common.metrics import Metrics
from greenroom.scheduler.__main__ import compose
from greenroom.scheduler.app import Scheduler
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.launchers.none import NoLauncher
from greenroom.scheduler.settings import SchedulerSettings
from tests.support.leaping_time import LoopClock
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.simulated_runner import SimulatedRunner, request_session


class RunningScheduler:
    """One scheduler with its connection."""

    def __init__(self, broker: MemoryBroker, scheduler: Scheduler, counters: Counters) -> None:
        self.broker = broker
        self.scheduler = scheduler
        self.counters = counters
        self.task = asyncio.create_task(scheduler.run())

    async def stop(self) -> None:
        """Stop it in order."""
        self.task.cancel()
        await asyncio.wait([self.task])


class Rig:
    """Everything on one server; what it makes is stopped at its end."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.clock: Clock = LoopClock()
        self.launcher: Launcher = NoLauncher()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self._schedulers: list[RunningScheduler] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._schedulers:
            await running.stop()
            if not running.task.cancelled():
                running.task.result()

    def scheduler(self, name: str = "one", **settings: Any) -> RunningScheduler:
        """Start a scheduler."""
        broker, counters = self.server.connect(), Counters(Metrics())
        known = SchedulerSettings(instance_id=name, **settings)
        running = RunningScheduler(broker, compose(known, broker, self.clock, counters, self.launcher), counters)
        self._schedulers.append(running)
        return running

    async def runner(self, runner_id: str = "r1", **fields: Any) -> SimulatedRunner:
        """Start a runner."""
        runner = SimulatedRunner(self.server.connect(), self.clock, runner_id, **fields)
        await runner.start()
        return runner

    async def request(self, **fields: Any) -> Session:
        """Ask for a session."""
        return await request_session(self.ledger, **fields)

    async def now(self, session: Session) -> Session:
        """Return a session as it is now."""
        entry = await self.ledger.last(session.tenant, session.id)
        assert entry is not None
        return entry.session

    async def history(self, session: Session) -> list[Entry]:
        """Return what happened to a session."""
        return await self.ledger.history(session.tenant, session.id)

    async def steps(self, session: Session) -> list[str]:
        """Return what happened to a session, in words such as `leased r1 1` and `ended lost runner-lost`."""
        words: list[str] = []
        for entry in await self.history(session):
            match entry.transition:
                case Leased() as lease:
                    words.append(f"leased {lease.runner_id} {lease.epoch}")
                case Requeued() as requeued:
                    words.append(f"requeued {requeued.reason}")
                case Ended() as ended:
                    words.append(f"ended {ended.outcome} {ended.reason}")
                case other:
                    words.append(type(other).__name__.lower())
        return words

    async def reach(self, session: Session, *states: State, within_s: float = 60.0) -> Session:
        """Wait until a session is in one of the states, and return it."""

        async def there() -> bool:
            return (await self.now(session)).state in states

        await self.until(there, within_s=within_s)
        return await self.now(session)

    async def until(self, condition: Callable[[], Awaitable[bool]], *, within_s: float = 60.0) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(within_s):
            while not await condition():
                await self.clock.sleep(0.01)

    async def position(self, session_id: str) -> QueuePosition:
        """Ask the leading scheduler where a session stands."""
        subject = subjects.REQUEST.format(service="scheduler", name="queue")
        query = messages.encode(QueueQuery(session_id=session_id))
        return messages.decode((await self.broker.request(subject, query, timeout_s=1)).data, QueuePosition)
