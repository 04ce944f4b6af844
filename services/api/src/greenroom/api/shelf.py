"""Where the recorder's files are read from: its folder, or its bucket.

What is in a bucket is fetched from there by whoever asked, over a link that is signed for a short time; what is in a
folder goes through this process.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, Protocol

import msgspec
import obstore
import structlog
from obstore.exceptions import BaseError

from greenroom.api import ranges
from greenroom.api.ranges import Span
from greenroom.api.store import Recording
from greenroom.common.errors import RecordingNotFound
from greenroom.common.objects import ObjectStore, StorageUnavailable, open_bucket, signed_link
from greenroom.common.recordings import RecordingFile

_log = structlog.get_logger()

_PIECE_BYTES: Final = 1024 * 1024


class _Files(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a manifest that names the files."""

    files: tuple[RecordingFile, ...] = ()


class Shelf(Protocol):
    """A place where files of recordings are."""

    async def link(self, path: str) -> str | None:
        """Return a URL from which anybody may fetch a file for a short time; None: it must be read here.

        Raises:
            StorageUnavailable: not now.
        """
        ...

    async def size(self, path: str) -> int:
        """Return how many bytes a file has.

        Raises:
            RecordingNotFound: it isn't there.
            StorageUnavailable: that can't be told now.
        """
        ...

    def read(self, path: str, span: Span) -> AsyncGenerator[bytes]:
        """Yield a part of a file, piece by piece."""
        ...


class FolderShelf:
    """The recorder's folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def link(self, path: str) -> str | None:
        """Return None."""
        del path

    async def size(self, path: str) -> int:
        """Look at the file."""
        try:
            return (await asyncio.to_thread(self._inside(path).stat)).st_size
        except OSError as error:
            _log.warning("recording_missing", path=path, error=type(error).__name__)
            raise RecordingNotFound("The recording isn't where it was kept.") from error

    def read(self, path: str, span: Span) -> AsyncGenerator[bytes]:
        """Read the file."""
        return ranges.read(self._inside(path), span)

    def _inside(self, path: str) -> Path:
        found = (self._root / path).resolve()
        if not found.is_relative_to(self._root):
            _log.error("recording_path_escapes", path=path)
            raise RecordingNotFound
        return found


class BucketShelf:
    """The recorder's bucket.

    Args:
        store: made by `open_bucket`.
        link_s: how long a link is good for.
    """

    def __init__(self, store: ObjectStore, *, link_s: float) -> None:
        self._store = store
        self._link_s = link_s

    async def link(self, path: str) -> str | None:
        """Sign one; whether the file is there is told by whoever is asked for it."""
        return await signed_link(self._store, path, lifetime_s=self._link_s)

    async def size(self, path: str) -> int:
        """Ask the bucket."""
        try:
            return (await obstore.head_async(self._store, path))["size"]
        except FileNotFoundError as error:
            _log.warning("recording_missing", path=path)
            raise RecordingNotFound("The recording isn't where it was kept.") from error
        except (BaseError, OSError) as error:
            raise StorageUnavailable from error

    async def read(self, path: str, span: Span) -> AsyncGenerator[bytes]:
        """Fetch the part in pieces."""
        for start in range(span.start, span.stop, _PIECE_BYTES):
            stop = min(start + _PIECE_BYTES, span.stop)
            yield bytes(await obstore.get_range_async(self._store, path, start=start, end=stop))


def shelf_of(recordings_dir: str, recordings_url: str | None, *, link_s: float) -> Shelf:
    """Return the place that the settings name.

    Raises:
        SettingsInvalid: the URL names no bucket.
    """
    if recordings_url:
        return BucketShelf(open_bucket(recordings_url), link_s=link_s)
    return FolderShelf(Path(recordings_dir))


def files_of(recording: Recording) -> tuple[RecordingFile, ...]:
    """Return the files of a recording; the first is what is meant where none is named."""
    files = msgspec.json.decode(recording.manifest, type=_Files).files
    first = RecordingFile(path=recording.path, channels=(), bytes=recording.bytes, sha256=recording.sha256)
    return files or (first,)


def file_of(recording: Recording, track: str | None) -> RecordingFile:
    """Return the file with `track` alone; None: the first file.

    Raises:
        RecordingNotFound: there is no such file.
    """
    files = files_of(recording)
    if track is None:
        return files[0]
    for file in files:
        if file.track == track:
            return file
    raise RecordingNotFound(f"It has no file of {track} alone; its layout is chosen by the agent.")
