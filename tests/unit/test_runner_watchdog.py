"""Whether a session's process is well."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.watchdog import AT_ONCE, Bounds, MemoryHigh, MemoryOver, ProcessesOver, Unresponsive, Watchdog

MB = 2**20
BOUNDS = Bounds(unresponsive_s=5, memory_warn=100 * MB, memory_kill=200 * MB)


def test_a_process_that_answers_is_left_alone() -> None:
    """Whoever says something now and then isn't unresponsive, however long it lives."""
    dog = Watchdog(BOUNDS)
    for second in range(100):
        if second % 4 == 0:
            dog.heard()
        assert dog.look(second, used=50 * MB) == []


def test_a_process_that_is_silent_is_found_out() -> None:
    """Silence counts from the last word on."""
    dog = Watchdog(BOUNDS)
    found = [dog.look(second, used=None) for second in range(7)]
    assert found == [[], [], [], [], [], [Unresponsive(for_s=5.0)], [Unresponsive(for_s=6.0)]]


def test_a_runner_that_was_stopped_blames_nobody() -> None:
    """Time in which the runner itself didn't look counts for two seconds at most."""
    dog = Watchdog(BOUNDS)
    assert dog.look(0, used=None) == []
    assert dog.look(3600, used=None) == []
    assert dog.silent_s == 2.0


def test_memory_is_warned_of_once_and_again_after_it_was_well_below() -> None:
    """A process at the edge of the warning doesn't warn each second."""
    dog = Watchdog(BOUNDS)
    found = [dog.look(0, used=used * MB) for used in (99, 100, 99, 101, 89, 120)]
    assert found == [[], [MemoryHigh(used=100 * MB)], [], [], [], [MemoryHigh(used=120 * MB)]]


def test_memory_over_the_limit_ends_it() -> None:
    """A little over the limit there is time for a goodbye, far over it there is none."""
    assert Watchdog(BOUNDS).look(0, used=200 * MB) == [MemoryOver(used=200 * MB, at_once=False)]
    assert Watchdog(BOUNDS).look(0, used=250 * MB) == [MemoryOver(used=250 * MB, at_once=True)]


def test_as_many_processes_as_are_allowed_are_too_many() -> None:
    """It is counted no further than that, so there may be more; whatever else is wrong with it doesn't matter then."""
    dog = Watchdog(msgspec.structs.replace(BOUNDS, processes=32))
    assert dog.look(0, used=0, processes=31) == []
    assert dog.look(1, used=300 * MB, processes=32) == [ProcessesOver(count=32)]


def test_without_bounds_nothing_is_wrong() -> None:
    """0 is no bound."""
    dog = Watchdog(Bounds())
    assert [dog.look(second, used=10**12, processes=10**6) for second in range(100)] == [[]] * 100


@given(
    st.builds(
        Bounds,
        unresponsive_s=st.floats(0, 30),
        memory_warn=st.integers(0, 1000),
        memory_kill=st.integers(0, 1000),
    ),
    st.lists(st.tuples(st.floats(0, 10), st.booleans(), st.none() | st.integers(0, 2000)), max_size=50),
)
def test_a_finding_always_has_its_cause(bounds: Bounds, looks: list[tuple[float, bool, int | None]]) -> None:
    """Nothing is found below its bound, and what is beyond the bound for memory's end is always found."""
    dog, now, heard_at = Watchdog(bounds), 0.0, 0.0
    for passes, heard, used in looks:
        now += passes
        if heard:
            dog.heard()
            heard_at = now
        found = dog.look(now, used=used)
        for finding in found:
            match finding:
                case Unresponsive():
                    assert now - heard_at + 1e-6 + 0.05 >= bounds.unresponsive_s > 0
                case MemoryHigh():
                    assert used is not None
                    assert used >= bounds.memory_warn > 0
                case MemoryOver():
                    assert used is not None
                    assert used >= bounds.memory_kill > 0
                    assert finding.at_once == (used >= bounds.memory_kill * AT_ONCE)
                case ProcessesOver():
                    raise AssertionError("there was no bound")
        if used is not None and 0 < bounds.memory_kill <= used:
            assert any(isinstance(finding, MemoryOver) for finding in found)
