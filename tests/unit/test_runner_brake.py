"""When the brake engages and lets go, and when starts are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.brake import CALM_S, HOLD_S, Brake, Reading, Thresholds, follow, overload

THRESHOLDS = Thresholds(loop_lag_ms=50, cpu_pressure_percent=90, memory_percent=5, refuse_memory_percent=2)
FINE = Reading(loop_lag_ms=2, cpu_pressure_percent=40, memory_available_percent=60)
SLOW = Reading(loop_lag_ms=80, cpu_pressure_percent=40, memory_available_percent=60)


def play(*readings: tuple[float, Reading], thresholds: Thresholds = THRESHOLDS) -> Brake:
    """Follow readings at their times."""
    brake = Brake()
    for now, reading in readings:
        brake = follow(brake, reading, now, thresholds)
    return brake


def test_a_slow_loop_brakes_after_some_seconds() -> None:
    """Lag beyond the threshold in every look for 3 s engages the brake, and the reason has what was measured."""
    assert play((0.0, SLOW), (1.0, SLOW), (2.9, SLOW)).reason is None
    assert play((0.0, SLOW), (1.0, SLOW), (3.0, SLOW)).reason == "loop lag 80 ms for 3 s"


def test_one_slow_moment_is_forgotten() -> None:
    """One look without lag begins the count anew."""
    assert play((0.0, SLOW), (2.0, FINE), (3.0, SLOW), (5.0, SLOW)).reason is None


def test_memory_brakes_at_once() -> None:
    """What is short of memory is killed rather than slow, so there is nothing to wait for."""
    short = Reading(loop_lag_ms=2, memory_available_percent=3.2)
    assert play((0.0, short)).reason == "3 % memory available"


def test_pressure_lets_go_near_the_end_of_its_scale() -> None:
    """What a busy and healthy host has doesn't keep the brake engaged."""
    thresholds = Thresholds(cpu_pressure_percent=98)
    high, fine, barely = (Reading(cpu_pressure_percent=percent) for percent in (99, 85, 92))
    engaged = ((0.0, high), (3.0, high))
    assert play(*engaged, (4.0, fine), (9.0, fine), thresholds=thresholds) == Brake()
    assert play(*engaged, (4.0, barely), (60.0, barely), thresholds=thresholds).reason == "CPU pressure 99 % for 3 s"


def test_processor_pressure_brakes_where_it_is_asked_for() -> None:
    """Pressure counts like lag; a host that doesn't tell it, or a threshold of 0, leaves it out."""
    busy = Reading(cpu_pressure_percent=97)
    assert play((0.0, busy), (4.0, busy)).reason == "CPU pressure 97 % for 4 s"
    assert play((0.0, Reading()), (4.0, Reading())).reason is None
    assert play((0.0, busy), (4.0, busy), thresholds=Thresholds(loop_lag_ms=50)).reason is None


def test_a_throttled_group_brakes() -> None:
    """A quota that is used up in many periods engages the brake, and lets go when it is used up in few."""
    thresholds = Thresholds(throttled_percent=10)
    short, fine = Reading(throttled_percent=34), Reading(throttled_percent=2)
    assert play((0.0, short), (3.0, short), thresholds=thresholds).reason == "CPU throttled in 34 % of periods for 3 s"
    engaged = ((0.0, short), (3.0, short), (4.0, fine))
    assert play(*engaged, (8.9, fine), thresholds=thresholds).reason is not None
    assert play(*engaged, (9.0, fine), thresholds=thresholds) == Brake()
    assert play((0.0, Reading()), (9.0, Reading()), thresholds=thresholds).reason is None


def test_all_reasons_are_told() -> None:
    """Two measures beyond their thresholds are both in the reason."""
    bad = Reading(loop_lag_ms=120, memory_available_percent=1)
    assert play((0.0, SLOW), (3.0, bad)).reason == "loop lag 120 ms for 3 s; 1 % memory available"


def test_the_brake_lets_go_after_a_calm_time() -> None:
    """It holds, with the reason it had, until everything has been well below the thresholds for 5 s on end."""
    engaged = ((0.0, SLOW), (3.0, SLOW))
    worse = Reading(loop_lag_ms=300)
    barely = Reading(loop_lag_ms=45)
    assert play(*engaged, (4.0, worse)).reason == "loop lag 80 ms for 3 s"
    assert play(*engaged, (4.0, FINE), (8.9, FINE)).reason is not None
    assert play(*engaged, (4.0, FINE), (9.0, FINE)) == Brake()
    assert play(*engaged, (4.0, FINE), (8.0, barely), (9.0, FINE), (13.9, FINE)).reason is not None
    assert play(*engaged, (4.0, barely), (60.0, barely)).reason is not None


def test_without_thresholds_nothing_brakes() -> None:
    """Switched off, it never engages, and nothing is refused."""
    awful = Reading(loop_lag_ms=9000, cpu_pressure_percent=100, memory_available_percent=0)
    assert play((0.0, awful), (60.0, awful), thresholds=Thresholds()).reason is None
    assert overload(0.0, Thresholds()) is None


@pytest.mark.parametrize(("available", "reason"), [(None, None), (2.0, None), (1.4, "1 % memory available")])
def test_starts_are_refused_below_the_floor(available: float | None, reason: str | None) -> None:
    """Below the floor a start is refused with the measured share; a host that doesn't tell refuses nothing."""
    assert overload(available, THRESHOLDS) == reason


@given(st.lists(st.tuples(st.floats(0.1, 3.0), st.sampled_from([0.0, 20.0, 34.0, 36.0, 49.0, 51.0, 500.0]))))
def test_the_brake_does_not_flutter(steps: list[tuple[float, float]]) -> None:
    """Whatever is measured, it engages after 3 s of lag at the earliest and then holds for 5 s at least."""
    brake, now, changes = Brake(), 0.0, [0.0]
    for step_s, lag_ms in steps:
        now += step_s
        after = follow(brake, Reading(loop_lag_ms=lag_ms), now, THRESHOLDS)
        if (after.reason is None) != (brake.reason is None):
            least_s = HOLD_S if after.reason else CALM_S
            assert now - changes[-1] >= least_s - 1e-9
            changes.append(now)
        brake = after
