"""Virtual time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from greenroom.devtools.sim.clockwork import Clockwork

T0 = datetime(2026, 1, 1, tzinfo=UTC)


async def test_things_happen_in_their_order_and_time_jumps_from_one_to_the_next() -> None:
    """Of those at the same time the one that was asked for first is first."""
    clock, seen = Clockwork(T0), list[tuple[float, str]]()

    def note(name: str) -> None:
        seen.append((clock.now_s, name))
        if name == "b":
            clock.after(0, note, "d")

    for at_s, name in ((3600, "z"), (1, "b"), (1, "c"), (0.5, "a")):
        clock.at(at_s, note, name)
    await clock.run()
    assert seen == [(0.5, "a"), (1, "b"), (1, "c"), (1, "d"), (3600, "z")]
    assert clock.now() == T0 + timedelta(hours=1)


async def test_time_stands_still_while_a_coroutine_is_awake() -> None:
    """However often it lets others run, it is the same moment."""
    clock, seen = Clockwork(T0), list[float]()

    async def work() -> None:
        for _ in range(3):
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(clock.now_s)
            await clock.sleep(10)

    clock.joined()
    task = asyncio.create_task(work())
    task.add_done_callback(lambda task: clock.left(task.exception()))
    clock.at(1, lambda: None)
    await clock.run()
    assert seen == [0, 10, 20]
    assert clock.now_s == 30


async def test_a_coroutine_that_fails_ends_everything() -> None:
    """With its error; nothing that was to come happens."""
    clock, seen = Clockwork(T0), list[str]()

    async def work() -> None:
        await clock.sleep(1)
        raise ValueError("broken")

    clock.joined()
    task = asyncio.create_task(work())
    task.add_done_callback(lambda task: clock.left(task.exception()))
    clock.at(2, seen.append, "later")
    with pytest.raises(ValueError, match="broken"):
        await clock.run()
    assert seen == []


async def test_what_is_over_happens_now() -> None:
    """Nothing can be appointed for the past."""
    clock, seen = Clockwork(T0), list[float]()
    clock.at(5, lambda: clock.at(1, lambda: seen.append(clock.now_s)))
    await clock.run()
    assert seen == [5]
