"""Audio of live sessions on the disk, until it is sealed.

    {root}/{session_id}/{track}.{epoch}.pcm    mono, 16 bit little-endian, each chunk at its position
    {root}/{session_id}/chunks.jsonl           one line a chunk, written behind the audio
    {root}/{session_id}/draft.*                what the sealing writes just now
    {root}/*.chunks                            what the files above may lack after a power cut (chunk_log.py)

Writing a chunk again changes nothing: it lies at its position, and the journal's readers know its number. What
`write` was given is on the disk when it returns: in the log, synced once for all sessions, and in the files, which
`checkpoint` syncs. After a crash `checkpoint` brings the files up to the log. Memory is that of the chunks at hand.
"""

import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched, islice
from pathlib import Path
from typing import Final

import msgspec

from greenroom.recorder import chunk_log
from greenroom.recorder.chunk_log import Chunk, ChunkLog, sync_data
from greenroom.recorder.timeline import SAMPLE_BYTES, ChunkNote, Part

JOURNAL: Final = "chunks.jsonl"
# Syncs of different files at the same time share the commits of the file system.
SYNC_THREADS: Final = 8
_DRAFT: Final = "draft."
_READ_BYTES: Final = 65_536
# Of a log that is read again, in memory: 100 seconds of audio.
_READ_CHUNKS: Final = 100
# A line has about 100 bytes; a file that is no journal must not fill the memory.
_LONGEST_LINE: Final = 4096


class Parts:
    """The parts of all sessions. Its methods block, and may be called from any thread.

    Args:
        root: their folder; made when it isn't there.
        max_open: files kept open between two writes.
    """

    def __init__(self, root: Path, *, max_open: int) -> None:
        self._root = root
        # The paths of files are texts: making and comparing `Path`s took as long as writing.
        self._folder: Final = str(root.absolute())
        self._max_open = max_open
        self._files: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self._checkpointing = threading.Lock()
        self._log = ChunkLog(root)
        # Of our segments, those whose chunks are all in the files; and what of the files isn't synced.
        self._written: set[Path] = set()
        self._dirty: set[str] = set()
        self._syncing = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="fdatasync")
        # Of its own: a batch doesn't wait for the files of a checkpoint.
        self._syncing_log = ThreadPoolExecutor(1, thread_name_prefix="fdatasync-log")

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
            segment = self._log.append(chunks)
            synced = self._syncing_log.submit(self._log.sync)
            try:
                # Meanwhile. The order doesn't matter: both are done when this returns.
                try:
                    self._write(chunks)
                finally:
                    synced.result()
            except BaseException:
                # Perhaps in the log, but not acknowledged: it comes again, or is read again from there.
                self._log.end_segment()
                self._written.discard(segment)
                raise
            finally:
                self._close_oldest()
            self._written.add(segment)

    def checkpoint(self) -> None:
        """Have everything that was written in the files, and the log empty; also what was left by a crash.

        Raises:
            OSError: not possible now; the log keeps it.
        """
        with self._checkpointing:
            with self._lock:
                self._log.end_segment()
                segments = self._log.segments()
            dirty: set[str] = set()
            try:
                for segment in segments:
                    if segment not in self._written:
                        self._write_again(segment)
                with self._lock:
                    dirty, self._dirty = self._dirty, set()
                # A task a thread, not one a file: handing them over took longer than most syncs.
                for _ in self._syncing.map(_sync_paths, batched(dirty, -(-len(dirty) // SYNC_THREADS) or 1)):
                    pass
            except BaseException:
                with self._lock:
                    # What a disk has refused once it may seem to have the next time: all of it is written again.
                    self._log.end_segment()
                    self._written.clear()
                    self._dirty |= dirty
                raise
            self._log.remove(segments)
            self._written.difference_update(segments)

    def close(self, session_id: str | None = None) -> None:
        """Close the files of one session, or of all."""
        with self._lock:
            for path in list(self._files):
                if session_id is None or path.startswith(f"{self._folder}/{session_id}/"):
                    os.close(self._files.pop(path))
            if session_id is None:
                self._log.end_segment()

    def shutdown(self) -> None:
        """Close everything for good."""
        self.close()
        self._syncing.shutdown()
        self._syncing_log.shutdown()

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

        A line cut short by a crash is passed over: its chunk wasn't acknowledged, and came again. So are empty ones.
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
        lines: dict[str, bytearray] = {}
        for chunk in chunks:
            note, session_id = chunk.note, chunk.session_id
            file = self._file(session_id, f"{note.track}.{note.epoch}.pcm", os.O_WRONLY)
            _write_all(file, chunk.pcm, note.position * SAMPLE_BYTES)
            # Each time on a new line, since a crash may have cut the last one short.
            lines.setdefault(session_id, bytearray(b"\n")).extend(_ENCODER.encode(note) + b"\n")
        # The journal speaks of what is there: it comes second.
        for session_id, text in lines.items():
            _append(self._file(session_id, JOURNAL, os.O_WRONLY | os.O_APPEND), text)

    def _write_again(self, segment: Path) -> None:
        """Write to the files what is in the log, whoever has put it there."""
        chunks = chunk_log.read(segment)
        while batch := list(islice(chunks, _READ_CHUNKS)):
            with self._lock:
                try:
                    self._write(batch)
                finally:
                    self._close_oldest()

    def _file(self, session_id: str, name: str, flags: int) -> int:
        path = f"{self._folder}/{session_id}/{name}"
        self._dirty.add(path)
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            folder = f"{self._folder}/{session_id}"
            Path(folder).mkdir(parents=True, exist_ok=True)
            file = os.open(path, flags | os.O_CREAT, 0o640)
            self._dirty |= {folder, self._folder}
        self._files[path] = file
        return file

    def _close_oldest(self) -> None:
        while len(self._files) > self._max_open:
            _, file = self._files.popitem(last=False)
            os.close(file)


def _write_all(file: int, data: bytes, offset: int) -> None:
    written = os.pwrite(file, data, offset)
    if written < len(data):
        view = memoryview(data)
        while view := view[written:]:
            offset += written
            written = os.pwrite(file, view, offset)


def _append(journal: int, text: bytearray) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(journal, view) :]


def _sync_paths(paths: Sequence[str]) -> None:
    for path in paths:
        _sync_path(path)


def _sync_path(path: str) -> None:
    """Have a file or the names in a folder on the disk; what was removed meanwhile needs it no more."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        sync_data(file)
    finally:
        os.close(file)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(ChunkNote)
