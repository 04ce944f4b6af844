"""The runners as this scheduler hears them: a fold of heartbeats and of its own ticks.

Nothing here compares the clocks of two hosts. `heard_at` and its like are the scheduler's own time at which a
heartbeat came in; what a runner says of times is only used to tell one of its processes from the next.
"""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from greenroom.common.lifecycle import Session
from greenroom.common.messages import BotOffer, Heartbeat

# Pool and runner id: the two tokens a runner is addressed by.
type RunnerKey = tuple[str, str]
# Session id and epoch: one lease, and so one process.
type Hold = tuple[str, int]

# Ticks come each 250 ms. A scheduler that missed eight in a row was stopped, starved or had its clock set: what it
# didn't hear in that time says nothing about the runners.
_MAX_TICK_GAP: Final = timedelta(seconds=2)
# How long a runner that is silent, or a session that is gone from it, is remembered; beyond, nothing depends on it.
_MEMORY: Final = timedelta(seconds=60)
# What is free of a runner's host, in parts: whole numbers, so that what is given away and back leaves what there was.
WHOLE: Final = 2**40


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as of its last heartbeat.

    `offers` are the transports of each bot and version that can be run, `broken` the bots whose import failed,
    `lacking` those whose secrets it hasn't got, with their names.
    `dropped` tells since when a session that was reported before isn't any more. `closed`: since that heartbeat it has
    refused a session for want of a slot, or hasn't answered, so it isn't as the heartbeat says. `brake` and `claim` are
    the heartbeat's.

    `shares` are the parts of what was free of its host (`WHOLE`) that one more session of each bot takes: of one of
    which n more are taken, an n-th. That is at least its share of the processors, of the memory and of the network, so
    whatever fits by these fits, whichever bots it is of. Empty: the runner has been told how many slots it has.
    """

    id: str
    pool: str
    slots: int
    standby: int
    draining: bool
    held: frozenset[Hold]
    bots: tuple[BotOffer, ...]
    offers: Mapping[tuple[str, int], tuple[str, ...]]
    broken: frozenset[str]
    lacking: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]
    brake: str | None
    claim: str | None
    instance: str
    ordinal: int | None
    process_started_at: datetime
    # How long its process had been up at that heartbeat, in seconds by its own clock.
    up_s: float
    seq: int
    first_heard_at: datetime
    heard_at: datetime
    dropped: Mapping[Hold, datetime] = {}
    closed: bool = False
    shares: Mapping[str, int] = {}

    @property
    def dearest(self) -> int:
        """The part that one more session takes of whatever bot."""
        return max(self.shares.values(), default=0)

    def share(self, bot: str) -> int:
        """Return the part that one more session of a bot takes; the dearest one's where its own isn't known."""
        share = self.shares.get(bot)
        return self.dearest if share is None else share


class Fleet:
    """All runners, and since when this scheduler has been hearing without a break.

    Changed in place: with ten thousand runners there are ten thousand heartbeats a second.

    Attributes:
        hearing_since: None while this scheduler doesn't hear.
    """

    def __init__(self) -> None:
        self.hearing_since: datetime | None = None
        # The one that was heard longest ago comes first.
        self._runners: OrderedDict[RunnerKey, Runner] = OrderedDict()
        self._ticked_at: datetime | None = None

    @property
    def runners(self) -> Mapping[RunnerKey, Runner]:
        """The runners that were heard within the last minute."""
        return self._runners

    def heard(self, heartbeat: Heartbeat, now: datetime) -> bool:
        """Take in a heartbeat that came in at `now`, and return whether it was news: the last one heard of all sent."""
        key = (heartbeat.pool, heartbeat.runner_id)
        known = self._runners.get(key)
        if known is not None and known.process_started_at != heartbeat.started_at:
            known = None  # the id was taken up by another process, which has nothing of what the former one held
        if known is not None and heartbeat.seq <= known.seq:
            return False
        self._runners[key] = _runner(known, heartbeat, now)
        self._runners.move_to_end(key)
        return True

    def closed(self, key: RunnerKey) -> None:
        """Take in that a runner had no slot or gave no answer: it is given none until its next heartbeat."""
        known = self._runners.get(key)
        if known is not None:
            self._runners[key] = msgspec.structs.replace(known, closed=True)

    def ticked(self, now: datetime, *, connected: bool) -> list[RunnerKey]:
        """Take in that it is `now`.

        Args:
            now: the time.
            connected: whether heartbeats could come in.

        Returns:
            The runners that are forgotten, or that aren't as they were.
        """
        gap = now - self._ticked_at if self._ticked_at else timedelta()
        if not connected:
            self.hearing_since = None
        elif self.hearing_since is None or not timedelta() <= gap <= _MAX_TICK_GAP:
            self.hearing_since = now
        changed: list[RunnerKey] = []
        if gap < timedelta():
            # A clock that was set back would make every runner look fresh until it has caught up.
            changed = [key for key, runner in self._runners.items() if runner.heard_at > now]
            for key in changed:
                self._runners[key] = msgspec.structs.replace(self._runners[key], heard_at=now)
        self._ticked_at = now
        return changed + self._forget(now)

    def _forget(self, now: datetime) -> list[RunnerKey]:
        gone: list[RunnerKey] = []
        while self._runners and now - next(iter(self._runners.values())).heard_at >= _MEMORY:
            gone.append(self._runners.popitem(last=False)[0])
        return gone

    def silent_for(self, key: RunnerKey, now: datetime) -> timedelta:
        """Return for how long a runner could have been heard and wasn't; zero while this scheduler doesn't hear."""
        if self.hearing_since is None:
            return timedelta()
        runner = self._runners.get(key)
        return now - (max(runner.heard_at, self.hearing_since) if runner else self.hearing_since)

    def missing_for(self, session: Session, seen_at: datetime) -> timedelta:
        """Return for how long the runner of a session has been sending heartbeats without it; zero if it reports it.

        Args:
            session: one that a runner holds by the ledger.
            seen_at: when this scheduler learned of its present state.
        """
        key = holder(session)
        runner = self._runners.get(key) if key else None
        hold = (session.id, session.epoch)
        if runner is None or hold in runner.held or self.hearing_since is None:
            return timedelta()
        since = max(runner.dropped.get(hold, runner.first_heard_at), seen_at, self.hearing_since)
        return max(runner.heard_at - since, timedelta())


def holder(session: Session) -> RunnerKey | None:
    """Return which runner has the lease of a session, if any."""
    return (session.pool, session.runner_id) if session.runner_id else None


def _runner(known: Runner | None, heartbeat: Heartbeat, now: datetime) -> Runner:
    held = frozenset((session.session_id, session.epoch) for session in heartbeat.sessions)
    dropped: Mapping[Hold, datetime] = {}
    if known is not None and (known.dropped or known.held != held):
        dropped = {hold: at for hold, at in known.dropped.items() if hold not in held and now - at < _MEMORY}
        dropped |= dict.fromkeys(known.held - held, now)
    if known is not None and known.bots == heartbeat.bots:
        # As a rule: nothing to make anew.
        bots, offers, broken, lacking = known.bots, known.offers, known.broken, known.lacking
    else:
        bots = heartbeat.bots
        able = [bot for bot in bots if bot.error is None]
        offers = {(bot.name, bot.version): bot.transports for bot in able if not bot.missing_secrets}
        lacking = {bot.name: bot.missing_secrets for bot in able if bot.missing_secrets}
        broken = frozenset(bot.name for bot in bots if bot.error is not None)
    return Runner(
        id=heartbeat.runner_id,
        pool=heartbeat.pool,
        slots=heartbeat.slots,
        standby=heartbeat.standby,
        draining=heartbeat.draining,
        held=held,
        bots=bots,
        offers=offers,
        broken=broken,
        lacking=lacking,
        labels=heartbeat.labels,
        brake=heartbeat.brake,
        claim=heartbeat.claim,
        instance=heartbeat.instance,
        ordinal=heartbeat.ordinal,
        process_started_at=heartbeat.started_at,
        up_s=max((heartbeat.at - heartbeat.started_at).total_seconds(), 0.0),
        seq=heartbeat.seq,
        first_heard_at=known.first_heard_at if known else now,
        heard_at=now,
        dropped=dropped,
        shares=_shares(heartbeat),
    )


def _shares(heartbeat: Heartbeat) -> dict[str, int]:
    if not heartbeat.by_cost:
        return {}
    shares: dict[str, int] = {}
    for each in heartbeat.density:
        share = WHOLE // each.more if each.more > 0 else WHOLE + 1
        shares[each.bot] = max(share, shares.get(each.bot, 0))
    return shares
