"""Recordings: mixing against a reference, the file format, and whole files or none."""

import array
import hashlib
import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.recorder import files, mixing, wav
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import write_recording
from greenroom.recorder.storage import Folder
from greenroom.recorder.timeline import ChunkNote, Track
from tests.support.recorder_world import wav_channels

RATE = 16_000
ORIGIN = 1_700_000_000_000_000_000
LENGTH = 40

type Sent = tuple[Track, int, int, list[int]]


def a_session() -> Session:
    """Return a session that has ended."""
    at = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    return Session(
        id="s",
        tenant="t",
        agent="a",
        bot="b",
        requested_at=at,
        queue_deadline_at=at,
        state=State.ENDED,
        ended_at=at,
        outcome=Outcome.LOST,
        reason="runner-lost",
    )


def chunk(track: Track, epoch: int, seq: int, position: int, values: list[int], *, offset: int = 0) -> Chunk:
    """Return a chunk; `offset` is where its attempt begins, in samples."""
    note = ChunkNote(
        track=track,
        epoch=epoch,
        seq=seq,
        position=position,
        samples=len(values),
        # Half a sample more than needed: an offset is never lost to rounding.
        origin_ns=ORIGIN + (offset * 1_000_000_000 + 500_000_000) // RATE,
    )
    return Chunk(tenant="t", session_id="s", note=note, pcm=array.array("h", values).tobytes())


# One value per (track, epoch) and distinct positions: what a session process sends never overlaps itself.
voices = st.lists(
    st.tuples(
        st.sampled_from(["user", "bot"]),
        st.integers(1, 3),
        st.integers(0, 4),
        st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=10),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda voice: (voice[0], voice[1], voice[2]),
)


@settings(max_examples=60, deadline=None)
@given(voices=voices, offsets=st.tuples(*[st.integers(0, LENGTH)] * 3), block=st.integers(1, 17), data=st.data())
def test_mixing_against_reference(
    voices: list[Sent], offsets: tuple[int, int, int], block: int, data: st.DataObject
) -> None:
    """Every sample is where its attempt's origin and its position say, summed and clipped where attempts overlap."""
    sent = [
        chunk(track, epoch, slot + 1, slot * 10, values, offset=offsets[epoch - 1])
        for track, epoch, slot, values in voices
    ]
    base = min(offsets[epoch - 1] for _, epoch, _, _ in voices)
    expected: dict[str, dict[int, int]] = {"user": {}, "bot": {}}
    for track, epoch, slot, values in voices:
        for index, value in enumerate(values):
            at = offsets[epoch - 1] - base + slot * 10 + index
            expected[track][at] = expected[track].get(at, 0) + value
    length = max(at for track in expected.values() for at in track) + 1

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "BLOCK", block)
        folder = Path(name)
        parts = Parts(folder / "parts", max_open=8)
        parts.write(data.draw(st.permutations(sent)))
        manifest = write_recording(a_session(), parts, Folder(folder), rate=RATE)
        parts.shutdown()
        assert manifest is not None
        left, right = wav_channels(folder / manifest.path)
    for channel, track in ((left, "user"), (right, "bot")):
        wanted = [max(-32_768, min(32_767, expected[track].get(at, 0))) for at in range(length)]
        assert list(channel) == wanted
    assert manifest.samples == length


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts beside the recordings."""
    made = Parts(tmp_path / ".parts", max_open=8)
    yield made
    made.shutdown()


def test_manifest(parts: Parts, tmp_path: Path) -> None:
    """The manifest says how the session ended and describes the file as it is, by the day of the request in UTC."""
    parts.write([chunk("user", 1, 1, 0, [1] * RATE), chunk("user", 1, 3, 2 * RATE, [1] * RATE)])
    manifest = write_recording(a_session(), parts, Folder(tmp_path), rate=RATE)
    assert manifest is not None
    assert manifest.path == "t/2026/03/01/s.wav"
    file = (tmp_path / manifest.path).read_bytes()
    assert (manifest.bytes, manifest.sha256) == (len(file), hashlib.sha256(file).hexdigest())
    assert (manifest.duration_s, manifest.outcome, manifest.reason) == (3.0, "lost", "runner-lost")
    assert [(gap.track, gap.from_s, gap.to_s) for gap in manifest.gaps] == [("user", 1.0, 2.0)]
    assert sorted(path.name for path in (tmp_path / "t/2026/03/01").iterdir()) == ["s.json", "s.wav"]


def test_made_again(parts: Parts, tmp_path: Path) -> None:
    """Made again, a recording and its manifest are the same to the byte."""
    parts.write([chunk("bot", 1, 1, 5, [1, 2, 3])])
    made = [write_recording(a_session(), parts, Folder(tmp_path), rate=RATE) for _ in range(2)]
    assert made[0] == made[1]


def test_nothing_heard(parts: Parts, tmp_path: Path) -> None:
    """Without audio there is no file."""
    assert write_recording(a_session(), parts, Folder(tmp_path), rate=RATE) is None
    assert list(tmp_path.iterdir()) == []


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """A file that can't be finished leaves the one before it, and no draft."""
    target = tmp_path / "file"
    files.write_whole(target, [b"before"])

    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole(target, blocks())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"before"


def test_header_of_a_usual_call() -> None:
    """The header of a usual call is the classic one of 44 bytes."""
    head = wav.header(RATE, RATE, 2)
    assert len(head) == 44
    assert struct.unpack("<4sI4s", head[:12]) == (b"RIFF", 36 + 4 * RATE, b"WAVE")
    assert struct.unpack("<4sI", head[-8:]) == (b"data", 4 * RATE)


def test_header_of_a_very_long_call() -> None:
    """Above 4 GiB the header is RF64: sizes of 32 bit say nothing, `ds64` has the true ones."""
    largest = (0xFFFF_FFFF - 36) // 4
    assert wav.header(largest, RATE, 2)[:4] == b"RIFF"
    head = wav.header(largest + 1, RATE, 2)
    size = 4 * (largest + 1)
    assert struct.unpack("<4sI4s4sIQQQI", head[:48]) == (
        *(b"RF64", 0xFFFF_FFFF, b"WAVE"),
        *(b"ds64", 28, len(head) - 8 + size, size, largest + 1, 0),
    )
    assert head[48:52] == b"fmt "
    assert struct.unpack("<4sI", head[-8:]) == (b"data", 0xFFFF_FFFF)


def test_files_are_removed(parts: Parts, tmp_path: Path) -> None:
    """All that a manifest names goes; what is gone already is passed over."""
    parts.write([chunk("user", 1, 1, 0, [1] * 100)])
    folder = Folder(tmp_path)
    manifest = write_recording(a_session(), parts, folder, rate=RATE, layout="tracks")
    assert manifest is not None
    names = [*(file.path for file in manifest.files), "t/2026/03/01/s.json", "t/none/none.wav"]
    assert [name.rsplit("/", 1)[1] for name in names[:2]] == ["s.user.wav", "s.bot.wav"]
    for _ in range(2):
        folder.remove(names)
    assert not list((tmp_path / "t").rglob("s.*"))
