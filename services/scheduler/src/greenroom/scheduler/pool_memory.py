"""What the scheduler remembers of a pool from one moment to the next, as pure folds.

`learned` takes each entry of the ledger, `observed` the facts of each second; the rest is told by whoever carried
something out. All times are this scheduler's own.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from greenroom.common.lifecycle import Ended, Leased, Outcome, Requeued, Session, Started, Transition
from greenroom.common.reasons import Reason
from greenroom.scheduler import breaker as breakers
from greenroom.scheduler.arrivals import Arrivals, ColdStarts, arrived, took
from greenroom.scheduler.breaker import CLOSED, FIRST_MINUTE_S, Breaker
from greenroom.scheduler.pool_facts import PoolFacts, silent

# A runner that was told to drain says so in its next heartbeat; if it doesn't, the command was lost.
_HEEDED: Final = timedelta(seconds=10)
_FIRST_MINUTE: Final = timedelta(seconds=FIRST_MINUTE_S)
# For these a bot is to blame when they come soon after its start.
_BOT_FAULTS: Final = frozenset(
    {
        Reason.BOT_FAILED,
        Reason.BOT_IMPORT_FAILED,
        Reason.START_TIMEOUT,
        Reason.PROCESS_KILLED,
    }
)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A cold start whose outcome isn't known: `gone_by` is when nothing is expected of it any more."""

    begun_at: datetime
    gone_by: datetime
    claimed_at: datetime | None = None


class Young(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline runner in its first minute: since when this scheduler knows it, and its age when last heard."""

    seen_at: datetime
    up_s: float


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The launcher didn't change the group's size: what it said, and when it is asked again."""

    what: str
    until: datetime


class PoolMemory(msgspec.Struct, frozen=True, kw_only=True):
    """See the module.

    Attributes:
        arrivals: of sessions.
        cold_starts: how long they took.
        breaker: of launches.
        bots: breakers of bots of which something failed lately.
        launches: by launch id, cold starts that haven't succeeded or failed so far.
        young: by runner id.
        idle_since: by runner id, those that have no session.
        reported: instances that have been heard.
        silent_since: by instance id, those that aren't.
        retiring: by runner id, when it was told to drain so that it can go.
        resized_at: when the group's size was changed.
        drained_at: when a runner was last told to drain.
        refusal: of a change of size.
    """

    arrivals: Arrivals = Arrivals()
    cold_starts: ColdStarts = ColdStarts()
    breaker: Breaker = CLOSED
    bots: Mapping[str, Breaker] = {}
    launches: Mapping[str, Launch] = {}
    young: Mapping[str, Young] = {}
    idle_since: Mapping[str, datetime] = {}
    reported: frozenset[str] = frozenset()
    silent_since: Mapping[str, datetime] = {}
    retiring: Mapping[str, datetime] = {}
    resized_at: datetime | None = None
    drained_at: datetime | None = None
    refusal: Refusal | None = None


# ---------------------------------------------------------------------------- from the ledger


def learned(
    memory: PoolMemory, transition: Transition, session: Session, now: datetime, *, first: bool = False
) -> PoolMemory:
    """Return the memory after an entry of the ledger.

    Args:
        memory: of the session's pool.
        transition: what happened.
        session: as it is after it.
        now: when this scheduler learned of it.
        first: whether this scheduler hadn't known the session before.
    """
    if first:
        age_s = (now - session.requested_at).total_seconds()
        memory = replace(memory, arrivals=arrived(memory.arrivals, now, age_s=age_s))
    launch_id = f"{session.id}-{session.epoch}"
    match transition:
        case Leased(cold=True):
            return _launched(memory, launch_id, session.bot, now, transition.expires_at)
        case Leased():
            # Moved to a slot that became free: that says nothing about the launch.
            return replace(memory, launches=_without(memory.launches, f"{session.id}-{session.epoch - 1}"))
        case Started() if launch_id in memory.launches:
            return _claimed(memory, launch_id, now)
        case Requeued() if launch_id in memory.launches:
            return launch_failed(memory, launch_id, f"{transition.reason} ({launch_id})", now)
        case Ended():
            return _bot_ended(_launch_ended(memory, launch_id, session, now), session, now)
        case _:
            return memory


def _launched(memory: PoolMemory, launch_id: str, bot: str, now: datetime, expires_at: datetime) -> PoolMemory:
    if launch_id in memory.launches:
        return memory
    gone_by = max(expires_at, now) + _FIRST_MINUTE
    patience_s = (gone_by - now).total_seconds()
    bots = memory.bots
    if bot in bots:
        bots = {**bots, bot: breakers.begun(bots[bot], now, patience_s=patience_s)}
    return replace(
        memory,
        breaker=breakers.begun(memory.breaker, now, patience_s=patience_s),
        bots=bots,
        launches={**memory.launches, launch_id: Launch(begun_at=now, gone_by=gone_by)},
    )


def _claimed(memory: PoolMemory, launch_id: str, now: datetime) -> PoolMemory:
    launch = memory.launches[launch_id]
    if launch.claimed_at is not None:
        return memory
    claimed = replace(launch, claimed_at=now, gone_by=now + 2 * _FIRST_MINUTE)
    took_s = (now - launch.begun_at).total_seconds()
    return replace(
        memory,
        launches={**memory.launches, launch_id: claimed},
        cold_starts=took(memory.cold_starts, took_s),
    )


def _launch_ended(memory: PoolMemory, launch_id: str, session: Session, now: datetime) -> PoolMemory:
    launch = memory.launches.get(launch_id)
    if launch is None:
        return memory
    if launch.claimed_at is None:
        # Canceled on the way: that says nothing about the launch.
        return replace(memory, launches=_without(memory.launches, launch_id))
    if session.outcome is Outcome.LOST:
        return launch_failed(memory, launch_id, f"runner {session.runner_id} was lost in its first minute", now)
    return _launch_succeeded(memory, launch_id)


def _bot_ended(memory: PoolMemory, session: Session, now: datetime) -> PoolMemory:
    """Count an end for or against the bot; only one by its own doing is either."""
    known = memory.bots.get(session.bot)
    began_at, ended_at = session.started_at, session.ended_at
    if began_at is None or ended_at is None:
        return memory
    # Both were written by the runner, so this is time that passed, whatever its clock shows.
    lived = ended_at - began_at
    if session.reason in _BOT_FAULTS and lived < _FIRST_MINUTE:
        what = f"{session.reason} after {lived.total_seconds():.0f} s"
        failed = breakers.failed(known or CLOSED, now, what, begun_at=now - lived)
        return replace(memory, bots={**memory.bots, session.bot: failed})
    if known is not None and (lived >= _FIRST_MINUTE or session.outcome is Outcome.COMPLETED):
        return replace(memory, bots=_without(memory.bots, session.bot))
    return memory


def launch_failed(memory: PoolMemory, launch_id: str, what: str, now: datetime) -> PoolMemory:
    """Return the memory after a cold start came to nothing; call it too when the launcher refuses one.

    Args:
        memory: of the pool.
        launch_id: of the cold start; one that isn't known any more has been counted.
        what: went wrong, for people.
        now: the time.
    """
    launch = memory.launches.get(launch_id)
    if launch is None:
        return memory
    return replace(
        memory,
        launches=_without(memory.launches, launch_id),
        breaker=breakers.failed(memory.breaker, now, what, begun_at=launch.begun_at),
    )


def launch_unknown(memory: PoolMemory, launch_id: str) -> PoolMemory:
    """Return the memory after the launcher couldn't be reached for a cold start: nobody failed, and none is counted."""
    return replace(memory, launches=_without(memory.launches, launch_id))


def _launch_succeeded(memory: PoolMemory, launch_id: str) -> PoolMemory:
    launches = _without(memory.launches, launch_id)
    return replace(memory, launches=launches, breaker=breakers.succeeded(memory.breaker))


# ---------------------------------------------------------------------------- from what was carried out


def scaled(memory: PoolMemory, now: datetime, *, patience_s: float) -> PoolMemory:
    """Return the memory after the launcher took another size of the group.

    Args:
        memory: of the pool.
        now: the time.
        patience_s: how long a runner may take to report in.
    """
    breaker = breakers.begun(memory.breaker, now, patience_s=patience_s + FIRST_MINUTE_S)
    return replace(memory, resized_at=now, breaker=breaker, refusal=None)


def scale_refused(memory: PoolMemory, what: str, now: datetime, *, again_s: float) -> PoolMemory:
    """Return the memory after the launcher refused another size; it is asked again after `again_s` seconds."""
    return replace(memory, refusal=Refusal(what=what, until=now + timedelta(seconds=again_s)))


def drained(memory: PoolMemory, runner_id: str, now: datetime) -> PoolMemory:
    """Return the memory after a runner was told to drain so that it can go."""
    return replace(memory, retiring={**memory.retiring, runner_id: now}, drained_at=now)


def retired(memory: PoolMemory, runner_id: str, now: datetime) -> PoolMemory:
    """Return the memory after the launcher let a runner go."""
    return replace(memory, retiring=_without(memory.retiring, runner_id), resized_at=now)


# ---------------------------------------------------------------------------- from the facts of each second


def observed(memory: PoolMemory, facts: PoolFacts, now: datetime) -> PoolMemory:
    """Return the memory after a look at the pool. While nothing can be heard there is nothing to see."""
    if not facts.hearing:
        return memory
    for launch_id, launch in memory.launches.items():
        if launch.claimed_at is not None and now - launch.claimed_at >= _FIRST_MINUTE:
            memory = _launch_succeeded(memory, launch_id)
        elif now >= launch.gone_by:
            memory = launch_unknown(memory, launch_id)
    return _silence(_grown_up(_idle(_retiring(memory, facts, now), facts, now), facts, now), facts, now)


def _idle(memory: PoolMemory, facts: PoolFacts, now: datetime) -> PoolMemory:
    since = memory.idle_since
    # A clock that was set back would make an idle runner wait for it to catch up.
    idle = {each.id: min(since.get(each.id, now), now) for each in facts.runners if each.empty}
    return replace(memory, idle_since=idle)


def _grown_up(memory: PoolMemory, facts: PoolFacts, now: datetime) -> PoolMemory:
    """Count baseline runners that didn't live for a minute, and those that did."""
    breaker = memory.breaker
    # A cold runner may end after a short call, and is judged by the ledger; one that drains ends by command.
    watched = {each.id: each for each in facts.runners if each.instance and each.claim is None}
    for runner_id, young in memory.young.items():
        runner = watched.get(runner_id)
        if runner is None or runner.up_s < young.up_s:
            what = f"runner {runner_id} died in its first minute, {young.up_s:.0f} s old"
            breaker = breakers.failed(breaker, now, what, begun_at=young.seen_at)
        elif runner.up_s >= FIRST_MINUTE_S:
            breaker = breakers.succeeded(breaker)
    young = {
        runner_id: Young(seen_at=_seen_at(memory.young.get(runner_id), runner.up_s, now), up_s=runner.up_s)
        for runner_id, runner in watched.items()
        if runner.up_s < FIRST_MINUTE_S and not runner.draining
    }
    return replace(memory, breaker=breaker, young=young)


def _seen_at(known: Young | None, up_s: float, now: datetime) -> datetime:
    return known.seen_at if known is not None and known.up_s <= up_s else now


def _silence(memory: PoolMemory, facts: PoolFacts, now: datetime) -> PoolMemory:
    if facts.instances is None:
        return memory
    quiet = {each.id for each in silent(facts)}
    up = {each.id for each in facts.up}
    since = memory.silent_since
    cold_starts = memory.cold_starts
    # A runner of the group takes as long to come up as one for a session; those are measured by their claims.
    for each in facts.baseline:
        if each.id in since and each.id not in quiet and each.id not in memory.reported:
            cold_starts = took(cold_starts, (now - since[each.id]).total_seconds())
    return replace(
        memory,
        cold_starts=cold_starts,
        reported=(memory.reported & up) | (up - quiet),
        silent_since={each: min(since.get(each, now), now) for each in quiet},
    )


def _retiring(memory: PoolMemory, facts: PoolFacts, now: datetime) -> PoolMemory:
    """Forget those that are gone, and those that didn't heed the command: they are chosen anew, or not."""
    if not memory.retiring:
        return memory
    runners = {each.id: each for each in facts.runners}
    kept = {
        runner_id: since
        for runner_id, since in memory.retiring.items()
        if runner_id in runners and (runners[runner_id].draining or timedelta() <= now - since < _HEEDED)
    }
    return replace(memory, retiring=kept)


def _without[T](rows: Mapping[str, T], key: str) -> Mapping[str, T]:
    return {each: value for each, value in rows.items() if each != key}
