"""Uploads to S3 that go on where they were cut off.

A large file goes up in parts. Beside the draft lies a record of its upload: the first line says which upload it is,
each further one which part S3 has, by its tag and by the digest of what was sent.

    {"key": …, "upload_id": …, "size": …}
    {"number": 1, "etag": …, "sha256": …}

Whoever comes back reads the record, sends only parts that aren't in it or that are others by now, and completes the
upload. A line that was cut short costs one part sent again.

No upload stays behind: once a file of a session is there, all others of that session are aborted: of what the file
was before more audio came, and those whose record was lost (killed between the beginning and the first line). The
record goes last. Where we may not list uploads that is left to a rule of the bucket (AbortIncompleteMultipartUpload).
An upload that S3 has forgotten begins anew.

Signing, credentials and the wire are botocore's: obstore's own uploads in parts can't be taken up again by another
process (docs/adr/0020-uploads-are-taken-up-again.md).
"""

import contextlib
import hashlib
import importlib
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import structlog

_log = structlog.get_logger()

# S3 takes parts of 5 MiB to 5 GiB, 10 000 of them: 80 GB a file.
PART_BYTES: Final = 8 * 1024 * 1024
PARTS_AT_ONCE: Final = 4
_CONNECT_S: Final = 5.0
_READ_S: Final = 30.0
_TRIES: Final = 3
_NO_UPLOAD: Final = "NoSuchUpload"
_TRUE: Final = frozenset({"1", "true", "yes", "on", "y"})
# botocore comes without types.
type Client = Any


class UploadRefused(OSError):
    """S3 doesn't do what it is asked, or can't be reached; what it has is kept for the next time."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Which upload of which file."""

    key: str
    upload_id: str
    size: int


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A part that S3 has."""

    number: int
    etag: str
    sha256: str


class S3Uploads:
    """Uploads to one bucket. Its methods block, and may be called from any thread.

    Args:
        bucket: its name.
        prefix: what all keys begin with, without a slash at the end; may be empty.
        env: the environment, which has endpoint, region and credentials under the names of the provider's tools.
        part_bytes: length of a part.
    """

    def __init__(self, bucket: str, prefix: str, env: Mapping[str, str], *, part_bytes: int = PART_BYTES) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._env = env
        self._part_bytes = part_bytes
        self._making = threading.Lock()
        self._made: Client | None = None
        # What the client raises, once there is one.
        self._errors: tuple[type[Exception], ...] = ()

    def send(self, draft: Path, key: str, record: Path, *, headers: Mapping[str, str]) -> None:
        """Upload a file, or what is missing of it.

        Args:
            draft: the file.
            key: its name in the bucket, below the prefix.
            record: where it is kept what has been sent.
            headers: `ContentType` and the like.

        Raises:
            UploadRefused: it goes on from here next time.
            OSError: the file can't be read.
        """
        size = draft.stat().st_size
        begun, sent = read_record(record)
        if begun is not None and (begun.key, begun.size) != (key, size):
            self._abort(begun)
            begun, sent = None, {}
        try:
            if begun is not None and self._finish(draft, begun, sent, record):
                return
            begun = self._begin(key, size, record, headers)
            if not self._finish(draft, begun, {}, record):
                raise UploadRefused("the upload was aborted by somebody else")
        except self._errors as error:
            raise UploadRefused(_said(error)) from error

    def forget(self, key: str, record: Path) -> None:
        """Abort what may be left of the uploads of a session, one of whose files is there."""
        begun, _ = read_record(record)
        if begun is not None:
            self._abort(begun)
        self._abort_others(key)
        record.unlink(missing_ok=True)

    # ------------------------------------------------------------------------ one upload

    def _begin(self, key: str, size: int, record: Path, headers: Mapping[str, str]) -> Begun:
        answer = self._client().create_multipart_upload(
            Bucket=self._bucket, Key=self._prefix + key, **headers, **_encryption(self._env)
        )
        begun = Begun(key=key, upload_id=answer["UploadId"], size=size)
        _note(record, begun, "wb")
        return begun

    def _finish(self, draft: Path, begun: Begun, sent: Mapping[int, Sent], record: Path) -> bool:
        """Send what is missing and complete the upload; return False where S3 doesn't know of it (any more)."""
        count = max(-(-begun.size // self._part_bytes), 1)
        file, writing = os.open(draft, os.O_RDONLY), threading.Lock()

        def part(number: int) -> Sent:
            data = os.pread(file, self._part_bytes, (number - 1) * self._part_bytes)
            digest = hashlib.sha256(data).hexdigest()
            known = sent.get(number)
            if known is not None and known.sha256 == digest:
                return known
            answer = self._client().upload_part(
                Bucket=self._bucket,
                Key=self._prefix + begun.key,
                UploadId=begun.upload_id,
                PartNumber=number,
                Body=data,
            )
            new = Sent(number=number, etag=answer["ETag"], sha256=digest)
            with writing:
                _note(record, new, "ab")
            return new

        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload") as threads:
                futures = [threads.submit(part, number) for number in range(1, count + 1)]
                try:
                    parts = [future.result() for future in futures]
                except BaseException:
                    threads.shutdown(cancel_futures=True)
                    raise
            self._client().complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._prefix + begun.key,
                UploadId=begun.upload_id,
                MultipartUpload={"Parts": [{"PartNumber": each.number, "ETag": each.etag} for each in parts]},
            )
        except self._errors as error:
            if _code(error) == _NO_UPLOAD:
                return False
            raise
        finally:
            os.close(file)
        self._abort_others(begun.key)
        record.unlink(missing_ok=True)
        return True

    # ------------------------------------------------------------------------ what is of no use

    def _abort(self, begun: Begun) -> None:
        """Abort an upload, if that can be done: no file depends on it."""
        try:
            self._abort_named(self._prefix + begun.key, begun.upload_id)
        except self._errors as error:
            _log.warning("upload_not_aborted", error=_said(error))

    def _abort_named(self, key: str, upload_id: str) -> None:
        try:
            self._client().abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except self._errors as error:
            if _code(error) != _NO_UPLOAD:
                raise

    def _abort_others(self, key: str) -> None:
        """Abort all uploads of a file's session; where we may not list them, a rule of the bucket does that."""
        folder, _, name = key.rpartition("/")
        ours = f"{self._prefix}{folder}/{name.partition('.')[0]}."
        pages = self._client().get_paginator("list_multipart_uploads")
        try:
            for page in pages.paginate(Bucket=self._bucket, Prefix=ours):
                for each in page.get("Uploads", []):
                    if each["Key"].startswith(ours):
                        self._abort_named(each["Key"], each["UploadId"])
        except self._errors as error:
            _log.info("uploads_not_looked_for", error=_said(error))

    def _client(self) -> Client:
        """Return the client; made when the first large file comes, since it takes 50 MB and a second."""
        with self._making:
            if self._made is None:
                errors: Any = importlib.import_module("botocore.exceptions")
                self._errors = (errors.BotoCoreError, errors.ClientError)
                self._made = _client_of(self._env)
            return self._made


def uploads_to(url: str, env: Mapping[str, str]) -> S3Uploads | None:
    """Return uploads to the bucket that `url` names; None where obstore's have to do.

    That is where it isn't S3, and for what obstore and botocore are told in different ways: keys of the customer's own
    (SSE-C), and endpoints that have the bucket in their name.
    """
    parts = urlsplit(url)
    own_host = _is_true(env, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST") and _endpoint(env) is not None
    if parts.scheme != "s3" or own_host or env.get("AWS_SERVER_SIDE_ENCRYPTION") == "sse-c":
        return None
    return S3Uploads(parts.netloc, parts.path.strip("/"), env)


def read_record(record: Path) -> tuple[Begun | None, dict[int, Sent]]:
    """Return which upload a record is of and what it says was sent: nothing where there is none, or it is cut short."""
    try:
        first, *rest = record.read_bytes().splitlines()
        begun = msgspec.json.decode(first, type=Begun)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None, {}
    sent: dict[int, Sent] = {}
    for line in rest:
        with contextlib.suppress(msgspec.MsgspecError):
            part = msgspec.json.decode(line, type=Sent)
            sent[part.number] = part
    return begun, sent


def _note(record: Path, line: Begun | Sent, mode: Literal["wb", "ab"]) -> None:
    """Write a line of a record. Where that can't be done (the disk is full), the upload only can't be taken up."""
    with contextlib.suppress(OSError), record.open(mode, buffering=0) as lines:
        lines.write(b"\n" * (mode == "ab") + msgspec.json.encode(line))


def _client_of(env: Mapping[str, str]) -> Client:
    botocore: Any = importlib.import_module("botocore")
    config: Any = importlib.import_module("botocore.config").Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"total_max_attempts": _TRIES, "mode": "standard"},
        max_pool_connections=4 * PARTS_AT_ONCE,
        s3={"addressing_style": "virtual" if _is_true(env, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST") else "path"},
        # What speaks like S3 needn't know the newest checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        signature_version=botocore.UNSIGNED if _is_true(env, "AWS_SKIP_SIGNATURE") else None,
    )
    session: Any = importlib.import_module("botocore.session").Session()
    given = {
        "aws_access_key_id": env.get("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": env.get("AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": env.get("AWS_SESSION_TOKEN"),
    }
    return session.create_client(
        "s3",
        region_name=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        endpoint_url=_endpoint(env),
        config=config,
        **(given if given["aws_access_key_id"] else {}),
    )


def _endpoint(env: Mapping[str, str]) -> str | None:
    return env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or env.get("AWS_ENDPOINT") or None


def _encryption(env: Mapping[str, str]) -> dict[str, Any]:
    """Return how S3 is to encrypt what it keeps, as obstore is told."""
    found: dict[str, Any] = {}
    if (kind := env.get("AWS_SERVER_SIDE_ENCRYPTION")) is not None:
        found["ServerSideEncryption"] = kind
    if (key := env.get("AWS_SSE_KMS_KEY_ID")) is not None:
        found["SSEKMSKeyId"] = key
    if _is_true(env, "AWS_SSE_BUCKET_KEY_ENABLED"):
        found["BucketKeyEnabled"] = True
    return found


def _is_true(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() in _TRUE


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _said(error: Exception) -> str:
    """Return what went wrong, without addresses and keys."""
    return f"{type(error).__name__} {_code(error)}".strip()
