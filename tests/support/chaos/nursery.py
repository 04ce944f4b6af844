"""Where the processes of a run come from and how they go: forked from one that has imported all, and killed by -9."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final, Literal

_START_S: Final = 120.0
_GONE_S: Final = 20.0
_POLL_S: Final = 0.002


class Nursery:
    """Made by `running_nursery`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asking = asyncio.Lock()

    async def spawn(
        self, kind: Literal["recorder", "storage"], log: Path, *, env: Mapping[str, str], argument: str = ""
    ) -> int:
        """Start a process and return its pid."""
        order = {"kind": kind, "log": str(log), "env": dict(env), "argument": argument}
        async with self._asking:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            return int(await self._line())

    async def ready(self) -> None:
        """Return when everything is imported."""
        await self._line()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await self._process.stdout.readline()
        assert line, "the nursery has ended"
        return line


async def kill(pid: int) -> None:
    """Kill a process, and return when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_GONE_S):
            while True:
                os.kill(pid, 0)
                await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def running_nursery() -> AsyncGenerator[Nursery]:
    """Run a nursery for the time of the block; what came from it doesn't outlive it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.chaos.forks"),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        nursery = Nursery(process)
        await nursery.ready()
        yield nursery
    finally:
        process.kill()
        await process.wait()
