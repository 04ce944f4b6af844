"""The other two shapes of the density benchmark: a process for each session, started cold, or imported and waiting.

    python -m tests.bench.density_reference BOT          the reference pattern: `python -m bot` per session
    python -m tests.bench.density_reference BOT --pool   a pool of processes that have imported everything and wait

Prints `port N` once a caller may connect, `ready` once the pipeline runs. One in a pool prints `idle` first, and goes
on when it gets a line on standard input.
"""

import asyncio
import importlib
import os
import sys
from typing import Any

# Pipecat calls the hooks of this file in every pipeline; it must be set before Pipecat is imported.
os.environ["PIPECAT_SETUP_FILES"] = __file__


async def setup_pipeline_worker(worker: Any) -> None:
    """Say when the pipeline runs (called by Pipecat)."""

    async def started(*_: object) -> None:
        print("ready", flush=True)

    worker.add_event_handler("on_pipeline_started", started)


async def _serve(bot: Any) -> None:
    import uvicorn  # noqa: PLC0415 - part of what is measured
    from pipecat.runner.types import WebSocketRunnerArguments  # noqa: PLC0415
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.routing import WebSocketRoute  # noqa: PLC0415
    from starlette.websockets import WebSocket  # noqa: PLC0415

    async def session(websocket: WebSocket) -> None:
        await websocket.accept()
        arguments = WebSocketRunnerArguments(websocket=websocket, transport_type="websocket", body={"greeting": ""})
        arguments.handle_sigint = arguments.handle_sigterm = False
        arguments.pipeline_idle_timeout_secs = None
        await bot(arguments)

    app = Starlette(routes=[WebSocketRoute("/", session)])
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    print(f"port {server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await serving


def main() -> None:
    """Import, wait if asked to, serve."""
    module = importlib.import_module(f"greenroom.runner.bots.{sys.argv[1]}")
    if "--pool" in sys.argv:
        module.warm()
        print("idle", flush=True)
        sys.stdin.readline()
    asyncio.run(_serve(module.bot))


if __name__ == "__main__":
    main()
