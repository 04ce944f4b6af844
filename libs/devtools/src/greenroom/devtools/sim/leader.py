"""The leading scheduler: plans, and has the virtual world do what the plan says.

What the scheduler's own shell does over NATS is done here by appointment: a plan soon after each wake-up, each of its
actions a while later, if nobody else was faster.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final

from greenroom.common import lifecycle
from greenroom.common.broker import NoResponder
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Priority, Requeued, Session
from greenroom.common.messages import Heartbeat
from greenroom.common.policy import Verdicts
from greenroom.common.reasons import Reason
from greenroom.devtools.sim.calls import Answer
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.follower import Follower
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.measure import Measure
from greenroom.devtools.sim.scenario import Latency
from greenroom.scheduler.actions import Action, Ask, AskLauncher, ColdLease, Lease, RollBack, SessionAction
from greenroom.scheduler.app import MAX_ACTIONS, TICK_S
from greenroom.scheduler.fleet import RunnerKey, holder
from greenroom.scheduler.launchers.base import ColdStart, Launcher, LauncherUnavailable, LaunchRefused
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pool_view import launch_id

# How long a runner may take to say whether it takes a session; as in the scheduler's settings.
_START_TIMEOUT_S: Final = 1.5
# What a refusal means to the queue, and whether the runner isn't asked again for the session.
_REFUSALS: Final = {
    "no-slot": (Reason.NO_FREE_SLOT, False),
    "draining": (Reason.RUNNER_DRAINING, True),
    NoResponder.code: (NoResponder.code, False),
}
_LAUNCH_PRIORITY: Final = {Priority.HIGH: 80, Priority.NORMAL: 60, Priority.LOW: 40}

# Asks a runner to start a session that is leased to it.
type StartSession = Callable[[RunnerKey, Session], Answer]


class Leader:
    """See the module.

    Args:
        latency: of what it does.
        clock: virtual time.
        ledger: where sessions are moved on.
        launcher: of runners.
        measure: of the plans.
        start: see `StartSession`.
        followers: the schedulers: the first leads, the next stands by to be the next.
    """

    def __init__(
        self,
        latency: Latency,
        clock: Clockwork,
        ledger: VirtualLedger,
        launcher: Launcher,
        measure: Measure,
        *,
        start: StartSession,
        followers: Sequence[Follower],
    ) -> None:
        self._latency = latency
        self._clock = clock
        self._ledger = ledger
        self._launcher = launcher
        self._measure = measure
        self._start = start
        self._followers = list(followers)
        # Counts leaders: what one had begun, the next doesn't finish.
        self._term = 0
        self._leading = False
        self._since_s = 0.0
        self._plan_due = False
        self._under_way = 0
        self._tasks: dict[asyncio.Task[None], int] = {}

    @property
    def picture(self) -> Picture:
        """What the leader knows, or the one that will be."""
        return self._followers[0].picture

    @property
    def led_s(self) -> float:
        """For how long somebody has led without a break, in seconds."""
        return self._clock.now_s - self._since_s if self._leading else 0.0

    @property
    def target(self) -> int:
        """How many warm free slots are wanted, in all pools."""
        return sum(state.target for state in self._followers[0].keeper.states())

    # ------------------------------------------------------------------------ what the schedulers learn

    def follow(self, before: Session | None, entry: Entry) -> None:
        """Take in an entry of the ledger."""
        for number, each in enumerate(self._followers):
            if each.followed(before, entry) and not number:
                self._wake()

    def heard(self, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat."""
        for number, each in enumerate(self._followers):
            if each.heard(heartbeat) and not number:
                self._wake()

    def silenced(self, key: RunnerKey, heard_at: datetime) -> None:
        """Take in that a runner was heard then for the last time."""
        for each in self._followers:
            each.silenced(key, heard_at)

    def begin(self) -> None:
        """Begin to tick and to lead."""
        self._tick()
        self._lead()

    def _tick(self) -> None:
        for each in self._followers:
            each.ticked()
        self._wake()
        self._clock.after(TICK_S, self._tick)

    # ------------------------------------------------------------------------ plan and carry out

    def _wake(self) -> None:
        if self._leading and not self._plan_due:
            self._plan_due = True
            self._clock.after(self._latency.plan_ms / 1000, self._plan, self._term)

    def _plan(self, term: int) -> None:
        if term != self._term:
            return
        self._plan_due = False
        began = time.perf_counter()
        cold = self._followers[0].keeper.cold
        plan = self.picture.board.plan(self._clock.now(), cold, most=MAX_ACTIONS - self._under_way)
        self._measure.planned(time.perf_counter() - began)
        for action in plan.actions:
            self._begin(action)

    def _begin(self, action: Action) -> None:
        if isinstance(action, RollBack):
            for each in self._followers:
                known = each.picture.verdicts.rolled_back
                each.picture.verdicts_changed(Verdicts(rolled_back=(*known, action.rolled_back)))
            self._measure.pool_decisions[f"{action.decision} {action.why.reason}"] += 1
            self._wake()
            return
        entry = self.picture.entry(action.session_id)
        if entry is None:
            return
        expected = None
        if isinstance(action, Lease | ColdLease):
            expected = lifecycle.apply(entry.session, action.transition, self._clock.now())
        if isinstance(action, ColdLease):
            self._followers[0].keeper.granted(entry.session)
        self.picture.begin(action.session_id, expected)
        self._under_way += 1
        delay_s = 0.0 if isinstance(action, Ask | AskLauncher) else self._latency.ledger_ms / 1000
        self._clock.after(delay_s, self._carry_out, self._term, action, entry)

    def _carry_out(self, term: int, action: SessionAction, entry: Entry) -> None:
        if term != self._term:
            return  # whoever was about to do it is dead
        if not isinstance(action, Ask | AskLauncher):
            written = self._ledger.advance(entry, action.transition)
            if written is None:
                self._finish(action.session_id, moved=False)
                return
            entry = written
        match action:
            case Lease() | Ask():
                self.picture.asked(entry.session)
                self._clock.after(self._latency.claim_ms / 1000, self._ask, term, entry)
            case ColdLease() | AskLauncher():
                self.picture.asked(entry.session)
                self._spawn(self._launch(term, entry))
            case _:
                self._finish(action.session_id, moved=True)

    def _finish(self, session_id: str, *, moved: bool) -> None:
        self._under_way -= 1
        self.picture.finish(session_id)
        if moved:
            self._wake()

    def _ask(self, term: int, entry: Entry) -> None:
        key = holder(entry.session)
        if key is None:
            return
        # The request is on its way: it arrives even if whoever sent it is dead by now.
        answer = self._start(key, entry.session)
        if term != self._term:
            return
        if answer == "request-timeout":
            self._clock.after(_START_TIMEOUT_S, self._unanswered, term, key, entry)
            return
        if answer != "accepted":
            reason, exclude_runner = _REFUSALS[answer]
            if answer != "draining":
                self.picture.closed(key)
            self._requeue(entry, reason, exclude_runner=exclude_runner)
        self._finish(entry.session.id, moved=True)

    def _unanswered(self, term: int, key: RunnerKey, entry: Entry) -> None:
        if term == self._term:
            self.picture.closed(key)
            self._finish(entry.session.id, moved=False)

    def _requeue(self, entry: Entry, reason: str, *, exclude_runner: bool) -> None:
        # Whatever refuses here hasn't tried: see `greenroom.scheduler.executor.UNTRIED`.
        requeued = Requeued(epoch=entry.session.epoch, reason=reason, exclude_runner=exclude_runner, tried=False)
        self._ledger.advance(entry, requeued)

    async def _launch(self, term: int, entry: Entry) -> None:
        session, keeper = entry.session, self._followers[0].keeper
        start = ColdStart(
            launch_id=launch_id(session),
            runner_id=session.runner_id or "",
            pool=session.pool,
            tenant=session.tenant,
            session_id=session.id,
            epoch=session.epoch,
            deadline_at=session.lease_expires_at or entry.at,
            priority=_LAUNCH_PRIORITY[session.priority],
        )
        try:
            await self._launcher.cold_start(start)
        except LaunchRefused as error:
            keeper.launch_refused(session, error)
            self._requeue(entry, Reason.LAUNCH_FAILED, exclude_runner=False)
        except LauncherUnavailable:
            keeper.launch_unknown(session)
            self._requeue(entry, Reason.LAUNCH_FAILED, exclude_runner=False)
        if term == self._term:
            self._finish(session.id, moved=True)

    async def _take_back(self, session_id: str, transition: Requeued) -> None:
        entry = self.picture.entry(session_id)
        if entry is not None and entry.session.epoch == transition.epoch:
            self._ledger.advance(entry, transition)

    # ------------------------------------------------------------------------ leaders come and go

    def _lead(self) -> None:
        self._leading = True
        self._since_s = self._clock.now_s
        self._spawn(self._followers[0].keeper.run(self._wake, self._take_back))
        self._wake()

    def die(self, gap_s: float) -> None:
        """Lose what was under way; the one that has stood by leads after a while."""
        self._term += 1
        self._leading = self._plan_due = False
        self._under_way = 0
        self._followers.pop(0)
        for task, term in self._tasks.items():
            if term < self._term:
                task.cancel()
        self._clock.after(gap_s, self._lead)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._clock.joined()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = self._term
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._clock.left(None if task.cancelled() else task.exception())

    async def stop(self) -> None:
        """End what goes on beside."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
