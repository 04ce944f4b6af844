"""The clock of one call: when its timeline began, and where any moment lies on it."""

import time
from collections.abc import Callable
from typing import Final

from greenroom.runner.session.audio import RATE

_NS: Final = 1_000_000_000


class CallClock:
    """Sample 0 of a call's timeline: the moment somebody connected (or, failing that, the first audio).

    Positions come from the monotonic clock; wall times, as Pipecat's frames have them, are mapped onto the same
    timeline by the one pair of readings taken at its start.

    Args:
        monotonic_ns: reads the monotonic clock.
        wall_ns: reads the wall clock.
    """

    def __init__(
        self, monotonic_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.monotonic_ns: Final = monotonic_ns
        self._wall_ns = wall_ns
        # Nanoseconds since 1970 at sample 0; 0 while the timeline hasn't begun.
        self.origin_ns = 0
        self._began_ns = 0

    @property
    def begun(self) -> bool:
        """Whether the timeline has begun."""
        return self.origin_ns != 0

    def begin(self) -> None:
        """Begin the timeline now, unless it has begun."""
        if not self.origin_ns:
            self._began_ns = self.monotonic_ns()
            self.origin_ns = self._wall_ns()

    def sample(self, monotonic_ns: int) -> int:
        """Return the position of a moment of the monotonic clock, in samples; never before 0."""
        return max((monotonic_ns - self._began_ns) * RATE // _NS, 0)

    def now_ms(self) -> int:
        """Return where the timeline is, in milliseconds; 0 while it hasn't begun."""
        return max(self.monotonic_ns() - self._began_ns, 0) // 1_000_000 if self.origin_ns else 0

    def wall_ms(self, at_s: float) -> int:
        """Return where a wall time (seconds since 1970) lies, in milliseconds; never before 0."""
        return max(int(at_s * 1000) - self.origin_ns // 1_000_000, 0) if self.origin_ns else 0
