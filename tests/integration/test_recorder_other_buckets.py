"""Recordings at Google and Azure: sealed, conditional, read and deleted through obstore, in what these two speak."""

import hashlib
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path, PurePosixPath

import msgspec
import obstore
import pytest

from greenroom.common.objects import ObjectStore, StorageUnavailable, open_bucket
from greenroom.recorder import storage
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import Manifest, write_recording
from greenroom.recorder.retention.recordings import BucketRecordings, RecordingOf
from greenroom.recorder.storage import Bucket
from tests.support.bucket_stub import Stub, bucket_stub, environment
from tests.support.recordings import ended_session, pcm_chunk

RATE = 16_000
FOLDER = "t/2026/03/01"
MANIFEST = f"{FOLDER}/s.json"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stub]]:
    """A server that speaks like both; whatever it was asked, it knew."""
    with bucket_stub() as (kept, port):
        for name, value in environment(port, tmp_path).items():
            monkeypatch.setenv(name, value)
        yield kept
        assert kept.unknown == []


@pytest.fixture(params=["gs://bucket/calls", "az://bucket/calls"])
def store(request: pytest.FixtureRequest, stub: type[Stub]) -> ObjectStore:
    """An empty bucket, opened as the recorder opens it."""
    assert stub.blobs == {}
    return open_bucket(request.param)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts with two seconds of audio."""
    made = Parts(tmp_path / ".parts", max_open=8)
    made.write([pcm_chunk("user", 1, 0, os.urandom(2 * RATE)), pcm_chunk("bot", 1, RATE, os.urandom(2 * RATE))])
    yield made
    made.shutdown()


def names(store: ObjectStore) -> list[str]:
    """Return the names of all objects."""
    return sorted(entry["path"] for batch in obstore.list(store) for entry in batch)


def content(store: ObjectStore, path: str) -> bytes:
    """Return an object."""
    return bytes(obstore.get(store, path).bytes())


def seal(store: ObjectStore, parts: Parts) -> Manifest:
    """Seal as the recorder does."""
    manifest = write_recording(ended_session(), parts, Bucket(store), rate=RATE, form="wav")
    assert manifest is not None
    return manifest


def test_sealed_and_read(store: ObjectStore, parts: Parts) -> None:
    """Audio with its type and a manifest that names it; ranges are read; sealed again, nothing changes."""
    manifest = seal(store, parts)
    assert names(store) == sorted([MANIFEST, manifest.path])
    audio = content(store, manifest.path)
    assert hashlib.sha256(audio).hexdigest() == manifest.sha256
    assert bytes(obstore.get_range(store, manifest.path, start=40, end=1000)) == audio[40:1000]
    assert msgspec.json.decode(content(store, MANIFEST), type=Manifest) == manifest
    attributes = obstore.get(store, manifest.path).attributes
    assert attributes["Content-Type"] == "audio/wav"
    assert attributes["Content-Disposition"] == 'attachment; filename="s.wav"'
    before = {name: obstore.head(store, name) for name in names(store)}
    assert seal(store, parts) == manifest
    assert {name: obstore.head(store, name) for name in names(store)} == before


def test_large_files_go_up_in_parts(
    store: ObjectStore, stub: type[Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of several parts, or blocks, is whole when it is there, and nothing half is left."""
    monkeypatch.setattr(storage, "PART_BYTES", 64 * 1024)
    monkeypatch.setattr(storage, "ONE_PIECE_BYTES", 0)
    draft, text = tmp_path / "draft", os.urandom(5 * 64 * 1024 + 1)
    draft.write_bytes(text)
    key = Bucket(store).keep(draft, PurePosixPath("t/large.wav"), storage.digest_of(draft))
    assert content(store, key) == text
    sent = [request for request in stub.requests if "'partNumber'" in request or "'blockid'" in request]
    assert len(sent) == 6
    assert stub.staged == {}


def test_two_recorders_do_not_overwrite_each_other(store: ObjectStore, parts: Parts, tmp_path: Path) -> None:
    """The manifest is put if there is none, replaced by more audio, and left by less."""
    early = seal(store, parts)
    parts.write([pcm_chunk("user", 2, RATE, os.urandom(2 * RATE))])
    late = seal(store, parts)
    assert late.sha256 != early.sha256
    assert names(store) == sorted([MANIFEST, late.path])
    stale = Parts(tmp_path / ".stale", max_open=8)
    stale.write([pcm_chunk("user", 1, 0, bytes(2 * RATE))])
    assert seal(store, stale) == late
    assert msgspec.json.decode(content(store, MANIFEST), type=Manifest) == late
    stale.shutdown()


def test_one_is_overtaken_by_the_other(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that was replaced since it was read isn't replaced: whoever was overtaken tries again."""
    bucket, path = Bucket(store), PurePosixPath(MANIFEST)

    def manifest(chunks: int, file: str) -> bytes:
        return msgspec.json.encode({"tracks": [{"chunks": chunks}], "files": [{"path": file}]})

    bucket.commit(path, manifest(1, "one"))
    decode = storage.decode

    def overtaken(text: bytes) -> storage.Committed:
        obstore.put(store, MANIFEST, manifest(5, "theirs"))
        return decode(text)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "decode", overtaken)
        with pytest.raises(StorageUnavailable, match="Another recorder"):
            bucket.commit(path, manifest(3, "ours"))
    assert bucket.commit(path, manifest(3, "ours")) == content(store, MANIFEST) == manifest(5, "theirs")


async def test_all_of_a_session_can_be_deleted(store: ObjectStore, parts: Parts) -> None:
    """Retention finds audio and manifest by the session's name, and nothing of another's."""
    manifest = seal(store, parts)
    other = f"{FOLDER}/s2.wav"
    obstore.put(store, other, b"of others")
    whose = RecordingOf(tenant="t", session_id="s", day=date(2026, 3, 1), path=manifest.path)
    assert await BucketRecordings(store).remove(whose) == 2
    assert names(store) == [other]
    assert await BucketRecordings(store).remove(whose) == 0
