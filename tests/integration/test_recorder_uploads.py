"""Large files on their way to S3 are taken up where they were cut off, and leave nothing behind."""

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
import pytest

from greenroom.common.envelope import HEAD_BYTES, Keys, Opened, context_of
from greenroom.common.objects import StorageUnavailable, open_bucket
from greenroom.recorder import storage
from greenroom.recorder.multipart import uploads_to
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import write_recording
from greenroom.recorder.storage import Bucket, digest_of
from tests.support.cut_uploads import PART_BYTES, Counting, cut, no_such_upload, under_way, uploads
from tests.support.recordings import ended_session, pcm_chunk

RATE = 16_000
NAME = PurePosixPath("t/s.wav")


@pytest.fixture(autouse=True)
def _all_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ONE_PIECE_BYTES", 0)


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A file of four parts, the last of which is short."""
    path = tmp_path / "draft.wav"
    path.write_bytes(os.urandom(3 * PART_BYTES + 1000))
    return path


def content(url: str, key: str) -> bytes:
    """Return an object."""
    return bytes(obstore.get(open_bucket(url), key).bytes())


@pytest.mark.parametrize(
    ("step", "sent_again"),
    [
        ("part-1", [1, 2, 3, 4]),
        ("part-3", [3, 4]),
        ("before-complete", []),
        ("after-complete", []),
        ("before-record", [1, 2, 3, 4]),
    ],
)
async def test_killed_in_mid_upload(bucket_url: str, draft: Path, step: str, sent_again: list[int]) -> None:
    """Whoever comes after a kill -9 sends what is missing and no part twice; no upload is left, nor its record."""
    assert await cut(step, draft, bucket_url) == -signal.SIGKILL
    made = uploads(bucket_url)
    counting = Counting(made)
    key = Bucket(open_bucket(bucket_url), made).keep(draft, NAME, digest_of(draft))
    assert sorted(counting.parts) == sent_again
    assert counting.begun == (step == "before-record")
    assert content(bucket_url, key) == draft.read_bytes()
    assert obstore.get(open_bucket(bucket_url), key).attributes["Content-Type"] == "audio/wav"
    assert under_way(made) == []
    assert list(draft.parent.glob("upload.*")) == []


class CutOff:
    """An upload that was cut off, and whoever takes it up."""

    def __init__(self, url: str, draft: Path, call: str, *, at: int = 1) -> None:
        self.made = uploads(url)
        self.bucket = Bucket(open_bucket(url), self.made)
        first = Counting(self.made)
        first.cut_off(call, at=at)
        with pytest.raises(StorageUnavailable) as caught:
            self.bucket.keep(draft, NAME, digest_of(draft))
        assert "test" not in str(caught.value)
        assert len(under_way(self.made)) == 1
        self.counting = Counting(self.made)


def test_s3_was_away(bucket_url: str, draft: Path) -> None:
    """A try that fails is a typed error; the next one of the same recorder sends no part again."""
    cut_off = CutOff(bucket_url, draft, "complete_multipart_upload")
    key = cut_off.bucket.keep(draft, NAME, digest_of(draft))
    assert (cut_off.counting.parts, cut_off.counting.begun) == ([], 0)
    assert content(bucket_url, key) == draft.read_bytes()
    assert under_way(cut_off.made) == []


def test_more_audio_came_meanwhile(bucket_url: str, draft: Path) -> None:
    """The upload of what the file was before is aborted: nothing of it is in the new one, and nothing is left."""
    cut_off = CutOff(bucket_url, draft, "upload_part", at=3)
    with draft.open("ab") as file:
        file.write(os.urandom(PART_BYTES))
    key = cut_off.bucket.keep(draft, NAME, digest_of(draft))
    assert sorted(cut_off.counting.parts) == [1, 2, 3, 4, 5]
    assert content(bucket_url, key) == draft.read_bytes()
    assert under_way(cut_off.made) == []


def test_another_file_of_the_same_name(bucket_url: str, draft: Path) -> None:
    """Parts that are others by now are sent again, whatever the record says: what is there is what the file is."""
    cut_off, digest = CutOff(bucket_url, draft, "complete_multipart_upload"), digest_of(draft)
    text = bytearray(draft.read_bytes())
    text[PART_BYTES] ^= 1
    draft.write_bytes(text)
    key = cut_off.bucket.keep(draft, NAME, digest)
    assert (cut_off.counting.parts, cut_off.counting.begun) == ([2], 0)
    assert content(bucket_url, key) == bytes(text)


@pytest.mark.parametrize("call", ["upload_part", "complete_multipart_upload"])
def test_an_upload_that_s3_has_forgotten(
    bucket_url: str, draft: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule of the bucket aborted what was cut off (the test says so for S3): it begins anew in the same try."""
    cut_off = CutOff(bucket_url, draft, "upload_part", at=4)
    ((_, forgotten),) = under_way(cut_off.made)
    client = cut_off.made._client()
    there = getattr(client, call)

    def asked(**named: Any) -> Any:
        if named["UploadId"] == forgotten:
            raise no_such_upload(call)
        return there(**named)

    monkeypatch.setattr(client, call, asked)
    kept = cut_off.bucket.keep(draft, NAME, digest_of(draft))
    assert cut_off.counting.begun == 1
    assert content(bucket_url, kept) == draft.read_bytes()
    assert under_way(cut_off.made) == []


@pytest.mark.parametrize("keep", [0, 30, -10])
def test_a_record_cut_short(bucket_url: str, draft: Path, keep: int) -> None:
    """A record of which the crash left a part costs parts sent again, and nothing else."""
    cut_off = CutOff(bucket_url, draft, "complete_multipart_upload")
    (record,) = draft.parent.glob("upload.*")
    record.write_bytes(record.read_bytes()[:keep])
    key = cut_off.bucket.keep(draft, NAME, digest_of(draft))
    assert len(cut_off.counting.parts) == (1 if keep < 0 else 4)
    assert content(bucket_url, key) == draft.read_bytes()
    assert under_way(cut_off.made) == []


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts with four seconds of audio: several parts of a WAV file."""
    made = Parts(tmp_path / ".parts", max_open=8)
    chunks = [pcm_chunk("user", seq, (seq - 1) * RATE, os.urandom(2 * RATE)) for seq in range(1, 5)]
    made.write(chunks)
    yield made
    made.shutdown()


def test_an_encrypted_recording_is_taken_up(bucket_url: str, parts: Parts, tmp_path: Path) -> None:
    """Encrypted again it would be another file: so it is kept until it is where it belongs, and no longer."""
    (tmp_path / "t.1.key").write_bytes(base64.b64encode(os.urandom(32)))
    keys, made = Keys(tmp_path), uploads(bucket_url)
    counting = Counting(made)
    counting.cut_off("complete_multipart_upload")
    bucket, session = Bucket(open_bucket(bucket_url), made), ended_session()
    with pytest.raises(StorageUnavailable):
        write_recording(session, parts, bucket, rate=RATE, form="wav", keys=keys)
    sent = len(counting.parts)
    manifest = write_recording(session, parts, bucket, rate=RATE, form="wav", keys=keys)
    assert manifest is not None
    assert sent == len(counting.parts) > 2
    file = content(bucket_url, manifest.path)
    opened = Opened(file[:HEAD_BYTES], keys, tenant="t", context=context_of("t", "s", None))
    assert opened.size == manifest.bytes
    assert sorted(path.name for path in (tmp_path / ".parts/s").iterdir()) == ["chunks.jsonl", "user.1.pcm"]


@pytest.mark.parametrize(
    ("url", "env"),
    [
        ("gs://bucket/x", {}),
        ("az://bucket/x", {}),
        ("s3://bucket/x", {"AWS_SERVER_SIDE_ENCRYPTION": "sse-c"}),
        ("s3://bucket/x", {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true", "AWS_ENDPOINT_URL": "https://bucket.s3.test"}),
    ],
)
def test_where_uploads_are_left_to_obstore(url: str, env: dict[str, str]) -> None:
    """Other storages, and S3 told in ways that botocore understands differently."""
    assert uploads_to(url, env) is None
