"""The calendar: schedules in local time, reservations, and what the clocks do to them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenroom.common.policy import Reservation, Schedule
from greenroom.scheduler.schedule import next_change, reserved_at, unknown_zones, warm_at

WEEKDAYS = (0, 1, 2, 3, 4)
EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)
MINUTE = timedelta(minutes=1)

# Zones and days on which their clocks are changed: by an hour, by half of one, at midnight, over midnight, by a day.
CHANGES = (
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/St_Johns", date(2010, 11, 7)),
    ("America/St_Johns", date(2010, 3, 14)),
    ("America/Havana", date(2026, 3, 8)),
    ("America/Havana", date(2026, 11, 1)),
    ("Africa/Cairo", date(2026, 4, 24)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Asia/Kolkata", date(2026, 6, 1)),
    ("UTC", date(2026, 6, 1)),
)


def schedule(begin: str, end: str, warm: int = 40, *, days: Sequence[int] = EVERY_DAY, zone: str = "UTC") -> Schedule:
    """Return a schedule with times like `08:00`."""
    return Schedule(
        days=tuple(days), begin=time.fromisoformat(begin), end=time.fromisoformat(end), zone=zone, warm=warm
    )


def local(text: str, zone: str, *, fold: int = 0) -> datetime:
    """Return the moment at which clocks of a zone show `text`, e.g. `2026-01-05 08:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


# ---------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("text", "warm"),
    [
        ("2026-01-05 07:59:59", 0),
        ("2026-01-05 08:00", 40),
        ("2026-01-09 17:59:59", 40),
        ("2026-01-09 18:00", 0),
        ("2026-01-10 12:00", 0),
        ("2026-07-06 08:00", 40),
    ],
)
def test_weekdays_in_berlin(text: str, warm: int) -> None:
    """`weekdays 08:00–18:00 Europe/Berlin: 40` means Berlin's clocks, in winter and in summer."""
    office = schedule("08:00", "18:00", days=WEEKDAYS, zone="Europe/Berlin")

    assert warm_at([office], local(text, "Europe/Berlin")) == warm


@pytest.mark.parametrize(
    ("text", "warm"),
    [
        ("2026-01-09 22:00", 7),
        ("2026-01-10 05:59", 7),
        ("2026-01-10 06:00", 0),
        ("2026-01-09 05:00", 0),
        ("2026-01-10 23:00", 0),
    ],
)
def test_over_midnight(text: str, warm: int) -> None:
    """A window whose end isn't after its begin ends on the day after; its day is the one on which it begins."""
    friday_night = schedule("22:00", "06:00", 7, days=[4])

    assert warm_at([friday_night], local(text, "UTC")) == warm


def test_a_whole_day() -> None:
    """A window that ends when it begins lasts for a day."""
    monday = schedule("08:00", "08:00", 3, days=[0])

    assert warm_at([monday], local("2026-01-06 07:59", "UTC")) == 3
    assert warm_at([monday], local("2026-01-06 08:00", "UTC")) == 0


def test_the_largest_counts() -> None:
    """Of several schedules that hold, the largest counts."""
    both = [schedule("08:00", "18:00", 40), schedule("12:00", "13:00", 60), schedule("00:00", "00:00", 5)]

    assert [warm_at(both, local(f"2026-01-05 {hour}:30", "UTC")) for hour in ("07", "11", "12", "18")] == [5, 40, 60, 5]


def test_begins_where_clocks_go_forward() -> None:
    """A begin that the clocks skip is the moment at which they skip it."""
    early = schedule("02:30", "05:00", zone="Europe/Berlin")
    change = local("2026-03-29 03:00", "Europe/Berlin")

    assert warm_at([early], change - MINUTE) == 0
    assert warm_at([early], change) == 40


def test_lasts_where_clocks_go_back() -> None:
    """What ends in the hour that comes twice ends the second time, and doesn't pause in between."""
    late = schedule("01:00", "02:30", zone="Europe/Berlin")
    first, second = (local("2026-10-25 02:30", "Europe/Berlin", fold=fold) for fold in (0, 1))

    assert second - first == timedelta(hours=1)
    assert {warm_at([late], first + number * MINUTE) for number in range(60)} == {40}
    assert warm_at([late], second) == 0


def test_a_skipped_window() -> None:
    """A window that the clocks go over as a whole isn't."""
    night = schedule("02:15", "02:45", zone="Europe/Berlin")
    begin = local("2026-03-29 00:00", "Europe/Berlin")

    assert {warm_at([night], begin + number * MINUTE) for number in range(24 * 60)} == {0}


def test_looks_ahead() -> None:
    """What begins at eight counts as early as slots for it have to be launched."""
    office = schedule("08:00", "18:00")
    ahead = timedelta(seconds=30)

    assert warm_at([office], local("2026-01-05 07:59:29", "UTC"), ahead=ahead) == 0
    assert warm_at([office], local("2026-01-05 07:59:30", "UTC"), ahead=ahead) == 40
    assert warm_at([office], local("2026-01-05 18:00", "UTC"), ahead=ahead) == 0


@pytest.mark.parametrize("zone", ["Europe/Berlln", "", "../etc", "/etc/passwd", "Europe"])
def test_an_unknown_zone(zone: str) -> None:
    """A schedule in a zone that doesn't exist never holds, and doesn't stop the others."""
    both = [schedule("00:00", "00:00", 9, zone=zone), schedule("00:00", "00:00", 2)]

    assert warm_at(both, local("2026-01-05 08:00", "UTC")) == 2
    assert unknown_zones(both) == (zone,)


# ---------------------------------------------------------------------------- against brute force


@st.composite
def schedules(draw: st.DrawFn, zone: str) -> Schedule:
    """Draw a schedule of a zone, with times that are often near those at which clocks are changed."""
    clock = st.one_of(st.integers(0, 4 * 60), st.integers(0, 24 * 60 - 1)).map(lambda each: divmod(each, 60))
    (begin_hour, begin_minute), (end_hour, end_minute) = draw(clock), draw(clock)
    return Schedule(
        days=tuple(sorted(draw(st.sets(st.integers(0, 6), min_size=1)))),
        begin=time(begin_hour, begin_minute),
        end=time(end_hour, end_minute),
        zone=zone,
        warm=draw(st.integers(1, 9)),
    )


@st.composite
def moments(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """Draw a schedule and a minute on or about a day on which the clocks of its zone are changed."""
    zone, day = draw(st.sampled_from(CHANGES))
    minutes = draw(st.integers(-36 * 60, 60 * 60))
    return draw(schedules(zone)), datetime.combine(day, time(), tzinfo=UTC) + minutes * MINUTE


def holds_by_walking(each: Schedule, moment: datetime) -> bool:
    """Tell whether a schedule holds by looking at a clock of its zone minute by minute."""
    zone = ZoneInfo(each.zone)
    span = [moment + number * MINUTE for number in range(-5 * 24 * 60, 5 * 24 * 60)]
    shown = [minute.astimezone(zone).replace(tzinfo=None) for minute in span]
    for days in range(-3, 3):
        day = moment.date() + timedelta(days=days)
        if day.weekday() not in each.days:
            continue
        begin = datetime.combine(day, each.begin)
        end = datetime.combine(day, each.end) + timedelta(days=each.end <= each.begin)
        # From the first minute that shows the begin or more, to the last that shows less than the end.
        opens = next(minute for minute, clock in zip(span, shown, strict=True) if clock >= begin)
        closes = next(minute for minute, clock in zip(reversed(span), reversed(shown), strict=True) if clock < end)
        if opens <= moment <= closes:
            return True
    return False


@given(moments())
@example((schedule("00:00", "00:30", zone="America/St_Johns"), local("2010-11-06 23:45", "America/St_Johns", fold=1)))
@settings(max_examples=60, deadline=None)
def test_as_by_walking(drawn: tuple[Schedule, datetime]) -> None:
    """A schedule holds from the first time a clock on the wall shows its begin to the last before it shows its end."""
    each, moment = drawn

    assert (warm_at([each], moment) > 0) == holds_by_walking(each, moment)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_next_change_is_the_next(data: st.DataObject) -> None:
    """Until the next change the calendar wants the same number of slots at any moment, and then another."""
    zone, day = data.draw(st.sampled_from(CHANGES))
    after = datetime.combine(day, time(), tzinfo=UTC) + data.draw(st.integers(-2000, 2000)) * MINUTE
    known = data.draw(st.lists(schedules(zone), max_size=3))
    booked = data.draw(st.lists(reservations(after), max_size=3))

    def calendar(moment: datetime) -> tuple[int, int]:
        return warm_at(known, moment), reserved_at(booked, "default", moment)

    change = next_change(known, booked, "default", after)

    if change is not None:
        assert change > after
        assert calendar(change) != calendar(after)
    span = (change or after + timedelta(days=9)) - after
    shares = data.draw(st.lists(st.floats(0, 0.9999), min_size=20, max_size=20))
    assert {calendar(after + span * share) for share in shares} == {calendar(after)}


# ---------------------------------------------------------------------------- reservations


@st.composite
def reservations(draw: st.DrawFn, about: datetime) -> Reservation:
    """Draw a reservation within a few days of a moment."""
    starts_at = about + draw(st.integers(-2000, 2000)) * MINUTE
    ends_at = starts_at + draw(st.integers(1, 1000)) * MINUTE
    return Reservation(id="r", pool="default", warm=draw(st.integers(1, 9)), starts_at=starts_at, ends_at=ends_at)


def reservation(warm: int, begin: int, end: int, pool: str = "default") -> Reservation:
    """Return a reservation from one hour of a day to another."""
    day = datetime(2026, 1, 5, tzinfo=UTC)
    return Reservation(
        id=f"{pool}-{begin}", pool=pool, warm=warm, starts_at=day.replace(hour=begin), ends_at=day.replace(hour=end)
    )


def test_reservations_add_up() -> None:
    """Reservations of a pool that hold at one time add up, and end when they end."""
    booked = [reservation(10, 8, 12), reservation(5, 10, 14), reservation(90, 8, 14, pool="gpu")]

    assert [reserved_at(booked, "default", local(f"2026-01-05 {hour}:00", "UTC")) for hour in ("07", "09")] == [0, 10]
    assert [reserved_at(booked, "default", local(f"2026-01-05 {hour}:00", "UTC")) for hour in ("11", "12")] == [15, 5]


def test_reservations_in_turn() -> None:
    """Of two reservations that follow each other, the coming one isn't added to the one that is about to end."""
    booked = [reservation(10, 8, 10), reservation(12, 10, 14)]
    ahead = timedelta(minutes=1)

    assert reserved_at(booked, "default", local("2026-01-05 09:59:30", "UTC"), ahead=ahead) == 12
    assert reserved_at(booked, "default", local("2026-01-05 07:59:30", "UTC"), ahead=ahead) == 10


def test_nothing_changes() -> None:
    """A calendar that wants the same at all times has no next change."""
    always = schedule("00:00", "00:00", zone="Europe/Berlin")

    assert next_change([always], [], "default", local("2026-03-20 00:00", "UTC")) is None
