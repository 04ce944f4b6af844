"""One bad bot on a runner, and its neighbours: their frames stay on time, and the slot comes back.

Each test holds two calls with an echo bot on a real runner and listens to them while a bot that behaves comes and goes
beside them; then it listens again while a bad one does. From before its start until after its end no frame may be lost,
and the latest hundredth of them may be as late as it was, and a little more. The bad session is ended as a client would
end it, if nobody ends it sooner: it has to end, for the reason that is expected of it, nothing of it may be left, and a
fresh process has to stand by in its place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psutil
import pytest

from greenroom.common.errors import IllegalTransition
from greenroom.common.lifecycle import Session, State
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.bad_bots.offenders import OFFENDERS
from tests.support.neighbours import FRAME_S, Heard, Neighbour, together
from tests.support.runner_process import RunnerProcess, runner_process
from tests.support.runner_rig import gone, until

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

_NEIGHBOURS = 2
_STANDBY = 2
# How long a bot goes on before it is ended, those included that are noticed by the second.
_WINDOW_S = 3.0
# Where what is late is measured: all but the latest hundredth.
_SHARE = 0.99
# What it may be more than beside a bot that behaves, on a host that happens to be busier: so many times, and frames.
_FACTOR = 2
_GRACE_FRAMES = 3
# What is left of an end whose bot does nothing for it: the ladder's last step, and the reaping.
_END_S = 15.0
_STRAYS_S = 10.0
# Why each ends.
_ENDS = {
    "kills_itself": "process-killed",
    "stops_itself": "end-timeout",
    "hogs_memory": "out-of-memory",
    "forks": "too-many-processes",
    "spins": "end-timeout",
    "burns": "client-stop",
    "leaks_files": "bot-failed",
    "is_deaf": "client-stop",
    "floods": "client-stop",
}


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """What there was of a bot: its session, and what the neighbours heard meanwhile."""

    ended: Session
    heard: Heard


class Street:
    """A runner with calls under way."""

    def __init__(self, runner: RunnerProcess, neighbours: list[Neighbour]) -> None:
        self.runner = runner
        self.neighbours = neighbours

    async def visited_by(self, bot: str) -> Visit:
        """Have a bot come, do what it does and be ended; return what the neighbours heard from first to last."""
        for neighbour in self.neighbours:
            neighbour.begin()
        session_id = await self.runner.start(bot)
        try:
            await asyncio.sleep(_WINDOW_S)
        finally:
            ended = await self._end(session_id)
        return Visit(ended=ended, heard=together([neighbour.heard() for neighbour in self.neighbours]))

    async def _end(self, session_id: str) -> Session:
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
        # Within reach of those that take too much, and beyond that of all others.
        "GREENROOM_MEMORY_KILL_MB": "200",
        "GREENROOM_SESSION_PROCESSES": "64",
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
    """Whatever a bot does to itself, the calls beside it lose no frame and are as punctual as beside any other."""
    await street.quiet()
    good = await street.visited_by("echo")
    await street.quiet()
    known = {process.pid for process in street.runner.family()}
    bad = await street.visited_by(bot)
    assert good.ended.reason == "client-stop"
    assert (bad.ended.reason, bad.ended.attempt) == (_ENDS[bot], 1)
    assert bad.heard.lost == 0
    assert bad.heard.late(_SHARE) <= good.heard.late(_SHARE) * _FACTOR + _GRACE_FRAMES * FRAME_S
    await street.quiet()
    # Whoever has left the group of his session is found by looking for him, once a second.
    await until(lambda: all(each.pid in known or _stands_by(each) for each in street.runner.family()), _STRAYS_S)


def _stands_by(process: psutil.Process) -> bool:
    """Tell whether it is gone, or a session process in waiting that was forked meanwhile: those have no children."""
    try:
        return gone(process) or ("greenroom" in " ".join(process.cmdline()) and not process.children())
    except psutil.NoSuchProcess:
        return True
