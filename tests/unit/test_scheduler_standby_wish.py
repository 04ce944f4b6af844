"""How many warm processes the scheduler wishes for."""

from hypothesis import given
from hypothesis import strategies as st

from greenroom.scheduler.pool_facts import RunnerFacts
from greenroom.scheduler.standby_wish import MOST, wishes

TWO = (RunnerFacts(id="a", slots=24), RunnerFacts(id="b", slots=24))


def test_what_comes_in_a_burst_is_shared_out() -> None:
    """Each runner has as many waiting as come to it in two seconds."""
    assert wishes(TWO, 10.0) == {"a": 10, "b": 10}


def test_now_and_then_needs_no_wish() -> None:
    """Where sessions come slowly, what runners keep by themselves is enough."""
    assert wishes(TWO, 3.0) == {}
    assert wishes((), 100.0) == {}


def test_who_takes_nothing_new_is_not_asked() -> None:
    """Runners that drain, or are there for one session, have no processes waiting."""
    busy = (*TWO, RunnerFacts(id="c", slots=24, draining=True), RunnerFacts(id="d", slots=1, claim="s-1"))
    assert wishes(busy, 10.0) == {"a": 10, "b": 10}


@given(st.integers(1, 50), st.floats(0, 1e4))
def test_a_wish_is_within_bounds(runners: int, arrivals_per_s: float) -> None:
    """Never more than a runner would take, and together enough for two seconds unless that is the bound."""
    pool = tuple(RunnerFacts(id=str(number), slots=24) for number in range(runners))
    wished = wishes(pool, arrivals_per_s)
    assert all(4 < count <= MOST for count in wished.values())
    if wished and max(wished.values()) < MOST:
        assert sum(wished.values()) >= arrivals_per_s * 2
