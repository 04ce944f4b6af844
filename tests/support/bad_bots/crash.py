"""Kills the process that imports it."""

import os
import signal


async def bot(_runner_args: object) -> None:
    """Do nothing."""


os.kill(os.getpid(), signal.SIGSEGV)
