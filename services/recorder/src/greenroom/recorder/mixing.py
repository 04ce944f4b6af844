"""Reads the parts of a recording as the channels of a file, block by block: memory doesn't depend on the length."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from greenroom.common.recordings import Layout
from greenroom.recorder import files
from greenroom.recorder.timeline import SAMPLE_BYTES, TRACKS, Part, Track

# The tracks that are heard on each channel, from the left.
type Channels = tuple[tuple[Track, ...], ...]
# Samples of 16 bit in the files' byte order, one row an instant, one column a channel.
type Frames = NDArray[np.int16]

# 64 Ki samples a track: 128 KiB, 4 s at 16 kHz.
BLOCK: Final = 65_536
_SAMPLE: Final = np.dtype("<i2")
_BOUNDS: Final = np.iinfo(np.int16)


def channels_of(layout: Layout) -> tuple[Channels, ...]:
    """Return the channels of each file of a layout."""
    if layout == "mixed":
        return ((TRACKS,),)
    if layout == "tracks":
        return tuple(((track,),) for track in TRACKS)
    return (tuple((track,) for track in TRACKS),)


class Mixer:
    """The audio of a recording; a context manager that holds the files open.

    Where two attempts overlap on the timeline (their hosts' clocks disagree, or a runner that was taken for lost
    went on for a while) both are heard. What no part has is silence.

    Args:
        parts: each with its file of mono PCM (16 bit, little-endian; holes read as silence).
        samples: length of the whole.
    """

    def __init__(self, parts: Sequence[tuple[Part, Path]], samples: int) -> None:
        self._parts = parts
        self._samples = samples
        self._open: list[tuple[Part, io.FileIO]] = []

    def __enter__(self) -> Self:
        try:
            for part, path in self._parts:
                self._open.append((part, io.FileIO(path)))
        except OSError:
            self._close()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._close()

    def blocks(self, channels: Channels) -> Iterator[Frames]:
        """Yield the frames of the whole, block by block."""
        for start in range(0, self._samples, BLOCK):
            count = min(BLOCK, self._samples - start)
            frames = np.zeros((count, len(channels)), _SAMPLE)
            for column, tracks in enumerate(channels):
                frames[:, column] = self._channel(tracks, start, count)
            yield frames

    def _channel(self, tracks: Sequence[Track], start: int, count: int) -> Frames:
        """Return samples `start` to `start + count` of some tracks together, clipped."""
        pieces: list[tuple[int, Frames]] = []
        for part, file in self._open:
            begin, end = max(start, part.offset), min(start + count, part.offset + part.length)
            if part.track in tracks and begin < end:
                pieces.append((begin - start, _read(file, begin - part.offset, end - begin)))
        if len(pieces) == 1 and len(pieces[0][1]) == count:
            return pieces[0][1]
        total = np.zeros(count, np.int32)
        for low, piece in pieces:
            total[low : low + len(piece)] += piece
        return np.clip(total, _BOUNDS.min, _BOUNDS.max).astype(_SAMPLE)

    def _close(self) -> None:
        for _, file in self._open:
            file.close()
        self._open = []


def _read(file: io.FileIO, position: int, count: int) -> Frames:
    """Return `count` samples from `position` on; what the file lacks is silence."""
    samples = np.zeros(count, _SAMPLE)
    view = memoryview(samples).cast("B")
    file.seek(position * SAMPLE_BYTES)
    filled = 0
    while filled < len(view) and (got := file.readinto(view[filled:])):
        filled += got
    # A part is read once.
    files.let_go(file.fileno(), position * SAMPLE_BYTES, filled)
    return samples
