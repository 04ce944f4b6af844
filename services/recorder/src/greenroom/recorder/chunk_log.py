"""Chunks of audio on the way to their files: one file for all sessions, so that one sync makes a whole batch durable.

    {root}/{uuid}.chunks    records, one behind the other: lengths and CRC-32, where the chunk belongs, its samples

A batch is appended to the current segment and synced; only then is it written to the files of its sessions, which are
synced every few seconds, many batches together (`parts.Parts.checkpoint`). A segment is removed once the files have
everything that is in it. What a crash leaves behind is read again: a record that was cut short ends its segment, since
nothing behind it was acknowledged.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from greenroom.common.ids import uuid7
from greenroom.recorder import files
from greenroom.recorder.timeline import ChunkNote

SUFFIX: Final = ".chunks"
# Length of what follows: where it belongs, and samples; CRC-32 of both.
_HEAD: Final = struct.Struct("<III")
# Longer ones are no records: a chunk has a second at most.
_LONGEST: Final = 1024 * 1024
_WRITTEN_AT_ONCE: Final = 64


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Audio as it came: where it belongs, and its samples."""

    tenant: str
    session_id: str
    note: ChunkNote
    pcm: bytes


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    session_id: str
    note: ChunkNote


class ChunkLog:
    """The segments in a folder. Not safe for several threads at once.

    Args:
        root: the folder; made when it isn't there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._current: tuple[Path, int] | None = None

    def append(self, chunks: Sequence[Chunk]) -> Path:
        """Write chunks, which are durable with the next `sync`, and return the segment they are in.

        Raises:
            OSError: the disk is full, or worse; some of them may be written.
        """
        try:
            segment, file = self._current = self._current or self._begin()
            for first in range(0, len(chunks), _WRITTEN_AT_ONCE):
                _write_all(
                    file, [piece for chunk in chunks[first : first + _WRITTEN_AT_ONCE] for piece in _record(chunk)]
                )
        except BaseException:
            # It may end in half a record: what comes next must not stand behind that.
            self.end_segment()
            raise
        return segment

    def sync(self) -> None:
        """Have what was appended on the disk. May run in another thread, as long as nothing is appended.

        Raises:
            OSError: it may not be there; what follows doesn't belong behind it.
        """
        if self._current is not None:
            sync_data(self._current[1])

    def end_segment(self) -> None:
        """Begin a new segment with the next chunk."""
        current, self._current = self._current, None
        if current is not None:
            os.close(current[1])

    def segments(self) -> list[Path]:
        """Return the segments there are, whoever wrote them, oldest first."""
        return sorted(self._root.glob(f"*{SUFFIX}"))

    def remove(self, segments: Sequence[Path]) -> None:
        """Forget segments for good.

        Raises:
            OSError: they can't be deleted.
        """
        for segment in segments:
            segment.unlink(missing_ok=True)
        if segments:
            files.sync_folder(self._root)

    def _begin(self) -> tuple[Path, int]:
        files.make_folder(self._root)
        segment = self._root / f"{uuid7()}{SUFFIX}"
        file = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            files.sync_folder(self._root)
        except BaseException:
            os.close(file)
            raise
        return segment, file


def read(segment: Path) -> Iterator[Chunk]:
    """Yield the chunks of a segment, as far as it is whole.

    Raises:
        OSError: it can't be read.
    """
    with segment.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            place_size, pcm_size, crc = _HEAD.unpack(head)
            # Zeros too are what a crash may leave, and their CRC-32 is right.
            if not (0 < place_size <= _LONGEST and 0 < pcm_size <= _LONGEST):
                return
            place, pcm = file.read(place_size), file.read(pcm_size)
            if len(pcm) < pcm_size or zlib.crc32(pcm, zlib.crc32(place)) != crc:
                return
            where = _DECODER.decode(place)
            yield Chunk(tenant=where.tenant, session_id=where.session_id, note=where.note, pcm=pcm)


def _record(chunk: Chunk) -> tuple[bytes, bytes, bytes]:
    place = _ENCODER.encode(_Place(tenant=chunk.tenant, session_id=chunk.session_id, note=chunk.note))
    return _HEAD.pack(len(place), len(chunk.pcm), zlib.crc32(chunk.pcm, zlib.crc32(place))), place, chunk.pcm


def _write_all(file: int, pieces: Sequence[bytes]) -> None:
    written, size = os.writev(file, pieces), sum(map(len, pieces))
    if written < size:
        # Nearly always the device is full, and this says so.
        view = memoryview(b"".join(pieces))[written:]
        while view:
            view = view[os.write(file, view) :]


# macOS has none; it syncs some more then.
sync_data: Final = getattr(os, "fdatasync", os.fsync)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Place)
