"""Live audio on the disk: idempotent, journalled, and with few files open."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from greenroom.recorder.parts import JOURNAL, Chunk, Parts
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
    assert open_descriptors() == before + 4
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
