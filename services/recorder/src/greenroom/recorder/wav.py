"""The head of a WAV file.

Above 4 GiB (18.6 h of two channels at 16 kHz) the file is RF64 (EBU Tech 3306), the same with 64-bit sizes; ffmpeg,
sox and libsndfile read it.
"""

import struct
from typing import Final

from greenroom.recorder.timeline import SAMPLE_BYTES

_PCM: Final = 1
_RIFF_LIMIT: Final = 0xFFFF_FFFF


def header(samples: int, rate: int, channels: int) -> bytes:
    """Return the header of a file with `samples` samples of 16 bit on each of `channels` channels."""
    frame = channels * SAMPLE_BYTES
    size = samples * frame
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, channels, rate, rate * frame, frame, 8 * SAMPLE_BYTES)
    rest = 4 + len(form) + 8 + size  # "WAVE", the format, the head of the data, the data
    if rest <= _RIFF_LIMIT:
        return struct.pack("<4sI4s", b"RIFF", rest, b"WAVE") + form + struct.pack("<4sI", b"data", size)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, rest + 36, size, samples, 0)
    return (
        struct.pack("<4sI4s", b"RF64", _RIFF_LIMIT, b"WAVE") + sizes + form + struct.pack("<4sI", b"data", _RIFF_LIMIT)
    )
