"""What a runner has to publish, on disk beside memory, so that it outlives a runner that is killed.

    reports/{runner}-{id}.spool    records, each: length, CRC-32, the message (msgpack)

A runner appends what it is to publish to a file of its own, and empties it when the broker has everything. It holds a
lock on it as long as it lives: whoever starts on the host next takes over the files that nobody holds. What was
published already but not emptied yet is published again under the same id, and stored once. Names are never used
again: a container that is restarted has the same runner in it, and the same process id.

Nothing is synced: a killed process loses nothing of what it has written, only a host that falls does. The files hold
what was said in calls: they are the runner's alone, sessions can't read them, and what is older than a day is dropped.
"""

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog

from greenroom.common.ids import uuid7
from greenroom.common.spool import DEFAULT_MAX_BYTES, Waiting

_log = structlog.get_logger()

SUFFIX: Final = ".spool"
MAX_AGE_S: Final = 24 * 3600.0
_HEAD: Final = struct.Struct(">II")
# As much as waits in memory, and what their records cost.
_MAX_BYTES: Final = 2 * DEFAULT_MAX_BYTES


class ReportsFile:
    """The file of one runner that lives.

    Args:
        path: where; it is locked.
        descriptor: of the open file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = 0
        self._broken = False

    @classmethod
    def open(cls, folder: Path, runner_id: str) -> Self:
        """Make the file of a runner. Raises `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = folder / f"{runner_id}-{uuid7()}{SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                return cls(path, descriptor)
            # Another that starts took it over before it was held.
            os.close(descriptor)

    def append(self, item: Waiting) -> None:
        """Keep a message; one that can't be kept is in memory still."""
        record = encoded(item)
        if self.size + len(record) > _MAX_BYTES:
            self._fail("full")
            return
        try:
            written = os.write(self._descriptor, record)
            if written < len(record):
                # What comes behind a torn record would never be read.
                os.ftruncate(self._descriptor, self.size)
                self._fail("short write")
                return
        except OSError as error:
            self._fail(os.strerror(error.errno or 0))
            return
        self.size += len(record)
        self._broken = False

    def clear(self) -> None:
        """Forget everything: it is published."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            self.size = 0

    def close(self) -> None:
        """Let go of the file; nothing is left of one that is empty."""
        if not self.size:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _fail(self, why: str) -> None:
        if not self._broken:
            _log.error("report_not_kept", why=why)
        self._broken = True


def encoded(item: Waiting) -> bytes:
    """Return a message as it stands in a file."""
    body = msgspec.msgpack.encode(item)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def decoded(data: bytes) -> Iterator[Waiting]:
    """Yield the messages of a file, up to one that was written in part."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        body = data[at : at + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            yield msgspec.msgpack.decode(body, type=Waiting)
        except msgspec.MsgspecError:
            return
        at += length


def adopt(folder: Path, *, own: Path, now: float) -> Iterator[tuple[Path, list[Waiting]]]:
    """Yield the files that nobody holds any more, and what they have; each is held until the next is asked for.

    Args:
        folder: where they are.
        own: of the runner that asks.
        now: the time, in seconds since 1970.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path == own:
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # another runner was first
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if not _is_at(path, descriptor):
                continue
            waiting = list(decoded(_read(descriptor, status.st_size)))
            if now - status.st_mtime > MAX_AGE_S and waiting:
                _log.error("reports_too_old", file=path.name, messages=len(waiting))
                waiting = []
            yield path, waiting
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.info("reports_left_alone", file=path.name, why=os.strerror(error.errno or 0))
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open file is the one that has this name still."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int, size: int) -> bytes:
    read = bytearray()
    while len(read) < size and (part := os.pread(descriptor, size - len(read), len(read))):
        read += part
    return bytes(read)
