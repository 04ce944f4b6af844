"""What a runner has been told about new sessions and waiting processes, and what follows. Pure: no clock, no I/O.

| told | until | what follows |
|---|---|---|
| stop (a signal) | the end | nothing new; the runner leaves when the last session is over |
| `drain` | `resume` | nothing new; the runner stays |
| `drain` with a bot or version | `resume` | what it names isn't offered; without any other, nothing new |
| `standby` | it runs out | so many processes wait, within the runner's own bounds |
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from greenroom.common.messages import BotOffer, Done, Drain, Resume, SetStandby, decode

type Order = Drain | Resume | SetStandby
# By the name of the command.
KINDS: Final[dict[str, type[Order]]] = {"drain": Drain, "resume": Resume, "standby": SetStandby}
MAX_STANDBY: Final = 64
# A scheduler says it again long before; one that is gone has no say for longer than this.
MAX_FOR_S: Final = 600.0


class Withdrawal(msgspec.Struct, frozen=True):
    """Bots that aren't offered any more: those of a name, of a version, or that version of that name; None: any."""

    bot: str | None
    version: int | None

    def has(self, offer: BotOffer) -> bool:
        """Whether a bot is one of them."""
        return self.bot in (None, offer.name) and self.version in (None, offer.version)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What holds now; times are seconds of any monotonic clock.

    Attributes:
        stopping: the runner was told to stop.
        drained: it was told to drain.
        withdrawn: bots that it was told to drain.
        standby: how many processes shall wait; None: as the settings say.
        standby_until: until when that holds.
    """

    stopping: bool = False
    drained: bool = False
    withdrawn: frozenset[Withdrawal] = frozenset()
    standby: int | None = None
    standby_until: float = 0.0

    def offers(self, bots: Iterable[BotOffer]) -> tuple[BotOffer, ...]:
        """Return the bots that may be asked for."""
        return tuple(bot for bot in bots if not any(each.has(bot) for each in self.withdrawn))

    def drains(self, bots: Iterable[BotOffer]) -> bool:
        """Tell whether nothing new is taken, of all these bots."""
        known = tuple(bots)
        return self.stopping or self.drained or (bool(known) and not self.offers(known))

    def standby_target(self, own: int, *, most: int, now: float) -> int:
        """Return how many processes shall wait.

        Args:
            own: as the settings say.
            most: that there are slots for.
            now: the time.
        """
        told = self.standby if now < self.standby_until else None
        return max(min(own if told is None else told, most, MAX_STANDBY), 0)


def read(kind: type[Order], data: bytes) -> Order | Done:
    """Return the order that was sent, or the answer to what is none; in doubt a runner drains."""
    try:
        return decode(data, kind)
    except msgspec.MsgspecError as error:
        return Drain() if kind is Drain else Done(done=False, detail=str(error))


def stop(orders: Orders) -> Orders:
    """The runner is to stop: nothing takes that back."""
    return msgspec.structs.replace(orders, stopping=True)


def obey(orders: Orders, order: Order, now: float) -> tuple[Orders, Done]:
    """Return what holds after an order, and the answer to it."""
    match order:
        case Drain(agent_version=None, bot=None):
            return msgspec.structs.replace(orders, drained=True), Done()
        case Drain():
            withdrawn = orders.withdrawn | {Withdrawal(order.bot, order.agent_version)}
            return msgspec.structs.replace(orders, withdrawn=withdrawn), Done()
        case Resume():
            if orders.stopping:
                return orders, Done(done=False, detail="the runner is being stopped")
            return msgspec.structs.replace(orders, drained=False, withdrawn=frozenset()), Done()
        case SetStandby():
            if order.target < 0 or not 0 < order.for_s <= MAX_FOR_S:
                detail = f"target must be 0 or more, for_s above 0 and at most {MAX_FOR_S:g}"
                return orders, Done(done=False, detail=detail)
            return msgspec.structs.replace(orders, standby=order.target, standby_until=now + order.for_s), Done()
