"""Records both sides of a call: takes audio frames as they pass, and publishes them as chunks on one timeline.

Taking a frame is an append to a list; what was taken is resampled (if need be), placed and cut into chunks when a chunk
is due, off the pipeline's path. That is before its first sample is a second old, so that a process that is killed loses
no more than that. Where nothing was taken nothing is looked for; whoever listens live gets it a few times a second.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from pipecat.audio.resamplers.soxr_stream_resampler import SOXRStreamAudioResampler
from pipecat.frames.frames import AudioRawFrame

from greenroom.common.messages import Track
from greenroom.runner.session.audio import RATE, WIDTH, Anchor, Chunker, Placer
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.vigil import FRESH_S

# A silent user's audio comes 0.3 s at a time: of three such pieces the first is 0.9 s old.
MAX_AGE_S: Final = 0.95
# For whoever listens live.
TAPPED_S: Final = 0.2
# A timer may be early.
_LEAST_S: Final = 0.005
# A side that has been quiet this long has paused: what its resampler still holds is let out.
_PAUSED_S: Final = 0.5
# Frames until a chunk is due, by far: 10 ms frames for 10 s.
_MAX_TAKEN: Final = 1_000
# How late a frame may be and still continue the one before. The caller's frames cross networks; the bot's are paced
# by this process, whose own lateness is all there is.
USER_TOLERANCE: Final = RATE // 5
_BOT_TOLERANCE: Final = RATE // 16


# Told of samples as they get their place: which track, where, which.
type Tap = Callable[[Track, int, bytes], None]


class _Taken(NamedTuple):
    """A frame as it passed."""

    at_ns: int
    pcm: bytes
    rate: int
    channels: int


class TrackRecorder:
    """One side.

    Args:
        track: which.
        anchor: see `audio.Placer`.
        tolerance: see `audio.Placer`, in samples.
        clock: the call's timeline.
        emitter: takes the chunks.
        on_first: called when something is taken where nothing was waiting.
    """

    def __init__(
        self,
        track: Track,
        anchor: Anchor,
        tolerance: int,
        clock: CallClock,
        emitter: Emitter,
        *,
        on_first: Callable[[], None],
    ) -> None:
        self.dropped = 0
        # How many were taken, when the last one was, and since when they come: who wants to know that looks here.
        self.frames = 0
        self.taken_s = self.since_s = 0.0
        self.tap: Tap | None = None
        self._track: Final[Track] = track
        self._clock = clock
        self._emitter = emitter
        self._on_first = on_first
        self._taken: deque[_Taken] = deque(maxlen=_MAX_TAKEN)
        self._anchor = anchor
        self._placer = Placer(anchor=anchor, tolerance=tolerance)
        self._chunker = Chunker()
        self._resampler: SOXRStreamAudioResampler | None = None
        self._rate = RATE
        # Where the next samples go that come out of the resampler, which holds some back.
        self._next = 0
        # When the last frame of the present run passed; 0 between runs.
        self._last_ns = 0

    def take(self, frame: AudioRawFrame) -> None:
        """Take a frame that passes now."""
        self._clock.begin()
        self.frames += 1
        if len(self._taken) == _MAX_TAKEN:
            self.dropped += 1
        at_ns = self._clock.monotonic_ns()
        if at_ns / 1e9 - self.taken_s > FRESH_S:
            self.since_s = at_ns / 1e9
        self.taken_s = at_ns / 1e9
        if not self._taken and self._chunker.since is None:
            self._on_first()
        self._taken.append(_Taken(at_ns, frame.audio, frame.sample_rate, frame.num_channels))

    @property
    def due_s(self) -> float | None:
        """When there is next something to do, on the monotonic clock; None: not before something is taken."""
        if (since := self._chunker.since) is not None:
            return since + MAX_AGE_S
        if self._taken:
            return self._heard_s(self._taken[0]) + MAX_AGE_S
        # Without a resampler, the end of a run can wait for the next one.
        return self._last_ns / 1e9 + _PAUSED_S if self._last_ns and self._resampler is not None else None

    async def work(self) -> None:
        """Place what was taken since the last time, and publish what is full or due."""
        while self._taken:
            await self._place(self._taken.popleft())
        now_ns = self._clock.monotonic_ns()
        await self._end_paused(now_ns)
        self._publish_due(now_ns / 1e9 - MAX_AGE_S)

    async def close(self) -> None:
        """Publish everything."""
        await self.work()
        await self._end_run()
        self._publish_due(float("inf"))

    async def _place(self, taken: _Taken) -> None:
        pcm = _mono(taken.pcm, taken.channels)
        if not pcm or taken.rate <= 0:
            return
        await self._end_paused(taken.at_ns)
        if taken.rate != self._rate:
            await self._end_run()
            self._resampler, self._rate = None, taken.rate
        samples = len(pcm) // WIDTH * RATE // taken.rate
        placement = self._placer.place(self._clock.sample(taken.at_ns), samples)
        if placement.begins_run:
            await self._let_out()
            self._next = max(placement.position, self._next)
        self._last_ns = taken.at_ns
        self._add(await self._resample(pcm), self._heard_s(taken))

    def _heard_s(self, taken: _Taken) -> float:
        """Return when the first sample of a frame was heard: that bounds how long it may be without a copy."""
        lasts_s = len(taken.pcm) / (WIDTH * max(taken.channels, 1) * max(taken.rate, 1))
        return taken.at_ns / 1e9 - (lasts_s if self._anchor == "last_sample" else 0)

    def _add(self, pcm: bytes, heard_s: float) -> None:
        for chunk in self._chunker.add(self._next, pcm, heard_s):
            self._emitter.audio(self._track, chunk, self._clock.origin_ns)
        if self.tap is not None:
            self.tap(self._track, self._next, pcm)
        self._next += len(pcm) // WIDTH

    def _publish_due(self, before_s: float) -> None:
        for chunk in self._chunker.due(before_s):
            self._emitter.audio(self._track, chunk, self._clock.origin_ns)

    async def _resample(self, pcm: bytes) -> bytes:
        if self._rate == RATE:
            return pcm
        if self._resampler is None:
            # It is told about pauses, and mustn't guess them from the time between two calls.
            self._resampler = SOXRStreamAudioResampler(quality="HQ", clear_after_secs=None)
        return await self._resampler.resample(pcm, self._rate, RATE)

    async def _end_paused(self, now_ns: int) -> None:
        if self._last_ns and now_ns - self._last_ns >= _PAUSED_S * 1e9:
            await self._end_run()

    async def _end_run(self) -> None:
        self._placer.end_run()
        await self._let_out()
        self._last_ns = 0

    async def _let_out(self) -> None:
        """Add the end of the last run, which the resampler's filter still holds."""
        if self._resampler is not None and (tail := await self._resampler.flush()):
            self._add(tail, self._last_ns / 1e9)


class Recorder:
    """Both sides."""

    def __init__(self, clock: CallClock, emitter: Emitter) -> None:
        self._woken = asyncio.Event()
        self._clock = clock
        self.user = TrackRecorder("user", "last_sample", USER_TOLERANCE, clock, emitter, on_first=self._woken.set)
        self.bot = TrackRecorder("bot", "first_sample", _BOT_TOLERANCE, clock, emitter, on_first=self._woken.set)

    @property
    def dropped(self) -> int:
        """Frames that were lost because this process was too busy to place them."""
        return self.user.dropped + self.bot.dropped

    @property
    def tap(self) -> Tap | None:
        """Who else is told of the samples, as they get their place."""
        return self.user.tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self.user.tap = self.bot.tap = tap
        self._woken.set()

    async def run(self) -> None:
        """Work until canceled."""
        while True:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._woken.wait()
            await self.user.work()
            await self.bot.work()

    def _idle_s(self) -> float | None:
        """Return for how long there is nothing to do; None: until something is taken."""
        dues = [due for side in (self.user, self.bot) if (due := side.due_s) is not None]
        idle_s = max(min(dues) - self._clock.monotonic_ns() / 1e9, _LEAST_S) if dues else None
        if self.tap is None:
            return idle_s
        return TAPPED_S if idle_s is None else min(idle_s, TAPPED_S)

    async def close(self) -> None:
        """Publish everything that was recorded."""
        await self.user.close()
        await self.bot.close()


def _mono(pcm: bytes, channels: int) -> bytes:
    whole = len(pcm) - len(pcm) % (WIDTH * max(channels, 1))
    if channels <= 1:
        return pcm if whole == len(pcm) else pcm[:whole]
    return np.frombuffer(pcm[:whole], dtype="<i2").reshape(-1, channels).mean(axis=1).astype("<i2").tobytes()
