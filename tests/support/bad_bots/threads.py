"""Its `warm` leaves a thread behind, with which nothing can be forked."""

import threading
import time


async def bot(_runner_args: object) -> None:
    """Do nothing."""


def warm() -> None:
    """Start a thread that doesn't end."""
    threading.Thread(target=time.sleep, args=(600,), name="left-behind", daemon=True).start()
