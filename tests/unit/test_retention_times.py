"""When the daily run is due, whatever the clocks do."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.recorder.retention.times import due_on, last_due, parse_at, parse_zone
from greenroom.recorder.settings import RecorderSettings

ZONES = ("Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns", "UTC")
moments = st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 given below
times = st.builds(time, st.integers(0, 23), st.integers(0, 59))
zones = st.sampled_from(ZONES).map(ZoneInfo)


@pytest.mark.parametrize(
    ("day", "at", "utc"),
    [
        ("2026-06-01", "03:30", "2026-06-01 01:30"),
        ("2026-12-01", "03:30", "2026-12-01 02:30"),
        # Put forward from 02:00 to 03:00: the moment of the change.
        ("2026-03-29", "02:30", "2026-03-29 01:00"),
        ("2026-03-29", "03:30", "2026-03-29 01:30"),
        # Put back from 03:00 to 02:00: the first of the two.
        ("2026-10-25", "02:30", "2026-10-25 00:30"),
        ("2026-10-25", "03:30", "2026-10-25 02:30"),
    ],
)
def test_in_berlin(day: str, at: str, utc: str) -> None:
    """It is due at that time on the clocks there, in the night of a change too."""
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert due_on(date.fromisoformat(day), parse_at(at), ZoneInfo("Europe/Berlin")) == expected


@given(moments, times, zones)
@example(datetime(2026, 3, 8, 5, 0, tzinfo=UTC), time(0, 30), ZoneInfo("America/Havana"))
def test_the_last_one_is_the_last_one(now: datetime, at: time, zone: ZoneInfo) -> None:
    """It isn't in the future, and none is due between it and now."""
    last = last_due(now, at, zone)
    assert last <= now
    today = now.astimezone(zone).date()
    for number in range(-3, 3):
        moment = due_on(today + timedelta(days=number), at, zone)
        assert moment <= last or moment > now


@given(moments, times, zones)
def test_one_run_a_day(now: datetime, at: time, zone: ZoneInfo) -> None:
    """From one run to the next it is a day, give or take a change of the clocks."""
    day = now.astimezone(zone).date()
    apart = due_on(day + timedelta(days=1), at, zone) - due_on(day, at, zone)
    assert timedelta(hours=22, minutes=30) <= apart <= timedelta(hours=25, minutes=30)


@pytest.mark.parametrize("text", ["3:30", "24:00", "03:60", "03:30:00", "", "noon"])
def test_no_time(text: str) -> None:
    """What is no time of day isn't taken for one."""
    with pytest.raises(ValueError, match="isn't a time of day"):
        parse_at(text)


@pytest.mark.parametrize(
    ("name", "value"), [("GREENROOM_RETENTION_AT", "25:00"), ("GREENROOM_RETENTION_ZONE", "Europe/Nowhere")]
)
def test_settings_that_mean_nothing(name: str, value: str) -> None:
    """A recorder whose time or zone is none doesn't start, and says which variable it is."""
    with pytest.raises(SettingsInvalid, match=name):
        load(RecorderSettings, {"DATABASE_URL": "postgresql://", name: value})


def test_there_are_zones() -> None:
    """Zones are found by their names."""
    assert parse_zone("Europe/Berlin").key == "Europe/Berlin"
