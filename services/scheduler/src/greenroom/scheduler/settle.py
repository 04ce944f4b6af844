"""What must become of one session whatever slots there are: expiry, leases that ran out, losses.

Pure rules over one session, the fleet and the time. When they are looked at is the board's business.
"""

from datetime import datetime, timedelta

import msgspec

from greenroom.common.lifecycle import Ended, Outcome, Requeued, Session, State, may_requeue
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import (
    Ask,
    AskLauncher,
    EndOverdue,
    EndUnheld,
    Expire,
    GiveUp,
    MarkLost,
    Requeue,
    SessionAction,
    Why,
)
from greenroom.scheduler.fleet import Fleet, RunnerKey, holder


class PlanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the scheduler is."""

    # From the lease to the runner's claim; a warm claim takes 2 ms, an append through a lost broker leader up to 8 s.
    lease_s: float = 5.0
    # Six heartbeats missed.
    runner_lost_s: float = 6.0
    # A session that its runner doesn't report for this long (three heartbeats) isn't there any more. Shorter than
    # `runner_lost_s` because here the runner is heard; longer than the runner needs to write the session's end.
    session_missing_s: float = 3.0
    # How long after a session's own limits it is ended although its runner is heard. Longer than the broker may be away
    # and clocks may differ: the runner, which knows better, must have had the time to end it and to write that.
    overdue_s: float = 60.0
    # A bot that takes its runner down each time mustn't go through the whole fleet.
    max_attempts: int = 10
    # In pools that the policy says nothing of: place sessions on the least used runner instead of the most used one.
    spread: bool = False


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """A session that hasn't ended, as the scheduler knows it."""

    session: Session
    # When this scheduler learned of its present state, by its own clock.
    seen_at: datetime
    # Whether this scheduler itself has asked the runner, or the launcher, to start it, in the present epoch.
    asked: bool = False
    # An action on it is under way: it takes its slot, and nothing else is decided on it.
    busy: bool = False


def settle(tracked: Tracked, now: datetime, fleet: Fleet, limits: PlanLimits) -> SessionAction | None:
    """Return what must become of a session that isn't busy, or None when it may go on, or wait on."""
    session = tracked.session
    match session.state:
        case State.REQUESTED:
            return _requested(session, now, limits)
        case State.LEASED:
            return _leased(tracked, now, fleet, limits)
        case State.STARTED | State.READY | State.ENDING:
            # First: one that is over time isn't tried again, whatever has become of its runner.
            due_at = _overdue_at(session, limits)
            if due_at is not None and now >= due_at:
                return _overdue(session)
            loss = _loss(tracked, now, fleet, limits)
            return _lost(session, loss) if loss else None
        case State.ENDED:
            return None


def look_again_at(tracked: Tracked, fleet: Fleet, limits: PlanLimits) -> datetime | None:
    """Return when time alone may change what `settle` says, aside from runners falling silent."""
    session = tracked.session
    match session.state:
        case State.REQUESTED:
            return session.queue_deadline_at
        case State.LEASED:
            return session.lease_expires_at
        case State.STARTED | State.READY | State.ENDING:
            times = _believed_until(tracked, fleet, limits), _overdue_at(session, limits)
            return min((time for time in times if time is not None), default=None)
        case State.ENDED:
            return None


def _requested(session: Session, now: datetime, limits: PlanLimits) -> SessionAction | None:
    tries = limits.max_attempts
    if session.attempt > tries:
        ended = _ended(session, Outcome.FAILED, Reason.ATTEMPTS_EXHAUSTED, f"{tries} tries")
        why = Why(
            reason=Reason.ATTEMPTS_EXHAUSTED,
            text=f"it was tried {tries} times",
            inputs={"attempt": session.attempt, "max_attempts": tries},
        )
        return GiveUp(session_id=session.id, transition=ended, why=why)
    if now >= session.queue_deadline_at:
        own = session.limits
        patience_s = own.second_wait_s if session.attempt > 1 else own.queue_timeout_s
        text = f"it found no slot within {patience_s:g} s"
        why = Why(reason=Reason.QUEUE_EXPIRED, text=text, inputs={"queue_timeout_s": patience_s})
        ended = _ended(session, Outcome.EXPIRED, Reason.QUEUE_EXPIRED)
        return Expire(session_id=session.id, transition=ended, why=why)
    return None


def _leased(tracked: Tracked, now: datetime, fleet: Fleet, limits: PlanLimits) -> SessionAction | None:
    session, key = tracked.session, holder(tracked.session)
    runner = fleet.runners.get(key) if key else None
    if session.lease_expires_at is not None and now >= session.lease_expires_at:
        # A runner that was perhaps never asked, or never came up, hasn't shown that it is of no use; and one that never
        # came up hasn't tried. How often a session is launched for is bounded by its caller's patience.
        asked, came_up = tracked.asked and not session.cold, not session.cold or runner is not None
        return _requeue(session, Reason.LEASE_EXPIRED, exclude_runner=asked, tried=came_up)
    if session.cold and runner is None:
        # It is being launched: nobody can have heard it yet, and its deadline is the lease's.
        return None if tracked.asked else AskLauncher(session_id=session.id, why=_not_asked(session))
    if key is not None and _is_lost(key, now, fleet, limits):
        return _requeue(session, Reason.RUNNER_LOST, exclude_runner=False)
    if tracked.asked or session.cold or runner is None or (session.id, session.epoch) in runner.held:
        return None
    return Ask(session_id=session.id, why=_not_asked(session))


def _is_lost(key: RunnerKey, now: datetime, fleet: Fleet, limits: PlanLimits) -> bool:
    """Tell whether a runner could have been heard for so long and wasn't."""
    return fleet.silent_for(key, now) >= timedelta(seconds=limits.runner_lost_s)


def _loss(tracked: Tracked, now: datetime, fleet: Fleet, limits: PlanLimits) -> str | None:
    """Return in which way nobody runs the session any more, or None while its runner may be believed to."""
    session, key = tracked.session, holder(tracked.session)
    if key is None:
        return None
    if _is_lost(key, now, fleet, limits):
        believed_until = _believed_until(tracked, fleet, limits)
        # Learned of in the future: the clock was set back, and hearing has begun anew since.
        if believed_until is not None and tracked.seen_at <= now < believed_until:
            return None
        return f"runner {session.runner_id} wasn't heard for {limits.runner_lost_s:g} s"
    if fleet.missing_for(session, tracked.seen_at) >= timedelta(seconds=limits.session_missing_s):
        return f"runner {session.runner_id} no longer has it"
    return None


def _believed_until(tracked: Tracked, fleet: Fleet, limits: PlanLimits) -> datetime | None:
    """Return until when a runner that was never heard here is taken for one that runs the session; None: it was heard.

    However long this scheduler has been hearing, that a session is there is news to it, and whoever wrote that news
    was up a moment ago: its heartbeats get the same time to come through as those of any other runner.
    """
    key = holder(tracked.session)
    if key is None or key in fleet.runners:
        return None
    return tracked.seen_at + timedelta(seconds=limits.runner_lost_s)


def _overdue_at(session: Session, limits: PlanLimits) -> datetime | None:
    """Return when a session is ended here because nobody else has: neither its runner nor, if it has one, its room."""
    if session.state is not State.READY or session.ready_at is None:
        return None
    own = session.limits
    return session.ready_at + timedelta(seconds=own.max_duration_s + own.end_timeout_s + limits.overdue_s)


def _overdue(session: Session) -> SessionAction:
    text = f"{session.limits.max_duration_s:g} s, and runner {session.runner_id} hasn't ended it"
    facts = _facts(session) | {"max_duration_s": session.limits.max_duration_s}
    why = Why(reason=Reason.MAX_DURATION_EXCEEDED, text=text, inputs=facts)
    ended = _ended(session, Outcome.COMPLETED, Reason.MAX_DURATION_EXCEEDED, text)
    return EndOverdue(session_id=session.id, transition=ended, why=why)


def _lost(session: Session, loss: str) -> SessionAction:
    facts = _facts(session) | {"on_loss": session.on_loss, "connected": session.media_connected}
    why = Why(reason=Reason.RUNNER_LOST, text=loss, inputs=facts)
    if session.state is State.ENDING:
        # Its end had been decided, with an outcome of its own; that nobody saw it through changes nothing about that.
        outcome, reason = session.outcome or Outcome.COMPLETED, session.reason or Reason.COMPLETED
        ended = _ended(session, outcome, reason, session.detail or loss)
        return EndUnheld(session_id=session.id, transition=ended, why=why)
    if may_requeue(session):
        return _requeue(session, Reason.RUNNER_LOST, exclude_runner=False)
    ended = _ended(session, Outcome.LOST, Reason.RUNNER_LOST, loss)
    return MarkLost(session_id=session.id, transition=ended, why=why)


def _requeue(session: Session, reason: Reason, *, exclude_runner: bool, tried: bool = True) -> Requeue:
    transition = Requeued(epoch=session.epoch, reason=reason, exclude_runner=exclude_runner, tried=tried)
    why = Why(reason=reason, text=reason.summary.lower(), inputs=_facts(session))
    return Requeue(session_id=session.id, transition=transition, why=why)


def _not_asked(session: Session) -> Why:
    text = "it isn't known whether the start was asked for"
    return Why(reason="start-unconfirmed", text=text, inputs=_facts(session))


def _facts(session: Session) -> dict[str, object]:
    return {
        "state": session.state,
        "runner": session.runner_id,
        "epoch": session.epoch,
        "attempt": session.attempt,
        "cold": session.cold,
    }


def _ended(session: Session, outcome: Outcome, reason: str, detail: str | None = None) -> Ended:
    return Ended(by="scheduler", epoch=session.epoch, outcome=outcome, reason=reason, detail=detail)
