"""When a runner asks for nothing more although it has free slots. Pure: readings in, a reason out.

Slots say how much a host takes; the brake is for when that was too much. What counts is lateness, because that is
what callers hear. A control group that is throttled counts too: nothing of it runs for the rest of each period, tens of
milliseconds of silence for everybody at once. So does a network that is all but full: what callers say is dropped. And
so does processor pressure at the very end of its scale: below, it says that work had to wait for a processor, which is
so on any well-filled host, and not that anybody was late (ADR 23).

It engages when a threshold was exceeded for some seconds, and lets go when everything has been well on the good side
for longer than that, so that it doesn't flutter.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

# One slow moment (a fork, a garbage collection) isn't an overload.
HOLD_S: Final = 3.0
# Lets go later than it engages: the sessions that were placed meanwhile elsewhere don't come back at once.
CALM_S: Final = 5.0
# What counts as the good side: so much less lag and pressure than the threshold, so much more memory.
RELEASE_LESS: Final = 0.7
# Pressure says something near the end of its scale only.
RELEASE_LESS_PRESSURE: Final = 0.9
RELEASE_MORE: Final = 1.3


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """From where on it brakes; 0: that isn't looked at. `refuse_memory_percent` is the hard floor."""

    loop_lag_ms: float = 0.0
    cpu_pressure_percent: float = 0.0
    throttled_percent: float = 0.0
    network_percent: float = 0.0
    memory_percent: float = 0.0
    refuse_memory_percent: float = 0.0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured since the last reading; None: this host doesn't tell.

    Attributes:
        loop_lag_ms: worst lateness of the runner's event loop.
        cpu_pressure_percent: share of the last 10 s in which work waited for a processor.
        throttled_percent: share of the scheduler's periods in which the control group had used up its share of the
            processors and had to wait for the next one.
        network_percent: how full the fullest link is, in its busier direction, and `network_mbit` what it carries.
        memory_available_percent: of the host, or of what this process may use of it, whichever is less.
    """

    loop_lag_ms: float = 0.0
    cpu_pressure_percent: float | None = None
    throttled_percent: float | None = None
    network_percent: float | None = None
    network_mbit: int = 0
    memory_available_percent: float | None = None


class Brake(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the brake; times are seconds of any monotonic clock.

    Attributes:
        reason: what was measured when it engaged, e.g. `loop lag 120 ms for 3 s`; None: it doesn't brake.
        since: of each measure that is beyond its threshold, when that began.
        calm_since: since when everything has been on the good side, while it brakes.
    """

    reason: str | None = None
    since: dict[str, float] = {}
    calm_since: float | None = None


class _Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One measure, and how it stands: beyond its threshold, on the good side of it, or in between."""

    name: str
    text: str
    beyond: bool
    good: bool
    hold_s: float = HOLD_S


def follow(brake: Brake, reading: Reading, now: float, thresholds: Thresholds) -> Brake:
    """Return the state of the brake after a reading."""
    measures = tuple(_measures(reading, thresholds))
    since = {measure.name: brake.since.get(measure.name, now) for measure in measures if measure.beyond}
    if brake.reason is None:
        held = [measure for measure in measures if measure.beyond and now - since[measure.name] >= measure.hold_s]
        reason = "; ".join(_words(measure, now - since[measure.name]) for measure in held) or None
        return Brake(reason=reason, since=since)
    if not all(measure.good for measure in measures):
        return Brake(reason=brake.reason, since=since)
    calm_since = now if brake.calm_since is None else brake.calm_since
    if now - calm_since >= CALM_S:
        return Brake()
    return Brake(reason=brake.reason, since=since, calm_since=calm_since)


def overload(memory_available_percent: float | None, thresholds: Thresholds) -> str | None:
    """Return why even a start that has been placed here must be refused; None: it needn't be."""
    if memory_available_percent is None or memory_available_percent >= thresholds.refuse_memory_percent:
        return None
    return f"{memory_available_percent:.0f} % memory available"


def _measures(reading: Reading, thresholds: Thresholds) -> Iterator[_Measure]:
    lag, pressure, memory = reading.loop_lag_ms, reading.cpu_pressure_percent, reading.memory_available_percent
    if (most := thresholds.loop_lag_ms) > 0:
        yield _Measure(name="lag", text=f"loop lag {lag:.0f} ms", beyond=lag >= most, good=lag < most * RELEASE_LESS)
    if (most := thresholds.cpu_pressure_percent) > 0 and pressure is not None:
        text = f"CPU pressure {pressure:.0f} %"
        yield _Measure(name="cpu", text=text, beyond=pressure >= most, good=pressure < most * RELEASE_LESS_PRESSURE)
    throttled = reading.throttled_percent
    if (most := thresholds.throttled_percent) > 0 and throttled is not None:
        text = f"CPU throttled in {throttled:.0f} % of periods"
        yield _Measure(name="throttled", text=text, beyond=throttled >= most, good=throttled < most * RELEASE_LESS)
    network = reading.network_percent
    if (most := thresholds.network_percent) > 0 and network is not None:
        text = f"network {network:.0f} % of {reading.network_mbit} Mbit/s"
        yield _Measure(name="network", text=text, beyond=network >= most, good=network < most * RELEASE_LESS)
    if (least := thresholds.memory_percent) > 0 and memory is not None:
        # Memory doesn't come back by itself, and what is short of it is killed: nothing to wait for.
        good = memory >= min(least * RELEASE_MORE, 100.0)
        text = f"{memory:.0f} % memory available"
        yield _Measure(name="memory", text=text, beyond=memory < least, good=good, hold_s=0.0)


def _words(measure: _Measure, for_s: float) -> str:
    return f"{measure.text} for {for_s:.0f} s" if measure.hold_s else measure.text
