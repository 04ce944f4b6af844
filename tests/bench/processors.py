"""What processes take of the processors, as the kernel counts it: comparable also while the machine is busy."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import psutil

from tests.support.stack import RunningStack

_TICKS: Final = os.sysconf("SC_CLK_TCK")

type Roles = dict[str, list[int]]


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used (utime and stime of /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def roles_of(stack: RunningStack) -> Roles:
    """Return the processes of a Greenroom by what they are; sessions and those that stand by are `session`."""
    sessions = [process.pid for process in stack.session_processes()]
    roles: Roles = {"session": sessions}
    for name, service in stack.stack.services.items():
        roles[name] = [service.pid, *_below(service.pid, but=sessions)]
    if stack.stack.nats is not None:
        roles["nats"] = _tree(stack.stack.nats.pid)
    if stack.stack.postgres is not None:
        roles["postgres"] = _tree(stack.stack.postgres.pid)
    return roles


class Meter:
    """Processor seconds by role since it was made.

    Args:
        roles: returns the processes; those that come or go while it runs are left out.
    """

    def __init__(self, roles: Callable[[], Roles]) -> None:
        self._roles = roles
        self._before = {pid: cpu_s(pid) for pids in roles().values() for pid in pids}

    def spent(self) -> dict[str, float]:
        """Return what each role has used."""
        return {
            role: sum(cpu_s(pid) - self._before[pid] for pid in pids if pid in self._before)
            for role, pids in self._roles().items()
        }


def _tree(pid: int) -> list[int]:
    return [pid, *_below(pid)]


def _below(pid: int, *, but: Iterable[int] = ()) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True) if child.pid not in set(but)]
