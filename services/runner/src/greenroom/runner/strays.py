"""Whoever is left over when a session process dies comes to the runner, its subreaper, and isn't let live."""

import contextlib
import os
import signal
from pathlib import Path


def kill_strays(known: frozenset[int]) -> frozenset[int]:
    """Kill and reap children of this process that aren't `known`; return them. For a process that owns them all."""
    strays = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread, or a stray, that has just ended
            for pid in {int(word) for word in (task / "children").read_text(encoding="ascii").split()} - known:
                strays.add(pid)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
    return frozenset(strays)
