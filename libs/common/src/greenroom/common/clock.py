"""Time as a port, so that whatever waits can be tested without waiting."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


def utcnow() -> datetime:
    """Return the time now: UTC, time-zone aware."""
    return datetime.now(UTC)


class Clock(Protocol):
    """Wall time for what is written down, monotonic time for what is measured, and waiting."""

    def now(self) -> datetime:
        """Return the wall time: UTC, time-zone aware. It may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment. It never goes back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds; 0 or less only lets others run."""
        ...


class SystemClock:
    """The clock of the machine and the running event loop."""

    def now(self) -> datetime:
        """Return the wall time: UTC, time-zone aware."""
        return utcnow()

    def monotonic(self) -> float:
        """Return seconds of the machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""
        await asyncio.sleep(max(delay_s, 0.0))
