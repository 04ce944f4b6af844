"""Pipecat's own development runner with a bot, as a process: `python bot.py -t TRANSPORT`."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from greenroom.devtools.process import free_port

_START_S = 40.0
_STOP_S = 10.0


@asynccontextmanager
async def development_runner(
    bot: Path, transport: str, folder: Path, *, through: Sequence[str] = (), **env: str
) -> AsyncGenerator[str]:
    """Run a bot under it for the time of the block; yields `127.0.0.1:PORT`.

    Args:
        bot: its file.
        transport: as it is called on the command line.
        folder: where it runs, and its log is.
        through: arguments for Python before the bot's, e.g. a module that runs it.
        env: more of its environment.
    """
    port = free_port()
    log = folder / "dev-runner.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *through, str(bot), "-t", transport, "--host", "127.0.0.1", "--port", str(port)),
            cwd=folder,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _listens(process, f"http://127.0.0.1:{port}/status", log)
        yield f"127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listens(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    async with asyncio.timeout(_START_S), httpx.AsyncClient() as client:
        while True:
            assert process.returncode is None, log.read_text()[-5000:]
            with contextlib.suppress(httpx.TransportError):
                assert (await client.get(url)).json()["status"] == "ready"
                return
            await asyncio.sleep(0.1)
