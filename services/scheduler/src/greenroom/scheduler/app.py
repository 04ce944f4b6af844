"""The shell around the plan: feed, tick, plan, carry out.

    ledger watch ─┐
    heartbeats  ──┼─▶ picture ─▶ plan (leader only) ─▶ executor ─▶ ledger, runners, launcher
    policy      ──┤      └─────▶ keeper (leader only) ─▶ launcher, cold starts that the plan may grant
                  │      ├─────▶ moves (leader only) ─▶ ledger: rooms that sessions go to
                  │      └─────▶ pins (leader only) ─▶ ledger: pinned sessions asked for and stopped
    tick        ──┘      └─────▶ answers (leader only) ─▶ whoever asks

Stand-bys do all of it but what is the leader's, so that a take-over begins with a full picture.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.budgets import Spending
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.leadership import Leadership
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.messages import Decision, Heartbeat
from greenroom.common.policy import Policy, RolledBack, Verdicts
from greenroom.common.spool import Spool
from greenroom.scheduler.actions import Action, AskLauncher, ColdLease, RollBack, SessionAction
from greenroom.scheduler.answers import Answers
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.executor import Executor
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.limits_said import LimitsSaid
from greenroom.scheduler.moves import Moves
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pin_keeper import PinKeeper
from greenroom.scheduler.policy_feed import PolicyFeed
from greenroom.scheduler.waiting_said import WaitingSaid

_log = structlog.get_logger()

# For what becomes due by the clock alone: leases, queue deadlines, lost runners. All else wakes the plan at once.
TICK_S: Final = 0.25
# Each is one append and one request, 1 ms together; what is beyond waits for the next plan. Launches don't count once
# they are under way: a launcher may take seconds, and how many there are is bounded by the policy.
MAX_ACTIONS: Final = 256
# When leadership is given up, what was begun may come to its end. A ledger append and a start take 2 ms.
_FINISH_S: Final = 2.0
# What was decided at the end goes out before the connection is closed.
_FLUSH_S: Final = 1.0
# A plan that takes longer than this makes room for others for as long as it took.
_QUICK_PLAN_S: Final = 0.002
# Those that wait are told of each so many ticks, and what is of no use any more is forgotten.
_SAY_EVERY: Final = 4
_TIDY_EVERY: Final = 40
# A verdict that can't be kept now is kept later.
_AGAIN_S: Final = 1.0
# Where decisions go that concern no pool.
_NO_POOL: Final = "all"

# What is being carried out, and whether it counts for `MAX_ACTIONS`.
type _UnderWay = dict[asyncio.Task[None], bool]


class Scheduler:
    """One of any number of schedulers; the one that leads plans.

    Args:
        broker: for heartbeats and questions.
        ledger: what is followed.
        leadership: decides who plans.
        executor: carries actions out.
        picture: what is known; the executor's too.
        keeper: of the pools.
        pins: keeps pinned sessions running.
        answers: to whoever asks the leader.
        moves: to other rooms; the leader decides on them.
        launcher: what the leader's keeper has runners launched by.
        spool: what the decisions go out by.
        decisions: where it is said what was decided.
        counters: what is counted.
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
        keeper: Keeper,
        pins: PinKeeper,
        answers: Answers,
        moves: Moves,
        launcher: Launcher,
        spool: Spool,
        decisions: Decisions,
        counters: Counters,
        clock: Clock,
        pool: str | None = None,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._feed = PolicyFeed(
            broker,
            on_policy=self._on_policy,
            on_verdicts=self._on_verdicts,
            on_pins=pins.records_changed,
            on_spending=self._on_spending,
        )
        self._keeper = keeper
        self._pins = pins
        self._answers = answers
        self._moves = moves
        self._launcher = launcher
        self._spool = spool
        self._decisions = decisions
        self._said = WaitingSaid(picture, decisions)
        self._limits_said = LimitsSaid(picture, spool)
        self._ticks = 0
        self._broker = broker
        self._ledger = ledger
        self._leadership = leadership
        self._executor = executor
        self._picture = picture
        self._counters = counters
        self._clock = clock
        self._pool = pool
        self._wake = asyncio.Event()
        self._running: asyncio.Task[object] | None = None
        # Verdicts that hold here and aren't known to be kept for the next leader.
        self._unkept: list[RolledBack] = []

    @property
    def leading(self) -> bool:
        """Whether this one plans."""
        return self._leadership.leading

    @property
    def _given_up(self) -> bool:
        """Whether leadership ends because this scheduler does, rather than because another one has taken it."""
        return self._running is not None and self._running.cancelling() > 0

    async def run(self) -> None:
        """Schedule until canceled; leadership is handed over at the end.

        Raises:
            BrokerUnavailable: the ledger can't be read at the start.
            TopologyMissing: it isn't there.
        """
        self._running = asyncio.current_task()
        heartbeats = await self._broker.subscribe(self._heartbeats, self._heard)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._spool.run(), name="spool")
                tasks.create_task(self._feed.run(), name="policy")
                # Before the sessions: none is to be placed without the limits.
                await self._feed.caught_up.wait()
                tasks.create_task(self._follow(), name="follow")
                tasks.create_task(self._tick(), name="tick")
                await self.caught_up.wait()
                try:
                    await self._leadership.run(self._lead)
                finally:
                    await self._spool.flush(_FLUSH_S)
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
                self._keeper.learned(entry, first=not self._picture.knows(entry.session.id))
                self._pins.learned(entry)
                if self._picture.watched(entry, self._clock.now(), replayed=not self.caught_up.is_set()):
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
        # Runners are asked under these names: they must be theirs, and fit into a subject.
        if subjects.RUNNER_HEARTBEAT.parse(message.subject) != {
            "pool": heartbeat.pool,
            "runner_id": heartbeat.runner_id,
        }:
            _log.warning("heartbeat_misplaced", subject=message.subject, runner_id=heartbeat.runner_id)
            return
        if self._picture.heard(heartbeat, self._clock.now()):
            self._wake.set()

    def _on_policy(self, policy: Policy) -> None:
        self._decisions.policy_revision = policy.revision
        self._picture.policy_changed(policy)
        self._pins.policy_changed(policy)
        self._wake.set()

    def _on_verdicts(self, verdicts: Verdicts) -> None:
        news = [each for each in self._unkept if each not in verdicts.rolled_back]
        self._picture.verdicts_changed(Verdicts(rolled_back=(*verdicts.rolled_back, *news)))
        self._wake.set()

    def _on_spending(self, spending: Spending) -> None:
        self._picture.spending_changed(spending)
        self._wake.set()

    async def _tick(self) -> None:
        while True:
            now = self._clock.now()
            self._picture.ticked(now, connected=self._broker.connected)
            self._answers.renew()
            self._ticks += 1
            if self._ticks % _TIDY_EVERY == 0:
                self._keeper.tidy()
                self._pins.tidy()
            if self.leading:
                self._counters.waiting(self._answers.outlook.reasons())
                if self._ticks % _SAY_EVERY == 0:
                    self._said.say(self._answers.outlook, now)
                    self._limits_said.say(self._answers.outlook, now)
            self._wake.set()
            await self._clock.sleep(TICK_S)

    # ------------------------------------------------------------------------ plan and carry out

    async def _lead(self) -> None:
        under_way: _UnderWay = {}
        self._wake.set()
        self._counters.leader.set(1)
        try:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                await self._answers.open(stack)
                await self._moves.open(stack)
                beside = [
                    tasks.create_task(self._launcher.run(), name="launcher"),
                    tasks.create_task(self._keeper.run(self._wake.set, self._executor.take_back), name="keeper"),
                    tasks.create_task(self._pins.run(), name="pins"),
                ]
                try:
                    await self._plan_on(tasks, under_way)
                finally:
                    for task in beside:
                        task.cancel()
                    # Half a lease would cost its session the rest of it. But when leadership was lost another one plans
                    # by now, and doesn't count what would still be written from here.
                    if under_way and self._given_up:
                        await asyncio.wait(under_way, timeout=_FINISH_S)
        finally:
            self._counters.leader.set(0)
            self._counters.waiting({})

    async def _plan_on(self, tasks: asyncio.TaskGroup, under_way: _UnderWay) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = self._clock.monotonic()
            most = MAX_ACTIONS - sum(under_way.values())
            plan = self._picture.board.plan(self._clock.now(), self._keeper.cold, most=most)
            took_s = self._clock.monotonic() - began
            self._counters.plan.observe(took_s)
            for action in plan.actions:
                self._limits_said.decided(action)
                self._begin(action, tasks, under_way)
            if took_s > _QUICK_PLAN_S:
                await self._clock.sleep(took_s)

    def _begin(self, action: Action, tasks: asyncio.TaskGroup, under_way: _UnderWay) -> None:
        if isinstance(action, RollBack):
            self._unkept.append(action.rolled_back)
            self._on_verdicts(self._picture.verdicts)
            tasks.create_task(self._roll_back(action), name="roll-back")
            return
        entry = self._executor.begin(action)
        if entry is not None:
            task = tasks.create_task(self._carry_out(action, entry))
            under_way[task] = not isinstance(action, ColdLease | AskLauncher)
            task.add_done_callback(under_way.pop)

    async def _roll_back(self, action: RollBack) -> None:
        """Keep a verdict for the leaders to come; it holds here already."""
        found, why = action.rolled_back, action.why
        _log.warning("canary_rolled_back", agent=found.agent, version=found.version, detail=why.text)
        inputs = {"agent": found.agent, "tenant": found.tenant, "version": found.version} | why.inputs
        self._decisions.on_pool(
            _NO_POOL,
            Decision(
                decision=action.decision,
                at=found.at,
                reason=why.reason,
                text=why.text,
                inputs=inputs,
                policy_revision=self._decisions.policy_revision,
            ),
        )
        while True:
            try:
                await self._feed.add_verdict(found)
            except GreenroomError as error:
                _log.warning("verdict_not_kept", agent=found.agent, code=error.code)
                await self._clock.sleep(_AGAIN_S)
            else:
                self._unkept.remove(found)
                return

    async def _carry_out(self, action: SessionAction, entry: Entry) -> None:
        # After a failure the next tick is soon enough: whatever was in the way may be so for a while.
        if await self._executor.carry_out(action, entry):
            self._wake.set()
