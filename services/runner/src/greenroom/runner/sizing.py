"""How many slots the runner offers: as many as it was told, or as many as the host takes (`density`)."""

from typing import Final

from greenroom.common.lifecycle import Session
from greenroom.common.messages import BotDensity
from greenroom.runner import density
from greenroom.runner.density import Cost, Room
from greenroom.runner.host import Host
from greenroom.runner.isolation.usage import Usage
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
        default: as long as nothing has been measured.
        host: what there is.
    """

    def __init__(self, fixed: int | None, *, default: int, host: Host | None = None) -> None:
        self._fixed = fixed
        self._default = default
        self._host = host or Host()
        self._costs: dict[str, Cost] = {}
        self._last: dict[Key, tuple[float, float, float]] = {}
        self._busy: tuple[float, float] | None = None
        self._busy_cores = 0.0
        self._room = self._measure()

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

    def forget(self, held: frozenset[Key]) -> None:
        """Forget the sessions that are none of those `held`; what their bots cost is remembered."""
        for key in self._last.keys() - held:
            del self._last[key]

    def look(self, now: float) -> None:
        """See what the host has; called each second."""
        _, busy_s = self._host.processor_use()
        since, before_s = self._busy or (now, busy_s)
        if self._busy is None:
            self._busy = now, busy_s
        elif now - since >= _BUSY_OVER_S:
            self._busy_cores = max(busy_s - before_s, 0.0) / (now - since)
            self._busy = now, busy_s
        self._room = self._measure()

    def slots(self, *, held: int, offered: tuple[str, ...]) -> int:
        """Return how many sessions there may be at once, those there are included.

        Args:
            held: sessions that there are.
            offered: the bots that may come.
        """
        if self._fixed is not None:
            return self._fixed
        return density.slots(
            self._costs, self._room, held=held, offered=offered, default=self._default, most=MOST_SLOTS
        )

    def densities(self) -> tuple[BotDensity, ...]:
        """Return what is known of each bot, for the heartbeat."""
        return tuple(
            BotDensity(
                bot=bot,
                cores=round(cost.cores, 4),
                memory=round(cost.memory),
                seen=cost.seen,
                more=density.more(cost, self._room),
            )
            for bot, cost in sorted(density.known(self._costs).items())
        )

    def _measure(self) -> Room:
        available, total = self._host.memory_room()
        return Room(
            processors=self._host.processors(),
            busy_cores=self._busy_cores,
            memory_total=total,
            memory_available=available,
        )
