"""Recording both sides of a call on one timeline."""

import asyncio
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames.frames import AudioRawFrame

from greenroom.common.messages import AudioHeader, Track
from greenroom.common.spool import Spool
from greenroom.runner.session.audio import RATE
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.recording import MAX_AGE_S, Recorder
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session

NS = 1_000_000_000
STEP_S = 0.02


class World:
    """A recorder whose time stands still unless it is told to pass."""

    def __init__(self) -> None:
        self.now_ns = 5 * NS
        self.clock = CallClock(lambda: self.now_ns, lambda: self.now_ns + 1000 * NS)
        self.spool = Spool(MemoryServer().connect())
        self.recorder = Recorder(self.clock, Emitter(self.spool, new_session("echo")))
        self.clock.begin()

    async def play(
        self, track: Track, pcm: bytes, *, rate: int = RATE, frame_s: float = 0.02, channels: int = 1
    ) -> None:
        """Let frames pass in real time, and what is due be done."""
        size = round(rate * frame_s) * 2 * channels
        side = self.recorder.user if track == "user" else self.recorder.bot
        for start in range(0, len(pcm), size):
            if track == "user":
                self.now_ns += round(frame_s * NS)
            side.take(AudioRawFrame(pcm[start : start + size], rate, channels))
            if track == "bot":
                self.now_ns += round(frame_s * NS)
            await self.work()

    async def wait(self, seconds: float) -> None:
        """Let time pass, and what is due be done."""
        for _ in range(round(seconds / STEP_S)):
            self.now_ns += round(STEP_S * NS)
            await self.work()

    async def until(self, now_ns: int) -> None:
        """Let time pass until a moment, and what is due be done."""
        while self.now_ns < now_ns:
            self.now_ns = min(self.now_ns + round(STEP_S * NS), now_ns)
            await self.work()

    async def work(self) -> None:
        """Do what is due, and nothing else."""
        for side in (self.recorder.user, self.recorder.bot):
            if side.due_s is not None and side.due_s <= self.now_ns / NS:
                await side.work()

    def chunks(self, track: Track) -> list[tuple[int, bytes]]:
        """Return positions and samples of what was published."""
        items = [item for item in self.spool._items if item.subject.endswith(track)]
        return [(int(item.headers[AudioHeader.POSITION]), item.data) for item in items]

    def timeline(self, track: Track) -> np.ndarray:
        """Return the track as it would be written."""
        chunks = self.chunks(track)
        end = max((position + len(pcm) // 2 for position, pcm in chunks), default=0)
        samples = np.zeros(end, dtype=np.int16)
        for position, pcm in chunks:
            samples[position : position + len(pcm) // 2] = np.frombuffer(pcm, dtype=np.int16)
        return samples


def sine(seconds: float, rate: int, hertz: int = 440) -> bytes:
    """Return a sine."""
    count = round(seconds * rate)
    return struct.pack(f"<{count}h", *(round(10_000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(count)))


async def test_both_sides_lie_on_one_timeline() -> None:
    """The caller speaks at once, the bot half a second later: so do their tracks."""
    world = World()
    await world.play("user", sine(0.5, RATE))
    await world.play("bot", sine(0.5, RATE))
    await world.recorder.close()
    assert world.chunks("user")[0][0] == 0
    assert world.chunks("bot")[0][0] == RATE // 2
    assert len(world.timeline("user")) == RATE // 2
    assert len(world.timeline("bot")) == RATE


async def test_silence_is_as_long_as_it_was() -> None:
    """A pause between two stretches is a gap of its exact length."""
    world = World()
    await world.play("bot", sine(0.4, RATE))
    await world.wait(2.0)
    await world.play("bot", sine(0.4, RATE))
    await world.recorder.close()
    timeline = world.timeline("bot")
    assert len(timeline) == round(2.8 * RATE)
    assert not timeline[round(0.4 * RATE) : round(2.4 * RATE)].any()
    assert timeline[round(2.4 * RATE) + 5]


async def test_a_chunk_leaves_before_it_is_a_second_old() -> None:
    """No sample waits longer than a second, so a killed process loses no more than that."""
    world = World()
    await world.play("user", sine(5.0, RATE))
    published = len(world.timeline("user")) / RATE
    assert 5.0 - published <= MAX_AGE_S < 1.0
    await world.wait(1.0)
    assert len(world.timeline("user")) == 5 * RATE


async def test_what_comes_in_long_pieces_is_as_old_as_its_first_sample() -> None:
    """A silent user's audio comes 300 ms at a time, and no sample of it waits longer for its copy."""
    world = World()
    for _ in range(40):
        for _ in range(15):
            world.now_ns += round(STEP_S * NS)
            await world.work()
            copied = sum(len(pcm) // 2 for _, pcm in world.chunks("user"))
            assert (world.now_ns - 5 * NS) / NS - copied / RATE < MAX_AGE_S + STEP_S < 1
        world.recorder.user.take(AudioRawFrame(bytes(9600), RATE, 1))
    # Three at a time.
    assert {len(pcm) for _, pcm in world.chunks("user")} == {round(0.9 * RATE) * 2}


@given(st.lists(st.tuples(st.integers(15, 60), st.sampled_from([25, 60])), max_size=5))
def test_a_lull_leaves_samples_where_they_would_have_been(stretches: list[tuple[int, int]]) -> None:
    """Pieces of 300 ms, and what a client leaves behind 174 ms late: the timeline is that of frame by frame."""

    async def record(piece: int, late_ms: int) -> np.ndarray:
        world, at_ms, number = World(), 5_000, 0
        for frames, paused in stretches:
            for first in range(0, frames, piece):
                count = min(piece, frames - first)
                at_ms += 20 * count
                samples = range(number, number + count)
                number += count
                pcm = b"".join(struct.pack("<h", sample) * (RATE // 50) for sample in samples)
                await world.until((at_ms + (late_ms if count < piece else 0)) * NS // 1000)
                world.recorder.user.take(AudioRawFrame(pcm, RATE, 1))
            at_ms += 20 * paused
        await world.recorder.close()
        return world.timeline("user")

    async def both() -> None:
        assert np.array_equal(await record(15, 174), await record(1, 0))

    asyncio.run(both())


async def test_a_recorder_sleeps_until_something_is_due() -> None:
    """Without audio it has nothing to do; with audio a chunk a second; and a pause lets out what a resampler holds."""
    world = World()
    bot = world.recorder.bot
    assert bot.due_s is None
    begun_s = world.now_ns / NS
    bot.take(AudioRawFrame(sine(0.1, 24_000), 24_000, 1))
    assert bot.due_s == pytest.approx(begun_s + MAX_AGE_S)
    world.now_ns += round(0.1 * NS)
    await bot.work()
    assert bot.due_s == pytest.approx(begun_s + MAX_AGE_S)
    world.now_ns += round(0.3 * NS)
    bot.take(AudioRawFrame(sine(0.1, 24_000), 24_000, 1))
    world.now_ns += round(0.56 * NS)
    assert bot.due_s is not None
    await bot.work()
    await world.wait(1.0)
    assert bot.due_s is None
    assert len(world.timeline("bot")) == pytest.approx(0.5 * RATE, abs=2)


def test_the_recorder_works_when_it_is_due() -> None:
    """Audio that comes wakes it, what was taken leaves in time, and whoever listens gets it sooner."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clock = CallClock(lambda: round((5 + loop.time()) * NS), lambda: 1000 * NS)
        spool = Spool(MemoryServer().connect())
        recorder = Recorder(clock, Emitter(spool, new_session("echo")))
        clock.begin()
        running = asyncio.create_task(recorder.run())
        await asyncio.sleep(10)
        recorder.bot.take(AudioRawFrame(bytes(640), RATE, 1))
        await asyncio.sleep(MAX_AGE_S - 0.02)
        assert len(spool) == 0
        await asyncio.sleep(0.04)
        assert len(spool) == 1
        heard: list[float] = []
        recorder.tap = lambda *_: heard.append(loop.time())
        recorder.bot.take(AudioRawFrame(bytes(640), RATE, 1))
        await asyncio.sleep(0.01)
        taken = loop.time()
        recorder.bot.take(AudioRawFrame(bytes(640), RATE, 1))
        await asyncio.sleep(0.5)
        assert len(heard) == 2
        assert heard[1] - taken <= 0.21
        running.cancel()

    run_virtual(scenario())


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
async def test_other_rates_are_resampled_without_drift(rate: int) -> None:
    """A stream at another rate lies on the same timeline, with the same pitch and length."""
    world = World()
    await world.play("bot", sine(3.0, rate), rate=rate)
    await world.wait(1.0)
    await world.play("bot", sine(1.0, rate), rate=rate)
    await world.recorder.close()
    timeline = world.timeline("bot")
    assert len(timeline) == pytest.approx(5 * RATE, abs=RATE // 100)
    wanted = np.frombuffer(sine(3.0, RATE), dtype=np.int16).astype(float)
    middle = slice(RATE // 2, 5 * RATE // 2)
    likeness = np.corrcoef(timeline[middle].astype(float), wanted[middle])[0, 1]
    assert likeness > 0.99
    assert abs(timeline[round(3.1 * RATE) : round(3.9 * RATE)]).max() == 0


async def test_who_asks_learns_since_when_audio_comes() -> None:
    """After none for a while it begins anew; a short pause is none."""
    world = World()
    user = world.recorder.user
    await world.play("user", bytes(640 * 10))
    assert (user.frames, user.since_s, user.taken_s) == (10, 5.02, 5.2)
    await world.wait(1.0)
    await world.play("user", bytes(640))
    assert user.since_s == 5.02
    await world.wait(3.0)
    await world.play("user", bytes(640 * 10))
    assert user.since_s == pytest.approx(9.24)


async def test_channels_are_mixed_to_one() -> None:
    """Of a stereo stream the mean is recorded."""
    world = World()
    await world.play("user", struct.pack("<4h", 100, 300, -100, -300) * 160, channels=2)
    await world.recorder.close()
    assert set(world.timeline("user")) == {200, -200}


async def test_a_stream_that_changes_its_rate_goes_on() -> None:
    """Frames of another rate continue the recording where the clock is."""
    world = World()
    await world.play("user", sine(1.0, RATE))
    await world.play("user", sine(1.0, 8_000), rate=8_000)
    await world.recorder.close()
    assert len(world.timeline("user")) == pytest.approx(2 * RATE, abs=RATE // 50)


async def test_frames_without_sound_are_passed_over() -> None:
    """Empty and broken frames don't hurt."""
    world = World()
    world.recorder.user.take(AudioRawFrame(b"", RATE, 1))
    world.recorder.user.take(AudioRawFrame(b"\x01\x00\x02", RATE, 1))
    await world.recorder.close()
    assert [len(pcm) for _, pcm in world.chunks("user")] == [2]


async def test_a_process_that_cant_keep_up_counts_what_it_loses() -> None:
    """The list of frames that wait is bounded."""
    world = World()
    for _ in range(1_100):
        world.recorder.user.take(AudioRawFrame(bytes(640), RATE, 1))
    assert world.recorder.dropped == 100


async def test_the_timeline_begins_with_the_first_audio_if_nobody_connected() -> None:
    """A transport that doesn't tell of its client begins the timeline by what it hears."""
    world = World()
    world.clock = CallClock(lambda: world.now_ns, lambda: 77)
    recorder = Recorder(world.clock, Emitter(world.spool, new_session("echo")))
    assert not world.clock.begun
    recorder.bot.take(AudioRawFrame(bytes(640), RATE, 1))
    await recorder.close()
    assert world.clock.origin_ns == 77
    assert world.chunks("bot")[0][0] == 0
