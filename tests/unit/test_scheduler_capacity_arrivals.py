"""How fast sessions are asked for, and how long cold starts take."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.scheduler.arrivals import (
    PRIOR_S,
    SAMPLES,
    Arrivals,
    ColdStarts,
    arrived,
    expected_s,
    per_s,
    quantile_s,
    took,
)
from tests.support.capacity_pools import at


def counted(*seconds: float) -> Arrivals:
    """Return the counters after one arrival at each of some times, in their order."""
    known = Arrivals()
    for second in seconds:
        known = arrived(known, at(second))
    return known


@pytest.mark.parametrize("rate", [0.2, 1.0, 20.0])
def test_a_steady_rate(rate: float) -> None:
    """Sessions that are asked for at a steady rate are estimated at that rate."""
    known = counted(*(number / rate for number in range(int(1800 * rate))))

    assert per_s(known, at(1800)) == pytest.approx(rate, rel=0.1)


def test_poisson_arrivals() -> None:
    """Callers who don't know of one another are estimated without bias to speak of."""
    rng, second, times, seen = random.Random(7), 0.0, list[float](), list[float]()
    while second < 6000:
        second += rng.expovariate(2.0)
        times.append(second)
    known = Arrivals()
    for each in times:
        known = arrived(known, at(each))
        if each > 1500:
            seen.append(per_s(known, at(each)))

    assert sum(seen) / len(seen) == pytest.approx(2.0, rel=0.1)


def test_a_flash_crowd_counts_at_once() -> None:
    """Of a flash crowd ×20 in 10 s the first second shows."""
    calm = [float(number) for number in range(900)]
    crowd = counted(*calm, *(900 + number / 20 for number in range(20)))

    assert per_s(counted(*calm), at(900)) == pytest.approx(1.0, rel=0.1)
    assert per_s(crowd, at(901)) > 2


def test_a_single_call_is_no_crowd() -> None:
    """One call out of nowhere counts for little more than it is."""
    assert per_s(counted(0), at(0)) < 0.05
    assert 0 < per_s(counted(0), at(120)) < 0.01
    assert per_s(counted(0), at(1800)) == 0


def test_goes_down_in_minutes() -> None:
    """When nobody asks any more the estimate falls, but not at once."""
    busy = counted(*(number / 5 for number in range(9000)))

    assert [round(per_s(busy, at(1800 + after)) / 5, 1) for after in (0, 60, 300, 1200)] == [1.0, 0.8, 0.4, 0.0]


@given(st.lists(st.tuples(st.floats(0, 600), st.integers(1, 50)), min_size=1, max_size=20), st.integers(1, 50))
@settings(max_examples=80, deadline=None)
def test_never_falls_with_one_more(rows: list[tuple[float, int]], more: int) -> None:
    """More arrivals never make a lower estimate."""
    known, greater = Arrivals(), Arrivals()
    for number, (second, count) in enumerate(sorted(rows)):
        known = arrived(known, at(second), count=count)
        greater = arrived(greater, at(second), count=count + (more if number == 0 else 0))

    assert per_s(greater, at(600)) >= per_s(known, at(600))


@given(st.lists(st.floats(0, 600), min_size=1, max_size=20), st.randoms())
@settings(max_examples=60, deadline=None)
def test_learned_late(seconds: list[float], rng: random.Random) -> None:
    """A scheduler that learns of the last minutes' arrivals when it takes over estimates as if it had been there."""
    there = counted(*sorted(seconds))
    late = Arrivals()
    for second in rng.sample(seconds, len(seconds)):
        late = arrived(late, at(600), age_s=600 - second)

    assert math.isclose(per_s(late, at(600)), per_s(there, at(600)), abs_tol=1e-6)


def test_a_clock_that_is_set_back() -> None:
    """An hour that comes twice neither wipes out what is known nor stops it from ageing."""
    before = counted(*(3600 + float(number) for number in range(600)))
    after = arrived(before, at(600))

    assert per_s(after, at(600)) == pytest.approx(per_s(before, at(4200)), rel=0.15)
    assert per_s(after, at(3000)) < 0.01


def test_cold_starts_are_measured() -> None:
    """The p50 and p95 are of the last starts, and a guess of half a minute stands in until there is one."""
    known = ColdStarts()
    assert (quantile_s(known, 0.5), expected_s(known)) == (None, PRIOR_S)

    for seconds in range(1, 21):
        known = took(known, seconds)
    assert (quantile_s(known, 0.5), quantile_s(known, 0.95), expected_s(known)) == (10, 19, 19)

    for _ in range(SAMPLES):
        known = took(known, 65)
    assert known.took_s == (65,) * SAMPLES


def test_one_cold_start() -> None:
    """One measured start is better than a guess."""
    assert expected_s(took(ColdStarts(), 4)) == 4
