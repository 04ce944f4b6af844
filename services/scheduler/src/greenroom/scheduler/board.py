"""What a plan is made from, kept current change by change, so that a plan costs what changed and what can be placed.

    session_changed ─┐                     ┌─▶ what is due: settle.py, rooms.py
    runner_changed  ─┼─▶ indices ─▶ plan ──┼─▶ who gets a slot: placing.py (queues.py, seats.py, limits.py, versions.py)
    policy_changed  ─┘                     └─▶ who may not wait

What it holds beyond its input are indices, nothing that can't be told anew from the sessions, the fleet, the policy and
the `History`. A plan changes none of it.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from greenroom.common.budgets import Spent
from greenroom.common.lifecycle import Priority, Session, State, Transition
from greenroom.common.messages import LimitUsage
from greenroom.common.policy import Policy, RolledBack
from greenroom.scheduler.actions import Action, Plan, RollBack, SessionAction, Why
from greenroom.scheduler.budgets import BudgetGate, same
from greenroom.scheduler.capacity import ColdAllowance
from greenroom.scheduler.fleet import Fleet, Hold, RunnerKey, holder
from greenroom.scheduler.held import Place
from greenroom.scheduler.history import History, Trial, started_well
from greenroom.scheduler.limits import MAX_DEPARTED, Book, Tally
from greenroom.scheduler.outlook import Outlook
from greenroom.scheduler.placing import Desk, Placing
from greenroom.scheduler.queues import Line, Queues, age
from greenroom.scheduler.ranking import Ranking
from greenroom.scheduler.rooms import Rooms
from greenroom.scheduler.seats import Seats
from greenroom.scheduler.settle import PlanLimits, Tracked, look_again_at, settle
from greenroom.scheduler.versions import Rollouts, rolled_back, trial_key

_ALL: Final = 2**31
PRIORITIES: Final = tuple(Priority)

type Cold = Mapping[str, ColdAllowance]


class Board:
    """See the module. Whoever changes the fleet tells the board which runner it was.

    Args:
        fleet: the runners.
        limits: how patient the scheduler is.
        policy: what operators decided.
        verdicts: canaries that were rolled back.
        history: of sessions that have ended.
        spent: budgets of which nothing is left.
    """

    def __init__(
        self,
        fleet: Fleet,
        limits: PlanLimits,
        policy: Policy | None = None,
        verdicts: Collection[RolledBack] = (),
        history: History | None = None,
        *,
        spent: tuple[Spent, ...] = (),
    ) -> None:
        self.policy = policy or Policy()
        self.history = history or History()
        self.seats = Seats(fleet, limits.runner_lost_s, self._spreads)
        self._fleet = fleet
        self._limits = limits
        self._verdicts = verdicts
        self._spent = spent
        self._sessions: dict[str, Tracked] = {}
        self._counted: dict[str, tuple[Tally[Line], ...]] = {}
        self._rooms = Rooms()
        # Launch ids of the cold leases that no runner has claimed so far, by pool.
        self._launching: dict[str, set[str]] = {}
        # What to look at in the next plan: what has changed, and what was found to be acted on and still is as it was.
        self._due: set[str] = set()
        self._deadlines: Ranking[str, tuple[datetime, str]] = Ranking()
        self._now: datetime | None = None
        self._cold: Cold = {}
        self._begin()

    def _begin(self) -> None:
        """Count everything by the policy that holds now."""
        self._rollouts = Rollouts(self.policy, self._verdicts)
        self._queues = Queues(self.policy.weights)
        self._book: Book[Line] = Book(self.policy.limits, [BudgetGate(each) for each in self._spent])
        self.seats.forget_racks()
        for session in self.history.departed:
            for tally in (*self._book.of(session), *self._book.of_version(session)):
                if tally.starts is not None and session.leased_at is not None:
                    tally.starts.put(_hold(session), session.leased_at)
        for session_id, tracked in self._sessions.items():
            self._due.add(session_id)
            if _is_active(tracked.session):
                self._count(tracked.session)

    def _spreads(self, pool: str) -> bool:
        if any(each.name == pool for each in self.policy.pools):
            return self.policy.pool(pool).placement == "spread"
        return self._limits.spread

    # ------------------------------------------------------------------------ what changes

    def session_changed(self, tracked: Tracked) -> None:
        """Take in a session that hasn't ended, new or otherwise than before."""
        session = tracked.session
        known = self._sessions.get(session.id)
        self._sessions[session.id] = tracked
        self._due.add(session.id)
        if known is not None:
            self._launched(known.session)
            if (known.session.moving, known.session.moved) != (session.moving, session.moved):
                self._look_at(self._rooms.change(known.session, session))
        if session.cold and session.state is State.LEASED:
            self._launching.setdefault(session.pool, set()).add(f"{session.id}-{session.epoch}")
        if known is None:
            self._look_at(self._rooms.enter(session))
        elif _place(known) == _place(tracked):
            self._leased_at(session)
            return
        else:
            self._withdraw(known.session, session)
            if known.session.state is not session.state and session.room is not None:
                self._look_at(self._rooms.enter(session))
        if _is_active(session):
            self._count(session)
            key = holder(session)
            if key is not None:
                self.seats.assign(key, _hold(session), session.bot)

    def forget(self, session_id: str) -> None:
        """Take in that a session has ended."""
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._launched(known.session)
            self._withdraw(known.session, None)
            self._look_at(self._rooms.leave(known.session))
            self._due.discard(session_id)
            self._deadlines.drop(session_id)

    def runner_changed(self, key: RunnerKey) -> bool:
        """Take in that a runner of the fleet was heard, closed or forgotten; return whether it offers other things."""
        changed, missing = self.seats.runner_changed(key)
        if missing:
            self._look_at(session_id for session_id, _ in missing)
        return changed

    def policy_changed(self, policy: Policy, verdicts: Collection[RolledBack]) -> None:
        """Take in what operators decided, and which canaries were rolled back. Costs as much as a board made anew."""
        if (policy, verdicts) != (self.policy, self._verdicts):
            self.policy, self._verdicts = policy, verdicts
            self._begin()
            trials = self.history.trials
            for key in trials.keys() - self._rollouts.keys():
                del trials[key]

    def spending_changed(self, spent: tuple[Spent, ...]) -> None:
        """Take in of which budgets nothing is left; as costly as a change of the policy, if it is one."""
        if not same(spent, self._spent):
            self._spent = spent
            self._begin()

    def witnessed(self, transition: Transition, session: Session) -> None:
        """Take in what happened to a session, for what is learned from many.

        Args:
            transition: what happened.
            session: as it is after it.
        """
        if session.ended and session.leased_at and session.ended_at:
            took_s = (session.ended_at - session.leased_at).total_seconds()
            self.history.durations.add(session.pool, max(took_s, 0.0))
            for measure in {each.measure for each in (*self._book.of(session), *self._book.of_version(session))}:
                self.history.measured.add(measure, max(took_s, 0.0))
        went_well = started_well(transition, session)
        key = self._rollouts.trial(session) if went_well is not None else None
        if key is not None:
            trial = self.history.trials.setdefault(key, Trial())
            trial.starts += 1
            trial.failures += not went_well

    def _launched(self, known: Session) -> None:
        if known.cold:
            self._launching.get(known.pool, set()).discard(f"{known.id}-{known.epoch}")

    def _look_at(self, session_ids: Iterable[str]) -> None:
        self._due.update(session_ids)

    def _count(self, session: Session) -> None:
        tallies = (*self._book.of(session), *self._book.of_version(session))
        self._counted[session.id] = tallies
        self._book.add(tallies, _hold(session), session.leased_at)
        self._queues.use(session.pool, session.tenant, 1)

    def _leased_at(self, session: Session) -> None:
        """Take in when a lease was really written: it was counted from when it was about to be."""
        for tally in self._counted.get(session.id, ()):
            if tally.starts is not None and session.leased_at is not None:
                tally.starts.put(_hold(session), session.leased_at)

    def _withdraw(self, known: Session, after: Session | None) -> None:
        """Take a session out of wherever it is; its lease goes on counting as a start, if it was one."""
        self._queues.leave(known.id)
        if not _is_active(known):
            return
        tallies = self._counted.pop(known.id)
        self._queues.wake(self._book.remove(tallies))
        self._queues.use(known.pool, known.tenant, -1)
        paced = [tally.starts for tally in tallies if tally.starts is not None]
        moved = after is not None and known.state is after.state is State.LEASED
        if moved or (after is not None and after.epoch < known.epoch):
            for starts in paced:
                starts.discard(_hold(known))  # it came to nothing
        elif paced:
            self._depart(known)
        key = holder(known)
        if key is not None:
            self.seats.release(key, _hold(known))

    def _depart(self, session: Session) -> None:
        departed = self.history.departed
        if len(departed) == MAX_DEPARTED:
            old = departed.popleft()
            for tally in (*self._book.of(old), *self._book.of_version(old)):
                if tally.starts is not None:
                    tally.starts.discard(_hold(old))
        departed.append(session)

    # ------------------------------------------------------------------------ the plan

    def plan(self, now: datetime, cold: Cold | None = None, *, most: int = _ALL) -> Plan:
        """Return what is to be done now.

        Args:
            now: UTC, by the clock that the fleet and the sessions were folded by.
            cold: how many runners may be launched for single sessions, by pool.
            most: how many actions there may be; those that are beyond come with the next plan.
        """
        self._cold = cold or {}
        self._follow(now)
        actions: list[Action] = [*self._settle(now), *self._roll_back(now)][:most]
        placing = Placing(self._desk(), now, most - len(actions))
        try:
            for pool in sorted({*self._queues.pools(), *(pool for pool, ids in self._launching.items() if ids)}):
                placing.warm(pool)
                placing.move(self._movable(pool))
                allowance = self._cold.get(pool)
                if allowance is not None and allowance.count:
                    placing.cold(pool, allowance)
            placing.refuse()
        finally:
            placing.take_back()
        return Plan(actions=(*actions, *placing.actions))

    def _movable(self, pool: str) -> list[Session]:
        """Return the sessions whose runners are being launched and aren't up, nothing else having been decided."""
        waiting = (launch_id.rpartition("-")[0] for launch_id in self._launching.get(pool, ()))
        rows = [self._sessions[each] for each in waiting if each not in self._due]
        found = [each.session for each in rows if each.asked and not each.busy and not self._is_up(each.session)]
        return sorted(found, key=lambda session: (PRIORITIES.index(session.priority), age(session)))

    def _is_up(self, session: Session) -> bool:
        key = holder(session)
        seat = self.seats.get(key) if key is not None else None
        return seat is not None and seat.runner is not None

    def _desk(self) -> Desk:
        return Desk(
            self._limits,
            self.policy.revision,
            self._sessions,
            self.seats,
            self._queues,
            self._book,
            self._rollouts,
            self.history,
        )

    def _follow(self, now: datetime) -> None:
        """Take in what time has brought."""
        if self._now is not None and now < self._now:
            self.seats.watch_all()
        self._now = now
        for seat in self.seats.fell_silent(now):
            self._look_at(session_id for session_id, _ in seat.assigned)
        while (session_id := self._deadlines.first()) is not None and self._deadlines.key(session_id)[0] <= now:
            self._deadlines.drop(session_id)
            self._due.add(session_id)
        self._book.tidy(now)
        self._queues.wake(self._book.paced(now))
        self.seats.next_round()

    def _settle(self, now: datetime) -> list[SessionAction]:
        """Decide on each session by itself, in the order of their requests; what isn't decided on may wait."""
        rows: list[tuple[Session, SessionAction]] = []
        due, self._due = self._due, set()
        for session_id in due:
            tracked = self._sessions[session_id]
            session = tracked.session
            action = None if tracked.busy else settle(tracked, now, self._fleet, self._limits)
            waits = session.state is State.REQUESTED and not tracked.busy
            if action is None and waits:
                action = self._rooms.refuse(session, self._sessions)
            if action is not None:
                rows.append((session, action))
                self._due.add(session_id)
                self._queues.leave(session_id)
                continue
            deadline = None if tracked.busy else look_again_at(tracked, self._fleet, self._limits)
            # One that has passed while nothing could be heard changes nothing: hearing again will.
            if deadline is not None and deadline > now:
                self._deadlines.put(session_id, (deadline, session_id))
            if waits and self._queues.line(session_id) is None:
                self._wait(session)
        rows.sort(key=lambda row: age(row[0]))
        return [action for _, action in rows]

    def _wait(self, session: Session) -> None:
        tallies = self._book.of(session)
        refusable = any(tally.refuses for tally in tallies) or self._book.version_refuses
        self._queues.join(session, self._rollouts.share(session), tallies, refusable=refusable)

    def _roll_back(self, now: datetime) -> list[RollBack]:
        """Roll failed canaries back; from this plan on nobody gets them."""
        failed = self._rollouts.failed(self.history.trials)
        self._rollouts.withheld = {trial_key(rollout) for rollout, _ in failed}
        return [
            RollBack(
                rolled_back=rolled_back(rollout, trial, now),
                why=Why(
                    reason="canary-failed",
                    text=f"{trial.failures} of {trial.starts} starts of {rollout.agent}@{rollout.canary} failed",
                    inputs={"min_starts": rollout.min_starts, "max_failure_rate": rollout.max_failure_rate},
                ),
            )
            for rollout, trial in failed
        ]

    # ------------------------------------------------------------------------ who asks

    def room_taken(self, session: Session, room: str | None, info: Mapping[str, str]) -> str | None:
        """Return who has, or wants, a room that a session would go to; see `Rooms.taken`."""
        return self._rooms.taken(session, room, info)

    @property
    def sessions(self) -> Mapping[str, Tracked]:
        """All sessions that haven't ended."""
        return self._sessions

    def outlook(self) -> Outlook:
        """Return why sessions wait, as of the last plan; what isn't asked of it costs nothing."""
        return Outlook(self._desk(), self._now, self._cold)

    def cold_leases(self, pool: str) -> frozenset[str]:
        """Return the launch ids (`{session_id}-{epoch}`) of the cold leases that no runner has claimed so far."""
        return frozenset(self._launching.get(pool, ()))

    def used_up(self, now: datetime) -> set[Place]:
        """Return the limits that nobody may begin under now."""
        return self._book.used_up(now)

    def usage(self) -> tuple[LimitUsage, ...]:
        """Return how much of each limit is in use."""
        return tuple(
            LimitUsage(
                limit_id=tally.limit.id, tenant=tally.tenant, key=tally.key, active=tally.active, waiting=tally.waiting
            )
            for tally in self._book.tallies()
            if tally.active or tally.waiting
        )


def _is_active(session: Session) -> bool:
    return session.state is not State.REQUESTED


def _hold(session: Session) -> Hold:
    return session.id, session.epoch


def _place(tracked: Tracked) -> tuple[object, ...]:
    """Return what decides on where a session is counted."""
    session = tracked.session
    if _is_active(session):
        return holder(session), session.epoch, session.agent_version
    return session.attempt, session.epoch, session.refused_by, tracked.busy
