"""Schedulers, runners and clients on one memory broker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import Clock
from greenroom.common.events import decode_event
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Ending, Leased, Outcome, Requeued, Session, State, Transition
from greenroom.common.messages import (
    Decision,
    EventType,
    PoolsAnswer,
    PoolsQuery,
    PoolState,
    QueuePage,
    QueuePageQuery,
    QueuePosition,
    QueueQuery,
)
from greenroom.common.metrics import Metrics
from greenroom.common.policy import Policy
from greenroom.scheduler.__main__ import compose
from greenroom.scheduler.app import Scheduler
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.launchers.none import NoLauncher
from greenroom.scheduler.settings import SchedulerSettings
from tests.support.leaping_time import LoopClock
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.simulated_runner import SimulatedRunner, request_session
from tests.support.virtual_launcher import VirtualLauncher


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

    async def crash(self) -> None:
        """Have it gone without a word: nothing of what it does any more is heard."""
        self.broker.connected = False
        await self.stop()


class Rig:
    """Everything on one server; what it makes is stopped at its end."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.clock: Clock = LoopClock()
        self.launcher: Launcher = NoLauncher()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.schedulers: list[RunningScheduler] = []
        self._revision = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self.schedulers:
            await running.stop()
            if not running.task.cancelled():
                running.task.result()
        if isinstance(self.launcher, VirtualLauncher):
            await self.launcher.stop()

    def virtual_launcher(self, **options: Any) -> VirtualLauncher:
        """Give the schedulers that are started from now on a virtual launcher."""
        self.launcher = VirtualLauncher(self.server, self.clock, **options)
        return self.launcher

    async def decree(self, **policy: Any) -> Policy:
        """Publish a policy, as the api does."""
        self._revision += 1
        known = Policy(revision=self._revision, **policy)
        await self.broker.append(subjects.POLICY.format(name="current"), messages.encode(known))
        return known

    def scheduler(self, name: str = "one", **settings: Any) -> RunningScheduler:
        """Start a scheduler."""
        broker, counters = self.server.connect(), Counters(Metrics())
        known = SchedulerSettings(instance_id=name, **settings)
        running = RunningScheduler(broker, compose(known, broker, self.clock, counters, self.launcher), counters)
        self.schedulers.append(running)
        return running

    async def runner(self, runner_id: str = "r1", **fields: Any) -> SimulatedRunner:
        """Start a runner."""
        runner = SimulatedRunner(self.server.connect(), self.clock, runner_id, **fields)
        await runner.start()
        return runner

    async def request(self, **fields: Any) -> Session:
        """Ask for a session."""
        return await request_session(self.ledger, **fields)

    async def stop(self, session: Session) -> None:
        """Stop a session, as the api does for a client."""

        def decide(known: Session) -> Transition | None:
            if known.state is State.REQUESTED:
                canceled = Outcome.CANCELED
                return Ended(by="client", epoch=known.epoch, outcome=canceled, reason="client-canceled")
            if known.state in {State.ENDING, State.ENDED}:
                return None
            return Ending(by="client", epoch=known.epoch, reason="client-stop")

        await self.ledger.move(session.tenant, session.id, decide)

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

    async def until(
        self, condition: Callable[[], Awaitable[bool]], *, within_s: float = 60.0, every_s: float = 0.01
    ) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(within_s):
            while not await condition():
                await self.clock.sleep(every_s)

    async def position(self, session_id: str) -> QueuePosition:
        """Ask the leading scheduler where a session stands."""
        return await self._ask("queue", QueueQuery(session_id=session_id), QueuePosition)

    async def page(self, **query: Any) -> QueuePage:
        """Ask the leading scheduler for a part of the queue."""
        return await self._ask("waiting", QueuePageQuery(**query), QueuePage)

    async def pools(self) -> PoolsAnswer:
        """Ask the leading scheduler how the pools stand."""
        return await self._ask("pools", PoolsQuery(), PoolsAnswer)

    async def pool(self, name: str = "default") -> PoolState:
        """Ask the leading scheduler how one pool stands."""
        return next(each for each in (await self.pools()).pools if each.name == name)

    async def _ask[T](self, name: str, query: msgspec.Struct, answer: type[T]) -> T:
        subject = subjects.REQUEST.format(service="scheduler", name=name)
        reply = await self.broker.request(subject, messages.encode(query), timeout_s=1)
        return messages.decode(reply.data, answer)

    async def decisions(self, session: Session) -> list[Decision]:
        """Return what was said to have been decided about a session, as whoever reads its events gets it.

        What was decided within the last 0.1 s may not have gone out.
        """
        subject = subjects.SESSION_EVENT.format(
            tenant=session.tenant, session_id=session.id, type=EventType.SCHEDULER_DECISION
        )
        events = [decode_event(each) for each in await self._all("SESSIONS", subject)]
        return [msgspec.convert(each.data, Decision) for each in events]

    async def decided(self, session: Session) -> list[str]:
        """Return the same in words such as `lease slot-free`."""
        return [f"{each.decision} {each.reason}" for each in await self.decisions(session)]

    async def pool_decisions(self, pool: str = "default") -> list[Decision]:
        """Return what was said to have been decided about a pool."""
        stored = await self._all("DECISIONS", subjects.DECISION.format(pool=pool))
        return [messages.decode(each.data, Decision) for each in stored]

    async def _all(self, stream: str, subject: str) -> list[Message]:
        reader = await self.broker.read(stream, [subject], after=0)
        found: list[Message] = []
        if not reader.caught_up.is_set():
            async for message in reader:
                found.append(message)
                if reader.caught_up.is_set():
                    break
        await reader.close()
        return found
