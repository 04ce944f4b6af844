"""Audio of live sessions on the disk, until it is sealed.

    {root}/{session_id}/{track}.{epoch}.pcm    mono, 16 bit little-endian, each chunk at its position
    {root}/{session_id}/chunks.jsonl           one line a chunk, written behind the audio
    {root}/{session_id}/draft.*                what the sealing writes just now

Writing a chunk again changes nothing: it lies at its position, and the journal's readers know its number. What
`write` was given is on the disk (fdatasync) when it returns. Memory is that of the chunks at hand.
"""

import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from greenroom.recorder import files
from greenroom.recorder.timeline import SAMPLE_BYTES, ChunkNote, Part

JOURNAL: Final = "chunks.jsonl"
# Syncs of different files at the same time share the journal commits of the file system.
SYNC_THREADS: Final = 8
_DRAFT: Final = "draft."
_READ_BYTES: Final = 65_536
# A line has about 100 bytes; a file that is no journal must not fill the memory.
_LONGEST_LINE: Final = 4096


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Audio as it came: where it belongs, and its samples."""

    tenant: str
    session_id: str
    note: ChunkNote
    pcm: bytes


class Parts:
    """The parts of all sessions. Its methods block, and may be called from any thread.

    Args:
        root: their folder; made when it isn't there.
        max_open: files kept open between two writes.
    """

    def __init__(self, root: Path, *, max_open: int) -> None:
        self._root = root
        self._max_open = max_open
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        # Folders with names of ours that may not be on the disk yet.
        self._made: set[Path] = set()
        self._syncing = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="fdatasync")

    @property
    def open_files(self) -> int:
        """How many files are open now."""
        return len(self._files)

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Store chunks of any sessions; they are durable when this returns.

        Raises:
            OSError: the disk is full, or worse; some of them may be stored.
        """
        with self._lock:
            try:
                self._write(chunks)
            finally:
                self._close_oldest()

    def close(self, session_id: str | None = None) -> None:
        """Close the files of one session, or of all."""
        with self._lock:
            for path in list(self._files):
                if session_id is None or path.parent.name == session_id:
                    os.close(self._files.pop(path))

    def shutdown(self) -> None:
        """Close everything for good."""
        self.close()
        self._syncing.shutdown()

    def sessions(self) -> list[str]:
        """Return the ids of the sessions that have parts."""
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False))

    def exist(self, session_id: str) -> bool:
        """Tell whether a session has parts."""
        return (self._root / session_id).is_dir()

    def heard(self, session_id: str, epoch: int) -> bool:
        """Tell whether there is audio of an attempt."""
        return any((self._root / session_id).glob(f"*.{epoch}.pcm"))

    def journal(self, session_id: str) -> Iterator[ChunkNote]:
        """Yield what was stored of a session, in the order in which it came; some of it twice.

        A line cut short by a crash is passed over: its chunk wasn't acknowledged, and came again.
        """
        try:
            file = (self._root / session_id / JOURNAL).open("rb", buffering=_READ_BYTES)
        except FileNotFoundError:
            return
        with file:
            while line := file.readline(_LONGEST_LINE):
                try:
                    yield _DECODER.decode(line)
                except msgspec.MsgspecError:
                    continue

    def path(self, session_id: str, part: Part) -> Path:
        """Return where a part is."""
        return self._root / session_id / f"{part.track}.{part.epoch}.pcm"

    def draft(self, session_id: str, suffix: str) -> Path:
        """Return where a file of the recording may be written, until it is whole; nobody else has the name."""
        return self._root / session_id / f"{_DRAFT}{uuid.uuid4().hex}.{suffix}"

    def remove_drafts(self, session_id: str) -> None:
        """Delete what a sealing before this one left half written.

        Raises:
            OSError: it can't be deleted.
        """
        for path in (self._root / session_id).glob(f"{_DRAFT}*"):
            path.unlink(missing_ok=True)

    def remove(self, session_id: str) -> None:
        """Delete what there is of a session.

        Raises:
            OSError: it can't be deleted.
        """
        self.close(session_id)
        folder = self._root / session_id
        if folder.is_dir():
            shutil.rmtree(folder)

    def _write(self, chunks: Sequence[Chunk]) -> None:
        audio: set[int] = set()
        lines: dict[int, bytearray] = {}
        for chunk in chunks:
            note, folder = chunk.note, self._root / chunk.session_id
            file = self._file(folder / f"{note.track}.{note.epoch}.pcm", os.O_WRONLY)
            _write_all(file, chunk.pcm, note.position * SAMPLE_BYTES)
            audio.add(file)
            journal = self._file(folder / JOURNAL, os.O_RDWR | os.O_APPEND)
            lines.setdefault(journal, bytearray()).extend(msgspec.json.encode(note) + b"\n")
        # The journal speaks of what is there: it comes second.
        self._sync(audio)
        for journal, text in lines.items():
            _append_lines(journal, text)
        self._sync(lines)
        while self._made:
            folder = next(iter(self._made))
            if folder.is_dir():
                files.sync_folder(folder)
            self._made.discard(folder)

    def _file(self, path: Path, flags: int) -> int:
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            files.make_folder(path.parent)
            file = os.open(path, flags | os.O_CREAT, 0o640)
            self._made.add(path.parent)
        self._files[path] = file
        return file

    def _sync(self, files: Sequence[int] | set[int] | dict[int, bytearray]) -> None:
        for _ in self._syncing.map(_sync_data, files):
            pass

    def _close_oldest(self) -> None:
        while len(self._files) > self._max_open:
            _, file = self._files.popitem(last=False)
            os.close(file)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _append_lines(journal: int, text: bytearray) -> None:
    size = os.fstat(journal).st_size
    if size and os.pread(journal, 1, size - 1) != b"\n":
        # A crash cut the last line short; what is appended now must not become part of it.
        text = bytearray(b"\n") + text
    view = memoryview(text)
    while view:
        view = view[os.write(journal, view) :]


# macOS has none; it syncs some more then.
_sync_data: Final = getattr(os, "fdatasync", os.fsync)
_DECODER: Final = msgspec.json.Decoder(ChunkNote)
