"""How busy the host is, as the heartbeat tells it."""

import asyncio
from pathlib import Path
from typing import Final

from greenroom.common.messages import Load

_PERIOD_S: Final = 0.05
# Ticks are 10 ms: a share of fewer than this many says nothing, and the one before stands.
_LEAST_TICKS: Final = 25
# Fields of /proc/stat that are idle time: idle and iowait.
_IDLE: Final = (3, 4)


class HostLoad:
    """Processors since the last sample, memory now, and the worst lateness of the event loop since the last sample."""

    def __init__(self) -> None:
        self._busy, self._total = _processor_ticks()
        self._cpu = 0.0
        self._worst_lag_s = 0.0

    async def run(self) -> None:
        """Watch the event loop until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self._worst_lag_s = max(self._worst_lag_s, loop.time() - due)

    def sample(self) -> Load:
        """Return the load since the last sample."""
        busy, total = _processor_ticks()
        ticks = total - self._total
        if ticks >= _LEAST_TICKS:
            self._cpu = min((busy - self._busy) / ticks, 1.0)
            self._busy, self._total = busy, total
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        return Load(cpu=round(self._cpu, 3), memory_available=_memory_available(), loop_lag_ms=round(lag_s * 1000, 2))


def _processor_ticks() -> tuple[int, int]:
    fields = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:9]]
    return sum(fields) - sum(fields[index] for index in _IDLE), sum(fields)


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
