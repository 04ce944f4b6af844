"""What the scheduler decides. `plan` is a pure function of what is known: the same picture, the same plan.

Everything that isn't decided here isn't decided: the shell folds what it hears into the picture, calls `plan`, and
carries the actions out. Two schedulers that plan from two pictures can't do harm either, since each action is a
compare-and-set on the ledger, on the very revision that the picture shows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from greenroom.common.lifecycle import Ended, Leased, Outcome, Requeued, Session, State, may_requeue
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import (
    Action,
    Ask,
    EndUnheld,
    Expire,
    GiveUp,
    Lease,
    MarkLost,
    Plan,
    Requeue,
    Waiting,
)
from greenroom.scheduler.fleet import Fleet, Hold, RunnerKey, holder, missing_for, silent_for
from greenroom.scheduler.placement import Choice, Seat


class PlanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the scheduler is."""

    # From the lease to the runner's claim; a warm claim takes 2 ms, an append through a lost broker leader up to 8 s.
    lease_s: float = 5.0
    # Six heartbeats missed.
    runner_lost_s: float = 6.0
    # A session that its runner doesn't report for this long (three heartbeats) isn't there any more. Shorter than
    # `runner_lost_s` because here the runner is heard; longer than the runner needs to write the session's end.
    session_missing_s: float = 3.0
    # A bot that takes its runner down each time mustn't go through the whole fleet.
    max_attempts: int = 10
    # Place sessions on the least used runner instead of the most used one.
    spread: bool = False


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """A session that hasn't ended, as the scheduler knows it."""

    session: Session
    # When this scheduler learned of its present state, by its own clock.
    seen_at: datetime
    # Whether this scheduler itself has asked the runner to start it, in the present epoch.
    asked: bool = False
    # An action on it is under way: it takes its slot, and nothing else is decided on it.
    busy: bool = False


def plan(now: datetime, fleet: Fleet, sessions: Iterable[Tracked], limits: PlanLimits) -> Plan:
    """Return what is to be done now, and why every session that waits waits.

    Args:
        now: UTC, by the clock that `fleet` and `sessions` were folded by.
        fleet: the runners.
        sessions: all that haven't ended, in any order.
        limits: see there.
    """
    moment = _Moment(now, fleet, limits)
    known = list(sessions)
    queue: list[Session] = []
    settled: list[tuple[Session, Action]] = []
    for tracked in known:
        if tracked.busy:
            continue
        action = _settle(moment, tracked)
        if action is not None:
            settled.append((tracked.session, action))
        elif tracked.session.state is State.REQUESTED:
            queue.append(tracked.session)
    queue.sort(key=_age)
    settled.sort(key=lambda row: _age(row[0]))
    leases, left = _place(moment, queue, _seats(moment, known))
    return Plan(actions=(*(action for _, action in settled), *leases), waiting=_line_up(left))


class _Moment:
    """What is the same for every session of one plan."""

    __slots__ = ("fleet", "limits", "live", "now")

    def __init__(self, now: datetime, fleet: Fleet, limits: PlanLimits) -> None:
        self.now = now
        self.fleet = fleet
        self.limits = limits
        fresh = timedelta(seconds=limits.runner_lost_s)
        self.live = {key for key, runner in fleet.runners.items() if now - runner.heard_at < fresh}

    def is_lost(self, key: RunnerKey) -> bool:
        """Tell whether a runner could have been heard for so long and wasn't."""
        silent = silent_for(self.fleet, key, self.now)
        return key not in self.live and silent >= timedelta(seconds=self.limits.runner_lost_s)


def _age(session: Session) -> tuple[datetime, str]:
    return session.requested_at, session.id


# ---------------------------------------------------------------------------- one session by itself


def _settle(moment: _Moment, tracked: Tracked) -> Action | None:
    """Return what must become of a session whatever slots there are, or None."""
    session = tracked.session
    match session.state:
        case State.REQUESTED:
            return _settle_requested(moment, session)
        case State.LEASED:
            return _settle_leased(moment, tracked)
        case State.STARTED | State.READY | State.ENDING:
            loss = _loss(moment, tracked)
            return _settle_lost(session, loss) if loss else None
        case State.ENDED:
            return None


def _settle_requested(moment: _Moment, session: Session) -> Action | None:
    tries = moment.limits.max_attempts
    if session.attempt > tries:
        ended = _ended(session, Outcome.FAILED, Reason.ATTEMPTS_EXHAUSTED, f"{tries} tries")
        return GiveUp(session_id=session.id, transition=ended)
    if moment.now >= session.queue_deadline_at:
        return Expire(session_id=session.id, transition=_ended(session, Outcome.EXPIRED, Reason.QUEUE_EXPIRED))
    return None


def _settle_leased(moment: _Moment, tracked: Tracked) -> Action | None:
    session, key = tracked.session, holder(tracked.session)
    if session.lease_expires_at is not None and moment.now >= session.lease_expires_at:
        # A runner that was perhaps never asked hasn't shown that it is of no use.
        return _requeue(session, Reason.LEASE_EXPIRED, exclude_runner=tracked.asked)
    if key is not None and moment.is_lost(key):
        return _requeue(session, Reason.RUNNER_LOST, exclude_runner=False)
    runner = moment.fleet.runners.get(key) if key else None
    if tracked.asked or runner is None or (session.id, session.epoch) in runner.held:
        return None
    return Ask(session_id=session.id)


def _loss(moment: _Moment, tracked: Tracked) -> str | None:
    """Return in which way nobody runs the session any more, or None while its runner may be believed to."""
    session, key = tracked.session, holder(tracked.session)
    if key is None or (key in moment.live and (session.id, session.epoch) in moment.fleet.runners[key].held):
        return None
    if moment.is_lost(key):
        return f"runner {session.runner_id} wasn't heard for {moment.limits.runner_lost_s:g} s"
    missing = missing_for(moment.fleet, session, tracked.seen_at)
    if missing >= timedelta(seconds=moment.limits.session_missing_s):
        return f"runner {session.runner_id} no longer has it"
    return None


def _settle_lost(session: Session, loss: str) -> Action:
    if session.state is State.ENDING:
        # Its end had been decided, with an outcome of its own; that nobody saw it through changes nothing about that.
        outcome, reason = session.outcome or Outcome.COMPLETED, session.reason or Reason.COMPLETED
        return EndUnheld(session_id=session.id, transition=_ended(session, outcome, reason, session.detail or loss))
    if may_requeue(session):
        return _requeue(session, Reason.RUNNER_LOST, exclude_runner=False)
    return MarkLost(session_id=session.id, transition=_ended(session, Outcome.LOST, Reason.RUNNER_LOST, loss))


def _requeue(session: Session, reason: Reason, *, exclude_runner: bool) -> Requeue:
    transition = Requeued(epoch=session.epoch, reason=reason, exclude_runner=exclude_runner)
    return Requeue(session_id=session.id, transition=transition)


def _ended(session: Session, outcome: Outcome, reason: str, detail: str | None = None) -> Ended:
    return Ended(by="scheduler", epoch=session.epoch, outcome=outcome, reason=reason, detail=detail)


# ---------------------------------------------------------------------------- slots


def _seats(moment: _Moment, sessions: Iterable[Tracked]) -> dict[str, list[Seat]]:
    """Return the live runners of each pool with what is taken of them."""
    assigned: dict[RunnerKey, set[Hold]] = {}
    for tracked in sessions:
        session = tracked.session
        if session.runner_id and not session.ended:
            assigned.setdefault((session.pool, session.runner_id), set()).add((session.id, session.epoch))
    seats: dict[str, list[Seat]] = {}
    for key in moment.live:
        seats.setdefault(key[0], []).append(Seat(moment.fleet.runners[key], frozenset(assigned.get(key, ()))))
    return seats


def _place(
    moment: _Moment, queue: Sequence[Session], seats: dict[str, list[Seat]]
) -> tuple[list[Lease], list[tuple[Session, Reason, str]]]:
    """Hand out slots, first come first, and return the leases and who got none, with why.

    A session that no free slot fits doesn't hold up those behind it.
    """
    expires_at = moment.now + timedelta(seconds=moment.limits.lease_s)
    choices: dict[tuple[str, str, str], Choice] = {}
    leases: list[Lease] = []
    left: list[tuple[Session, Reason, str]] = []
    for session in queue:
        kind = (session.pool, session.bot, session.transport)
        choice = choices.get(kind)
        if choice is None:
            seats_there = seats.get(session.pool, ())
            choice = choices[kind] = Choice(session, seats_there, spread=moment.limits.spread)
        seat = choice.best(session.refused_by)
        if seat is None:
            left.append((session, *choice.refusal(session.refused_by)))
            continue
        seat.take()
        transition = Leased(runner_id=seat.runner.id, epoch=session.epoch + 1, expires_at=expires_at)
        leases.append(Lease(session_id=session.id, transition=transition))
    return leases, left


def _line_up(left: Iterable[tuple[Session, Reason, str]]) -> list[Waiting]:
    """Return the sessions that wait with their places; each pool has a queue of its own."""
    queues: dict[str, list[tuple[Session, Reason, str]]] = {}
    for row in left:
        queues.setdefault(row[0].pool, []).append(row)
    return [
        Waiting(session_id=session.id, position=position, of=len(queue), reason=reason, text=text)
        for _, queue in sorted(queues.items())
        for position, (session, reason, text) in enumerate(queue, start=1)
    ]
