"""The leading scheduler: the real picture, board and keeper of the pools, and in place of its wires the virtual world.

What the scheduler's own shell does over NATS is done here by appointment: a plan soon after each wake-up, each of its
actions a while later, as long as nobody else was faster.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, cast

from greenroom.common import lifecycle, messages, subjects
from greenroom.common.broker import Broker, Message, NoResponder, RequestTimeout
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Priority, Requeued, Session
from greenroom.common.messages import Decision, Done, Heartbeat
from greenroom.common.policy import Verdicts
from greenroom.common.reasons import Reason
from greenroom.devtools.sim.calls import Answer
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.hearing import HearingFleet
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.measure import Measure
from greenroom.devtools.sim.scenario import Scenario
from greenroom.scheduler.actions import Action, Ask, AskLauncher, ColdLease, Lease, RollBack, SessionAction
from greenroom.scheduler.app import MAX_ACTIONS, TICK_S
from greenroom.scheduler.board import Board
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.fleet import RunnerKey, holder
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launchers.base import ColdStart, Launcher, LaunchRefused
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pool_view import launch_id

# How long a runner may take to say whether it takes a session; as in the scheduler's settings.
_START_TIMEOUT_S: Final = 1.5
_REFUSALS: Final = {
    "no-slot": (Reason.NO_FREE_SLOT, False),
    "draining": (Reason.RUNNER_DRAINING, True),
    NoResponder.code: (NoResponder.code, True),
}
_LAUNCH_PRIORITY: Final = {Priority.HIGH: 80, Priority.NORMAL: 60, Priority.LOW: 40}


class _Said(Decisions):
    """Takes what is decided about pools, and counts it; what is decided about sessions the ledger has."""

    def __init__(self, counts: Counter[str]) -> None:
        self.policy_revision = 0
        self._counts = counts

    def on_pool(self, pool: str, decision: Decision) -> None:
        """Count a decision."""
        del pool
        self._counts[decision.decision] += 1

    def on_session(self, *arguments: Any, **more: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do nothing."""


class _Wire:
    """What the keeper reaches runners by: it tells them to drain, and nothing else."""

    def __init__(self, drain: Callable[[RunnerKey], bool]) -> None:
        self._drain = drain

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Carry out a command.

        Raises:
            RequestTimeout: nobody can be reached there.
        """
        del timeout_s
        tokens = subjects.RUNNER_CMD.parse(subject)
        if tokens is None or not self._drain((tokens["pool"], tokens["runner_id"])):
            raise RequestTimeout(subject)
        return Message(subject=subject, data=messages.encode(Done()))


class _PatientClock:
    """The keeper's: it looks as often as the scenario says."""

    def __init__(self, clock: Clockwork, look_s: float, measure: Measure) -> None:
        self._clock = clock
        self._look_s = look_s
        self._measure = measure
        self._began = time.perf_counter()

    def now(self) -> datetime:
        """Return what the clocks show."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Return seconds since the beginning."""
        return self._clock.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait until the next look."""
        self._measure.looked(time.perf_counter() - self._began)
        await self._clock.sleep(max(delay_s, self._look_s))
        self._began = time.perf_counter()


class Leader:
    """See the module.

    Args:
        scenario: has the policy and how patient the scheduler is.
        clock: virtual time.
        ledger: where sessions are moved on.
        launcher: of runners.
        measure: of the plans.
        start: asks a runner to start a session that is leased to it.
        drain: tells a runner to drain; False: it can't be reached.
        standbys: how many schedulers stand by: each learns what this one learns.
    """

    def __init__(
        self,
        scenario: Scenario,
        clock: Clockwork,
        ledger: VirtualLedger,
        launcher: Launcher,
        measure: Measure,
        *,
        start: Callable[[RunnerKey, Session], Answer],
        drain: Callable[[RunnerKey], bool],
        standbys: int = 0,
    ) -> None:
        self._scenario = scenario
        self._clock = clock
        self._ledger = ledger
        self._launcher = launcher
        self._measure = measure
        self._start = start
        self._wire = _Wire(drain)
        self._term = 0
        self._leading = True
        self._plan_due = False
        self._under_way = 0
        self._fleet = HearingFleet(clock)
        self.picture = self._picture(self._fleet)
        self.picture.policy_changed(scenario.policy)
        self._keepers = [self._keeper(self.picture) for _ in range(standbys + 1)]
        self._keeping: asyncio.Task[None] | None = None

    def _picture(self, fleet: HearingFleet) -> Picture:
        picture = Picture(limits=self._scenario.scheduler)
        picture.fleet = fleet
        picture.board = Board(fleet, self._scenario.scheduler)
        return picture

    def _keeper(self, picture: Picture) -> Keeper:
        return Keeper(
            cast("Broker", self._wire),  # all that a keeper does with it
            self._launcher,
            picture,
            _Said(self._measure.pool_decisions),
            clock=_PatientClock(self._clock, self._scenario.look_s, self._measure),
            lost_s=self._scenario.scheduler.runner_lost_s,
        )

    @property
    def target(self) -> int:
        """How many warm free slots are wanted, in all pools."""
        return sum(state.target for state in self._keepers[0].states())

    # ------------------------------------------------------------------------ what it learns

    def begin(self) -> None:
        """Begin to tick, to look and to plan."""
        self._tick()
        self._keep()

    def follow(self, before: Session | None, entry: Entry) -> None:
        """Take in an entry of the ledger."""
        for keeper in self._keepers:
            keeper.learned(entry, first=before is None)
        if self.picture.watched(entry, self._clock.now()):
            self._wake()

    def heard(self, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat."""
        if self.picture.heard(heartbeat, self._clock.now()):
            self._wake()

    def silenced(self, key: RunnerKey, heard_at: datetime) -> None:
        """Take in that a runner was heard then for the last time. That it is silent shows when it is missed."""
        if self._fleet.silenced(key, heard_at):
            self.picture.board.runner_changed(key)

    def _tick(self) -> None:
        self.picture.ticked(self._clock.now(), connected=True)
        self._wake()
        self._clock.after(TICK_S, self._tick)

    def _keep(self) -> None:
        self._clock.joined()
        self._keeping = asyncio.get_running_loop().create_task(self._keep_on(self._keepers[0]))

    async def _keep_on(self, keeper: Keeper) -> None:
        try:
            await keeper.run(self._wake, self._take_back)
        finally:
            self._clock.left()

    async def stop(self) -> None:
        """Look no more."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
            if not keeping.cancelled():
                keeping.result()

    def failed(self) -> BaseException | None:
        """Return what the keeper has come to an end by, if it has."""
        keeping = self._keeping
        return keeping.exception() if keeping is not None and keeping.done() and not keeping.cancelled() else None

    # ------------------------------------------------------------------------ plan and carry out

    def _wake(self) -> None:
        if self._leading and not self._plan_due:
            self._plan_due = True
            self._clock.after(self._scenario.latency.plan_ms / 1000, self._plan, self._term)

    def _plan(self, term: int) -> None:
        if term != self._term:
            return
        self._plan_due = False
        began = time.perf_counter()
        plan = self.picture.board.plan(self._clock.now(), self._keepers[0].cold, most=MAX_ACTIONS - self._under_way)
        self._measure.planned(time.perf_counter() - began)
        for action in plan.actions:
            self._begin(action)

    def _begin(self, action: Action) -> None:
        if isinstance(action, RollBack):
            known = self.picture.verdicts.rolled_back
            self.picture.verdicts_changed(Verdicts(rolled_back=(*known, action.rolled_back)))
            self._measure.pool_decisions[action.decision] += 1
            self._wake()
            return
        entry = self.picture.entry(action.session_id)
        if entry is None:
            return
        expected = None
        if isinstance(action, Lease | ColdLease):
            expected = lifecycle.apply(entry.session, action.transition, self._clock.now())
        if isinstance(action, ColdLease):
            self._keepers[0].granted(entry.session)
        self.picture.begin(action.session_id, expected)
        self._under_way += 1
        delay_s = 0.0 if isinstance(action, Ask | AskLauncher) else self._scenario.latency.ledger_ms / 1000
        self._clock.after(delay_s, self._carry_out, self._term, action, entry)

    def _carry_out(self, term: int, action: SessionAction, entry: Entry) -> None:
        if term != self._term:
            return  # whoever was about to do it is dead
        written = entry
        if not isinstance(action, Ask | AskLauncher):
            advanced = self._ledger.advance(entry, action.transition)
            if advanced is None:
                self._finish(action.session_id, moved=False)
                return
            written = advanced
        if isinstance(action, Lease | Ask):
            self.picture.asked(written.session)
            self._clock.after(self._scenario.latency.claim_ms / 1000, self._ask, term, written)
        elif isinstance(action, ColdLease | AskLauncher):
            self.picture.asked(written.session)
            self._immediately(self._launch(written))
            self._finish(action.session_id, moved=True)
        else:
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
        # The request was sent: it arrives even if whoever sent it is dead by now.
        answer = self._start(key, entry.session)
        if term != self._term:
            return
        if answer == "request-timeout":
            self._clock.after(_START_TIMEOUT_S, self._unanswered, term, key, entry)
            return
        if answer != "accepted":
            reason, exclude = _REFUSALS[answer]
            if answer in {"no-slot", NoResponder.code}:
                self.picture.closed(key)
            self._requeue(entry, reason, exclude_runner=exclude)
        self._finish(entry.session.id, moved=True)

    def _unanswered(self, term: int, key: RunnerKey, entry: Entry) -> None:
        if term == self._term:
            self.picture.closed(key)
            self._finish(entry.session.id, moved=False)

    def _requeue(self, entry: Entry, reason: str, *, exclude_runner: bool) -> None:
        requeued = Requeued(epoch=entry.session.epoch, reason=reason, exclude_runner=exclude_runner)
        self._ledger.advance(entry, requeued)

    async def _launch(self, entry: Entry) -> None:
        session = entry.session
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
        keeper = self._keepers[0]
        try:
            await self._launcher.cold_start(start)
        except LaunchRefused as error:
            keeper.launch_refused(session, error)
            self._requeue(entry, Reason.LAUNCH_FAILED, exclude_runner=False)
        except LauncherUnavailable:
            keeper.launch_unknown(session)
            self._requeue(entry, Reason.LAUNCH_FAILED, exclude_runner=False)

    async def _take_back(self, session_id: str, transition: Requeued) -> None:
        entry = self.picture.entry(session_id)
        if entry is not None and entry.session.epoch == transition.epoch:
            self._ledger.advance(entry, transition)

    # ------------------------------------------------------------------------ another leader

    def die(self, gap_s: float) -> None:
        """Lose what was under way, and let one that has stood by lead after a while."""
        self._term += 1
        self._leading = self._plan_due = False
        self._under_way = 0
        if self._keeping is not None:
            self._keeping.cancel()
        self._take_over()
        self._clock.after(gap_s, self._lead)

    def _take_over(self) -> None:
        """Let the picture be that of a stand-by: it has seen and heard the same, and asked nobody for anything."""
        old = self.picture
        self._fleet = HearingFleet(self._clock)
        self._fleet.taken_over(old.fleet)
        self.picture = self._picture(self._fleet)
        self.picture.board.history = old.board.history
        self.picture.verdicts = old.verdicts
        self.picture.policy_changed(self._scenario.policy)
        self.picture.ticked(self._clock.now(), connected=True)
        for entry in self._ledger.open.values():
            self.picture.fold(entry, self._clock.now())
        self._keepers.pop(0)
        for keeper in self._keepers:
            keeper.sees(self.picture)

    def _lead(self) -> None:
        self._leading = True
        self._keep()
        self._wake()
