"""What the calendar asks for: schedules in the local time of their zones, and reservations.

A window is one stretch of time whatever the clocks do. Where they are put back it begins at the first time that they
show `begin` and ends at the last time that they show `end`; where they are put forward over either, that one is the
moment of the change. So nothing is counted twice or cut in two, and a night in which it matters is a warm one.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from greenroom.common.policy import Reservation, Schedule

_DAY: Final = timedelta(days=1)
# A window that the clocks skipped altogether comes again in the week after: how far the next change can be.
_HORIZON: Final = timedelta(days=15)
# A window over midnight is as of the day before; where clocks are put back over midnight one day more on either side.
_MARGIN_DAYS: Final = (-2, 1)


def warm_at(schedules: Iterable[Schedule], at: datetime, *, ahead: timedelta = timedelta()) -> int:
    """Return how many slots the schedules want warm: the largest of those that hold.

    Args:
        schedules: of one pool. One whose zone isn't known here never holds (see `unknown_zones`).
        at: the moment, time-zone aware.
        ahead: those that begin within this time count too, for slots that take so long to come up.
    """
    return max((each.warm for each in schedules if any(_windows(each, at, at + ahead))), default=0)


def reserved_at(reservations: Iterable[Reservation], pool: str, at: datetime, *, ahead: timedelta = timedelta()) -> int:
    """Return how many slots are reserved in a pool: the sum of the reservations that hold.

    Args:
        reservations: of all pools.
        pool: the one that counts.
        at: the moment, time-zone aware.
        ahead: the largest sum within this time from `at` counts; of two that follow each other only one is needed.
    """
    near = [each for each in reservations if each.pool == pool and each.starts_at <= at + ahead and each.ends_at > at]
    moments = [at, *(each.starts_at for each in near if each.starts_at > at)]
    return max(sum(each.warm for each in near if each.starts_at <= moment < each.ends_at) for moment in moments)


def next_change(
    schedules: Sequence[Schedule], reservations: Sequence[Reservation], pool: str, after: datetime
) -> datetime | None:
    """Return when the calendar will first want another number of slots of a pool than it does at `after`, UTC.

    Returns:
        None when it won't: as far as reservations go ever, as far as schedules go within 15 days.
    """

    def wanted(at: datetime) -> tuple[int, int]:
        return warm_at(schedules, at), reserved_at(reservations, pool, at)

    edges = {edge for each in schedules for window in _windows(each, after, after + _HORIZON) for edge in window}
    edges |= {edge.astimezone(UTC) for each in reservations for edge in (each.starts_at, each.ends_at)}
    now = wanted(after)
    return next((edge for edge in sorted(edges) if edge > after and wanted(edge) != now), None)


def unknown_zones(schedules: Iterable[Schedule]) -> tuple[str, ...]:
    """Return the zones of schedules that this host's time-zone database doesn't have, in order."""
    return tuple(sorted({each.zone for each in schedules if _zone(each.zone) is None}))


# ---------------------------------------------------------------------------- windows


def _windows(schedule: Schedule, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Return the windows that have an instant in common with the closed span, as UTC begin and (exclusive) end."""
    zone = _zone(schedule.zone)
    if zone is None:
        return
    begin, end = _naive(schedule.begin), _naive(schedule.end)
    first, last = (
        moment.astimezone(zone).date() + margin * _DAY
        for moment, margin in zip((since, until), _MARGIN_DAYS, strict=True)
    )
    for number in range((last - first).days + 1):
        day = first + number * _DAY
        if day.weekday() not in schedule.days:
            continue
        opens = _instant(datetime.combine(day, begin), zone, fold=0)
        closes = _instant(datetime.combine(day if begin < end else day + _DAY, end), zone, fold=1)
        # The clocks may have gone over all of it.
        if opens < closes and opens <= until and closes > since:
            yield opens, closes


def _instant(wall: datetime, zone: ZoneInfo, *, fold: int) -> datetime:
    """Return when clocks of a zone show `wall`, for the first (`fold` 0) or last (1) time, or first show more."""
    instant = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    return instant if _shown(instant, zone) == wall else _jump(wall, zone)


def _jump(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return when clocks were put forward over `wall`, which they never show; they are on full seconds."""
    # Read by the offset after the change, such a time is before the change, and the other way round.
    before, after = (wall.replace(tzinfo=zone, fold=fold, microsecond=0).astimezone(UTC) for fold in (1, 0))
    while (gap := (after - before) // timedelta(seconds=1)) > 1:
        middle = before + timedelta(seconds=gap // 2)
        if _shown(middle, zone) < wall:
            before = middle
        else:
            after = middle
    return after


def _shown(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def _naive(clock: time) -> time:
    """Return a time of day without an offset of its own, which has no meaning beside a zone."""
    return clock.replace(tzinfo=None, fold=0)


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo | None:
    """Return a zone of the time-zone database, or None; a mistyped one mustn't stop the schedules of others."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return None
