"""A sealed recording's bytes, for whoever packs them."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from greenroom.api import ranges
from greenroom.api.ranges import Span
from greenroom.api.store import Recording


class RecordingFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a recording, as large as it is now."""

    path: Path
    size: int

    def chunks(self) -> AsyncGenerator[bytes]:
        """Return its bytes."""
        return ranges.read(self.path, Span(start=0, stop=self.size))


async def find(root: Path, recording: Recording) -> RecordingFile | None:
    """Return the file of a recording; None: it isn't in the folder of recordings (`root`, resolved)."""
    return await asyncio.to_thread(_find, root, recording)


def _find(root: Path, recording: Recording) -> RecordingFile | None:
    path = (root / recording.path).resolve()
    try:
        return RecordingFile(path=path, size=path.stat().st_size) if path.is_relative_to(root) else None
    except OSError:
        return None
