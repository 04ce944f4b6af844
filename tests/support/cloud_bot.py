"""A bot as Pipecat Cloud documents them, with HTTP routes of its own on the app of Pipecat Cloud's base image."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
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


async def bot(runner_args: WebSocketRunnerArguments) -> None:
    """Echo."""
    await echo(runner_args)
