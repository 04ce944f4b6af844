"""Recordings in an object store, on a server that speaks S3: crashes, refusals, links; the rest is in all_buckets."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import obstore
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from greenroom.common.errors import SettingsInvalid
from greenroom.common.objects import ObjectStore, StorageUnavailable, open_bucket, signed_link
from greenroom.common.recordings import Format
from greenroom.recorder import storage
from greenroom.recorder.parts import Parts
from greenroom.recorder.storage import Bucket
from tests.support.recordings import pcm_chunk
from tests.support.sealed_buckets import MANIFEST, RATE, content, names, seal, two_seconds


@pytest.fixture
def store(bucket_url: str) -> ObjectStore:
    """An empty bucket, opened as the recorder opens it."""
    return open_bucket(bucket_url)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts with two seconds of audio."""
    made = two_seconds(tmp_path / ".parts")
    yield made
    made.shutdown()


def test_no_draft_is_left(store: ObjectStore, parts: Parts, tmp_path: Path) -> None:
    """The file has its type on it in the bucket, and is nowhere else: the parts lie on the disk as they were."""
    manifest = seal(store, parts)
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
    manifest = seal(store, parts, form)
    assert names(store) == sorted([MANIFEST, manifest.path])
    assert hashlib.sha256(content(store, manifest.path)).hexdigest() == manifest.sha256
    assert not list((tmp_path / ".parts/s").glob("draft.*"))
