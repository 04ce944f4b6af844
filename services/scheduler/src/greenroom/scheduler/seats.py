"""All runners as places for sessions, kept current runner by runner: who is up, who is free, who has fallen silent."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from greenroom.common.reasons import Reason
from greenroom.scheduler.fleet import Fleet, Hold, Runner, RunnerKey
from greenroom.scheduler.placement import Rack, Seat, Wish, shortage
from greenroom.scheduler.ranking import Ranking

# A rack costs a little with each change of a runner and much when it is made: those that were of use not long ago stay.
_MAX_IDLE_RACKS: Final = 64
# Answers to why nobody could take a session: each takes a look at all runners, and holds until one of them changes.
_MAX_SHORTAGES: Final = 1024


class Seats:
    """See the module.

    Args:
        fleet: the runners as they are heard. Whoever changes one says so by `runner_changed`.
        lost_s: for how long a runner that isn't heard may still be given sessions.
        spread: tells whether sessions of a pool go to the least used runner.
    """

    def __init__(self, fleet: Fleet, lost_s: float, spread: Callable[[str], bool]) -> None:
        self._fleet = fleet
        self._lost_after = timedelta(seconds=lost_s)
        self._spread = spread
        self._pools: dict[str, dict[RunnerKey, Seat]] = {}
        self._racks: dict[str, dict[tuple[Wish, int], Rack]] = {}
        self._offered: dict[tuple[str, str], Counter[int]] = {}
        # When each runner has to have been heard again.
        self._silence: Ranking[RunnerKey, tuple[datetime, RunnerKey]] = Ranking()
        self._hearing_since = fleet.hearing_since
        self._round = 0
        self._shortages: dict[tuple[Wish, tuple[int, ...] | None], tuple[Reason, str]] = {}
        for key in fleet.runners:
            self.runner_changed(key)

    # ------------------------------------------------------------------------ who is there

    def of(self, pool: str) -> Iterable[Seat]:
        """Return the runners of a pool, lost ones and those launched for a single session included."""
        return self._pools.get(pool, {}).values()

    def pools(self) -> Iterable[str]:
        """Return the pools that have a runner, or had one."""
        return self._pools

    def get(self, key: RunnerKey) -> Seat | None:
        """Return a runner, if there is any reason to know of it."""
        return self._pools.get(key[0], {}).get(key)

    def versions(self, pool: str, bot: str) -> tuple[int, ...]:
        """Return in which versions a bot is offered by runners that are up and don't drain, newest first."""
        return tuple(sorted(self._offered.get((pool, bot), ()), reverse=True))

    # ------------------------------------------------------------------------ what changes

    def runner_changed(self, key: RunnerKey) -> tuple[bool, frozenset[Hold]]:
        """Take in a heartbeat of a runner, or that it is forgotten.

        Returns:
            Whether it offers something else than before; and which leases it doesn't report, however long since.
        """
        seat, runner = self.get(key), self._fleet.runners.get(key)
        if seat is None:
            if runner is None:
                return False, frozenset()
            seat = self._seat(key)
        before, seat.runner = seat.runner, runner
        revived = runner is not None and not seat.live
        changed = revived or before is None or runner is None or _offer(before) != _offer(runner)
        seat.live = runner is not None
        if changed:
            seat.count()
            if before is None or runner is None or before.offers is not runner.offers or before.labels != runner.labels:
                self._sort(seat)
            self._show(seat)
            if before is None or runner is None or revived or _nature(before) != _nature(runner):
                self._shortages.clear()
        if before is not None and runner is not None and runner.heard_at < before.heard_at:
            self._silence.drop(key)  # the clock was set back
        self._watch(seat)
        self._drop_if_idle(seat)
        return changed, seat.missing

    def assign(self, key: RunnerKey, hold: Hold, bot: str) -> None:
        """Take in that a runner has a lease by the ledger, for a session of a bot."""
        seat = self.get(key) or self._seat(key)
        seat.assigned[hold] = bot
        seat.count()
        for rack in seat.racks:
            rack.show(seat)
        self._watch(seat)

    def release(self, key: RunnerKey, hold: Hold) -> None:
        """Take in that a runner no longer has a lease."""
        seat = self.get(key)
        if seat is not None:
            seat.assigned.pop(hold, None)
            seat.count()
            for rack in seat.racks:
                rack.show(seat)
            self._drop_if_idle(seat)

    def fell_silent(self, now: datetime) -> list[Seat]:
        """Take those that weren't heard for too long out of the racks, and return the ones that are lost by now."""
        lost: list[Seat] = []
        if self._hearing_since != self._fleet.hearing_since:
            self._hearing_since = self._fleet.hearing_since
            self.watch_all()
        while (key := self._silence.first()) is not None and self._silence.key(key)[0] <= now:
            self._silence.drop(key)
            seat = self.get(key)
            if seat is None:
                continue
            if seat.live and self._deadline(seat, now) <= now:
                seat.live = False
                self._show(seat)
                self._shortages.clear()
            deadline = self._deadline(seat, now)
            if deadline > now:
                self._silence.put(key, (deadline, key))
            else:
                lost.append(seat)
        return lost

    def watch_all(self) -> None:
        """Take in that time isn't what it was: each runner is looked at anew."""
        for seats in self._pools.values():
            for seat in seats.values():
                if seat.runner is not None and not seat.live:
                    seat.live = True
                    self._show(seat)
                    self._shortages.clear()
                self._silence.drop(seat.key)
                self._watch(seat)

    def _seat(self, key: RunnerKey) -> Seat:
        seat = self._pools.setdefault(key[0], {})[key] = Seat(key)
        return seat

    def _drop_if_idle(self, seat: Seat) -> None:
        if seat.runner is None and not seat.assigned:
            self._silence.drop(seat.key)
            del self._pools[seat.key[0]][seat.key]

    def _watch(self, seat: Seat) -> None:
        """See to it that a runner is looked at in time; one that is heard again and again is, each time it is due."""
        if seat.key not in self._silence:
            since = seat.runner.heard_at if seat.runner and seat.live else self._hearing_since
            if since is not None:
                self._silence.put(seat.key, (since + self._lost_after, seat.key))

    def _deadline(self, seat: Seat, now: datetime) -> datetime:
        """Return until when a runner that is live is, or until when one that isn't might still be there."""
        if seat.live and seat.runner:
            return seat.runner.heard_at + self._lost_after
        return now - self._fleet.silent_for(seat.key, now) + self._lost_after

    # ------------------------------------------------------------------------ racks

    def rack(self, wish: Wish, version: int) -> Rack:
        """Return the seats for sessions of one kind."""
        racks = self._racks.setdefault(wish.pool, {})
        rack = racks.get((wish, version))
        if rack is None:
            rack = racks[wish, version] = Rack(wish, version, spread=self._spread(wish.pool))
            for seat in self.of(wish.pool):
                if seat.runner is not None and rack.fits(seat.runner):
                    seat.racks.append(rack)
                    rack.show(seat)
        rack.round = self._round
        return rack

    def next_round(self) -> None:
        """Forget racks that nobody needed in the round that ends now, if there are too many."""
        for pool, racks in self._racks.items():
            if sum(rack.round < self._round for rack in racks.values()) > _MAX_IDLE_RACKS:
                kept = {kind: rack for kind, rack in racks.items() if rack.round == self._round}
                self._racks[pool] = kept
                for seat in self.of(pool):
                    seat.racks = [rack for rack in seat.racks if rack.round == self._round]
        self._round += 1

    def forget_racks(self) -> None:
        """Take in that pools may be filled in another order than before."""
        self._racks.clear()
        for seats in self._pools.values():
            for seat in seats.values():
                seat.racks = []

    def shortage(self, wish: Wish, versions: Sequence[int] | None) -> tuple[Reason, str]:
        """Return why no runner could take a session, were it free; see `placement.shortage`."""
        question = (wish, None if versions is None else tuple(versions))
        if question not in self._shortages:
            if len(self._shortages) >= _MAX_SHORTAGES:
                self._shortages.clear()
            open_to_all = (
                seat for seat in self.of(wish.pool) if seat.runner and seat.live and seat.runner.claim is None
            )
            self._shortages[question] = shortage(wish, versions, open_to_all)
        return self._shortages[question]

    def _sort(self, seat: Seat) -> None:
        """Find the racks that a runner stands in."""
        for rack in seat.racks:
            rack.hide(seat)
        runner = seat.runner
        racks = self._racks.get(seat.key[0], {}).values() if runner else ()
        seat.racks = [rack for rack in racks if runner and rack.fits(runner)]

    def _show(self, seat: Seat) -> None:
        """Take in what a runner offers now, or that it offers nothing any more."""
        for rack in seat.racks:
            rack.show(seat)
        offering = seat.up.offers if seat.up else ()
        if offering is not seat.offering:
            for bot, version in seat.offering:
                offered = self._offered[seat.key[0], bot]
                offered[version] -= 1
                if not offered[version]:
                    del offered[version]
            for bot, version in offering:
                self._offered.setdefault((seat.key[0], bot), Counter())[version] += 1
            seat.offering = offering


def _offer(runner: Runner) -> tuple[object, ...]:
    """Return what a runner has to give, and to whom."""
    return runner.held, runner.slots, runner.shares, runner.standby, runner.closed, _nature(runner)


def _nature(runner: Runner) -> tuple[object, ...]:
    """Return to whom a runner gives what it has."""
    return runner.draining, runner.brake, runner.claim, runner.labels, runner.offers, runner.broken, runner.lacking
