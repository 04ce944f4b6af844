"""Scenarios of the scheduler's shell: how they are played, and runners that don't do as they are told."""

from collections.abc import Callable, Coroutine
from typing import Any

from greenroom.common.messages import StartAnswer, StartRefused, StartSession
from tests.support.leaping_time import run_virtual
from tests.support.scheduler_rig import Rig
from tests.support.simulated_runner import Silence

type Scenario = Callable[[Rig], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> None:
    """Run a scenario with a rig of its own."""

    async def run() -> None:
        async with Rig() as rig:
            await scenario(rig)

    run_virtual(run())


def silent(_: StartSession) -> StartAnswer | None:
    """Never answer."""
    raise Silence


def refusing(code: str, times: int = 1) -> Callable[[StartSession], StartAnswer | None]:
    """Refuse so many times."""
    left = times

    def whim(_: StartSession) -> StartAnswer | None:
        nonlocal left
        left -= 1
        return StartRefused(code=code) if left >= 0 else None

    return whim
