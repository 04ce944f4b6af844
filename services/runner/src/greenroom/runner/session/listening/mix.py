"""Puts both sides' audio side by side for live listening. Pure: samples come in with their place, windows go out.

A window is `WINDOW` samples of both tracks, interleaved (user left, bot right), 16 bit at 16 kHz, with its place on
the call's timeline in front. What wasn't there in time is silence.
"""

import struct
from typing import Final

import numpy as np

from greenroom.common.messages import Track
from greenroom.runner.session.audio import RATE, WIDTH

WINDOW: Final = RATE // 10
# Position of the first sample, then the samples.
HEAD: Final = struct.Struct(">Q")
# What may be held: windows are taken ten times a second, and a listener behind by more than this hears a hole.
MAX_HELD: Final = 2 * RATE
_CHANNELS: Final[dict[Track, int]] = {"user": 0, "bot": 1}


class Mix:
    """The last moments of both tracks."""

    def __init__(self) -> None:
        # Samples that came when their window had been taken already, or from beyond what is held.
        self.late = 0
        self._start = 0
        self._samples = np.zeros((MAX_HELD, 2), dtype="<i2")

    def begin(self, position: int) -> None:
        """Begin anew at a place of the timeline."""
        self._start = position
        self._samples[:] = 0

    def add(self, track: Track, position: int, pcm: bytes) -> None:
        """Put samples of a track in their place."""
        samples = np.frombuffer(pcm, dtype="<i2")
        offset = position - self._start
        first, last = max(offset, 0), min(offset + len(samples), MAX_HELD)
        if first < last:
            self._samples[first:last, _CHANNELS[track]] = samples[first - offset : last - offset]
        self.late += len(samples) - max(last - first, 0)

    def take(self, until: int) -> list[bytes]:
        """Return the windows that end at or before `until`; what is older than can be held is skipped."""
        if until - self._start > MAX_HELD:
            self.begin(until - WINDOW - (until % WINDOW))
        windows: list[bytes] = []
        while self._start + WINDOW <= until:
            windows.append(HEAD.pack(self._start) + self._samples[:WINDOW].tobytes())
            self._samples[:-WINDOW] = self._samples[WINDOW:]
            self._samples[-WINDOW:] = 0
            self._start += WINDOW
        return windows


assert np.dtype("<i2").itemsize == WIDTH  # noqa: S101 the layout of windows rests on it
