"""The breaker: what fails again and again is tried less and less often."""

from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.scheduler.breaker import (
    CLOSED,
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    Breaker,
    begun,
    delay_s,
    failed,
    succeeded,
    verdict,
)
from tests.support.capacity_pools import NOW, at


def fail(breaker: Breaker, *seconds: float, what: str = "no claim within 90 s") -> Breaker:
    """Return the breaker after failures at some times, each of something begun a second before."""
    for second in seconds:
        breaker = failed(breaker, at(second), what, begun_at=at(second - 1))
    return breaker


def test_closed_at_first() -> None:
    """Two failures in a row hold nothing back."""
    assert verdict(CLOSED, NOW).allowed is None
    assert verdict(fail(CLOSED, 1, 2), at(2)).allowed is None


def test_opens_with_a_reason() -> None:
    """The third failure in a row opens it, and it says how many there were, what the last was, and when it tries."""
    known = verdict(fail(CLOSED, 1, 2, 3, what="exit code 1"), at(4))

    assert known.allowed == 0
    assert known.reason == "3 launches failed in a row, last: exit code 1; next try in 9 s"
    assert known.until == at(13)


def test_a_success_in_between() -> None:
    """Only failures in a row count."""
    assert verdict(fail(succeeded(fail(CLOSED, 1, 2)), 3, 4), at(4)).allowed is None


def test_one_try() -> None:
    """When the delay is over one try is let through, and no other until that one's outcome is known."""
    opened = fail(CLOSED, 1, 2, 3)
    tried = begun(opened, at(14), patience_s=150)

    assert verdict(opened, at(13)).allowed == 1
    assert verdict(tried, at(15)).allowed == 0
    assert "one try is under way" in (verdict(tried, at(15)).reason or "")
    assert verdict(succeeded(tried), at(16)).allowed is None


def test_a_try_that_is_never_heard_of() -> None:
    """A try of which nothing is heard is given up, and another is let through."""
    tried = begun(fail(CLOSED, 1, 2, 3), at(14), patience_s=150)

    assert verdict(tried, at(164)).allowed == 1


def test_backs_off() -> None:
    """Each try that fails doubles the delay, up to five minutes."""
    breaker, now, delays = fail(CLOSED, 1, 2, 3), 3.0, list[float]()
    for _ in range(8):
        until = verdict(breaker, at(now)).until
        assert until is not None
        delays.append((until - at(now)).total_seconds())
        assert verdict(breaker, until).allowed == 1
        now = (until - NOW).total_seconds() + 2
        breaker = fail(begun(breaker, at(now - 1), patience_s=150), now)

    assert delays == [10, 20, 40, 80, 160, 300, 300, 300]


def test_failures_that_were_on_their_way() -> None:
    """What was begun before it opened and fails later is counted, but doesn't make it wait longer."""
    opened = fail(CLOSED, 1, 2, 3)
    late = failed(opened, at(90), "no claim within 90 s", begun_at=at(0))

    assert late.failures == 4
    assert verdict(late, at(90)).allowed == 1
    assert late.opened == 1


def test_a_clock_that_is_set_back() -> None:
    """An hour that comes twice isn't waited for twice, and the one try stays one."""
    opened = fail(CLOSED, 1, 2, 3)
    hour = timedelta(hours=1)

    assert verdict(opened, at(4) - hour).allowed == 1
    assert verdict(begun(opened, at(4) - hour, patience_s=150), at(5) - hour).allowed == 0


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["fail", "succeed", "begin"])), max_size=60))
@settings(max_examples=60, deadline=None)
def test_never_holds_for_ever(steps: list[tuple[float, str]]) -> None:
    """Whatever happened, a try is let through within the longest delay, or when the one under way is given up."""
    breaker, now = CLOSED, NOW
    for pause_s, step in steps:
        now += timedelta(seconds=pause_s)
        breaker = _step(breaker, step, now)
        known = verdict(breaker, now)
        assert known.allowed is None or (known.reason or "").startswith(f"{breaker.failures} launches failed")
        assert verdict(breaker, now + timedelta(seconds=LONGEST_DELAY_S)).allowed != 0
        assert known.until is None or known.until > now


def _step(breaker: Breaker, step: str, now: datetime) -> Breaker:
    if step == "begin":
        return begun(breaker, now, patience_s=150)
    return succeeded(breaker) if step == "succeed" else failed(breaker, now, "x", begun_at=now)


def test_delays() -> None:
    """Delays double from the first to the longest, however often it opens."""
    assert [delay_s(1), delay_s(2), delay_s(10_000)] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, LONGEST_DELAY_S]
