"""Bots that behave badly in mid-call. Each echoes, so that there is a call, and is bounded, for the host."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Final

from pipecat.frames.frames import ErrorFrame, FunctionCallResultFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

from tests.support.session_bots import Echo

MEMORY_MB: Final = 300
FILES: Final = 4_000
THREADS: Final = 4
# Each branch of the bomb doubles so often: 2^5 - 1 processes.
_BRANCHES: Final = 6
_DOUBLINGS: Final = 4
_BOMB: Final = """
bomb() { [ $1 -eq 0 ] || { bomb $(($1 - 1)) $2 & bomb $(($1 - 1)) $2 & }; exec sleep $2; }
bomb $0 $1
"""
_PIECE_MB: Final = 10
# The pipeline runs by then, and the session is ready.
_PAUSE_S: Final = 0.3
# Nothing here goes on for longer, whoever forgets to end it.
_LIFE_S: Final = 60.0


async def _echo(runner_args: WebSocketRunnerArguments) -> tuple[PipelineWorker, "asyncio.Task[None]"]:
    """Begin to echo; returns once something bad may begin."""
    transport = await create_transport(
        runner_args,
        {
            "websocket": lambda: FastAPIWebsocketParams(
                audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
            )
        },
    )
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await asyncio.sleep(_PAUSE_S)
    return worker, running


async def kills_itself(runner_args: WebSocketRunnerArguments) -> None:
    """Die without a word."""
    await _echo(runner_args)
    os.kill(os.getpid(), signal.SIGKILL)


async def stops_itself(runner_args: WebSocketRunnerArguments) -> None:
    """Stand still: neither dead nor alive."""
    await _echo(runner_args)
    os.kill(os.getpid(), signal.SIGSTOP)


async def hogs_memory(runner_args: WebSocketRunnerArguments) -> None:
    """Take memory, and use it."""
    _, running = await _echo(runner_args)
    held: list[bytes] = []
    while len(held) * _PIECE_MB < MEMORY_MB:
        held.append(b"\1" * (_PIECE_MB * 2**20))
        await asyncio.sleep(0)
    await running


async def forks(runner_args: WebSocketRunnerArguments) -> None:
    """Be a fork bomb: processes that start two each as fast as they can, each branch in a session of its own."""
    _, running = await _echo(runner_args)
    for _ in range(_BRANCHES):
        subprocess.Popen(
            ["sh", "-c", _BOMB, str(_DOUBLINGS), f"{_LIFE_S:g}"], start_new_session=True, stdin=subprocess.DEVNULL
        )
    await running


async def spins(runner_args: WebSocketRunnerArguments) -> None:
    """Never give the event loop back."""
    await _echo(runner_args)
    until = time.monotonic() + _LIFE_S
    while time.monotonic() < until:
        pass


async def burns(runner_args: WebSocketRunnerArguments) -> None:
    """Keep all processors busy from threads, without the interpreter's lock."""
    _, running = await _echo(runner_args)
    until = time.monotonic() + _LIFE_S

    def burn() -> None:
        block = bytes(2**20)
        while time.monotonic() < until:
            hashlib.sha256(block).digest()

    for _ in range(THREADS):
        threading.Thread(target=burn, daemon=True).start()
    await running


async def leaks_files(runner_args: WebSocketRunnerArguments) -> None:
    """Open files until no more can be opened, and let the error go up."""
    _, running = await _echo(runner_args)
    leaked: list[int] = []
    while len(leaked) < FILES:
        leaked.append(os.open("/dev/null", os.O_RDONLY))
    await running


async def is_deaf(runner_args: WebSocketRunnerArguments) -> None:
    """Ignore every signal that can be ignored, and swallow every cancelation."""
    await _echo(runner_args)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + _LIFE_S
    while time.monotonic() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def floods(runner_args: WebSocketRunnerArguments) -> None:
    """Make events as fast as it can: results of tools, and errors, each with a text to carry."""
    worker, running = await _echo(runner_args)
    text, number = "x" * 4096, 0
    while not running.done():
        number += 1
        await worker.queue_frame(FunctionCallResultFrame("flood", f"c{number}", {"text": text}, {"text": text}))
        await worker.queue_frame(ErrorFrame(error=text))
        await asyncio.sleep(0)


OFFENDERS: Final[dict[str, Callable[[WebSocketRunnerArguments], object]]] = {
    each.__name__: each
    for each in (kills_itself, stops_itself, hogs_memory, forks, spins, burns, leaks_files, is_deaf, floods)
}
