"""Its import never ends."""

import time


async def bot(_runner_args: object) -> None:
    """Do nothing."""


time.sleep(600)
