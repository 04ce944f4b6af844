"""When the daily run is due: at a time of day on the clocks of a zone. Pure.

Where clocks are put forward over that time, it is the moment of the change; where they show it twice, the first one.
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_AT: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DAY: Final = timedelta(days=1)


def parse_at(text: str) -> time:
    """Return a time of day such as `03:30`.

    Raises:
        ValueError: it is none.
    """
    match = _AT.fullmatch(text)
    if match is None:
        msg = f"{text!r} isn't a time of day such as 03:30"
        raise ValueError(msg)
    return time(int(match[1]), int(match[2]))


def parse_zone(name: str) -> ZoneInfo:
    """Return a zone such as `Europe/Berlin`.

    Raises:
        ValueError: this host's time-zone database doesn't have it.
    """
    try:
        return ZoneInfo(name)
    except (LookupError, OSError) as error:
        msg = f"there is no time zone {name!r}"
        raise ValueError(msg) from error


def due_on(day: date, at: time, zone: ZoneInfo) -> datetime:
    """Return the moment, in UTC, at which the run of a day is due."""
    wall = datetime.combine(day, at)
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # The clocks skip it. With the offset of before the change it comes behind the change, and the other way round.
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while (gap := (first - early) // timedelta(seconds=1)) > 1:
        middle = early + timedelta(seconds=gap // 2)
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            early = middle
        else:
            first = middle
    return first


def last_due(now: datetime, at: time, zone: ZoneInfo) -> datetime:
    """Return the latest moment up to `now` at which a run was due, in UTC."""
    today = now.astimezone(zone).date()
    moments = (due_on(today + days * _DAY, at, zone) for days in (1, 0, -1, -2))
    return next(moment for moment in moments if moment <= now)
