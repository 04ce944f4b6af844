"""Where sealed recordings go: a folder, or a bucket.

In both, the manifest comes last and is the commit: where it is, all that it names is there and whole.

A folder belongs to the recorder that leads, and what it writes last stands. A bucket may be written by two recorders
at once (one of them has been cut off and doesn't know yet), so nothing in it is ever overwritten blindly:

- An audio file has its digest in its name (`{session_id}.{16 hex digits}.flac`). Whoever uploads it again, after a
  crash in the middle say, uploads the same; two recorders that have different audio write different files.
- The manifest is put only if there is none (`If-None-Match: *`). If there is one, it stands, unless more chunks came
  since it was made: then it is replaced under the condition that it is still the same one (`If-Match`), and the files
  that the new one doesn't name are removed.

What is small goes up in one piece. What is larger goes up in parts: to S3 so that the next try, or the next recorder,
sends only what is missing (`greenroom.recorder.multipart`); elsewhere it begins anew.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from greenroom.common.objects import ObjectStore, StorageUnavailable
from greenroom.common.recordings import MEDIA_TYPES
from greenroom.recorder import files
from greenroom.recorder.multipart import PART_BYTES, PARTS_AT_ONCE, S3Uploads

if TYPE_CHECKING:
    from obstore import UpdateVersion  # exists for type checkers alone

_log = structlog.get_logger()

# What is read into memory at once in any case: 32 MiB a recording.
ONE_PIECE_BYTES: Final = PARTS_AT_ONCE * PART_BYTES
DIGEST_CHARS: Final = 16
_ENCRYPTED_TYPE: Final = "application/octet-stream"
_MANIFEST_TYPE: Final = "application/json"
# What isn't found or not allowed comes as Python's own error.
_REFUSALS: Final = (BaseError, OSError)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """How many chunks of a track there are."""

    chunks: int


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A file by its name."""

    path: str


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What one must know of a manifest to tell which of two stands."""

    tracks: tuple[Counted, ...] = ()
    files: tuple[Named, ...] = ()

    @property
    def chunks(self) -> int:
        """How much audio it speaks of."""
        return sum(track.chunks for track in self.tracks)


class Storage(Protocol):
    """A place for recordings. Its methods block; paths are relative to it.

    Each raises `OSError` or `StorageUnavailable` when the same may succeed later.
    """

    def keep(self, draft: Path, path: PurePosixPath, sha256: str) -> str:
        """Take a file that is complete and on the disk; return the path under which it is kept.

        `sha256` is that of its audio: an encrypted file is another one each time, and any of them will do.
        """
        ...

    def commit(self, path: PurePosixPath, manifest: bytes) -> bytes:
        """Take the manifest of a recording whose files are kept; return the one that stands."""
        ...

    def remove(self, paths: Sequence[str]) -> None:
        """Delete files; those that aren't there are passed over."""
        ...


class Folder:
    """Recordings on the disk.

    Args:
        root: the folder; made when it isn't there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, draft: Path, path: PurePosixPath, sha256: str) -> str:
        """Move a file to its place; it is there whole, or not."""
        del sha256
        target = self._root / path
        files.make_folder(target.parent)
        draft.replace(target)
        files.sync_folder(target.parent)
        return path.as_posix()

    def commit(self, path: PurePosixPath, manifest: bytes) -> bytes:
        """Write the manifest, whatever was there."""
        target = self._root / path
        files.make_folder(target.parent)
        files.write_whole(target, [manifest])
        return manifest

    def remove(self, paths: Sequence[str]) -> None:
        """Delete files."""
        for path in paths:
            target = self._root / path
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                files.sync_folder(target.parent)


class Bucket:
    """Recordings in an object store.

    Args:
        store: made by `open_bucket`.
        uploads: takes large files to S3; None: obstore does.
    """

    def __init__(self, store: ObjectStore, uploads: S3Uploads | None = None) -> None:
        self._store = store
        self._uploads = uploads

    def keep(self, draft: Path, path: PurePosixPath, sha256: str) -> str:
        """Upload a file, or what is missing of it, unless it is there."""
        name = path.with_name(f"{path.stem}.{sha256[:DIGEST_CHARS]}{path.suffix}")
        key, size = name.as_posix(), draft.stat().st_size
        media_type = MEDIA_TYPES.get(path.suffix[1:], _ENCRYPTED_TYPE)
        disposition = f'attachment; filename="{path.name}"'
        # Beside the draft: it is there for whoever comes next, and goes with the session's parts.
        record = draft.with_name(f"upload.{path.name}")
        try:
            there = self._size(key) == size
            if self._uploads is not None and there and record.exists():
                self._uploads.forget(key, record)
            elif self._uploads is not None and not there and size > ONE_PIECE_BYTES:
                headers = {"ContentType": media_type, "ContentDisposition": disposition}
                self._uploads.send(draft, key, record, headers=headers)
            elif not there:
                obstore.put(
                    self._store,
                    key,
                    draft,
                    attributes={"Content-Type": media_type, "Content-Disposition": disposition},
                    use_multipart=size > ONE_PIECE_BYTES,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        except _REFUSALS as error:
            raise _unavailable("put", error) from error
        return key

    def commit(self, path: PurePosixPath, manifest: bytes) -> bytes:
        """Put the manifest if there is none, or instead of one that knows of less."""
        key = path.as_posix()
        try:
            obstore.put(self._store, key, manifest, attributes={"Content-Type": _MANIFEST_TYPE}, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return self._reconcile(key, manifest)
        except _REFUSALS as error:
            raise _unavailable("put", error) from error
        return manifest

    def remove(self, paths: Sequence[str]) -> None:
        """Delete objects."""
        for path in paths:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                continue
            except _REFUSALS as error:
                raise _unavailable("delete", error) from error

    def _reconcile(self, key: str, manifest: bytes) -> bytes:
        """Return which of two manifests stands: ours, or the one that is there."""
        try:
            found = obstore.get(self._store, key)
            there = bytes(found.bytes())
            if there == manifest:
                return there
            ours, theirs = decode(manifest), decode(there)
            if theirs.files and theirs.chunks >= ours.chunks:
                _log.info("recording_already_sealed", path=key, chunks=theirs.chunks, ours=ours.chunks)
                return there
            version: UpdateVersion = {}
            # Some stores know an object's version by one of these, some by the other.
            if (mark := found.meta["e_tag"]) is not None:
                version["e_tag"] = mark
            if (mark := found.meta["version"]) is not None:
                version["version"] = mark
            obstore.put(self._store, key, manifest, attributes={"Content-Type": _MANIFEST_TYPE}, mode=version)
        except (PreconditionError, FileNotFoundError) as error:
            raise StorageUnavailable("Another recorder has sealed the same session just now.") from error
        except _REFUSALS as error:
            raise _unavailable("get", error) from error
        mine = {file.path for file in ours.files}
        self.remove([file.path for file in theirs.files if file.path not in mine])
        return manifest

    def _size(self, key: str) -> int | None:
        try:
            return obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode(manifest: bytes) -> Committed:
    """Return what a manifest says of itself; nothing, where it isn't one."""
    try:
        return msgspec.json.decode(manifest, type=Committed)
    except msgspec.MsgspecError:
        return Committed()


def _unavailable(operation: str, error: Exception) -> StorageUnavailable:
    _log.warning("storage_refused", operation=operation, error=type(error).__name__, detail=str(error)[:300])
    return StorageUnavailable(f"{operation}: {type(error).__name__}")
