"""A service as a child process of `greenroom up`: started, read, watched, stopped."""

import asyncio
import collections
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from greenroom.common.errors import GreenroomError

_LINE_LIMIT: Final = 256 * 1024
_POLL_S: Final = 0.05

# Sockets that are bound and don't listen, by their descriptors: whoever asks for any port isn't given theirs.
_held: Final[collections.deque[int]] = collections.deque()
_MOST_HELD: Final = 100

type OnLine = Callable[[str, str], None]


class ServiceFailed(GreenroomError):
    """A service ended or didn't get ready; its last lines are above, `greenroom doctor` checks what it depends on."""

    code = "service-failed"
    status = 503
    title = "A service didn't start"


class ServiceProcess:
    """One service, `python -m greenroom.{name}`.

    Args:
        name: `api`, `scheduler`, `runner` or `recorder`.
        env: its whole environment beyond the inherited one.
        on_line: called with the service's name and each line that it prints.
    """

    def __init__(self, name: str, env: Mapping[str, str], on_line: OnLine) -> None:
        self.name: Final = name
        self.health_port: Final = free_port()
        self._env = {**os.environ, **env, "GREENROOM_HEALTH_PORT": str(self.health_port), "PYTHONUNBUFFERED": "1"}
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 before it was started."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def health_url(self) -> str:
        """Where `/livez`, `/readyz` and `/metrics` are."""
        return f"http://127.0.0.1:{self.health_port}"

    async def start(self) -> None:
        """Start the process; `wait_ready` tells when it can be used."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"greenroom.{self.name}",
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            # A Ctrl-C in the terminal is `up`'s to act on: it stops the services in order.
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for `/readyz`.

        Raises:
            ServiceFailed: the process ended, or wasn't ready in time (the text says what it waits for).
        """
        deadline = time.monotonic() + timeout_s
        reasons = "it doesn't answer"
        async with httpx.AsyncClient(base_url=self.health_url, timeout=2.0) as http:
            while time.monotonic() < deadline:
                if not self.running:
                    raise ServiceFailed(
                        f"{self.name} ended with exit code {self._process and self._process.returncode}"
                    )
                with contextlib.suppress(httpx.HTTPError):
                    response = await http.get("/readyz")
                    if response.is_success:
                        return
                    reasons = response.text.strip()
                await asyncio.sleep(_POLL_S)
        raise ServiceFailed(f"{self.name} wasn't ready in {timeout_s:g} s: {reasons}")

    async def exited(self) -> int:
        """Wait for the process to end and return its exit code (negative: the signal that killed it)."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return code

    async def stop(self, timeout_s: float) -> int:
        """End the process in order (SIGTERM), and by force after `timeout_s`; return its exit code."""
        if not self.running:
            return await self.exited()
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.exited()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.exited()

    def signal(self, number: int) -> None:
        """Send a signal to the process (not to its children)."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for in start()
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # longer than the limit: that line is dropped
            if not line:
                return
            self._on_line(self.name, line.decode(errors="replace").rstrip("\n"))


def free_port(preferred: int = 0) -> int:
    """Return `preferred` when it is free on loopback, else any free port.

    Until a hundred more were asked for, nobody else of the machine is given it: a service takes seconds to come up, and
    on a busy machine another program would have had it by then. Servers that reuse addresses, as ours do, may listen.
    """
    for port in dict.fromkeys((preferred, 0)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            chosen: int = probe.getsockname()[1]
            _held.append(probe.detach())
            if len(_held) > _MOST_HELD:
                os.close(_held.popleft())
            return chosen
    return preferred
