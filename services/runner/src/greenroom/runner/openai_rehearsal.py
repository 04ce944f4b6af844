"""Requests to OpenAI that nobody receives, in a process from which others are forked.

With its first requests a client finds out what it runs on (it starts a program for that), builds the schemas of what it
reads, and looks at the annotations of what it writes: 15 ms of the caller's first turn, and 5 MB of each session's own.
What has run before the fork is shared.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import openai
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam

_TIMEOUT_S: Final = 5.0
_END_OF_HEAD: Final = b"\r\n\r\n"
_MODEL: Final = "rehearsal"
# Enough to look like one.
_WAV: Final = b"RIFF" + bytes(640)
_MESSAGES: Final[list[ChatCompletionMessageParam]] = [
    {"role": "system", "content": "This is a rehearsal."},
    {"role": "user", "content": "Who hears it?"},
    {"role": "assistant", "content": "Nobody."},
    {"role": "user", "content": "Goodbye."},
]
_TOOLS: Final[list[ChatCompletionToolUnionParam]] = [
    {
        "type": "function",
        "function": {
            "name": "end_call",
            "description": "End the call.",
            "parameters": {"type": "object", "properties": {"why": {"type": "string"}}, "required": []},
        },
    }
]


async def rehearse() -> None:
    """Have a server of our own transcribe, answer and speak, by way of each of the client's HTTP libraries.

    Raises:
        TimeoutError: it took too long.
        openai.OpenAIError: the client didn't take an answer.
    """
    async with asyncio.timeout(_TIMEOUT_S), _serving() as url:
        for kind in (openai.DefaultAsyncHttpxClient, openai.DefaultAioHttpClient):
            # Proxies are for the real server, and there is no TLS: without certificates its context costs nothing.
            async with kind(trust_env=False, verify=False) as http_client:
                client = openai.AsyncOpenAI(api_key=_MODEL, base_url=url, http_client=http_client, max_retries=0)
                await _hold_turn(client)


async def _hold_turn(client: openai.AsyncOpenAI) -> None:
    """Ask as Pipecat's services do."""
    file = ("audio.wav", _WAV, "audio/wav")
    await client.audio.transcriptions.create(file=file, model=_MODEL, response_format="json")
    async with await client.chat.completions.create(
        model=_MODEL, messages=_MESSAGES, tools=_TOOLS, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        async for _ in chunks:
            pass
    async with client.audio.speech.with_streaming_response.create(
        input="Nobody hears it.", model=_MODEL, voice="alloy", response_format="pcm"
    ) as speech:
        async for _ in speech.iter_bytes():
            pass


@contextlib.asynccontextmanager
async def _serving() -> AsyncGenerator[str]:
    """Serve on the loopback; yield the base URL."""
    async with await asyncio.start_server(_serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/v1"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(_END_OF_HEAD)
            fields = dict(line.lower().split(b":", 1) for line in head.strip().split(b"\r\n")[1:])
            await reader.readexactly(int(fields[b"content-length"]))
            kind, body = _answer(head.split(maxsplit=2)[1])
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)
            )


def _answer(path: bytes) -> tuple[bytes, bytes]:
    """Return the type and the body of the answer."""
    if path.endswith(b"/transcriptions"):
        return b"application/json", b'{"text": "Goodbye.", "usage": {"type": "duration", "seconds": 1}}'
    if path.endswith(b"/speech"):
        return b"audio/pcm", bytes(9600)
    return b"text/event-stream", b"".join(b"data: %b\n\n" % event for event in _EVENTS)


def _chunk(*choices: dict[str, Any], **fields: object) -> bytes:
    known = {"id": _MODEL, "object": "chat.completion.chunk", "created": 0, "model": _MODEL, "choices": choices}
    return json.dumps({**known, "usage": None, **fields}).encode()


def _choice(finish_reason: str | None = None, **delta: object) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


_CALL: Final = {"index": 0, "id": "call", "type": "function", "function": {"name": "end_call", "arguments": "{}"}}
_EVENTS: Final = (
    _chunk(_choice(role="assistant", content="")),
    _chunk(_choice(content="Goodbye.")),
    # What OpenAI's types don't have is read in another way.
    _chunk(_choice(tool_calls=[_CALL]), service_tier=_MODEL),
    _chunk(_choice("tool_calls")),
    _chunk(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "prompt_tokens_details": {}}),
    b"[DONE]",
)
