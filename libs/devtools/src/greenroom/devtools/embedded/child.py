"""A server program as a child process: started, waited for, stopped, and gone when we are gone."""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from greenroom.common.errors import GreenroomError
from greenroom.devtools.embedded.identity import Identity

# Servers are up within 7 to 50 ms: a coarser look would cost more than the start itself.
_POLL_S: Final = 0.005
# Enough to see what a server complained of.
_LOG_LINES: Final = 12
_LOG_TAIL_BYTES: Final = 16 * 1024
# A log that has grown beyond this is begun anew at the next start.
_LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
# After SIGKILL only the kernel is waited for.
_KILL_TIMEOUT_S: Final = 5.0


class EmbeddedServerFailed(GreenroomError):
    """The embedded NATS or PostgreSQL didn't start; the text ends with the last lines of its log.

    A folder made by another user, a full disk and a taken port are the usual causes. `NATS_URL` and `DATABASE_URL`
    have servers of yours used instead.
    """

    code = "embedded-server-failed"
    status = 503
    title = "An embedded server failed"


class Child:
    """One server process after the other, under one name.

    The process belongs to no terminal (Ctrl-C is for its owner to act on) and is signalled by the kernel when the
    thread that started it ends: start it from a thread that lives as long as the server is wanted, the main one.

    Args:
        name: as it appears in errors.
        log: what the process prints is appended here.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name: Final = name
        self.log: Final = log
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where in the log this start begins

    @property
    def pid(self) -> int:
        """The process id, 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        orphan_signal: signal.Signals,
        identity: Identity | None = None,
    ) -> None:
        """Start the program; `wait_ready` tells when it can be used.

        Args:
            command: path and arguments.
            env: its whole environment.
            orphan_signal: what the kernel sends it when we die.
            identity: who it runs as; as we are, when not given.

        Raises:
            EmbeddedServerFailed: it is running already, or can't be executed.
        """
        if self.running:
            raise EmbeddedServerFailed(f"{self.name} is running already, as process {self.pid}")
        identity = identity or Identity()
        argv = [*identity.prefix, *_dies_with_us(orphan_signal), *command]
        with self.log.open("ab") as log:
            if log.tell() > _LOG_LIMIT_BYTES:
                log.truncate(0)
            self._log_start = log.seek(0, os.SEEK_END)
            try:
                self._process = subprocess.Popen(
                    argv,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=identity.user,
                    group=identity.group,
                    extra_groups=None if identity.user is None else [],
                )
            except OSError as error:
                raise EmbeddedServerFailed(f"{self.name} can't be started: {error}") from error

    async def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready()`; when the process ends before that, or time is up, it is gone afterwards.

        Raises:
            EmbeddedServerFailed: it ended or wasn't ready in time; the text has its last log lines.
        """
        try:
            await self._until(lambda: ready() or not self.running, timeout_s)
        except TimeoutError:
            await self.kill()
            raise self.failure(f"wasn't ready in {timeout_s:g} s") from None
        if not self.running:
            raise self.failure(f"ended with exit code {self._process and self._process.returncode}")

    async def wait_success(self, timeout_s: float) -> None:
        """Wait until the process has ended well; it is gone afterwards in any case.

        Raises:
            EmbeddedServerFailed: it failed or took too long; the text has its last log lines.
        """
        try:
            await self._until(lambda: not self.running, timeout_s)
        except TimeoutError:
            await self.kill()
            raise self.failure(f"wasn't done in {timeout_s:g} s") from None
        if self._process is None or self._process.returncode != 0:
            raise self.failure(f"ended with exit code {self._process and self._process.returncode}")

    async def stop(self, *ladder: tuple[signal.Signals, float]) -> None:
        """Send one signal after the other, each with its time in seconds to act, then SIGKILL."""
        for number, timeout_s in ladder:
            self.signal(number)
            with contextlib.suppress(TimeoutError):
                return await self._until(lambda: not self.running, timeout_s)
        return await self.kill()

    async def kill(self) -> None:
        """End the process and its children at once, as a crash would."""
        children = self._children() if self.running else []
        self.signal(signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._until(lambda: not self.running, _KILL_TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)  # does nothing once the process was seen to end

    def failure(self, what: str) -> EmbeddedServerFailed:
        """Return the error that says `what` happened, and what the log says of it."""
        lines = self.log_tail().splitlines()[-_LOG_LINES:]
        return EmbeddedServerFailed("\n  ".join([f"{self.name} {what}; the end of {self.log}:", *lines]))

    def log_tail(self) -> str:
        """Return the end of what was logged since the last start."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
        return ""

    def _children(self) -> list[int]:
        """Return the children that Linux tells of; elsewhere they notice by themselves, when they come to it."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    async def _until(self, reached: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(_POLL_S)


def _dies_with_us(orphan_signal: signal.Signals) -> list[str]:
    """Return the command prefix that has the kernel signal a program when its parent dies; empty where none can."""
    setpriv = _setpriv()
    return [setpriv, "--pdeathsig", orphan_signal.name.removeprefix("SIG"), "--"] if setpriv else []


@functools.cache
def _setpriv() -> str | None:
    """Find a setpriv that knows --pdeathsig: util-linux has it since 2.33, BusyBox and macOS have not."""
    path = shutil.which("setpriv")
    if path is None:
        return None
    probe = subprocess.run([path, "--pdeathsig", "keep", "--", path, "--version"], capture_output=True, check=False)
    return path if probe.returncode == 0 else None
