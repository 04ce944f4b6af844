"""Recordings in buckets of S3, Google and Azure: sealed, conditional, read and deleted, alike in what each speaks."""

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
from greenroom.recorder.retention.recordings import BucketRecordings, RecordingOf
from greenroom.recorder.storage import Bucket
from tests.support.bucket_stub import Stub, bucket_stub, environment
from tests.support.recordings import pcm_chunk
from tests.support.sealed_buckets import FOLDER, MANIFEST, RATE, content, names, seal, standing, two_seconds


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stub]]:
    """A server that speaks like both; whatever it was asked, it knew."""
    with bucket_stub() as (kept, port):
        for name, value in environment(port, tmp_path).items():
            monkeypatch.setenv(name, value)
        yield kept
        assert kept.unknown == []


@pytest.fixture
def other(request: pytest.FixtureRequest, stub: type[Stub]) -> ObjectStore:
    """An empty bucket that isn't S3's."""
    assert stub.blobs == {}
    return open_bucket(request.param)


@pytest.fixture(params=["s3", "gs://bucket/calls", "az://bucket/calls"])
def store(request: pytest.FixtureRequest, bucket_url: str, stub: type[Stub]) -> ObjectStore:
    """An empty bucket, opened as the recorder opens it."""
    assert stub.blobs == {}
    return open_bucket(bucket_url if request.param == "s3" else request.param)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts with two seconds of audio."""
    made = two_seconds(tmp_path / ".parts")
    yield made
    made.shutdown()


def test_sealed_and_read(store: ObjectStore, parts: Parts) -> None:
    """Audio with its type and a manifest that names it; ranges are read; sealed again, nothing changes."""
    manifest = seal(store, parts, "wav")
    assert manifest.path == f"{FOLDER}/s.{manifest.sha256[:16]}.wav"
    assert names(store) == sorted([MANIFEST, manifest.path])
    audio = content(store, manifest.path)
    assert hashlib.sha256(audio).hexdigest() == manifest.sha256
    assert bytes(obstore.get_range(store, manifest.path, start=40, end=1000)) == audio[40:1000]
    assert standing(store) == manifest
    attributes = obstore.get(store, manifest.path).attributes
    assert attributes["Content-Type"] == "audio/wav"
    assert attributes["Content-Disposition"] == 'attachment; filename="s.wav"'
    before = {name: obstore.head(store, name) for name in names(store)}
    assert seal(store, parts, "wav") == manifest
    assert {name: obstore.head(store, name) for name in names(store)} == before


@pytest.mark.parametrize("other", ["gs://bucket/calls", "az://bucket/calls"], indirect=True)
def test_large_files_go_up_in_parts(
    other: ObjectStore, stub: type[Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of several parts, or blocks, is whole when it is there, and nothing half is left."""
    monkeypatch.setattr(storage, "PART_BYTES", 64 * 1024)
    monkeypatch.setattr(storage, "ONE_PIECE_BYTES", 0)
    draft, text = tmp_path / "draft", os.urandom(5 * 64 * 1024 + 1)
    draft.write_bytes(text)
    key = Bucket(other).keep(draft, PurePosixPath("t/large.wav"), storage.digest_of(draft))
    assert content(other, key) == text
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
    assert seal(store, stale) == late == standing(store)
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
    """Retention finds audio under any digest, tracks and manifest by the session's name, and nothing of another's."""
    manifest = seal(store, parts)
    obstore.put(store, f"{FOLDER}/s.user.0123456789abcdef.wav.enc", b"of a sealing that was cut off")
    others = [f"{FOLDER}/{name}" for name in ("r.json", "s-2.json", "s2.wav", "t.wav")]
    for name in others:
        obstore.put(store, name, b"of others")
    whose = RecordingOf(tenant="t", session_id="s", day=date(2026, 3, 1), path=manifest.path)
    assert await BucketRecordings(store).remove(whose) == 3
    assert names(store) == others
    assert await BucketRecordings(store).remove(whose) == 0
