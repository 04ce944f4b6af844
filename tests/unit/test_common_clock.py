"""Times as numbers, and back."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.clock import from_ns, to_ns


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_a_time_comes_back_as_it_was(at: datetime) -> None:
    """To the microsecond, in whatever zone it was given."""
    assert from_ns(to_ns(at)) == at
    assert from_ns(to_ns(at) + 999) == at


def test_nanoseconds_are_counted_from_1970() -> None:
    """As `time.time_ns` and the broker count them."""
    assert to_ns(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005_000
