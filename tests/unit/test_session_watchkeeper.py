"""Keeping the vigil: looked at seldom, and in time."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from greenroom.common.lifecycle import Limits
from greenroom.common.messages import EventType
from greenroom.runner.control import Pong
from greenroom.runner.session import watchkeeper
from greenroom.runner.session.ending import Ending
from greenroom.runner.session.vigil import FRESH_S
from greenroom.runner.session.watchkeeper import Watchkeeper
from tests.support.leaping_time import run_virtual


class World:
    """A keeper in virtual time, with everything around it that it asks."""

    def __init__(self, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.ending = Ending()
        self.events: list[tuple[float, Any]] = []
        self.pongs: list[float] = []
        self.lags_ms: list[float] = []
        self.cut_off = False
        self.looks = 0
        self.recorder = SimpleNamespace(
            user=SimpleNamespace(frames=0, taken_s=0.0, since_s=0.0), bot=SimpleNamespace(frames=0, taken_s=0.0)
        )
        self.keeper = Watchkeeper(
            limits,
            emitter=cast("Any", SimpleNamespace(emit=lambda kind, _: self.events.append((self.now, kind)))),
            ending=self.ending,
            recorder=cast("Any", self.recorder),
            pipelines=cast("Any", SimpleNamespace(attachments=[])),
            channel=cast("Any", SimpleNamespace(send=self._pong)),
            cut_off=self._is_cut_off,
        )
        self.keeper.ready()
        self.keeper.came_back()
        self._running = asyncio.create_task(self.keeper.run())

    @property
    def now(self) -> float:
        """Seconds since the call began."""
        return self.loop.time() - self.began

    async def ended(self) -> tuple[float, str]:
        """Return when the session was to end, and why."""
        async with asyncio.timeout(1000):
            await self.ending.begun.wait()
        assert self.ending.verdict is not None
        return self.now, self.ending.verdict.reason

    def _is_cut_off(self) -> bool:
        self.looks += 1
        return self.cut_off

    async def _pong(self, pong: Pong) -> bool:
        self.pongs.append(self.now)
        self.lags_ms.append(pong.loop_lag_ms)
        return True


@pytest.fixture(autouse=True)
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's clock is the loop's."""
    monkeypatch.setattr(watchkeeper, "time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()))


def test_a_call_in_which_nothing_is_due_is_looked_at_once_a_second() -> None:
    """And the runner hears as often that the loop turns."""

    async def scenario() -> None:
        world = World(Limits(ending_soon_s=0))
        world.keeper.vigil.sounded(0.0)
        await asyncio.sleep(60.5)
        assert world.pongs == pytest.approx(list(range(1, 61)), abs=0.01)
        # It is asked once before each look, and once in it.
        assert world.looks <= 2 * 60 + 2

    run_virtual(scenario())


def test_a_blocked_loop_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lateness of the second in which it was blocked, and none of the next one's."""

    async def scenario() -> None:
        world = World(Limits(ending_soon_s=0))
        world.keeper.vigil.sounded(0.0)
        await asyncio.sleep(2.5)
        # Time passes, and nothing but this runs.
        monkeypatch.setattr(world.loop._leaping, "now", world.loop.time() + 0.9)  # pyright: ignore[reportAttributeAccessIssue] virtual
        await asyncio.sleep(3)
        assert world.lags_ms == [pytest.approx(lag, abs=1) for lag in (0, 0, 400, 0, 0)]

    run_virtual(scenario())


@pytest.mark.parametrize("limit_s", [0.3, 1.0, 7.3, 30.0])
def test_silence_ends_a_call_when_it_has_lasted_so_long(limit_s: float) -> None:
    """From the last word on, wherever that lies between two looks."""

    async def scenario() -> None:
        world = World(Limits(silence_timeout_s=limit_s, no_progress_timeout_s=0))
        world.keeper.vigil.sounded(0.0)
        world.keeper.vigil.speaks("bot", 0.0, begins=True)
        await asyncio.sleep(3.6)
        world.keeper.vigil.speaks("bot", world.loop.time(), begins=False)
        at, reason = await world.ended()
        assert reason == "silence-timeout"
        assert 3.6 + limit_s <= at <= 3.6 + limit_s + 0.25

    run_virtual(scenario())


@pytest.mark.parametrize("limit_s", [0.3, 7.3])
def test_an_empty_room_ends_when_it_has_been_empty_so_long(limit_s: float) -> None:
    """From the moment on at which the last one left."""

    async def scenario() -> None:
        world = World(Limits(rejoin_timeout_s=limit_s, no_progress_timeout_s=0))
        await asyncio.sleep(5.05)
        assert world.keeper.waits()
        assert await world.ended() == (pytest.approx(5.05 + limit_s, abs=0.02), "room-empty")

    run_virtual(scenario())


def test_who_comes_back_finds_at_once_what_is_overdue() -> None:
    """While he was away the bot owed him no first word."""

    async def scenario() -> None:
        world = World(Limits(rejoin_timeout_s=30, no_progress_timeout_s=0))
        await asyncio.sleep(6)
        assert world.keeper.waits()
        await asyncio.sleep(5.3)
        world.keeper.came_back()
        await asyncio.sleep(0.5)
        assert world.events == [(pytest.approx(11.3, abs=0.02), EventType.CALL_STALLED)]

    run_virtual(scenario())


def test_audio_that_pauses_hides_no_standstill() -> None:
    """It counts while audio comes, and when it comes again no second is lost."""

    async def scenario() -> None:
        world = World(Limits(no_progress_timeout_s=0, ending_soon_s=0))
        world.keeper.vigil.sounded(0.0)
        user = world.recorder.user
        for _ in range(400):
            await asyncio.sleep(0.06)
            if not 7.85 < world.now < 13.1:
                if world.loop.time() - user.taken_s > FRESH_S or not user.frames:
                    user.since_s = world.loop.time()
                user.frames, user.taken_s = user.frames + 1, world.loop.time()
        # Two seconds of the pause count, as they might be late frames.
        assert world.events == [(pytest.approx(13.3, abs=0.15), EventType.CALL_STALLED)]

    run_virtual(scenario())


def test_an_outage_counts_for_nothing_from_its_end_on() -> None:
    """While the broker is away it is looked at more often, so that little of the outage counts."""

    async def scenario() -> None:
        world = World(Limits(silence_timeout_s=10, no_progress_timeout_s=0))
        world.keeper.vigil.sounded(0.0)
        await asyncio.sleep(5)
        world.cut_off = True
        await asyncio.sleep(20.6)
        world.cut_off = False
        at, _ = await world.ended()
        assert 25.6 + 10 - 0.26 <= at <= 25.6 + 10.02

    run_virtual(scenario())


def test_what_is_over_is_left_alone() -> None:
    """Behind an end nothing is due any more, but the runner still hears of us."""

    async def scenario() -> None:
        world = World(Limits(silence_timeout_s=3, no_progress_timeout_s=0))
        await world.ended()
        looks, pongs = world.looks, len(world.pongs)
        await asyncio.sleep(10)
        assert world.looks == looks
        assert len(world.pongs) >= pongs + 9

    run_virtual(scenario())


def test_a_pipeline_that_stands_still_is_noticed_in_time() -> None:
    """Ten seconds behind the last that came through, by audio of which only the count is looked at."""

    async def scenario() -> None:
        world = World(Limits(no_progress_timeout_s=20))
        world.keeper.vigil.sounded(0.0)
        for _ in range(400):
            await asyncio.sleep(0.06)
            world.recorder.user.frames += 1
            world.recorder.user.taken_s = world.loop.time()
            world.recorder.user.since_s = world.recorder.user.since_s or world.loop.time()
            if world.now < 0.9:
                world.keeper.vigil.moved(world.loop.time())
        assert world.events[0][0] == pytest.approx(10.84, abs=0.1)
        _, reason = await world.ended()
        assert reason == "no-progress"

    run_virtual(scenario())
