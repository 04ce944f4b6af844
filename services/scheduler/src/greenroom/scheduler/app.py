"""The shell around the plan: feed, tick, plan, carry out.

    ledger watch ─┐
    heartbeats  ──┼─▶ picture ─▶ plan (leader only) ─▶ executor ─▶ ledger, runners
    tick        ──┘                  └─▶ why each waits ─▶ whoever asks

Stand-bys do all of it but planning, so that a take-over begins with a full picture.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.leadership import Leadership
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import State
from greenroom.common.messages import Heartbeat, QueuePosition, QueueQuery
from greenroom.scheduler.actions import Action, Plan
from greenroom.scheduler.core import PlanLimits, plan
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.executor import Executor
from greenroom.scheduler.picture import Picture

_log = structlog.get_logger()

# For what becomes due by the clock alone: leases, queue deadlines, lost runners. All else wakes the plan at once.
TICK_S: Final = 0.25
# Each is one append and one request, 1 ms together; what is beyond waits for the next plan.
MAX_ACTIONS: Final = 256
# Leadership is gone or given up: what was begun may come to its end. A ledger append and a start take 2 ms.
_FINISH_S: Final = 2.0
# A plan that takes longer than this makes room for others for as long as it took.
_QUICK_PLAN_S: Final = 0.002


class Scheduler:
    """One of any number of schedulers; the one that leads plans.

    Args:
        broker: for heartbeats and questions.
        ledger: what is followed.
        leadership: decides who plans.
        executor: carries actions out.
        picture: what is known; the executor's too.
        counters: what is counted.
        limits: of the plan.
        clock: time.
        pool: the one pool that is scheduled; None: all.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        leadership: Leadership,
        executor: Executor,
        picture: Picture,
        counters: Counters,
        limits: PlanLimits,
        clock: Clock,
        pool: str | None = None,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._broker = broker
        self._ledger = ledger
        self._leadership = leadership
        self._executor = executor
        self._picture = picture
        self._counters = counters
        self._limits = limits
        self._clock = clock
        self._pool = pool
        self._wake = asyncio.Event()
        self._plan = Plan()

    @property
    def leading(self) -> bool:
        """Whether this one plans."""
        return self._leadership.leading

    async def run(self) -> None:
        """Schedule until canceled; leadership is handed over at the end.

        Raises:
            BrokerUnavailable: the ledger can't be read at the start.
            TopologyMissing: it isn't there.
        """
        heartbeats = await self._broker.subscribe(self._heartbeats, self._heard)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(), name="follow")
                tasks.create_task(self._tick(), name="tick")
                await self.caught_up.wait()
                await self._leadership.run(self._lead)
        finally:
            await heartbeats.unsubscribe()

    # ------------------------------------------------------------------------ feed

    @property
    def _heartbeats(self) -> str:
        pool = {"pool": self._pool} if self._pool else {}
        return subjects.RUNNER_HEARTBEAT.wildcard(**pool)

    async def _follow(self) -> None:
        reader = await self._ledger.watch()
        if reader.caught_up.is_set():
            self.caught_up.set()
        try:
            async for entry in reader:
                if self._picture.watched(entry, self._clock.now()):
                    self._wake.set()
                if reader.caught_up.is_set():
                    self.caught_up.set()
        finally:
            await reader.close()
        raise BrokerUnavailable("the watch of the ledger has ended")

    async def _heard(self, message: Message) -> None:
        try:
            heartbeat = messages.decode(message.data, Heartbeat)
        except msgspec.MsgspecError as error:
            _log.warning("heartbeat_malformed", subject=message.subject, error=str(error))
            return
        if self._picture.heard(heartbeat, self._clock.now()):
            self._wake.set()

    async def _tick(self) -> None:
        while True:
            self._picture.ticked(self._clock.now(), connected=self._broker.connected)
            self._wake.set()
            await self._clock.sleep(TICK_S)

    # ------------------------------------------------------------------------ plan and carry out

    async def _lead(self) -> None:
        queries = await self._broker.subscribe(subjects.REQUEST.format(service="scheduler", name="queue"), self._answer)
        under_way: set[asyncio.Task[None]] = set()
        self._plan = Plan()
        self._wake.set()
        self._counters.leader.set(1)
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._plan_on(tasks, under_way)
                finally:
                    # Half a lease would cost its session the rest of it.
                    if under_way:
                        await asyncio.wait(under_way, timeout=_FINISH_S)
        finally:
            self._counters.leader.set(0)
            self._counters.waiting(())
            await queries.unsubscribe()

    async def _plan_on(self, tasks: asyncio.TaskGroup, under_way: set[asyncio.Task[None]]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = self._clock.monotonic()
            self._plan = plan(self._clock.now(), self._picture.fleet, self._picture.sessions, self._limits)
            took_s = self._clock.monotonic() - began
            self._counters.plan.observe(took_s)
            self._counters.waiting(self._plan.waiting)
            for action in self._plan.actions[: MAX_ACTIONS - len(under_way)]:
                entry = self._executor.begin(action)
                if entry is not None:
                    task = tasks.create_task(self._carry_out(action, entry))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            if took_s > _QUICK_PLAN_S:
                await self._clock.sleep(took_s)

    async def _carry_out(self, action: Action, entry: Entry) -> None:
        # After a failure the next tick is soon enough: whatever was in the way may be so for a while.
        if await self._executor.carry_out(action, entry):
            self._wake.set()

    # ------------------------------------------------------------------------ why a session waits

    async def _answer(self, message: Message) -> None:
        query = messages.decode(message.data, QueueQuery)
        position = self._position(query.session_id)
        if position is not None:
            await self._broker.publish(message.reply, messages.encode(position))

    def _position(self, session_id: str) -> QueuePosition | None:
        for waiting in self._plan.waiting:
            if waiting.session_id == session_id:
                return QueuePosition(
                    session_id=session_id, position=waiting.position, of=waiting.of, reason=str(waiting)
                )
        entry = self._picture.entry(session_id)
        if entry is None and self._pool is not None:
            return None  # another pool's leader may know it
        state = entry.session.state if entry else State.ENDED
        reason = "it is being decided on" if state is State.REQUESTED else f"it doesn't wait: it is {state}"
        return QueuePosition(session_id=session_id, position=0, of=0, reason=reason)
