"""A server that speaks the wire format of OpenAI's audio and chat APIs, and fails when told to.

It checks what a real one checks (the key, required fields) and streams as a real one does: chat completions as
server-sent events with deltas, tool-call fragments and a usage chunk, speech as raw PCM in pieces.
"""

import asyncio
import json
import math
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY: Final = "sk-stub"
CHAT: Final = "/v1/chat/completions"
TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
SPEECH: Final = "/v1/audio/speech"
# What OpenAI's `pcm` format is made of, in Hz.
SPEECH_RATE: Final = 24_000
# How long an idle connection stays open: as at Cloudflare, which api.openai.com is behind, by its table "Connection
# limits", between client and Cloudflare (developers.cloudflare.com/fundamentals/reference/connection-limits).
KEEP_ALIVE_S: Final = 400
# Speech of the stub takes this long for each word of the text.
WORD_S: Final = 0.06

_ERRORS: Final = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
}


@dataclass(frozen=True)
class Says:
    """The model answers with text."""

    text: str


@dataclass(frozen=True)
class Calls:
    """The model calls a tool, after some text if there is any."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""


@dataclass(frozen=True)
class Fails:
    """The request is refused with an HTTP status; `retry_after_ms` is how long the client is told to wait."""

    status: int
    retry_after_ms: int = 1


@dataclass(frozen=True)
class Stalls:
    """The server accepts the request, and then nothing comes."""


@dataclass(frozen=True)
class Breaks:
    """The connection is lost in the middle of the answer."""


type Trouble = Fails | Stalls | Breaks


@dataclass(frozen=True)
class Received:
    """A request as it came in; of an upload, `body` has the fields, and `file` the bytes."""

    path: str
    body: dict[str, Any]
    file: bytes = b""
    # Of the client: another one is another connection.
    port: int | None = None


class OpenAIStub:
    """The state of a stub server: what it will answer, what it was asked.

    Each request takes the next entry of its queue; an empty queue gives `default_reply` and `default_transcript`, or
    what `think` makes of the messages. Trouble, while there is any for a path, comes before answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.key = KEY
        self.replies: deque[Says | Calls] = deque()
        self.transcripts: deque[str] = deque()
        self.default_reply: Says | Calls = Says("All right.")
        self.default_transcript = "hello"
        self.think: Callable[[list[dict[str, Any]]], Says | Calls] = lambda _: self.default_reply
        self.trouble: dict[str, deque[Trouble]] = {CHAT: deque(), TRANSCRIPTIONS: deque(), SPEECH: deque()}
        self.received: list[Received] = []
        self.closing = asyncio.Event()

    def asked(self, path: str) -> list[Received]:
        """Return the requests to one path, oldest first."""
        return [request for request in self.received if request.path == path]

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body: dict[str, Any] = await request.json()
        refusal, broken = await self._trouble(request, Received(CHAT, body))
        if refusal is not None:
            return refusal
        if not body.get("model") or not body.get("messages"):
            return _error(400, "you must provide a model and messages")
        reply = self.replies.popleft() if self.replies else self.think(body["messages"])
        usage = bool(body.get("stream_options", {}).get("include_usage"))
        return StreamingResponse(
            _events(body["model"], reply, usage=usage, broken=broken), media_type="text/event-stream"
        )

    async def transcribe(self, request: Request) -> Response:
        """`POST /v1/audio/transcriptions`."""
        body, file = _form(request.headers["content-type"], await request.body())
        refusal, _ = await self._trouble(request, Received(TRANSCRIPTIONS, body, file))
        if refusal is not None:
            return refusal
        if not body.get("model") or not file.startswith(b"RIFF"):
            return _error(400, "you must provide a model and a file")
        text = self.transcripts.popleft() if self.transcripts else self.default_transcript
        return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": math.ceil(len(file) / 32_000)}})

    async def speak(self, request: Request) -> Response:
        """`POST /v1/audio/speech`."""
        body: dict[str, Any] = await request.json()
        refusal, broken = await self._trouble(request, Received(SPEECH, body))
        if refusal is not None:
            return refusal
        if body.get("response_format") != "pcm" or not body.get("voice") or not body.get("input"):
            return _error(400, "the stub speaks pcm, and needs a voice and an input")
        return StreamingResponse(_speech(body["input"], broken=broken), media_type="audio/pcm")

    async def _trouble(self, request: Request, received: Received) -> tuple[Response | None, bool]:
        """Note the request; return the refusal, if it is refused, and whether its answer is to break off."""
        self.received.append(replace(received, port=request.client.port if request.client is not None else None))
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided"), False
        pending = self.trouble[received.path]
        match pending.popleft() if pending else None:
            case Fails(status, retry_after_ms):
                return _error(status, "the stub was told to fail", {"retry-after-ms": str(retry_after_ms)}), False
            case Stalls():
                await self.closing.wait()
                return _error(500, "the stub is going away"), False
            case Breaks():
                return None, True
            case None:
                return None, False


@asynccontextmanager
async def running_openai_stub() -> AsyncGenerator[OpenAIStub]:
    """Run a stub on a free port of the loopback; its `url` is a base URL for OpenAI's client."""
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does so for sockets of its own only: bodies would wait 40 ms for clients to acknowledge heads.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stub = OpenAIStub(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    routes = [
        Route(CHAT, stub.chat, methods=["POST"]),
        Route(TRANSCRIPTIONS, stub.transcribe, methods=["POST"]),
        Route(SPEECH, stub.speak, methods=["POST"]),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        log_level="critical",
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    with listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(5):
                while not server.started:
                    await asyncio.sleep(0.005)
            yield stub
        finally:
            stub.closing.set()
            server.should_exit = True
            await serving


async def _events(model: str, reply: Says | Calls, *, usage: bool, broken: bool) -> AsyncIterator[bytes]:
    deltas = list(_deltas(reply))
    for index, delta in enumerate(deltas):
        if broken and index == len(deltas) // 2:
            raise ConnectionResetError("the stub was told to break off")
        yield _event(model, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])
        await asyncio.sleep(0)
    reason = "tool_calls" if isinstance(reply, Calls) else "stop"
    yield _event(model, [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}])
    if usage:
        counts = {"prompt_tokens": 20, "completion_tokens": len(deltas), "total_tokens": 20 + len(deltas)}
        yield _event(model, [], usage=counts)
    yield b"data: [DONE]\n\n"


def _deltas(reply: Says | Calls) -> list[dict[str, Any]]:
    words = [word + " " for word in reply.text.split()]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if words else None, "refusal": None}]
    deltas += [{"content": word} for word in words]
    if isinstance(reply, Calls):
        head = {"index": 0, "id": "call_stub", "type": "function", "function": {"name": reply.name, "arguments": ""}}
        arguments = json.dumps(reply.arguments)
        pieces = [arguments[start : start + 5] for start in range(0, len(arguments), 5)]
        deltas.append({"tool_calls": [head]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    return deltas


def _event(model: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_stub",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def _speech(text: str, *, broken: bool) -> AsyncIterator[bytes]:
    words = text.split()
    for index in range(len(words)):
        if broken and index == len(words) // 2:
            raise ConnectionResetError("the stub was told to break off")
        yield _WORD
        await asyncio.sleep(0)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    kind, code = _ERRORS.get(status, ("server_error", None))
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers)


def _form(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the fields and the file of a multipart form."""
    boundary = BytesParser().parsebytes(b"Content-Type: " + content_type.encode()).get_param("boundary")
    fields: dict[str, Any] = {}
    file = b""
    for part in body.split(f"--{boundary}".encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        named = BytesParser().parsebytes(head)
        name = named.get_param("name", header="content-disposition")
        if named.get_filename():
            file = content
        elif isinstance(name, str):
            fields[name] = content.decode()
    return fields, file


_WORD: Final = b"".join(
    struct.pack("<h", round(12_000 * math.sin(2 * math.pi * 300 * index / SPEECH_RATE)))
    for index in range(round(SPEECH_RATE * WORD_S))
)
