"""A bot as Pipecat Cloud documents them, with HTTP routes of its own on the app of Pipecat Cloud's base image."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from pipecat.runner.types import WebSocketRunnerArguments

from tests.support.session_bots import echo

if TYPE_CHECKING:
    app = FastAPI()
else:
    from pipecatcloud_system import app


@app.get("/status")
async def status(detail: str = "none") -> dict[str, str]:
    """Answer a query."""
    return {"status": "active", "detail": detail}


@app.post("/items/{name}", status_code=201)
async def put_item(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Take a body."""
    return {"name": name, **data}


@app.get("/broken")
async def broken() -> None:
    """Raise what must not be told."""
    raise ValueError("the caller's card is 4111 1111")


@app.head("/status")
async def status_head() -> Response:
    """Say how long the answer would be."""
    return Response(headers={"content-length": "77", "x-bot": "cloud"})


@app.options("/status")
async def status_options() -> Response:
    """Say what there is."""
    return Response(status_code=204, headers={"allow": "GET, HEAD, OPTIONS"})


# How the streams below stand: what they have given, and whether they have ended.
STREAMS: dict[str, Any] = {"given": 0, "running": 0}
PIECE = bytes(64 * 1024)


@app.get("/streams")
async def streams() -> dict[str, Any]:
    """Tell how the streams stand."""
    return STREAMS


@app.get("/stream/{kind}")
async def stream(kind: str) -> StreamingResponse:
    """Give server-sent events for ever (`ticks`), as much as is taken (`flood`), or something that breaks (`half`)."""

    async def ticks() -> AsyncGenerator[bytes]:
        STREAMS["running"] += 1
        try:
            for number in range(1_000_000):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.02)
        finally:
            STREAMS["running"] -= 1

    async def flood() -> AsyncGenerator[bytes]:
        for _ in range(320):
            STREAMS["given"] += len(PIECE)
            yield PIECE

    async def half() -> AsyncGenerator[bytes]:
        yield b"one half"
        raise ValueError("the caller's card is 4111 1111")

    made = {"ticks": ticks, "flood": flood, "half": half}[kind]
    return StreamingResponse(made(), media_type="text/event-stream" if kind == "ticks" else "application/octet-stream")


async def bot(runner_args: WebSocketRunnerArguments) -> None:
    """Echo."""
    await echo(runner_args)
