"""Recordings in an object store, on a server that speaks S3: commits, crashes and two recorders at once."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path, PurePosixPath

import msgspec
import obstore
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from greenroom.common.errors import SettingsInvalid
from greenroom.common.objects import ObjectStore, StorageUnavailable, open_bucket, signed_link
from greenroom.common.recordings import Format
from greenroom.recorder import storage
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import Manifest, write_recording
from greenroom.recorder.retention.recordings import BucketRecordings, RecordingOf
from greenroom.recorder.storage import Bucket
from tests.support.recordings import ended_session, pcm_chunk

RATE = 16_000
FOLDER = "t/2026/03/01"
MANIFEST = f"{FOLDER}/s.json"


@pytest.fixture
def store(bucket_url: str) -> ObjectStore:
    """An empty bucket, opened as the recorder opens it."""
    return open_bucket(bucket_url)


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


def seal(store: ObjectStore, parts: Parts, *, session_id: str = "s") -> Manifest:
    """Seal as the recorder does."""
    manifest = write_recording(ended_session(session_id), parts, Bucket(store), rate=RATE, form="flac")
    assert manifest is not None
    return manifest


def test_a_recording_goes_into_the_bucket(store: ObjectStore, parts: Parts, tmp_path: Path) -> None:
    """The file has its digest in its name and its type on it; the manifest names it; no draft is left on the disk."""
    manifest = seal(store, parts)
    assert manifest.path == f"{FOLDER}/s.{manifest.sha256[:16]}.flac"
    assert names(store) == sorted([MANIFEST, manifest.path])
    assert hashlib.sha256(content(store, manifest.path)).hexdigest() == manifest.sha256
    assert msgspec.json.decode(content(store, MANIFEST), type=Manifest) == manifest
    attributes = obstore.get(store, manifest.path).attributes
    assert attributes["Content-Type"] == "audio/flac"
    assert attributes["Content-Disposition"] == 'attachment; filename="s.flac"'
    assert sorted(path.name for path in (tmp_path / ".parts/s").iterdir()) == [
        "bot.1.pcm",
        "chunks.jsonl",
        "user.1.pcm",
    ]


def test_large_files_go_up_in_parts(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several parts is whole when it is there."""
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 1024 * 1024)
    monkeypatch.setattr(storage, "ONE_PIECE_BYTES", 5 * 1024 * 1024)
    draft, text = tmp_path / "draft", os.urandom(12 * 1024 * 1024)
    draft.write_bytes(text)
    key = Bucket(store).keep(draft, PurePosixPath("t/large.wav"), storage.digest_of(draft))
    assert content(store, key) == text
    # A digest of digests: S3's sign that it came in parts.
    assert str(obstore.head(store, key)["e_tag"]).strip('"').endswith("-3")


def test_sealed_again_nothing_changes(store: ObjectStore, parts: Parts) -> None:
    """Sealing that is begun again after any step leads to the same objects: none is written a second time."""
    first = seal(store, parts)
    before = {name: obstore.head(store, name) for name in names(store)}
    assert seal(store, parts) == first
    assert {name: obstore.head(store, name) for name in names(store)} == before


def test_cut_off_between_audio_and_manifest(store: ObjectStore, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio without a manifest is no recording yet; the next try finds it there and adds the manifest."""

    def dies(_self: Bucket, _path: PurePosixPath, _manifest: bytes) -> bytes:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "commit", dies)
        with pytest.raises(OSError, match="killed"):
            seal(store, parts)
    (audio,) = names(store)
    uploaded = obstore.head(store, audio)
    manifest = seal(store, parts)
    assert names(store) == sorted([MANIFEST, audio])
    assert (manifest.path, obstore.head(store, audio)) == (audio, uploaded)


def test_more_audio_replaces_less(store: ObjectStore, parts: Parts) -> None:
    """What a recorder sealed too early gives way to what has all the audio, and its file is removed."""
    early = seal(store, parts)
    parts.write([pcm_chunk("user", 2, RATE, os.urandom(2 * RATE))])
    late = seal(store, parts)
    assert late.sha256 != early.sha256
    assert names(store) == sorted([MANIFEST, late.path])
    assert json.loads(content(store, MANIFEST))["sha256"] == late.sha256


def test_less_audio_replaces_nothing(store: ObjectStore, parts: Parts, tmp_path: Path) -> None:
    """A recorder that was cut off and has less takes what stands for its own result."""
    whole = seal(store, parts)
    stale = Parts(tmp_path / ".stale", max_open=8)
    stale.write([pcm_chunk("user", 1, 0, bytes(2 * RATE))])
    assert seal(store, stale) == whole
    assert json.loads(content(store, MANIFEST))["sha256"] == whole.sha256
    stale.shutdown()


def test_two_at_once_do_not_overwrite_each_other(store: ObjectStore) -> None:
    """Of two manifests that replace the same one, one is refused, and finds the other one when it tries again."""
    bucket, path = Bucket(store), PurePosixPath(MANIFEST)

    def manifest(chunks: int, file: str) -> bytes:
        return msgspec.json.encode({"tracks": [{"chunks": chunks}], "files": [{"path": file}]})

    bucket.commit(path, manifest(1, "one"))
    decode = storage.decode

    def overtaken(text: bytes) -> storage.Committed:
        """Look at what is there, and be overtaken by another recorder meanwhile."""
        obstore.put(store, MANIFEST, manifest(5, "theirs"))
        return decode(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "decode", overtaken)
        with pytest.raises(StorageUnavailable, match="Another recorder"):
            bucket.commit(path, manifest(3, "ours"))
    assert bucket.commit(path, manifest(3, "ours")) == manifest(5, "theirs")
    assert content(store, MANIFEST) == manifest(5, "theirs")


def test_a_storage_that_refuses(bucket_url: str, parts: Parts) -> None:
    """A bucket that isn't there is a typed error that says to try again; the parts are as they were."""
    store = open_bucket(bucket_url.replace("bucket-", "none-"))
    before = list(parts.journal("s"))
    with pytest.raises(StorageUnavailable) as caught:
        seal(store, parts)
    assert caught.value.retryable
    assert list(parts.journal("s")) == before


@pytest.mark.parametrize(
    "url",
    ["ftp://bucket/x", "file:///tmp", "s3://", "bucket", "s3://key:secret@bucket/x", "s3://bucket?x=1", "memory:///"],
)
def test_what_is_no_bucket_is_said_at_the_start(url: str) -> None:
    """A setting that names no bucket stops the start, and the text has no credentials."""
    with pytest.raises(SettingsInvalid) as caught:
        open_bucket(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "mark"),
    [
        ("s3://bucket/calls", "https://s3.us-east-1.amazonaws.com/bucket/calls/t/s.flac?", "X-Amz-Expires=60"),
        ("gs://bucket/calls", "https://storage.googleapis.com/bucket/calls/t/s.flac?", "X-Goog-Expires=60"),
        ("az://bucket/calls", "https://account.blob.core.windows.net/bucket/calls/t/s.flac?", "sig="),
    ],
)
async def test_three_kinds_of_buckets(
    url: str, host: str, mark: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same setting opens S3, Google and Azure; links are signed, offline, with what the environment has."""
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    account = {"type": "service_account", "client_email": "a@b.c", "private_key_id": "1", "private_key": pem.decode()}
    (tmp_path / "key.json").write_text(json.dumps(account))
    for name, value in {
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json"),
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"key").decode(),
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    link = await signed_link(open_bucket(url), "t/s.flac", lifetime_s=60)
    assert link.startswith(host)
    assert mark in link


async def test_all_of_a_session_can_be_deleted(store: ObjectStore, parts: Parts) -> None:
    """Retention finds audio under any digest, tracks and manifest by the session's name, and nothing of another's."""
    early = seal(store, parts)
    obstore.put(store, f"{FOLDER}/s.user.0123456789abcdef.wav.enc", b"of a sealing that was cut off")
    others = [f"{FOLDER}/{name}" for name in ("r.json", "s-2.json", "s2.wav", "t.wav")]
    for name in others:
        obstore.put(store, name, b"of others")
    whose = RecordingOf(tenant="t", session_id="s", day=date(2026, 3, 1), path=early.path)
    assert await BucketRecordings(store).remove(whose) == 3
    assert names(store) == others
    assert await BucketRecordings(store).remove(whose) == 0


# Seals, and is killed where the test says.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import obstore
from greenroom.common.objects import open_bucket
from greenroom.recorder import encoding, recording, storage
from greenroom.recorder.parts import Parts
from tests.support.recordings import ended_session
step, form, url, root = sys.argv[1:]
def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)
def half(blocks):
    for block in blocks:
        yield block
        die()
if step == "encoding":
    encode = recording.encode
    recording.encode = lambda path, form, blocks, **named: encode(path, form, half(blocks), **named)
elif step == "before-upload":
    storage.obstore.head = die
elif step == "before-manifest":
    put = obstore.put
    storage.obstore.put = lambda _, key, *rest, **named: (die if key.endswith(".json") else put)(_, key, *rest, **named)
elif step == "after-manifest":
    commit = storage.Bucket.commit
    storage.Bucket.commit = lambda *arguments: (commit(*arguments), die())
parts = Parts(Path(root), max_open=8)
recording.write_recording(ended_session(), parts, storage.Bucket(open_bucket(url)), rate=16_000, form=form)
"""


@pytest.mark.parametrize(
    ("step", "form"),
    [
        ("encoding", "flac"),
        ("encoding", "opus"),
        ("before-upload", "flac"),
        ("before-manifest", "opus"),
        ("after-manifest", "flac"),
    ],
)
async def test_killed_while_sealing(bucket_url: str, parts: Parts, tmp_path: Path, step: str, form: Format) -> None:
    """A recorder killed at any step of a sealing leaves what the next one makes whole: the same as without the kill."""
    parts.write([pcm_chunk("user", seq, seq * RATE, os.urandom(2 * RATE)) for seq in range(2, 7)])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, step, form, bucket_url, str(tmp_path / ".parts"))
    )
    assert await process.wait() == -signal.SIGKILL
    drafts = list((tmp_path / ".parts/s").glob("draft.*"))
    assert bool(drafts) == (step in {"encoding", "before-upload"})

    store = open_bucket(bucket_url)
    manifest = write_recording(ended_session(), parts, Bucket(store), rate=RATE, form=form)
    assert manifest is not None
    assert names(store) == sorted([MANIFEST, manifest.path])
    assert hashlib.sha256(content(store, manifest.path)).hexdigest() == manifest.sha256
    assert not list((tmp_path / ".parts/s").glob("draft.*"))
