"""Files that are complete and on the disk, or not there."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path


def write_whole(target: Path, blocks: Iterable[bytes]) -> tuple[int, str]:
    """Write `target` from `blocks` and return its size in bytes and its SHA-256 in hex.

    Readers see the old file (or none) until the new one is complete and on the disk. Two writers at once don't
    disturb each other; the last one stands.

    Raises:
        OSError: the disk is full, or worse; `target` is as it was.
    """
    digest, size = hashlib.sha256(), 0
    # Unique per writer; the suffix is what a clean-up by hand may look for.
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("xb", buffering=0) as file:
            for block in blocks:
                view = memoryview(block)
                digest.update(view)
                size += len(view)
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        raise
    sync_folder(target.parent)
    return size, digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make `folder` and the ones above it, and have their names on the disk.

    Raises:
        OSError: not possible.
    """
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk.

    Raises:
        OSError: not possible.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def let_go(file: int, start: int, size: int) -> None:
    """Tell the kernel that a stretch of a file isn't needed in memory: what is dirty begins to be written.

    It is an advice, and nobody waits. A long file that is written through gives its memory back as it goes, and finds
    little left to sync at the end; otherwise it takes new memory all the time, and that takes longer than the writing.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, size, os.POSIX_FADV_DONTNEED)
