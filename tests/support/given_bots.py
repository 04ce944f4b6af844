"""A bot that echoes, and tells what it was given: a function of its own, `given`, for the command `call`."""

import hashlib
from typing import Any, Final

import msgspec
from pipecat.runner.types import RunnerArguments

from tests.support.session_bots import echo

EXPOSED: Final[dict[str, Any]] = {}


def digest(body: object) -> dict[str, Any]:
    """Return how large a body is as JSON without spaces, and its SHA-256."""
    data = msgspec.json.encode(body)
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


async def given(runner_args: RunnerArguments) -> None:
    """Echo."""
    EXPOSED["given"] = lambda: digest(runner_args.body)
    await echo(runner_args)
