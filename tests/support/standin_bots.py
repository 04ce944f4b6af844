"""Bots for the tests of the runner; most are only there to be offered, or not to be."""

import asyncio
import subprocess
import sys
import time

from pipecat.runner.types import WebSocketRunnerArguments

from tests.support.session_bots import echo

DESCRIPTION = "A bot for tests."


async def plain(_runner_args: object) -> None:
    """Do nothing."""


async def spawner(runner_args: WebSocketRunnerArguments) -> None:
    """Echo, having started a process that leads a session of its own."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(300)"]
    await asyncio.create_subprocess_exec(*sleeper, start_new_session=True, stdin=subprocess.DEVNULL)
    await echo(runner_args)


async def frozen(_runner_args: WebSocketRunnerArguments) -> None:
    """Block the event loop for ever."""
    time.sleep(300)
