"""WAV files, written from parts of PCM in blocks: memory doesn't depend on the length.

Above 4 GiB (18.6 h of two channels at 16 kHz) the file is RF64 (EBU Tech 3306), the same with 64-bit sizes; ffmpeg,
sox and libsndfile read it.
"""

import array
import io
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from greenroom.recorder.timeline import SAMPLE_BYTES, TRACKS, Part, Track

CHANNELS: Final = len(TRACKS)
# 64 Ki samples a track: 128 KiB, 4 s at 16 kHz.
BLOCK: Final = 65_536
_PCM: Final = 1
_RIFF_LIMIT: Final = 0xFFFF_FFFF
_LOUDEST: Final = 32_767
_QUIETEST: Final = -32_768


def header(samples: int, rate: int) -> bytes:
    """Return the header of a file with two channels of `samples` samples of 16 bit."""
    frame = CHANNELS * SAMPLE_BYTES
    size = samples * frame
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, CHANNELS, rate, rate * frame, frame, 8 * SAMPLE_BYTES)
    rest = 4 + len(form) + 8 + size  # "WAVE", the format, the head of the data, the data
    if rest <= _RIFF_LIMIT:
        return struct.pack("<4sI4s", b"RIFF", rest, b"WAVE") + form + struct.pack("<4sI", b"data", size)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, rest + 36, size, samples, 0)
    return (
        struct.pack("<4sI4s", b"RF64", _RIFF_LIMIT, b"WAVE") + sizes + form + struct.pack("<4sI", b"data", _RIFF_LIMIT)
    )


class Mixer:
    """Reads parts as interleaved stereo; a context manager that holds the files open.

    Where two attempts overlap on the timeline (their hosts' clocks disagree, or a runner that was taken for lost
    went on for a while) both are heard.

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

    def blocks(self) -> Iterator[bytes]:
        """Yield the frames of the whole, block by block."""
        for start in range(0, self._samples, BLOCK):
            count = min(BLOCK, self._samples - start)
            frames = array.array("h", bytes(count * CHANNELS * SAMPLE_BYTES))
            for channel, track in enumerate(TRACKS):
                frames[channel::CHANNELS] = self._block(track, start, count)
            yield frames.tobytes()

    def _block(self, track: Track, start: int, count: int) -> array.array[int]:
        """Return samples `start` to `start + count` of a track, in the file's byte order."""
        pieces: list[tuple[int, array.array[int]]] = []
        for part, file in self._open:
            begin, end = max(start, part.offset), min(start + count, part.offset + part.length)
            if part.track == track and begin < end:
                pieces.append((begin - start, _read(file, begin - part.offset, end - begin)))
        if len(pieces) > 1:
            return _mixed(pieces, count)
        block = array.array("h", bytes(count * SAMPLE_BYTES))
        for low, piece in pieces:
            block[low : low + len(piece)] = piece
        return block

    def _close(self) -> None:
        for _, file in self._open:
            file.close()
        self._open = []


def _read(file: io.FileIO, position: int, count: int) -> array.array[int]:
    """Return `count` samples from `position` on; what the file lacks is silence."""
    samples = array.array("h", bytes(count * SAMPLE_BYTES))
    view = memoryview(samples).cast("B")
    file.seek(position * SAMPLE_BYTES)
    filled = 0
    while filled < len(view) and (got := file.readinto(view[filled:])):
        filled += got
    return samples


def _mixed(pieces: Sequence[tuple[int, array.array[int]]], count: int) -> array.array[int]:
    """Return the sum of pieces, each at its place in `count` samples, clipped."""
    total = [0] * count
    for low, piece in pieces:
        _swap_if_big_endian(piece)
        for index, value in enumerate(piece, low):
            total[index] += value
    mixed = array.array("h", (max(_QUIETEST, min(_LOUDEST, value)) for value in total))
    _swap_if_big_endian(mixed)
    return mixed


def _swap_if_big_endian(samples: array.array[int]) -> None:
    """Turn the file's byte order into the machine's, or back."""
    if sys.byteorder == "big":
        samples.byteswap()
