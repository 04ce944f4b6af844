"""Which runner takes a session, and if none can, why: the part of a plan that hands out slots."""

from collections.abc import Sequence

from greenroom.common.lifecycle import Session
from greenroom.common.reasons import Reason
from greenroom.scheduler.fleet import Hold, Runner


class Seat:
    """A runner while a plan is made: what is left of it after what was granted so far."""

    __slots__ = ("runner", "used", "warm")

    def __init__(self, runner: Runner, assigned: frozenset[Hold]) -> None:
        """Count what is taken.

        Args:
            runner: as of its last heartbeat.
            assigned: leases it has by the ledger.
        """
        self.runner = runner
        # Each side knows of some that the other doesn't know of yet: a lease whose process isn't reported so far, a
        # process whose session has ended or was taken away but that still has to exit.
        self.used = max(len(assigned | runner.held), runner.slots if runner.closed else 0)
        # A lease granted since the heartbeat will take one of the warm processes that it reported.
        self.warm = runner.standby - len(assigned - runner.held)

    @property
    def free(self) -> bool:
        """Whether one more session fits."""
        return self.used < self.runner.slots

    def take(self) -> None:
        """Give a slot away."""
        self.used += 1
        self.warm -= 1


class Choice:
    """The seats that could take sessions of one kind (pool, bot and transport), or why there are none.

    Args:
        like: a session of that kind.
        seats: the live runners of its pool.
        spread: prefer the least used runner over the most used one.
    """

    def __init__(self, like: Session, seats: Sequence[Seat], *, spread: bool) -> None:
        self._like = like
        self._spread = spread
        self._seats, self._none_because = _able(like, seats)
        self._free = [seat for seat in self._seats if seat.free]
        self._busy: dict[tuple[str, ...], tuple[Reason, str]] = {}

    def best(self, refused_by: tuple[str, ...]) -> Seat | None:
        """Return the seat for the next session: warm before cold, then the fullest (the emptiest, when spreading)."""
        self._free = [seat for seat in self._free if seat.free]
        willing = (seat for seat in self._free if seat.runner.id not in refused_by)
        return min(willing, key=self._rank, default=None)

    def refusal(self, refused_by: tuple[str, ...]) -> tuple[Reason, str]:
        """Return why `best` has none, as a code and for people."""
        if self._none_because is not None:
            return self._none_because
        if self._free:
            return self._refusal(refused_by)
        # All is taken and stays so while this plan is made: a long queue needn't count it again for each session.
        if refused_by not in self._busy:
            self._busy[refused_by] = self._refusal(refused_by)
        return self._busy[refused_by]

    def _refusal(self, refused_by: tuple[str, ...]) -> tuple[Reason, str]:
        willing = [seat for seat in self._seats if seat.runner.id not in refused_by]
        if not willing:
            return Reason.RUNNER_REFUSED, f"every runner that offers bot {self._like.bot} has refused the session"
        slots = sum(seat.runner.slots for seat in willing)
        used = sum(min(seat.used, seat.runner.slots) for seat in willing)
        return Reason.NO_FREE_SLOT, f"no free slot in pool {self._like.pool} ({used}/{slots} busy)"

    def _rank(self, seat: Seat) -> tuple[bool, int, str]:
        return seat.warm <= 0, seat.used if self._spread else -seat.used, seat.runner.id


def _able(like: Session, seats: Sequence[Seat]) -> tuple[list[Seat], tuple[Reason, str] | None]:
    """Return the seats that could take a session were they free, and if there are none, what they lack."""
    bot, pool, transport = like.bot, like.pool, like.transport
    if not seats:
        return [], (Reason.NO_RUNNER_FOR_AGENT, f"no runner is up in pool {pool}")
    offering = [seat for seat in seats if bot in seat.runner.offers]
    if not offering:
        failed = any(bot in seat.runner.broken for seat in seats)
        text = f"bot {bot} can't be imported in pool {pool}" if failed else f"no runner offers bot {bot} in pool {pool}"
        return [], (Reason.NO_RUNNER_FOR_AGENT, text)
    fitting = [seat for seat in offering if transport in seat.runner.offers[bot]]
    if not fitting:
        return [], (Reason.NO_RUNNER_FOR_AGENT, f"no runner offers bot {bot} over {transport} in pool {pool}")
    able = [seat for seat in fitting if not seat.runner.draining]
    if not able:
        return [], (Reason.RUNNER_DRAINING, f"every runner that offers bot {bot} is draining")
    return able, None
