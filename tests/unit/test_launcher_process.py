"""When a runner that ends at once is started again."""

from datetime import UTC, datetime, timedelta

from greenroom.scheduler.launchers.process_crashes import crash_loop
from greenroom.scheduler.launchers.process_state import Record

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_each_crash_doubles_the_wait_up_to_a_minute() -> None:
    """Counted from the end of the last one."""
    waits: list[float] = []
    for count in range(1, 9):
        loop = crash_loop([_record(number) for number in range(count)], "blue")
        assert loop is not None
        assert (loop.count, loop.last.id) == (count, f"blue-{count - 1}")
        waits.append((loop.next_try_at - (loop.last.ended_at or _NOW)).total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_one_that_worked_or_was_asked_to_end_ends_the_loop() -> None:
    """So do no others than those of the same group count."""
    crashes = [_record(number) for number in range(3)]
    assert crash_loop([*crashes, _record(3, lived_s=11)], "blue") is None
    assert crash_loop([*crashes, _record(3, asked=True)], "blue") is None
    assert crash_loop(crashes, "green") is None
    cold = [_record(number, launch_id=f"s-{number}") for number in range(3)]
    assert crash_loop(cold, "blue") is None
    loop = crash_loop([_record(0, lived_s=11), _record(1), _record(2)], "blue")
    assert loop is not None
    assert loop.count == 2


def test_the_text_names_the_log_and_an_exit_code_if_somebody_saw_it() -> None:
    """What was adopted from another scheduler was nobody's child."""
    loop = crash_loop([_record(0)], "blue")
    assert loop is not None
    assert loop.text(_NOW + timedelta(seconds=1)) == (
        "the last 1 runners ended at once (exit code unknown, log blue-0.log); next try in 1 s"
    )


def _record(number: int, *, lived_s: float = 1.0, asked: bool = False, launch_id: str | None = None) -> Record:
    since = _NOW + timedelta(seconds=20 * number)
    ended_at = since + timedelta(seconds=lived_s)
    return Record(
        id=f"blue-{number}",
        pool="blue",
        ordinal=None if launch_id else 0,
        launch_id=launch_id,
        generation=number + 1,
        since=since,
        stopping_at=ended_at if asked else None,
        ended_at=ended_at,
    )
