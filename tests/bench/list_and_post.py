"""The dispatcher that the scheduler is measured beside, in the shape that glued systems have.

A list of requests, a list of runner URLs, and an operator that takes the oldest request from the one, the next idle
runner from the other, and posts the request to it over HTTP. (Theirs has Redis in between; this one's lists are its
own, which is quicker.) `python -m tests.bench.list_and_post` is the runner: it prints its port and answers posts.
"""

import asyncio
import sys
from collections import deque
from typing import Any

import httpx
import msgspec
import uvicorn
import uvloop

from greenroom.common.ids import uuid7
from greenroom.devtools.process import free_port


class Operator:
    """Dispatches, one request after the other; keeps which room is taken, as the lock of such systems does."""

    def __init__(self, runners: list[str]) -> None:
        self._idle = deque(runners)
        self._rooms: dict[str, str] = {}

    async def run(self, requests: deque[dict[str, Any]]) -> int:
        """Dispatch all, and return how many."""
        done = 0
        async with httpx.AsyncClient(timeout=1.0) as client:
            while requests:
                request, url = requests.popleft(), self._idle.popleft()
                answer = await client.post(f"{url}/start", json=request)
                answer.raise_for_status()
                self._rooms[request["room"]] = answer.json()["runner"]
                self._idle.append(url)
                done += 1
        return done


def requests(count: int) -> deque[dict[str, Any]]:
    """Return so many requests."""
    return deque({"session_id": uuid7(), "room": f"room-{index}", "bot": "echo", "body": {}} for index in range(count))


async def _runner(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    request = msgspec.json.decode(body)
    answer = msgspec.json.encode({"runner": "r", "session_id": request["session_id"], "status": "started"})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def main() -> None:
    """Answer posts until killed."""
    port = free_port(0)
    config = uvicorn.Config(_runner, host="127.0.0.1", port=port, log_level="error", lifespan="off", access_log=False)
    server = asyncio.create_task(uvicorn.Server(config).serve())
    await asyncio.sleep(0.5)
    print(port, flush=True)
    await server


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
