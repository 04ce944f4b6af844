"""The reference pattern: one fresh interpreter per bot, `python -m bot`, that builds its pipeline and runs it.

Prints `ready` when the pipeline's StartFrame has come through. The bot is one of ours, unchanged; its WebSocket is a
stand-in that hears a caller's speech in real time and throws away what the bot says.
"""

import asyncio
import importlib
import os
import sys
import time
from collections.abc import MutableMapping
from typing import Any

# Pipecat calls the hooks of this file in every pipeline; it must be set before Pipecat is imported.
os.environ["PIPECAT_SETUP_FILES"] = __file__

_FRAME_S = 0.02
_RATE = 16_000


async def setup_pipeline_worker(worker: Any) -> None:
    """Say when the pipeline runs (called by Pipecat)."""

    async def started(*_: object) -> None:
        print("ready", flush=True)

    worker.add_event_handler("on_pipeline_started", started)


async def _main(name: str) -> None:
    from pipecat.runner.types import WebSocketRunnerArguments  # noqa: PLC0415 - part of what is measured
    from starlette.websockets import WebSocket, WebSocketState  # noqa: PLC0415

    from greenroom.devtools import protobuf_frames  # noqa: PLC0415

    speech = b""
    if "--audio" in sys.argv:
        from greenroom.devtools import call  # noqa: PLC0415

        speech = call.spoken(["what are your opening hours"])[0].pcm
    sent = 0
    began = time.monotonic()

    async def receive() -> MutableMapping[str, Any]:
        nonlocal sent
        await asyncio.sleep(max(began + sent * _FRAME_S - time.monotonic(), 0))
        frame = speech[sent * 640 % max(len(speech), 1) :][:640].ljust(640, b"\0")
        sent += 1
        return {"type": "websocket.receive", "bytes": protobuf_frames.encode_audio(frame, _RATE)}

    async def send(_: MutableMapping[str, Any]) -> None:
        return

    websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
    arguments = WebSocketRunnerArguments(websocket=websocket, transport_type="websocket")
    arguments.handle_sigint = arguments.handle_sigterm = False
    arguments.pipeline_idle_timeout_secs = None
    bot = importlib.import_module(f"greenroom.runner.bots.{name}").bot
    await bot(arguments)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
