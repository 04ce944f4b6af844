"""The clock of a run of chaos."""

import asyncio

from tests.support.chaos.stage_clock import StageClock


class Wall:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        """Return what was set."""
        return self.at


def test_it_stands_still_while_it_is_held() -> None:
    """What passes while somebody comes up isn't counted, however many come up at once."""
    wall = Wall()
    clock = StageClock(wall)
    wall.at += 1.5
    assert clock.now() == 1.5
    with clock.held():
        wall.at += 7
        assert clock.now() == 1.5
        with clock.held():
            wall.at += 2
        wall.at += 4
        assert clock.now() == 1.5
    wall.at += 0.25
    assert clock.now() == 1.75


async def test_nobody_is_woken_early() -> None:
    """Who sleeps until a moment of the run sleeps on while the clock stands still."""
    wall = Wall()
    clock = StageClock(wall)
    sleeper = asyncio.create_task(clock.until(1.0))
    with clock.held():
        wall.at += 5
        await asyncio.sleep(0.2)
        assert not sleeper.done()
    wall.at += 1.0
    async with asyncio.timeout(10):
        await sleeper
