"""Time as a port, so that whatever waits can be tested without waiting."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


def utcnow() -> datetime:
    """Return the time now: UTC, time-zone aware."""
    return datetime.now(UTC)


def to_ns(at: datetime) -> int:
    """Return a time in nanoseconds since 1970, exactly."""
    return (at - _EPOCH) // _US * 1000


def from_ns(ns: int) -> datetime:
    """Return a time given in nanoseconds since 1970, in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


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
