"""How fast a track's samples came, held against the clock: the drift of its sender's sample clock.

A chunk reaches the broker some time after its last sample was heard. That time has a floor, which is the same all
along, and noise above it (the network, an outage, a spool that empties); where the floor rises, samples come more
slowly than their rate says. It is measured within unbroken runs only, since a sender that has paused takes its place
from the clock again, and only in long ones: the floor is known to some milliseconds.
"""

from itertools import combinations
from statistics import median
from typing import Final

NS: Final = 1_000_000_000
# In half a minute 5 ms of noise are 170 ppm: what a cheap sound card is off by.
SHORTEST_RUN_S: Final = 30
# Of one run, each with the earliest arrival in it; they grow with the run.
_BUCKETS: Final = 32


class _Run:
    """Chunks back to back."""

    def __init__(self, start: int, rate: int) -> None:
        self.start = self.end = start
        self._width = rate
        self._rate = rate
        # By bucket: the earliest arrival in it, as (position, ns behind the time that the position stands for).
        self._floor: list[tuple[int, int]] = []

    def add(self, end: int, lateness_ns: int) -> None:
        self.end = end
        bucket = (end - self.start) // self._width
        if bucket >= _BUCKETS:
            self._floor = [min(pair, key=_lateness) for pair in self._pairs()]
            self._width *= 2
            bucket //= 2
        last = (self._floor[-1][0] - self.start) // self._width if self._floor else -1
        if bucket != last:
            self._floor.append((end, lateness_ns))
        elif lateness_ns < self._floor[-1][1]:
            self._floor[-1] = (end, lateness_ns)

    def _pairs(self) -> list[list[tuple[int, int]]]:
        """Return the buckets, as many of them together as share one of twice the width."""
        pairs: dict[int, list[tuple[int, int]]] = {}
        for point in self._floor:
            pairs.setdefault((point[0] - self.start) // (2 * self._width), []).append(point)
        return list(pairs.values())

    def slope(self) -> float:
        """Return by how much the floor rises, in seconds a second: the median over all pairs of buckets."""
        return median(
            (later[1] - earlier[1]) / NS * self._rate / (later[0] - earlier[0])
            for earlier, later in combinations(self._floor, 2)
        )


class Drift:
    """The drift of one track in one attempt. Memory is constant.

    Args:
        rate: samples per second, as the sender says.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._run: _Run | None = None
        self._weighed = 0.0
        self._weight = 0.0

    def add(self, *, position: int, samples: int, origin_ns: int, at_ns: int) -> None:
        """Add a chunk, in the order of their positions; one that is out of order ends a run.

        Args:
            position: of its first sample.
            samples: its length.
            origin_ns: the time that position 0 stands for.
            at_ns: when the broker had it; 0: nobody knows.
        """
        if not at_ns:
            return
        if self._run is None or self._run.end != position:
            self._close()
            self._run = _Run(position, self._rate)
        end = position + samples
        self._run.add(end, at_ns - origin_ns - end * NS // self._rate)

    def measured(self) -> tuple[float, float]:
        """Return the drift in ppm (positive: the samples came faster than the clock), and its weight in seconds.

        The weight is 0 where no run was long enough.
        """
        weighed, weight = self._weighed, self._weight
        if self._run is not None and (seconds := self._length_s(self._run)):
            weighed += seconds * self._run.slope()
            weight += seconds
        return (-1e6 * weighed / weight, weight) if weight else (0.0, 0.0)

    def _close(self) -> None:
        if self._run is not None and (seconds := self._length_s(self._run)):
            self._weighed += seconds * self._run.slope()
            self._weight += seconds

    def _length_s(self, run: _Run) -> float:
        """Return how long a run is; 0 where it says nothing."""
        seconds = (run.end - run.start) / self._rate
        return seconds if seconds >= SHORTEST_RUN_S else 0.0


def _lateness(point: tuple[int, int]) -> int:
    return point[1]
