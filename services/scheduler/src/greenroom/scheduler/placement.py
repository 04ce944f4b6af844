"""Which runner takes a session, and if none can, why.

A runner is a `Seat`; those that can take sessions of one kind stand in a `Rack`, best first.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from greenroom.common.lifecycle import Session
from greenroom.common.reasons import Reason
from greenroom.scheduler.fleet import WHOLE, Hold, Runner, RunnerKey
from greenroom.scheduler.ranking import Ranking

type Labels = tuple[tuple[str, str], ...]
# Whether a process has to be forked first, preferred labels, slots used (both negative if more is better), runner id.
type _Rank = tuple[bool, int, int, str]


class Wish(NamedTuple):
    """What a session asks of a runner, its version aside."""

    pool: str
    bot: str
    transport: str
    requires: Labels
    prefers: Labels


def wish_of(session: Session) -> Wish:
    """Return what a session asks of a runner."""
    requires, prefers = session.requires, session.prefers
    return Wish(
        session.pool,
        session.bot,
        session.transport,
        tuple(sorted(requires.items())) if requires else (),
        tuple(sorted(prefers.items())) if prefers else (),
    )


class Seat:
    """A runner, and what is left of it after what was granted so far.

    Attributes:
        key: of the runner.
        runner: as of its last heartbeat; None while nothing was heard of it.
        live: whether that heartbeat is recent enough to believe that it is still there.
        assigned: leases it has by the ledger, with the bot of each.
        missing: those of them that it doesn't report.
        used: slots taken, or to be reckoned with as taken.
        left: what is left of what was free of its host, where it tells; see `Runner.shares`.
        warm: warm processes left.
        racks: those that it stands in while it is usable.
    """

    __slots__ = ("assigned", "key", "left", "live", "missing", "offering", "racks", "runner", "used", "warm")

    def __init__(self, key: RunnerKey) -> None:
        self.key = key
        self.runner: Runner | None = None
        self.live = False
        self.assigned: dict[Hold, str] = {}
        self.missing: frozenset[Hold] = frozenset()
        self.offering: Iterable[tuple[str, int]] = ()
        self.used = 0
        self.left = WHOLE
        self.warm = 0
        self.racks: list[Rack] = []

    @property
    def up(self) -> Runner | None:
        """The runner, if it is there to stay and open to everybody: whatever it offers is offered."""
        runner = self.runner
        return runner if runner and self.live and not runner.draining and runner.claim is None else None

    @property
    def usable(self) -> Runner | None:
        """The runner, if it may be given sessions as soon as it has a slot."""
        runner = self.up
        return runner if runner and runner.brake is None else None

    def count(self) -> None:
        """Count what is taken.

        Each side knows of some that the other doesn't know of yet: a lease whose process isn't reported so far, a
        process whose session has ended or was taken away but that still has to exit.
        """
        runner = self.runner
        if runner is None:
            return
        self.missing = frozenset(self.assigned.keys() - runner.held)
        used = len(self.missing) + len(runner.held)
        self.used = max(used, runner.slots) if runner.closed else used
        # What it holds isn't free by its own account.
        self.left = WHOLE - sum(runner.share(self.assigned[hold]) for hold in self.missing)
        # A lease granted since the heartbeat will take one of the warm processes that it reported.
        self.warm = runner.standby - len(self.missing)

    def room(self, share: int) -> int | None:
        """Return for how many more sessions that take such a part there is room, slots aside; None: any number."""
        return max(self.left, 0) // share if share else None

    def take(self, bot: str, slots: int) -> None:
        """Give slots to sessions of a bot, or take them back."""
        self.used += slots
        self.warm -= slots
        if self.runner is not None:
            self.left -= slots * self.runner.share(bot)
        for rack in self.racks:
            rack.show(self)


class Rack:
    """The seats for sessions of one wish and version.

    The best one has a warm process, if any has; among those it matches most of the preferred labels, then it is the
    fullest (the emptiest, when spreading), so that others run empty and can go.

    Args:
        wish: what the sessions ask for.
        version: the version of the agent that is to be run.
        spread: see above.

    Attributes:
        slots, used, warm: of the seats that could take such a session were they free.
        small: slots of theirs that are free and too small for it; they aren't among `slots`.
        round: when it was last needed; see `Seats`.
    """

    __slots__ = ("_free", "_seats", "_spread", "round", "slots", "small", "used", "version", "warm", "wish")

    def __init__(self, wish: Wish, version: int, *, spread: bool) -> None:
        self.wish = wish
        self.version = version
        self.slots = 0
        self.small = 0
        self.used = 0
        self.warm = 0
        self.round = 0
        self._spread = spread
        self._seats: dict[Seat, tuple[int, int, int, int]] = {}
        self._free: Ranking[Seat, _Rank] = Ranking()

    def __len__(self) -> int:
        """Return how many seats could take such a session were they free."""
        return len(self._seats)

    @property
    def free(self) -> int:
        """How many seats have a slot free."""
        return len(self._free)

    def fits(self, runner: Runner) -> bool:
        """Tell whether a runner is of the right kind, whatever it does at the moment."""
        wish, labels = self.wish, runner.labels
        return wish.transport in runner.offers.get((wish.bot, self.version), ()) and all(
            labels.get(name) == value for name, value in wish.requires
        )

    def show(self, seat: Seat) -> None:
        """Take in how a seat of the right kind stands now."""
        self._discount(seat)
        runner = seat.usable
        if runner is None:
            self._free.drop(seat)
            return
        used = min(seat.used, runner.slots)
        room = seat.room(runner.share(self.wish.bot))
        slots = runner.slots if room is None else min(runner.slots, used + room)
        warm = max(min(seat.warm, slots - used), 0)
        self._seats[seat] = (slots, used, warm, runner.slots - slots)
        self.slots += slots
        self.small += runner.slots - slots
        self.used += used
        self.warm += warm
        if used < slots:
            preferred = sum(runner.labels.get(name) == value for name, value in self.wish.prefers)
            fill = used if self._spread else -used
            self._free.put(seat, (seat.warm <= 0, -preferred, fill, runner.id))
        else:
            self._free.drop(seat)

    def hide(self, seat: Seat) -> None:
        """Forget a seat, which is no longer of the right kind."""
        self._discount(seat)
        self._free.drop(seat)

    def best(self, refused_by: Sequence[str] = ()) -> Seat | None:
        """Return the seat for the next session, or None when no seat has room that wants it."""
        free = self._free
        if not refused_by:
            return free.first()
        passed: list[tuple[Seat, _Rank]] = []
        while (seat := free.first()) is not None and seat.key[1] in refused_by:
            passed.append((seat, free.key(seat)))
            free.drop(seat)
        for other, key in passed:
            free.put(other, key)
        return seat

    def busy(self, refused_by: Sequence[str]) -> tuple[int, int, int, int]:
        """Return how many seats don't refuse, and the used slots, all slots and the small ones of theirs."""
        count, used, slots, small = len(self._seats), self.used, self.slots, self.small
        if refused_by:
            for seat, (its_slots, its_used, _, its_small) in self._seats.items():
                if seat.key[1] in refused_by:
                    count, used, slots, small = count - 1, used - its_used, slots - its_slots, small - its_small
        return count, used, slots, small

    def _discount(self, seat: Seat) -> None:
        slots, used, warm, small = self._seats.pop(seat, (0, 0, 0, 0))
        self.slots -= slots
        self.small -= small
        self.used -= used
        self.warm -= warm


def shortage(wish: Wish, versions: Sequence[int] | None, seats: Iterable[Seat]) -> tuple[Reason, str]:
    """Return what the runners of a pool lack, none of which could take a session were it free.

    Args:
        wish: what the session asks for.
        versions: those it may run in; None: any.
        seats: the live runners of the pool that weren't launched for a single session.
    """
    bot, pool, transport = wish.bot, wish.pool, wish.transport
    runners = [seat.runner for seat in seats if seat.runner]
    broken = any(bot in runner.broken for runner in runners)
    named = bot if versions is None else f"{bot} in version {' or '.join(str(each) for each in versions)}"
    labels = ", ".join(f"{name}={value}" for name, value in wish.requires)

    def offers(runner: Runner) -> list[tuple[int, tuple[str, ...]]]:
        return [(version, transports) for (name, version), transports in runner.offers.items() if name == bot]

    def in_version(runner: Runner) -> list[tuple[str, ...]]:
        return [transports for version, transports in offers(runner) if versions is None or version in versions]

    demands: list[tuple[Callable[[Runner], object], Reason, str]] = [
        (lambda _: True, Reason.NO_RUNNER_FOR_AGENT, f"no runner is up in pool {pool}"),
        (
            lambda runner: offers(runner) or bot in runner.lacking,
            Reason.NO_RUNNER_FOR_AGENT,
            f"bot {bot} can't be imported in pool {pool}" if broken else f"no runner offers bot {bot} in pool {pool}",
        ),
        (
            offers,
            Reason.RUNNER_LACKS_SECRET,
            _lacking(pool, [runner.lacking[bot] for runner in runners if bot in runner.lacking]),
        ),
        (in_version, Reason.NO_RUNNER_FOR_AGENT, f"no runner offers bot {named} in pool {pool}"),
        (
            lambda runner: any(transport in transports for transports in in_version(runner)),
            Reason.NO_RUNNER_FOR_AGENT,
            f"no runner offers bot {named} over {transport} in pool {pool}",
        ),
        (
            lambda runner: all(runner.labels.get(name) == value for name, value in wish.requires),
            Reason.NO_RUNNER_FOR_AGENT,
            f"no runner that offers bot {named} in pool {pool} has {labels}",
        ),
        (
            lambda runner: not runner.draining,
            Reason.RUNNER_DRAINING,
            f"every runner that offers bot {named} is draining",
        ),
    ]
    for demand, reason, text in demands:
        runners = [runner for runner in runners if demand(runner)]
        if not runners:
            return reason, text
    first = min(runners, key=lambda runner: runner.id)
    return Reason.RUNNER_OVERLOADED, f"every runner that offers bot {named} brakes: {first.brake}"


def _lacking(pool: str, missing: Sequence[tuple[str, ...]]) -> str:
    """Return what runners lack, in words; `missing` has the names that each of them lacks."""
    names = sorted({name for each in missing for name in each})
    what = f"secret {names[0]} is" if len(names) == 1 else f"secrets {', '.join(names)} are"
    return f"{what} missing on {len(missing)} {'runner' if len(missing) == 1 else 'runners'} of pool {pool}"
