"""How busy the host is, as the heartbeat tells it, and whether that is too much."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from greenroom.common.clock import Clock
from greenroom.common.messages import Load
from greenroom.runner import brake
from greenroom.runner.brake import Brake, Reading, Thresholds
from greenroom.runner.host import Host
from greenroom.runner.links import Interfaces, LinkMeter

_log = structlog.get_logger()

_PERIOD_S: Final = 0.05
# The brake looks at the worst lateness of each half second.
_LOOK_S: Final = 0.5
# Ticks are 10 ms: a share of fewer than this many says nothing, and the one before stands.
_LEAST_TICKS: Final = 25
_NETWORK_OVER_S: Final = 2.0


class HostLoad:
    """Processors since the last sample, memory now, and the worst lateness of the event loop since the last sample.

    Args:
        thresholds: from where on it is too much.
        clock: time.
        on_change: called when `brake` has changed.
        host: where the numbers come from.
        interfaces: where those of the network come from.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        clock: Clock,
        on_change: Callable[[], None],
        host: Host | None = None,
        interfaces: Interfaces | None = None,
    ) -> None:
        self._thresholds = thresholds
        self._clock = clock
        self._on_change = on_change
        self._host = host or Host()
        self._links = LinkMeter(interfaces or Interfaces(), over_s=_NETWORK_OVER_S)
        self._busy, self._total = self._host.processor_ticks()
        self._throttled, self._periods = self._host.throttling() or (0, 0)
        self._cpu = 0.0
        self._worst_lag_s = 0.0
        self._memory_percent = self._host.memory_available_percent()
        self._brake = Brake()

    @property
    def brake(self) -> str | None:
        """Why nothing more should be placed here; None: nothing is in the way."""
        return self._brake.reason

    @property
    def overload(self) -> str | None:
        """Why a start must be refused now; None: it needn't be. As of the last look: a start doesn't wait for one."""
        if not self._thresholds.refuse_memory_percent:
            return None
        return brake.overload(self._memory_percent, self._thresholds)

    async def run(self) -> None:
        """Watch the event loop until canceled."""
        loop = asyncio.get_running_loop()
        worst_s, look_at = 0.0, loop.time() + _LOOK_S
        while True:
            due = loop.time() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            now = loop.time()
            worst_s = max(worst_s, now - due)
            self._worst_lag_s = max(self._worst_lag_s, now - due)
            if now >= look_at:
                self._follow(worst_s)
                worst_s, look_at = 0.0, loop.time() + _LOOK_S

    def sample(self) -> Load:
        """Return the load since the last sample."""
        busy, total = self._host.processor_ticks()
        ticks = total - self._total
        if ticks >= _LEAST_TICKS:
            self._cpu = min((busy - self._busy) / ticks, 1.0)
            self._busy, self._total = busy, total
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        return Load(
            cpu=round(self._cpu, 3),
            memory_available=self._host.memory_available(),
            loop_lag_ms=round(lag_s * 1000, 2),
        )

    def _follow(self, lag_s: float) -> None:
        before, thresholds = self._brake.reason, self._thresholds
        self._memory_percent = self._host.memory_available_percent()
        link = self._links.look(self._clock.monotonic()) if thresholds.network_percent else None
        reading = Reading(
            loop_lag_ms=lag_s * 1000,
            cpu_pressure_percent=self._host.cpu_pressure_percent() if thresholds.cpu_pressure_percent else None,
            throttled_percent=self._throttled_percent() if thresholds.throttled_percent else None,
            network_percent=link.percent if link else None,
            network_mbit=link.mbit if link else 0,
            memory_available_percent=self._memory_percent if thresholds.memory_percent else None,
        )
        self._brake = brake.follow(self._brake, reading, self._clock.monotonic(), thresholds)
        if self._brake.reason != before:
            if self._brake.reason is not None:
                _log.warning("runner_brakes", reason=self._brake.reason)
            else:
                _log.info("runner_brake_released", reason=before)
            self._on_change()

    def _throttled_percent(self) -> float | None:
        """Return the share of periods since the last look in which we were kept waiting."""
        found = self._host.throttling()
        if found is None:
            return None
        throttled, periods = found[0] - self._throttled, found[1] - self._periods
        self._throttled, self._periods = found
        # No period has ended since: nothing has run that could have been kept waiting.
        return min(max(100 * throttled / periods, 0.0), 100.0) if periods > 0 else 0.0
