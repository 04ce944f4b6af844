"""How often strays are looked for."""

import asyncio

import pytest

from greenroom.common.clock import SystemClock
from greenroom.runner import childlife, supervisor
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import Supervisor

LOOK_S, AGAIN_S = 1.0, 0.02


class Noting(SystemClock):
    """A clock whose pauses are over at once, for the hunt for strays; it keeps what was asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        """Don't wait; nothing but the hunt goes on."""
        task = asyncio.current_task()
        if task is None or task.get_name() != "strays":
            await asyncio.Event().wait()
        self.pauses.append(delay_s)
        await asyncio.sleep(0)


async def test_what_strays_had_started_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as some are found the next look comes soon: the children of the dead are the runner's only then."""
    found = iter([frozenset[int](), frozenset({7}), frozenset({7, 8}), frozenset[int](), frozenset[int]()])
    over = asyncio.Event()

    def kill_strays(_known: frozenset[int]) -> frozenset[int]:
        strays = next(found, None)
        if strays is None:
            over.set()
        return strays or frozenset()

    monkeypatch.setattr(supervisor, "kill_strays", kill_strays)
    monkeypatch.setattr(childlife, "adopt_orphans", lambda: None)
    clock = Noting()
    made = Supervisor(RunnerSettings(), (), clock=clock, environment={}, owns_children=True)
    running = asyncio.create_task(made.run())
    await over.wait()
    running.cancel()
    await asyncio.wait({running})
    assert clock.pauses[:6] == [LOOK_S, LOOK_S, AGAIN_S, AGAIN_S, LOOK_S, LOOK_S]
