"""How many slots the runner offers: as many as it was told, or as many as the host takes (`density`)."""

from collections.abc import Iterable
from typing import Final

import msgspec

from greenroom.common.lifecycle import Session
from greenroom.common.messages import BotDensity, BotOffer
from greenroom.runner import density
from greenroom.runner.density import Cost, Room
from greenroom.runner.host import Host
from greenroom.runner.isolation.usage import Usage
from greenroom.runner.links import BYTES_PER_MBIT, Interfaces, LinkMeter
from greenroom.runner.resource_classes import CLASSES, PLAIN
from greenroom.runner.slots import Key

# Never more than this, however small the sessions are.
MOST_SLOTS: Final = 512
# The start and its echo: caches that fill, models that are touched for the first time.
_YOUNG_S: Final = 10.0
# Processor time is counted in ticks of 10 ms: over less than this it says nothing.
_LEAST_S: Final = 0.5
_BUSY_OVER_S: Final = 5.0


class Sizing:
    """See the module.

    Args:
        fixed: the number that was told; None: as many as the host takes.
        default: as long as nothing is known of what sessions cost.
        host: what there is.
        interfaces: what there is of the network.
    """

    def __init__(
        self, fixed: int | None, *, default: int, host: Host | None = None, interfaces: Interfaces | None = None
    ) -> None:
        self._fixed = fixed
        self._default = default
        self._host = host or Host()
        self._links = LinkMeter(interfaces or Interfaces(), over_s=_BUSY_OVER_S)
        self._costs: dict[str, Cost] = {}
        self._last: dict[Key, tuple[float, float, float]] = {}
        # Bots and beginnings of the sessions that aren't in `_busy_cores` so far, nor all of them in the memory.
        self._unseen: dict[Key, tuple[str, float]] = {}
        self._busy: tuple[float, float] | None = None
        self._busy_cores = 0.0
        self._network, self._busy_network = 0.0, 0.0
        self._room = self._measure()

    @property
    def by_cost(self) -> bool:
        """Whether it is measured how many sessions there may be; then each bot has a bound of its own."""
        return self._fixed is None

    def note(self, session: Session, usage: Usage, now: float) -> None:
        """Take what a session uses now."""
        key = session.id, session.epoch
        first, before, cpu_s = self._last.get(key, (now, now, usage.cpu_s))
        if now - before < _LEAST_S and now != before:
            return
        self._last[key] = first, now, usage.cpu_s
        if now - first < _YOUNG_S or now <= before:
            return
        cost = self._costs.get(session.bot, Cost())
        cores = max(usage.cpu_s - cpu_s, 0.0) / (now - before)
        self._costs[session.bot] = density.learn(cost, cores=cores, memory=usage.memory_bytes)

    def begun(self, session: Session, now: float) -> None:
        """Take that a session was taken: until it shows in what the host has, what it is reckoned to cost is gone."""
        self._unseen[session.id, session.epoch] = session.bot, now

    def forget(self, held: frozenset[Key]) -> None:
        """Forget the sessions that are none of those `held`; what their bots cost is remembered."""
        for key in self._last.keys() - held:
            del self._last[key]
        for key in self._unseen.keys() - held:
            del self._unseen[key]

    def look(self, now: float) -> None:
        """See what the host has; called each second."""
        _, busy_s = self._host.processor_use()
        since, before_s = self._busy or (now, busy_s)
        if self._busy is None:
            self._busy = now, busy_s
        elif now - since >= _BUSY_OVER_S:
            self._busy_cores = max(busy_s - before_s, 0.0) / (now - since)
            self._busy = now, busy_s
            self._unseen = {key: (bot, at) for key, (bot, at) in self._unseen.items() if at > since}
        link = self._links.look(now)
        if link is not None:
            self._network, self._busy_network = link.mbit * BYTES_PER_MBIT, link.bytes_per_s
        self._room = self._measure()

    def slots(self, *, held: int, offers: Iterable[BotOffer]) -> int:
        """Return how many sessions there may be at once, those there are included: of the lightest bot.

        Args:
            held: sessions that there are.
            offers: the bots that may come.
        """
        if self._fixed is not None:
            return self._fixed
        costs = self._known(offers)
        return density.slots(costs.values(), self._left(costs), held=held, default=self._default, most=MOST_SLOTS)

    def slots_for(self, bot: str, *, held: int, offers: tuple[BotOffer, ...]) -> int:
        """Return how many there may be if the next is of some bot."""
        slots = self.slots(held=held, offers=offers)
        costs = self._known(offers)
        if self._fixed is not None or not costs:
            return slots
        cost = costs.get(bot) or density.dearest(costs.values())
        return min(slots, held + self._more(cost, self._left(costs), held))

    def densities(self, *, held: int, offers: Iterable[BotOffer]) -> tuple[BotDensity, ...]:
        """Return what is known of each bot that may come, for the heartbeat."""
        costs = self._known(offers)
        room = self._left(costs)
        return tuple(
            BotDensity(
                bot=bot,
                cores=round(cost.cores, 4),
                memory=round(cost.memory),
                seen=cost.seen,
                more=self._more(cost, room, held),
            )
            for bot, cost in sorted(costs.items())
        )

    @staticmethod
    def _more(cost: Cost, room: Room, held: int) -> int:
        """Return how many more of a bot are taken; one, where there is none, of any."""
        return min(max(density.more(cost, room), 0 if held else 1), MOST_SLOTS)

    def _known(self, offers: Iterable[BotOffer]) -> dict[str, Cost]:
        """Return what the bots that may come cost: as measured, or else by their class; or those that were there."""
        measured = density.known(self._costs)
        costs: dict[str, Cost] = {}
        for offer in offers:
            its_class = CLASSES.get(offer.resources)
            cost = measured.get(offer.name, its_class)
            if offer.error is None and cost is not None:
                costs[offer.name] = msgspec.structs.replace(cost, network=(its_class or PLAIN).network)
        return costs or measured

    def _left(self, costs: dict[str, Cost]) -> Room:
        """Return what the host has for others than the sessions that it doesn't show so far."""
        dearest = density.dearest(costs.values())
        return density.without(self._room, [costs.get(bot, dearest) for bot, _ in self._unseen.values()])

    def _measure(self) -> Room:
        available, total = self._host.memory_room()
        return Room(
            processors=self._host.processors(),
            busy_cores=self._busy_cores,
            memory_total=total,
            memory_available=available,
            network=self._network,
            busy_network=self._busy_network,
        )
