"""Processes: started in a session of their own, reaped when they are ours, told to end, ended by force."""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from greenroom.scheduler.launchers import process_birth
from greenroom.scheduler.launchers.process_state import Record, StateFolder

# What Python or a service may have set to be ignored, and what the runner wants to hear.
_DEFAULT_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)


class Children:
    """Starts processes and collects the exit codes of those that this process has started.

    Thread-safe as far as it is used: started from one thread at a time, reaped from another.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder: Final = folder
        self._running: set[int] = set()
        self._exits: dict[int, int] = {}

    def start(self, record: Record, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Start a process that enters itself as `record` and becomes `command`; return its id.

        It leads a session of its own: no signal meant for this process reaches it, and its end doesn't either.

        Raises:
            OSError: it can't be started.
        """
        folder = self._folder
        birth = [sys.executable, "-I", "-S", process_birth.__file__]
        entry = msgspec.json.encode(record).decode()
        argv = [*birth, entry, str(folder.live), str(folder.ended), *command]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            sys.executable,
            argv,
            dict(env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(folder.log_path(record.id)), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
        self._running.add(pid)
        return pid

    def reap(self) -> None:
        """Collect those that have ended."""
        for pid in list(self._running):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._running.discard(pid)
                continue
            if ended:
                self._running.discard(pid)
                self._exits[pid] = os.waitstatus_to_exitcode(status)

    def running(self, pid: int) -> bool:
        """Tell whether a process that was started here hasn't been reaped."""
        return pid in self._running

    def exit_code(self, pid: int) -> int | None:
        """Return how a process has ended, once; None if it wasn't ours to reap."""
        return self._exits.pop(pid, None)


def ask_to_end(record: Record, folder: StateFolder, now: datetime, within_s: float) -> None:
    """Send SIGTERM, once, and note until when the process may take. Only to the process: it ends its own children.

    A runner takes a second SIGTERM as "hurry", so one that was asked before only gets an earlier end.
    """
    kill_at = now + timedelta(seconds=within_s)
    if record.stopping_at is None:
        _signal(record, signal.SIGTERM)
    elif record.kill_at is not None and record.kill_at <= kill_at:
        return
    folder.write(msgspec.structs.replace(record, stopping_at=record.stopping_at or now, kill_at=kill_at))


def kill(record: Record) -> None:
    """End a process and everything in its group at once."""
    if record.lives():  # while its leader lives, a group can't be anybody else's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)


def _signal(record: Record, number: signal.Signals) -> None:
    if record.lives():
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
