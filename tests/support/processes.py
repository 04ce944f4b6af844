"""Questions about processes that aren't ours to wait for."""

import time

import psutil
import pytest


def assert_gone(process: psutil.Process, within_s: float = 1.0) -> None:
    """Check that a process ends by itself; what nobody has reaped yet counts as gone."""
    deadline = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{process} still runs after {within_s:g} s")
        time.sleep(0.01)
