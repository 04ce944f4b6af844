"""Recording both sides of a call on one timeline."""

import math
import struct

import numpy as np
import pytest
from pipecat.frames.frames import AudioRawFrame

from greenroom.common.messages import AudioHeader, Track
from greenroom.common.spool import Spool
from greenroom.runner.session.audio import RATE
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.recording import MAX_AGE_S, TICK_S, Recorder
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session

NS = 1_000_000_000


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
        """Let frames pass in real time, with a tick now and then."""
        size = round(rate * frame_s) * 2 * channels
        side = self.recorder.user if track == "user" else self.recorder.bot
        for index, start in enumerate(range(0, len(pcm), size)):
            if track == "user":
                self.now_ns += round(frame_s * NS)
            side.take(AudioRawFrame(pcm[start : start + size], rate, channels))
            if track == "bot":
                self.now_ns += round(frame_s * NS)
            if index % 10 == 9:
                await side.work()

    async def wait(self, seconds: float) -> None:
        """Let time pass, with ticks."""
        for _ in range(round(seconds / TICK_S)):
            self.now_ns += round(TICK_S * NS)
            await self.recorder.user.work()
            await self.recorder.bot.work()

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
    assert 5.0 - published <= MAX_AGE_S + TICK_S < 1.0
    await world.wait(1.0)
    assert len(world.timeline("user")) == 5 * RATE


async def test_what_comes_in_long_pieces_is_as_old_as_its_first_sample() -> None:
    """A silent user's audio comes 160 ms at a time, and no sample of it waits longer for its copy."""
    world = World()
    for _ in range(40):
        world.now_ns += round(0.16 * NS)
        world.recorder.user.take(AudioRawFrame(bytes(5120), RATE, 1))
        await world.recorder.user.work()
        since = world.recorder.user._chunker._position / RATE
        assert (world.now_ns - 5 * NS) / NS - since < MAX_AGE_S


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
