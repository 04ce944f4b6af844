"""Writes the frames of a recording as a file: WAV by ourselves, FLAC and Opus by FFmpeg.

Frames come and go block by block, so memory doesn't depend on the length. The same frames give the same file, to the
byte, on the same versions of the libraries.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError

from greenroom.common.errors import GreenroomError
from greenroom.common.recordings import Format
from greenroom.recorder import files, wav
from greenroom.recorder.mixing import Frames
from greenroom.recorder.storage import digest_of

# Speech in full band; Opus spends more where more is said.
OPUS_BITS_PER_CHANNEL: Final = 32_000
_CONTAINERS: Final = {"flac": "flac", "opus": "ogg"}
_CODECS: Final = {"flac": "flac", "opus": "libopus"}
_WRITE_BACK_BYTES: Final = 16 * 1024 * 1024
_LAYOUTS: Final = {1: "mono", 2: "stereo"}
# Nothing of the time or the machine in the file: Ogg would number its stream at random.
_REPEATABLE: Final = {"fflags": "+bitexact"}


class EncodingFailed(GreenroomError):
    """FFmpeg couldn't write a recording. Its audio is kept, and it is tried again; the recorder's log has the cause.

    Should it fail for ever, set GREENROOM_RECORDING_FORMAT to `wav`, which needs no FFmpeg.
    """

    code = "encoding-failed"
    status = 500
    title = "The recording can't be encoded"
    retryable = True


def encode(path: Path, form: Format, blocks: Iterable[Frames], *, channels: int, samples: int, rate: int) -> str:
    """Write `path`, which isn't there yet, have it on the disk, and return its SHA-256 in hex.

    Args:
        path: the file.
        form: what it becomes.
        blocks: the frames, `samples` in all; each block is an array of its own.
        channels: how many each frame has.
        samples: the length.
        rate: samples per second.

    Raises:
        OSError: the disk is full, or worse.
        EncodingFailed: FFmpeg doesn't do it.
    """
    with path.open("xb") as file:
        if form == "wav":
            sha256 = _write_plain(file, wav.header(samples, rate, channels), blocks)
        else:
            sha256 = None
            try:
                _write_encoded(file, form, blocks, channels, rate)
            except FFmpegError as error:
                raise EncodingFailed(f"{form}: {error.strerror}") from error
        file.flush()
        os.fsync(file.fileno())
    # FFmpeg goes back to what it has written, so a digest is taken of the whole.
    return sha256 or digest_of(path)


def _write_plain(file: BinaryIO, head: bytes, blocks: Iterable[Frames]) -> str:
    """Write blocks as they are and return the digest of all; one is digested while the next is read and written."""
    digest = hashlib.sha256(head)
    file.write(head)
    written = begun = len(head)
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as other:
        under_way: Future[None] | None = None
        for block in blocks:
            data = memoryview(block).cast("B")
            if under_way is not None:
                under_way.result()
            under_way = other.submit(digest.update, data)
            file.write(data)
            written += len(data)
            if written - begun >= _WRITE_BACK_BYTES:
                file.flush()
                # The disk begins with this, and what it has of the piece before gives its memory back.
                files.let_go(file.fileno(), 0, written)
                begun = written
        if under_way is not None:
            under_way.result()
    return digest.hexdigest()


def _write_encoded(file: BinaryIO, form: Format, blocks: Iterable[Frames], channels: int, rate: int) -> None:
    with av.open(file, "w", format=_CONTAINERS[form], options=_REPEATABLE) as output:
        stream = output.add_stream(_CODECS[form], rate=rate, options={}, layout=_LAYOUTS[channels], format="s16")
        if not isinstance(stream, AudioStream):
            raise EncodingFailed(f"{form}: FFmpeg has no encoder for it")
        if form == "opus":
            stream.bit_rate = OPUS_BITS_PER_CHANNEL * channels
        done = 0
        for block in blocks:
            frame = av.AudioFrame(format="s16", layout=_LAYOUTS[channels], samples=len(block))
            frame.planes[0].update(block.astype(np.int16, copy=False).tobytes())
            frame.sample_rate, frame.pts = rate, done
            done += len(block)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
