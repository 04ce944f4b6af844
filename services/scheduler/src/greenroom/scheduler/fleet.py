"""The runners as this scheduler hears them: a pure fold of heartbeats and of its own ticks.

Nothing here compares the clocks of two hosts. `heard_at` and its like are the scheduler's own time at which a
heartbeat came in; what a runner says of times is only used to tell one of its processes from the next.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from greenroom.common.lifecycle import Session
from greenroom.common.messages import Heartbeat

# Pool and runner id: the two tokens a runner is addressed by.
type RunnerKey = tuple[str, str]
# Session id and epoch: one lease, and so one process.
type Hold = tuple[str, int]

# Ticks come each 250 ms. A scheduler that missed eight in a row was stopped, starved or had its clock set: what it
# didn't hear in that time says nothing about the runners.
_MAX_TICK_GAP: Final = timedelta(seconds=2)
# How long a runner that is silent, or a session that is gone from it, is remembered; beyond, nothing depends on it.
_MEMORY: Final = timedelta(seconds=60)


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as of its last heartbeat.

    `offers` are the transports of each bot that can be run, `broken` the bots whose import failed. `dropped` tells
    since when a session that was reported before isn't any more. `closed`: since that heartbeat it has refused a
    session for want of a slot, or hasn't answered, so it isn't as the heartbeat says.
    """

    id: str
    pool: str
    slots: int
    standby: int
    draining: bool
    held: frozenset[Hold]
    offers: Mapping[str, tuple[str, ...]]
    broken: frozenset[str]
    process_started_at: datetime
    seq: int
    first_heard_at: datetime
    heard_at: datetime
    dropped: Mapping[Hold, datetime] = {}
    closed: bool = False


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All runners, and since when this scheduler has been hearing without a break (None: it isn't)."""

    runners: Mapping[RunnerKey, Runner] = {}
    hearing_since: datetime | None = None
    ticked_at: datetime | None = None


def holder(session: Session) -> RunnerKey | None:
    """Return which runner has the lease of a session, if any."""
    return (session.pool, session.runner_id) if session.runner_id else None


def heard(fleet: Fleet, heartbeat: Heartbeat, now: datetime) -> Fleet:
    """Return the fleet after a heartbeat that came in at `now`."""
    key = (heartbeat.pool, heartbeat.runner_id)
    known = fleet.runners.get(key)
    if known is not None and known.process_started_at != heartbeat.started_at:
        known = None  # the id was taken up by another process, which has nothing of what the former one held
    if known is not None and heartbeat.seq <= known.seq:
        return fleet
    return msgspec.structs.replace(fleet, runners={**fleet.runners, key: _runner(known, heartbeat, now)})


def closed(fleet: Fleet, key: RunnerKey) -> Fleet:
    """Return the fleet after a runner had no slot or gave no answer: it is given none until its next heartbeat."""
    known = fleet.runners.get(key)
    if known is None:
        return fleet
    runners = {**fleet.runners, key: msgspec.structs.replace(known, closed=True)}
    return msgspec.structs.replace(fleet, runners=runners)


def ticked(fleet: Fleet, now: datetime, *, connected: bool) -> Fleet:
    """Return the fleet at `now`.

    Args:
        fleet: as it was at the tick before.
        now: the time.
        connected: whether heartbeats could come in.
    """
    since = fleet.hearing_since
    gap = now - fleet.ticked_at if fleet.ticked_at else timedelta()
    if not connected:
        since = None
    elif since is None or not timedelta() <= gap <= _MAX_TICK_GAP:
        since = now
    # A clock that was set back would make every runner look fresh until it has caught up.
    runners = {
        key: runner if runner.heard_at <= now else msgspec.structs.replace(runner, heard_at=now)
        for key, runner in fleet.runners.items()
        if now - runner.heard_at < _MEMORY
    }
    return Fleet(runners=runners, hearing_since=since, ticked_at=now)


def silent_for(fleet: Fleet, key: RunnerKey, now: datetime) -> timedelta:
    """Return for how long a runner could have been heard and wasn't; zero while this scheduler doesn't hear."""
    if fleet.hearing_since is None:
        return timedelta()
    runner = fleet.runners.get(key)
    return now - (max(runner.heard_at, fleet.hearing_since) if runner else fleet.hearing_since)


def missing_for(fleet: Fleet, session: Session, seen_at: datetime) -> timedelta:
    """Return for how long the runner of a session has been sending heartbeats without it; zero if it reports it.

    Args:
        fleet: the runners.
        session: one that a runner holds by the ledger.
        seen_at: when this scheduler learned of its present state.
    """
    key = holder(session)
    runner = fleet.runners.get(key) if key else None
    hold = (session.id, session.epoch)
    if runner is None or hold in runner.held or fleet.hearing_since is None:
        return timedelta()
    since = max(runner.dropped.get(hold, runner.first_heard_at), seen_at, fleet.hearing_since)
    return max(runner.heard_at - since, timedelta())


def _runner(known: Runner | None, heartbeat: Heartbeat, now: datetime) -> Runner:
    held = frozenset((session.session_id, session.epoch) for session in heartbeat.sessions)
    dropped: dict[Hold, datetime] = {}
    if known is not None:
        dropped = {hold: at for hold, at in known.dropped.items() if hold not in held and now - at < _MEMORY}
        dropped |= dict.fromkeys(known.held - held, now)
    return Runner(
        id=heartbeat.runner_id,
        pool=heartbeat.pool,
        slots=heartbeat.slots,
        standby=heartbeat.standby,
        draining=heartbeat.draining,
        held=held,
        offers={bot.name: bot.transports for bot in heartbeat.bots if bot.error is None},
        broken=frozenset(bot.name for bot in heartbeat.bots if bot.error is not None),
        process_started_at=heartbeat.started_at,
        seq=heartbeat.seq,
        first_heard_at=known.first_heard_at if known else now,
        heard_at=now,
        dropped=dropped,
    )
