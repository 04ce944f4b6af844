"""How fast sessions are asked for, and how long a cold start takes: what the warm target is computed from.

Arrivals are counted by two exponentially decaying counters. One of time constant T holds `sum(exp(-age / T)) / T` over
all arrivals. For Poisson arrivals of rate r (callers who don't know of one another) its mean is r and its variance
r / 2T (Campbell's theorem). The slow one, T = 300 s, is the estimate on an ordinary day. The fast one, T = 10 s, sees a
flash crowd within a second but is noisy; so it counts less two standard deviations, which leaves nothing of a single
call and most of a crowd. The larger of the two holds: up at once, down within minutes.
"""

import math
from datetime import datetime
from typing import Final

import msgspec

FAST_S: Final = 10.0
SLOW_S: Final = 300.0
# So many standard deviations above the mean chance goes once in 44 times.
_SURELY: Final = 2.0
# Less than one an hour is none: what decays exponentially would never be zero.
_NOTHING_PER_S: Final = 1 / 3600

# The last so many cold starts count: enough for a p95, few enough to follow a new image within an hour of starts.
SAMPLES: Final = 64
# Until one was measured. Pipecat Cloud states 10 s at best and half a minute until its buffer is full again.
PRIOR_S: Final = 30.0


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """The two counters, both per second as of `at`."""

    fast: float = 0.0
    slow: float = 0.0
    at: datetime | None = None


def arrived(known: Arrivals, now: datetime, *, count: int = 1, age_s: float = 0.0) -> Arrivals:
    """Return the counters after sessions were asked for.

    Args:
        known: as they were.
        now: the time; before `known.at` when the clock was set back, which counts as no time.
        count: how many.
        age_s: how long ago, in seconds, for those that are only learned of now. The order doesn't matter.
    """
    fast, slow = _decayed(known, now)
    age_s = max(age_s, 0.0)
    return Arrivals(
        fast=fast + count * math.exp(-age_s / FAST_S) / FAST_S,
        slow=slow + count * math.exp(-age_s / SLOW_S) / SLOW_S,
        at=now,
    )


def per_s(known: Arrivals, now: datetime) -> float:
    """Return the estimate of arrivals per second at `now`; it never falls when there was one more."""
    fast, slow = _decayed(known, now)
    surely = max(fast - _SURELY * math.sqrt(fast / (2 * FAST_S)), 0.0)
    rate = max(slow, surely)
    return rate if rate >= _NOTHING_PER_S else 0.0


def _decayed(known: Arrivals, now: datetime) -> tuple[float, float]:
    passed_s = max((now - known.at).total_seconds(), 0.0) if known.at else 0.0
    return known.fast * math.exp(-passed_s / FAST_S), known.slow * math.exp(-passed_s / SLOW_S)


class ColdStarts(msgspec.Struct, frozen=True, kw_only=True):
    """How long the last launches took, in seconds to the claim or the first heartbeat, oldest first."""

    took_s: tuple[float, ...] = ()


def took(known: ColdStarts, seconds: float) -> ColdStarts:
    """Return the samples with one more. One that never came isn't any: the breaker counts those."""
    return ColdStarts(took_s=(*known.took_s, max(seconds, 0.0))[-SAMPLES:])


def quantile_s(known: ColdStarts, share: float) -> float | None:
    """Return the smallest measured time within which `share` of the starts were done; None: none was measured."""
    if not known.took_s:
        return None
    rank = math.ceil(share * len(known.took_s))
    return sorted(known.took_s)[max(rank - 1, 0)]


def expected_s(known: ColdStarts) -> float:
    """Return how long a cold start is reckoned with: the measured p95, or before there is one `PRIOR_S`."""
    measured = quantile_s(known, 0.95)
    return PRIOR_S if measured is None else measured
