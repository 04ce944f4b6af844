"""One bad bot on a runner, and its neighbours: their frames stay on time, and the slot comes back.

Each test holds two calls with an echo bot on a real runner, listens to them for a while, lets a bad bot begin beside
them, and listens again. On time is judged against the same calls in the same test before the bad bot came, with as
much grace as nobody could overhear in a call, since the host may be busy with other things. Then the bad session is
ended as a client would end it, unless it has ended by itself: it has to end, nothing of it may be left, and a fresh
process has to stand by in its place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from greenroom.common.errors import IllegalTransition
from greenroom.common.lifecycle import Session, State
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.bad_bots.offenders import OFFENDERS
from tests.support.neighbours import FRAME_S, Heard, Neighbour, listen
from tests.support.runner_process import RunnerProcess, runner_process
from tests.support.runner_rig import gone, until

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

_NEIGHBOURS = 2
_STANDBY = 2
_WINDOW_S = 2.0
# Frames that a call may be behind for a moment, beyond what it was before, before anybody hears it.
_GRACE_FRAMES = 8
# How much worse than before a busy host may make it.
_FACTOR = 5
# What is left of an end whose bot does nothing for it: the ladder's last step, and the reaping.
_END_S = 15.0
_STRAYS_S = 10.0


class Street:
    """A runner with calls under way."""

    def __init__(self, runner: RunnerProcess, neighbours: list[Neighbour]) -> None:
        self.runner = runner
        self.neighbours = neighbours

    async def offend(self, bot: str) -> str:
        """Have a bad bot begin; returns its session."""
        return await self.runner.start(bot)

    async def end(self, session_id: str) -> Session:
        """End a session as a client does, unless it has ended, and wait for it."""
        with contextlib.suppress(IllegalTransition):
            await self.runner.stop(session_id)
        async with asyncio.timeout(_END_S):
            return await self.runner.reaches(session_id, State.ENDED)

    async def quiet(self) -> None:
        """Wait until nobody but the neighbours is there, and the processes in waiting are."""

        def back() -> bool:
            now = self.runner.heartbeats[-1]
            others = {each.session_id for each in now.sessions} - {each.session_id for each in self.neighbours}
            return not others and now.standby == _STANDBY

        await until(back)


@pytest.fixture(scope="module")
async def street(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """A runner with two calls, for all tests here."""
    bots = {"echo": "tests.support.session_bots:echo"}
    bots |= {name: f"tests.support.bad_bots.offenders:{name}" for name in OFFENDERS}
    env: dict[str, Any] = {
        "GREENROOM_BOTS": ",".join(f"{name}={target}" for name, target in bots.items()),
        "GREENROOM_SLOTS": str(_NEIGHBOURS + _STANDBY),
        # Whether the bad bot may come is not the question here.
        "GREENROOM_BRAKE": "false",
    }
    async with (
        EmbeddedNats(tmp_path_factory.mktemp("nats")) as server,
        runner_process(server.url, **env) as runner,
        asyncio.TaskGroup() as tasks,
    ):
        neighbours = [Neighbour(runner.broker, await runner.start("echo")) for _ in range(_NEIGHBOURS)]
        for neighbour in neighbours:
            await neighbour.connect()
        talking = [tasks.create_task(neighbour.talk()) for neighbour in neighbours]
        yield Street(runner, neighbours)
        for task in talking:
            task.cancel()
        # One that stands still can't see that its runner is gone.
        for process in runner.family():
            process.kill()


@pytest.mark.parametrize("bot", OFFENDERS)
async def test_the_neighbours_of_a_bot_stay_on_time_that(street: Street, bot: str) -> None:
    """Whatever a bot does to itself, the calls beside it lose no frame and are as punctual as before."""
    await street.quiet()
    before = await listen(street.neighbours, _WINDOW_S)
    known = {process.pid for process in street.runner.family()}
    session_id = await street.offend(bot)
    try:
        during = await listen(street.neighbours, _WINDOW_S)
        theirs = [process for process in street.runner.family() if process.pid not in known]
    finally:
        ended = await street.end(session_id)
    for one, other in zip(before, during, strict=True):
        assert _missing(one, other) == 0
        assert other.late(0.95) <= one.late(0.95) * _FACTOR + _GRACE_FRAMES * FRAME_S
    assert ended.attempt == 1
    await street.quiet()

    def nothing_left() -> bool:
        standing_by = {process.pid for process in street.runner.family()}
        return all(gone(process) or _stands_by(process, standing_by) for process in theirs)

    # Whoever has left the group of his session is found by looking for him, once a second.
    await until(nothing_left, _STRAYS_S)


def _missing(before: Heard, during: Heard) -> int:
    """Return how many frames were lost, or can't be there because the call stood still."""
    stood_still = during.seconds < before.seconds / 2
    return during.lost + (round((before.seconds - during.seconds) / FRAME_S) if stood_still else 0)


def _stands_by(process: psutil.Process, family: set[int]) -> bool:
    """Tell whether it is a session process in waiting that was forked meanwhile: those have no children."""
    return process.pid in family and "greenroom" in " ".join(process.cmdline()) and not process.children()
