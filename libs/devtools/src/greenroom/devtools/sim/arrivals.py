"""When callers come: seconds from the beginning, in order."""

import math
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from greenroom.devtools.sim.scenario import Burst, Callers, Diurnal, Recorded, Scenario, ScenarioInvalid, Steady

_HOUR_S: Final = 3600.0
_DAY_H: Final = 24.0


def times(scenario: Scenario, callers: Callers, chance: random.Random) -> Iterator[float]:
    """Yield when callers come, until the end of the scenario or theirs.

    Raises:
        ScenarioInvalid: a file of times has a line that isn't one.
    """
    end = min(scenario.duration_s, callers.ends_s or scenario.duration_s)
    begin = callers.begins_s
    match callers.when:
        case Recorded():
            yield from (time for time in _recorded(Path(scenario.folder, callers.when.file)) if begin <= time < end)
        case Steady(regular=True):
            number, gap = 0, 1 / callers.when.per_s
            while (at := begin + number * gap) < end:
                yield at
                number += 1
        case _:
            yield from _poisson(callers.when, scenario.begins, begin, end, chance)


def rate(when: Steady | Diurnal | Burst, begins: datetime, at_s: float) -> float:
    """Return how many callers come in a second, on average, at a time."""
    match when:
        case Steady():
            return when.per_s
        case Burst():
            return when.per_s * (when.times if when.at_s <= at_s < when.at_s + when.for_s else 1.0)
        case Diurnal():
            hour = begins.hour + begins.minute / 60 + begins.second / _HOUR_S + at_s / _HOUR_S
            height = (1 + math.cos(2 * math.pi * (hour - when.peak_hour) / _DAY_H)) / 2
            return when.low_per_s + (when.peak_per_s - when.low_per_s) * height**when.sharpness


def _poisson(
    when: Steady | Diurnal | Burst, begins: datetime, begin: float, end: float, chance: random.Random
) -> Iterator[float]:
    """Yield the times of a Poisson process of changing rate: one of the highest rate, thinned (Lewis and Shedler)."""
    highest = _highest(when)
    at = begin
    while (at := at + chance.expovariate(highest)) < end:
        if isinstance(when, Steady) or chance.random() * highest < rate(when, begins, at):
            yield at


def _highest(when: Steady | Diurnal | Burst) -> float:
    match when:
        case Steady():
            return when.per_s
        case Burst():
            return when.per_s * max(when.times, 1.0)
        case Diurnal():
            return when.peak_per_s


def _recorded(path: Path) -> list[float]:
    found: list[float] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found.append(float(text))
        except ValueError as error:
            raise ScenarioInvalid(f"{path}: line {number} isn't a number of seconds: {text}") from error
    return sorted(found)
