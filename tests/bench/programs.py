"""Programs of benchmarks: processes of their own that speak in lines, so that what they cost can be told apart."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

import msgspec


class Program:
    """A process that speaks in lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def line(self) -> str:
        """Return its next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            line = await self._process.stdout.readline()
        assert line, "a program of the benchmark ended early"
        return line.decode()

    async def until(self, word: str) -> str:
        """Return its next line that begins with a word."""
        while not (line := await self.line()).startswith(word):
            pass
        return line

    def say(self, line: str) -> None:
        """Write it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return its answer to a command."""
        self.say(msgspec.json.encode(command).decode())
        return msgspec.json.decode(await self.line())


@contextlib.asynccontextmanager
async def program(module: str, *arguments: str, env: dict[str, str] | None = None) -> AsyncGenerator[Program]:
    """Run a module as a process for the time of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # The answer to a measurement is one line.
        limit=2**24,
        env={**os.environ, **(env or {})},
    )
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
