"""Where recordings are deleted from: a seam, with the folder on the disk behind it."""

import asyncio
import contextlib
from datetime import date
from pathlib import Path
from typing import Final, Protocol

import msgspec
import obstore
from obstore.exceptions import BaseError

from greenroom.common.objects import ObjectStore, StorageUnavailable
from greenroom.recorder import files

MANIFEST: Final = ".json"


class RecordingOf(msgspec.Struct, frozen=True, kw_only=True):
    """Whose files are meant."""

    tenant: str
    session_id: str
    # Of the session's request, in UTC: files lie by it.
    day: date
    # As stored; None where no recording is.
    path: str | None = None


class RecordingFiles(Protocol):
    """Storage of sealed recordings, as far as deleting goes."""

    async def remove(self, recording: RecordingOf) -> int:
        """Delete all files of a session's recording, manifests and drafts too; return how many there were.

        May be repeated; what is gone already counts as done.

        Raises:
            OSError, GreenroomError: something may be left.
        """
        ...


class LocalRecordings:
    """Recordings in a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def remove(self, recording: RecordingOf) -> int:
        """See `RecordingFiles.remove`."""
        return await asyncio.to_thread(self._remove, recording)

    def _remove(self, recording: RecordingOf) -> int:
        found: set[Path] = set()
        if recording.path is not None:
            stored = self._root / recording.path
            found |= {stored, stored.with_suffix(MANIFEST)}
        folder = self._root / recording.tenant / f"{recording.day:%Y}" / f"{recording.day:%m}" / f"{recording.day:%d}"
        if folder.is_dir():
            # Whatever bears its name: other formats, tracks, manifests, drafts of a writer that was killed.
            ours = (recording.session_id, f".{recording.session_id}")
            found |= {path for path in folder.iterdir() if path.name.startswith(ours)}
        removed, folders = 0, set[Path]()
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed += 1
                folders.add(path.parent)
        for each in folders:
            files.sync_folder(each)
        return removed


class BucketRecordings:
    """Recordings in a bucket.

    Args:
        store: made by `open_bucket`.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def remove(self, recording: RecordingOf) -> int:
        """See `RecordingFiles.remove`."""
        try:
            return await asyncio.to_thread(self._remove, recording)
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"delete: {type(error).__name__}") from error

    def _remove(self, recording: RecordingOf) -> int:
        folder = f"{recording.tenant}/{recording.day:%Y/%m/%d}"
        # Names are listed in order, from the session's on: audio under any digest, every track, the manifest.
        first = f"{folder}/{recording.session_id}"
        found = {recording.path} if recording.path is not None else set[str]()
        for batch in obstore.list(self._store, folder, offset=first):
            mine = [entry["path"] for entry in batch if entry["path"].startswith(f"{first}.")]
            found.update(mine)
            if len(mine) < len(batch):
                break
        removed = 0
        for path in sorted(found):
            with contextlib.suppress(FileNotFoundError):
                obstore.head(self._store, path)
                obstore.delete(self._store, path)
                removed += 1
        return removed
