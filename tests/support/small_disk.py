"""A recorder as a process whose disk is really full when a test wants it to be, without any privilege of the tester.

Two kinds. `tmpfs`: the process has a small file system of its own where its recordings go, in a mount namespace that
only it has; it is filled by a file. That needs a kernel that lets users have namespaces. `limit`: the process may not
write any file beyond a length (RLIMIT_FSIZE), which is taken from the audio that is there; any kernel has that.
"""

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from tests.support.recorder_world import World, eventually
from tests.support.service_log import logged

type Kind = Literal["tmpfs", "limit"]

_SIZE: Final = "8m"
_NAMESPACE: Final = ("unshare", "--user", "--map-root-user", "--mount")
_MOUNT: Final = f'mount -t tmpfs -o size={_SIZE} tmpfs "$0" && exec "$@"'
_BALLAST: Final = "ballast"
_BLOCK: Final = bytes(64 * 1024)
# The service as it is, but quicker in trying again.
_PROGRAM: Final = """
from greenroom.common import topology
from greenroom.recorder import seal
from greenroom.recorder.__main__ import main
from tests.support.recorder_world import quick_topology
topology.CONSUMERS = quick_topology()
seal.SCAN_S = 0.5
main()
"""


def kinds() -> list[Kind]:
    """Return which kinds of full disks this machine can have."""
    command = [*_NAMESPACE, "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /tmp"]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    except OSError:  # there is no such command
        mounted = False
    return ["limit", "tmpfs"] if mounted else ["limit"]


class Recording:
    """A recorder with a disk that can be filled."""

    def __init__(self, process: Process, folder: Path, log: Path, kind: Kind) -> None:
        self._process = process
        self._folder = folder
        self._log = log
        self._kind: Kind = kind

    @property
    def folder(self) -> Path:
        """Where its recordings are, for us."""
        return self._folder if self._kind == "limit" else Path(f"/proc/{self._process.pid}/root{self._folder}")

    def fill(self) -> None:
        """Leave no room for anything more."""
        if self._kind == "limit":
            longest = max(path.stat().st_size for path in self.folder.rglob("*.pcm"))
            _limit(self._process.pid, longest)
            return
        with (self.folder / _BALLAST).open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(_BLOCK):
                pass

    def make_room(self) -> None:
        """Undo that."""
        if self._kind == "limit":
            _limit(self._process.pid, resource.RLIM_INFINITY)
        else:
            (self.folder / _BALLAST).unlink()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the records of an event in its log."""
        return logged(self._log, event)

    async def ask(self, path: str) -> httpx.Response:
        """Return what its health server answers."""
        (started,) = await eventually(lambda: self._records("service_started"), bool, within_s=60)
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{started['health_port']}{path}")

    async def reasons(self) -> dict[str, str]:
        """Return why it isn't ready."""
        return (await self.ask("/readyz")).json()["reasons"]

    async def _records(self, event: str) -> list[dict[str, Any]]:
        return self.logged(event)


@contextlib.asynccontextmanager
async def recording(here: World, kind: Kind) -> AsyncGenerator[Recording]:
    """Run a recorder for the time of the block."""
    here.folder.mkdir(parents=True, exist_ok=True)
    log = here.folder.with_suffix(".log")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "OTEL_"))},
        "NATS_URL": await here.nats_url(),
        "DATABASE_URL": here.dsn,
        "GREENROOM_RECORDINGS_DIR": str(here.folder),
        "GREENROOM_LOG_FORMAT": "json",
        "GREENROOM_RECORDER_WORK": "keep",
    }
    command = [sys.executable, "-c", _PROGRAM]
    if kind == "tmpfs":
        command = [*_NAMESPACE, "sh", "-c", _MOUNT, str(here.folder), *command]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, env=env, stdout=output, stderr=output)
    try:
        yield Recording(process, here.folder, log, kind)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _limit(pid: int, length: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (length, hard))
