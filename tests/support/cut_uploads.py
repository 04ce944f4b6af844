"""Large files on their way to S3: what is in a bucket's uploads, and a recorder that is killed in the middle of one."""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any, Final

import botocore.exceptions

from greenroom.recorder.multipart import S3Uploads, uploads_to
from tests.support.buckets import SMALLEST_PART_BYTES

# The least that the server of the tests takes; S3 takes 5 MiB.
PART_BYTES: Final = SMALLEST_PART_BYTES

# Uploads a file, one part after the other, and is killed where the test says.
_PROGRAM: Final = """
import os, signal, sys
from pathlib import Path, PurePosixPath
from greenroom.common.objects import open_bucket
from greenroom.recorder import multipart, storage
step, draft, url = sys.argv[1:]
multipart.PARTS_AT_ONCE = 1
storage.ONE_PIECE_BYTES = 0
def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)
made = multipart._client_of
def client_of(env):
    client, parts = made(env), []
    upload_part, complete, create = client.upload_part, client.complete_multipart_upload, client.create_multipart_upload
    def counted(**named):
        parts.append(named["PartNumber"])
        if step == f"part-{len(parts)}":
            die()
        return upload_part(**named)
    client.upload_part = counted
    if step == "before-complete":
        client.complete_multipart_upload = die
    if step == "after-complete":
        client.complete_multipart_upload = lambda **named: (complete(**named), die())
    if step == "before-record":
        client.create_multipart_upload = lambda **named: (create(**named), die())
    return client
multipart._client_of = client_of
from tests.support.cut_uploads import uploads
bucket = storage.Bucket(open_bucket(url), uploads(url))
bucket.keep(Path(draft), PurePosixPath("t/s.wav"), storage.digest_of(Path(draft)))
"""


def uploads(url: str) -> S3Uploads:
    """Return uploads to a bucket, in parts as small as S3 takes them."""
    made = uploads_to(url, os.environ)
    assert made is not None
    made._part_bytes = PART_BYTES
    return made


async def cut(step: str, draft: Path, url: str) -> int:
    """Upload a file in a process that is killed at a step; return how it ended."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, step, str(draft), url)
    return await process.wait()


class Counting:
    """What was asked of S3 through a bucket's client."""

    def __init__(self, made: S3Uploads) -> None:
        client: Any = made._client()
        self.parts: list[int] = []
        self.begun = 0
        upload_part, create = client.upload_part, client.create_multipart_upload

        def counted(**named: Any) -> Any:
            self.parts.append(named["PartNumber"])
            return upload_part(**named)

        def created(**named: Any) -> Any:
            self.begun += 1
            return create(**named)

        client.upload_part, client.create_multipart_upload = counted, created
        self._client = client

    def cut_off(self, call: str, *, at: int = 1) -> None:
        """Have one call fail as if S3 were away: the `at`-th."""
        there, calls = getattr(self._client, call), count(1)

        def asked(**named: Any) -> Any:
            if next(calls) == at:
                raise ConnectionError("S3 is away")
            return there(**named)

        setattr(self._client, call, asked)


def under_way(made: S3Uploads) -> list[tuple[str, str]]:
    """Return the uploads that a bucket knows of: keys and ids."""
    answer: Any = made._client().list_multipart_uploads(Bucket=made._bucket)
    return [(each["Key"], each["UploadId"]) for each in answer.get("Uploads", [])]


def no_such_upload(operation: str) -> Exception:
    """Return what S3 says of an upload that it doesn't know."""
    exceptions: Any = botocore.exceptions
    return exceptions.ClientError(
        {"Error": {"Code": "NoSuchUpload", "Message": "The upload does not exist."}}, operation
    )
