"""A server that speaks S3, as a process on loopback: moto."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from typing import Final

import httpx
import pytest

from greenroom.common.ids import uuid7

_PROGRAM: Final = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
_START_S: Final = 60.0
# Of a part that isn't the last one; S3 itself takes none below 5 MiB, which would be slow here.
SMALLEST_PART_BYTES: Final = 64 * 1024


@contextlib.asynccontextmanager
async def running_s3() -> AsyncGenerator[str]:
    """Run the server for the time of the block; yields its endpoint."""
    env = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "S3_UPLOAD_PART_MIN_SIZE": str(SMALLEST_PART_BYTES),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


def environment(endpoint: str) -> dict[str, str]:
    """Return what the environment must say for an S3 client to find the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


async def make_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a bucket, point the environment at it, and return its URL, with a prefix."""
    name = f"bucket-{uuid7()}"
    async with httpx.AsyncClient() as client:
        (await client.put(f"{endpoint}/{name}")).raise_for_status()
    for variable, value in environment(endpoint).items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}/calls"
