"""Live audio on the disk: idempotent, journalled, and with few files open."""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.recorder import chunk_log
from greenroom.recorder import parts as parts_module
from greenroom.recorder.chunk_log import Chunk, ChunkLog
from greenroom.recorder.parts import JOURNAL, Parts
from greenroom.recorder.timeline import ChunkNote, Track


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts that keep four files open."""
    made = Parts(tmp_path / "parts", max_open=4)
    yield made
    made.shutdown()


def chunk(
    seq: int, pcm: bytes, *, position: int, session_id: str = "s", track: Track = "user", epoch: int = 1
) -> Chunk:
    """Return a chunk."""
    note = ChunkNote(
        track=track, epoch=epoch, seq=seq, position=position, samples=len(pcm) // 2, origin_ns=1_700_000_000_000_000_000
    )
    return Chunk(tenant="t", session_id=session_id, note=note, pcm=pcm)


def open_descriptors() -> int:
    """Return how many files this process has open."""
    return psutil.Process().num_fds()


def test_chunks_lie_at_their_positions(parts: Parts, tmp_path: Path) -> None:
    """Chunks lie at their positions whatever the order, twice is once, and what nobody sent is silence."""
    late, early = chunk(2, b"cdef", position=4), chunk(1, b"ab", position=1)
    parts.write([late])
    parts.write([early, late])
    assert (tmp_path / "parts/s/user.1.pcm").read_bytes() == b"\0\0ab\0\0\0\0cdef"
    assert [note.seq for note in parts.journal("s")] == [2, 1, 2]


def test_tracks_and_attempts_apart(parts: Parts, tmp_path: Path) -> None:
    """Each track of each attempt has a file of its own, since each attempt has its own timeline."""
    parts.write(
        [
            chunk(1, b"aa", position=0),
            chunk(1, b"bb", position=0, track="bot"),
            chunk(1, b"cc", position=0, epoch=2),
        ]
    )
    names = {path.name: path.read_bytes() for path in (tmp_path / "parts/s").glob("*.pcm")}
    assert names == {"user.1.pcm": b"aa", "bot.1.pcm": b"bb", "user.2.pcm": b"cc"}


def test_torn_journal(parts: Parts, tmp_path: Path) -> None:
    """A journal line that a crash cut short spoils neither what is before it nor what is appended behind it."""
    parts.write([chunk(1, b"aa", position=0)])
    parts.close()
    with (tmp_path / "parts/s" / JOURNAL).open("ab") as journal:
        journal.write(b'{"track":"us')
    parts.write([chunk(2, b"bb", position=1)])
    assert [note.seq for note in parts.journal("s")] == [1, 2]


def test_few_files_stay_open(parts: Parts) -> None:
    """However many sessions speak, only the most recently used files stay open, and all are written."""
    before = open_descriptors()
    parts.write([chunk(1, b"aa", position=0, session_id=f"s{number}") for number in range(20)])
    assert parts.open_files == 4
    assert open_descriptors() == before + 4 + 1  # the log
    parts.write([chunk(2, b"bb", position=1, session_id=f"s{number}") for number in range(20)])
    assert all([note.seq for note in parts.journal(f"s{number}")] == [1, 2] for number in range(20))


def test_remove(parts: Parts) -> None:
    """Removing a session closes its files and leaves the others; removing nothing is fine."""
    parts.write([chunk(1, b"aa", position=0), chunk(1, b"aa", position=0, session_id="other")])
    parts.remove("s")
    parts.remove("s")
    assert parts.sessions() == ["other"]
    assert parts.open_files == 2
    assert list(parts.journal("s")) == []


def test_a_full_disk_is_told(parts: Parts, tmp_path: Path) -> None:
    """What can't be written is an OSError, so that nobody acknowledges it."""
    (tmp_path / "parts").write_text("in the way")
    with pytest.raises(OSError, match="parts"):
        parts.write([chunk(1, b"aa", position=0)])


def after_a_power_cut(root: Path, kept: Path) -> None:
    """Make of `kept` what is left of a folder when nothing but what was synced is: the log."""
    kept.mkdir()
    for segment in ChunkLog(root).segments():
        (kept / segment.name).write_bytes(segment.read_bytes())


def content(root: Path) -> dict[str, list[bytes]]:
    """Return the lines of the files of sessions, by name; journals may have empty ones."""
    return {
        str(path.relative_to(root)): [line for line in path.read_bytes().splitlines() if line]
        for path in root.glob("*/*")
    }


def test_a_batch_is_synced_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions speak, a batch waits for one sync of the disk."""
    parts.write([chunk(1, b"aa", position=0)])
    syncs: list[int] = []
    monkeypatch.setattr(chunk_log, "sync_data", syncs.append)
    monkeypatch.setattr(parts_module, "sync_data", syncs.append)
    parts.write([chunk(2, b"bb", position=1, session_id=f"s{number}") for number in range(20)])
    assert len(syncs) == 1


def test_what_was_acknowledged_survives_a_power_cut(parts: Parts, tmp_path: Path) -> None:
    """Files that nobody has synced yet are made again from the log; the log is empty then."""
    parts.write([chunk(1, b"aabb", position=0), chunk(1, b"cc", position=3, track="bot")])
    parts.write([chunk(2, b"dd", position=2), chunk(1, b"ee", position=0, session_id="other")])
    after_a_power_cut(tmp_path / "parts", tmp_path / "kept")
    again = Parts(tmp_path / "kept", max_open=4)
    again.checkpoint()
    assert content(tmp_path / "kept") == content(tmp_path / "parts")
    assert not ChunkLog(tmp_path / "kept").segments()
    again.shutdown()


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    share=st.floats(0, 1),
    garbage=st.sampled_from([b"", b"\0" * 40, b"\xff" * 40]),
)
def test_a_log_that_was_cut_short(sizes: list[int], share: float, garbage: bytes) -> None:
    """A log cut at any byte, whatever the disk has behind it, gives back the chunks before, and no other."""
    with tempfile.TemporaryDirectory() as folder:
        log = ChunkLog(Path(folder))
        wrote = [chunk(seq, bytes([seq] * 2 * size), position=0) for seq, size in enumerate(sizes, start=1)]
        ends = [log.append([each]).stat().st_size for each in wrote]
        (segment,) = log.segments()
        log.end_segment()
        cut = int(share * ends[-1])
        segment.write_bytes(segment.read_bytes()[:cut] + garbage)
        whole = sum(end <= cut for end in ends)
        assert list(chunk_log.read(segment)) == wrote[:whole]


def test_a_checkpoint_empties_the_log(parts: Parts, tmp_path: Path) -> None:
    """What is in the files for good isn't in the log any more; removed sessions don't come back with it."""
    parts.write([chunk(1, b"aa", position=0), chunk(1, b"bb", position=0, session_id="other")])
    assert b"aa" in b"".join(path.read_bytes() for path in ChunkLog(tmp_path / "parts").segments())
    parts.remove("s")
    parts.checkpoint()
    assert not ChunkLog(tmp_path / "parts").segments()
    assert parts.sessions() == ["other"]
    parts.write([chunk(2, b"cc", position=1, session_id="other")])
    assert [note.seq for note in parts.journal("other")] == [1, 2]


def test_a_sync_that_failed_is_not_believed(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has refused to sync a file, all that was in the log is written again before it is given up."""
    path = tmp_path / "parts/s/user.1.pcm"

    def refuses(_: int) -> None:
        # What a kernel does with pages that it couldn't write: it drops them, and says so once.
        path.write_bytes(b"")
        raise OSError(errno.EIO, "refused")

    parts.write([chunk(1, b"aa", position=0)])
    with monkeypatch.context() as patch:
        patch.setattr(parts_module, "sync_data", refuses)
        with pytest.raises(OSError, match="refused"):
            parts.checkpoint()
    parts.write([chunk(2, b"bb", position=1)])
    parts.checkpoint()
    assert path.read_bytes() == b"aabb"
    assert not ChunkLog(tmp_path / "parts").segments()


def test_a_batch_whose_sync_failed_is_not_stored(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk didn't sync is an OSError, whatever the files have; what is stored next doesn't stand behind it."""
    root = tmp_path / "parts"
    parts.write([chunk(1, b"aa", position=0)])

    def refuses(_: int) -> None:
        raise OSError(errno.EIO, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(chunk_log, "sync_data", refuses)
        with pytest.raises(OSError, match="refused"):
            parts.write([chunk(2, b"bb", position=1)])
    parts.write([chunk(2, b"bb", position=1)])
    _, behind = ChunkLog(root).segments()
    assert [read.pcm for read in chunk_log.read(behind)] == [b"bb"]


def test_what_the_disk_takes_by_halves_is_whole(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes a few bytes at a time gets all of them, in the log and in the files."""
    write, pwrite = os.write, os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda file, pieces: write(file, b"".join(pieces)[:7]))
        patch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:5]))
        patch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, bytes(data)[:3], offset))
        parts.write([chunk(1, b"aabbccdd", position=1)])
    assert (tmp_path / "parts/s/user.1.pcm").read_bytes() == b"\0\0aabbccdd"
    assert [note.seq for note in parts.journal("s")] == [1]
    (segment,) = ChunkLog(tmp_path / "parts").segments()
    assert [read.pcm for read in chunk_log.read(segment)] == [b"aabbccdd"]


def test_half_a_record_hides_nothing(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a disk was full in the middle of a record, what is stored later is found all the same."""
    write = os.write

    def has_room_for_7_bytes(file: int, pieces: Sequence[bytes]) -> int:
        return write(file, b"".join(pieces)[:7])

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    parts.write([chunk(1, b"aa", position=0)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", has_room_for_7_bytes)
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            parts.write([chunk(2, b"bb", position=1)])
    parts.write([chunk(2, b"bb", position=1), chunk(3, b"cc", position=2)])
    after_a_power_cut(tmp_path / "parts", tmp_path / "kept")
    again = Parts(tmp_path / "kept", max_open=4)
    again.checkpoint()
    assert (tmp_path / "kept/s/user.1.pcm").read_bytes() == b"aabbcc"
    again.shutdown()


def test_a_file_that_could_not_be_written_is_made_from_the_log(parts: Parts, tmp_path: Path) -> None:
    """A session's file fails behind the log: the batch isn't stored, and what is in the log isn't given up."""
    (tmp_path / "parts").mkdir()
    in_the_way = tmp_path / "parts/s"
    in_the_way.write_text("a file")
    with pytest.raises(OSError, match="s"):
        parts.write([chunk(1, b"aa", position=0, session_id="other"), chunk(1, b"bb", position=0)])
    with pytest.raises(OSError, match="s"):
        parts.checkpoint()
    in_the_way.unlink()
    parts.checkpoint()
    assert (tmp_path / "parts/s/user.1.pcm").read_bytes() == b"bb"
    assert not ChunkLog(tmp_path / "parts").segments()
