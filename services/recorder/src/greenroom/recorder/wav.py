"""WAV files, written from parts of PCM in blocks: memory doesn't depend on the length.

Above 4 GiB (18.6 h of two channels at 16 kHz) the file is RF64 (EBU Tech 3306), the same with 64-bit sizes; ffmpeg,
sox and libsndfile read it.
"""

import array
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

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
        self._open: list[tuple[Part, BinaryIO]] = []

    def __enter__(self) -> Self:
        try:
            self._open = [(part, path.open("rb", buffering=0)) for part, path in self._parts]
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
        block = array.array("h", bytes(count * SAMPLE_BYTES))
        written_to = 0
        for part, file in self._open:
            begin, end = max(start, part.offset), min(start + count, part.offset + part.length)
            if part.track != track or begin >= end:
                continue
            piece = _read(file, begin - part.offset, end - begin)
            low, high = begin - start, end - start
            block[low:high] = _mixed(block[low:high], piece) if low < written_to else piece
            written_to = max(written_to, high)
        return block

    def _close(self) -> None:
        for _, file in self._open:
            file.close()
        self._open = []


def _read(file: BinaryIO, position: int, count: int) -> array.array[int]:
    """Return `count` samples from `position` on; what the file lacks is silence."""
    samples = array.array("h", bytes(count * SAMPLE_BYTES))
    view = memoryview(samples).cast("B")
    file.seek(position * SAMPLE_BYTES)
    filled = 0
    while filled < len(view) and (got := file.readinto(view[filled:])):  # pyright: ignore[reportAttributeAccessIssue]
        filled += got
    return samples


def _mixed(one: array.array[int], other: array.array[int]) -> array.array[int]:
    """Return the sum, clipped."""
    _to_native(one, other)
    mixed = array.array("h", (max(_QUIETEST, min(_LOUDEST, a + b)) for a, b in zip(one, other, strict=True)))
    _to_native(mixed)
    return mixed


def _to_native(*blocks: array.array[int]) -> None:
    """Swap between the byte order of the file and the machine's, where they differ."""
    if sys.byteorder == "big":
        for block in blocks:
            block.byteswap()
