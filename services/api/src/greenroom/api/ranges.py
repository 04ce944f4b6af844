"""Parts of a file (RFC 9110, section 14), as players ask for them."""

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from greenroom.common.errors import GreenroomError

_CHUNK_BYTES: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class RangeNotSatisfiable(GreenroomError):
    """The header `Range` asks for bytes behind the end of the file; `Content-Range` in the answer has its size."""

    code = "range-not-satisfiable"
    status = 416
    title = "The file ends before that"

    def __init__(self, size: int = 0) -> None:
        """Tell of a file of `size` bytes."""
        super().__init__(f"The file has {size} bytes.")
        self.size = size


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes `start` (inclusive) to `stop` (exclusive) of a file."""

    start: int
    stop: int


def parse(header: str | None, size: int) -> Span | None:
    """Return the part of a file of `size` bytes that a `Range` header asks for; None: all of it.

    Headers of other units, of several ranges or of no sense ask for all, as the RFC allows.

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = int(match[2])
        if not length or not size:
            raise RangeNotSatisfiable(size)
        return Span(start=max(size - length, 0), stop=size)
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    if start >= size:
        raise RangeNotSatisfiable(size)
    return Span(start=start, stop=stop) if start < stop else None


async def read(path: Path, span: Span) -> AsyncGenerator[bytes]:
    """Yield the bytes of a part of a file, without blocking the loop and in constant memory.

    Raises:
        OSError: the file can't be read.
    """
    file = cast("BinaryIO", await asyncio.to_thread(path.open, "rb"))
    try:
        await asyncio.to_thread(file.seek, span.start)
        left = span.stop - span.start
        while left and (chunk := await asyncio.to_thread(file.read, min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
    finally:
        file.close()
