"""A zip archive made while it is sent, in constant memory.

Sizes aren't known beforehand, so each member carries them behind its data (a data descriptor), and those that may be
large are in Zip64. An archive that isn't sent to its end has no directory: no program takes it for a whole one.
"""

import asyncio
import contextlib
import zipfile
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final

import msgspec

# The format counts years from 1980 to 2107.
_FIRST_YEAR: Final = 1980
_LAST_YEAR: Final = 2107
# Regular file, readable by all: archives made elsewhere than on Unix have no such thing.
_MODE: Final = 0o100644 << 16
# What is compressed in one go, off the loop.
_GO_BYTES: Final = 256 * 1024

type _Date = tuple[int, int, int, int, int, int]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the archive; `compress` is for what isn't compressed already, `large` for what may pass 2 GiB."""

    name: str
    chunks: AsyncGenerator[bytes]
    compress: bool = True
    large: bool = False


class _Sink:
    """What the archive is written to: it can't seek, and is emptied again and again."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


async def zipped(members: AsyncGenerator[Member], at: datetime) -> AsyncGenerator[bytes]:
    """Yield the archive of `members`, in their order, each dated `at`."""
    sink = _Sink()
    moment = at.astimezone(UTC)
    year = min(max(moment.year, _FIRST_YEAR), _LAST_YEAR)
    date = (year, moment.month, moment.day, moment.hour, moment.minute, moment.second)
    async with contextlib.aclosing(members):
        # Left by an error, the archive is closed as if it were done; what that writes is never sent.
        with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload] # it needs `write` and `flush` only
            async for member in members:
                async with contextlib.aclosing(_written(archive, sink, member, date)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        yield sink.take()


async def _written(archive: zipfile.ZipFile, sink: _Sink, member: Member, date: _Date) -> AsyncGenerator[bytes]:
    info = zipfile.ZipInfo(member.name, date)
    info.compress_type = zipfile.ZIP_DEFLATED if member.compress else zipfile.ZIP_STORED
    info.external_attr = _MODE
    waiting = bytearray()
    async with contextlib.aclosing(member.chunks):
        with archive.open(info, "w", force_zip64=member.large) as file:
            async for chunk in member.chunks:
                waiting += chunk
                if len(waiting) >= _GO_BYTES:
                    await asyncio.to_thread(file.write, bytes(waiting))
                    waiting.clear()
                    if data := sink.take():
                        yield data
            await asyncio.to_thread(file.write, bytes(waiting))
    yield sink.take()
