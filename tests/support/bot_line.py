"""A bot on a real WebSocket of the loopback, what happens inside its pipeline, and a caller who speaks with it.

The bot is run as any host of Pipecat bots runs it: nothing of Greenroom is between.
"""

import asyncio
import contextlib
import json
import socket
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import numpy as np
import pipecat.frames.protobufs.frames_pb2 as frame_protos
import pytest
import soxr
import uvicorn
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    ErrorFrame,
    FunctionCallResultFrame,
    InterruptionFrame,
    MetricsFrame,
    TranscriptionFrame,
    TTSTextFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.transports.base_output import BaseOutputTransport
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from greenroom.devtools import protobuf_frames
from greenroom.runner.speech import espeak

RATE: Final = 16_000
_FRAME_BYTES: Final = RATE // 50 * 2
_FRAME_S: Final = 0.02
# protoc writes classes that type checkers don't see.
_PROTOBUF: Final[Any] = vars(frame_protos)["Frame"]


@dataclass(eq=False)
class Seen(BaseObserver):
    """What happened in the pipeline, in order."""

    heard: list[str] = field(default_factory=list[str])
    words: list[str] = field(default_factory=list[str])
    tools: list[tuple[str, dict[str, Any], Any]] = field(default_factory=list[tuple[str, dict[str, Any], Any]])
    errors: list[ErrorFrame] = field(default_factory=list[ErrorFrame])
    metrics: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    ends: list[EndFrame | CancelFrame] = field(default_factory=list[EndFrame | CancelFrame])
    speaking: bool = False
    turns_spoken: int = 0
    user_turns: int = 0
    # How often the caller's voice stopped the bot's.
    cut_short: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._known: set[int] = set()

    @property
    def said(self) -> str:
        """All that the bot has said, as far as it was heard."""
        return " ".join(self.words)

    async def on_push_frame(self, data: FramePushed) -> None:
        """Note a frame: words when the loudspeaker has them, all else when it is first seen."""
        frame = data.frame
        if isinstance(frame, TTSTextFrame):
            if isinstance(data.source, BaseOutputTransport):
                self.words.append(frame.text)
            return
        # A broadcast frame goes up and down as two frames that know of each other.
        key = min(frame.id, frame.broadcast_sibling_id or frame.id)
        if key not in self._known:
            self._known.add(key)
            self._note(frame)

    def _note(self, frame: object) -> None:
        match frame:
            case TranscriptionFrame(text=text):
                self.heard.append(text.strip())
            case FunctionCallResultFrame():
                self.tools.append((frame.function_name, dict(frame.arguments), frame.result))
            case BotStartedSpeakingFrame():
                self.speaking = True
            case BotStoppedSpeakingFrame():
                self.turns_spoken += self.speaking
                self.speaking = False
            case InterruptionFrame():
                self.cut_short += self.speaking
            case UserStoppedSpeakingFrame():
                self.user_turns += 1
            case ErrorFrame():
                self.errors.append(frame)
            case EndFrame() | CancelFrame():
                self.ends.append(frame)
            case MetricsFrame():
                self.metrics |= {(item.processor.partition("#")[0], type(item).__name__) for item in frame.data}
            case _:
                pass


class Call:
    """The caller's end of the line."""

    def __init__(self, connection: ClientConnection, seen: Seen) -> None:
        self.seen = seen
        self.heard = bytearray()
        self.closed = asyncio.Event()
        self._connection = connection
        self._outgoing = bytearray()

    async def send(self) -> None:
        """Send what is to be said, and silence, in real time."""
        due = time.monotonic()
        while not self.closed.is_set():
            frame = bytes(self._outgoing[:_FRAME_BYTES]).ljust(_FRAME_BYTES, b"\0")
            del self._outgoing[:_FRAME_BYTES]
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(protobuf_frames.encode_audio(frame, RATE))
            due += _FRAME_S
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def receive(self) -> None:
        """Keep what the bot says."""
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                frame = protobuf_frames.decode(message) if isinstance(message, bytes) else None
                if isinstance(frame, protobuf_frames.Audio):
                    self.heard += frame.pcm
        self.closed.set()

    async def say(self, text: str) -> None:
        """Speak with the caller's voice; returns when it has been said."""
        await self.play(spoken(text))

    async def play(self, pcm: bytes) -> None:
        """Play PCM16 mono at 16 kHz; returns when it has been played."""
        self._outgoing += pcm
        await self.until(lambda: not self._outgoing)

    async def tell(self, message: dict[str, Any]) -> None:
        """Send a message, as a client of RTVI does."""
        frame = _PROTOBUF()
        frame.message.data = json.dumps(message)
        await self._connection.send(frame.SerializeToString())

    async def answered(self, turns: int) -> None:
        """Wait until the bot has spoken this many times, and is silent."""
        await self.until(lambda: self.seen.turns_spoken >= turns and not self.seen.speaking)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Wait for something to be so."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def hang_up(self) -> None:
        """Close the line."""
        await self._connection.close()


@asynccontextmanager
async def call_to(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any] | None = None
) -> AsyncGenerator[Call]:
    """Call the bot of a module; on the way out the line is closed and the bot has to return."""
    seen = Seen()
    make_worker = module.make_worker

    def make_observed(*args: Any, **kwargs: Any) -> Any:
        worker = make_worker(*args, **kwargs)
        worker.add_observer(seen)
        return worker

    monkeypatch.setattr(module, "make_worker", make_observed)
    returned: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await module.bot(WebSocketRunnerArguments(websocket=websocket, transport_type="websocket", body=body or {}))
        except Exception as error:
            returned.set_exception(error)
            raise
        returned.set_result(None)

    async with _serving(Starlette(routes=[WebSocketRoute("/", endpoint)])) as port, asyncio.TaskGroup() as group:
        connection = await connect(f"ws://127.0.0.1:{port}/", compression=None)
        call = Call(connection, seen)
        group.create_task(call.receive())
        group.create_task(call.send())
        try:
            yield call
        finally:
            await call.hang_up()
            async with asyncio.timeout(10):
                await returned


@asynccontextmanager
async def _serving(app: Starlette) -> AsyncGenerator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", log_config=None, lifespan="off", ws="websockets-sansio")
    )
    with listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(5):
                while not server.started:
                    await asyncio.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def spoken(text: str) -> bytes:
    """Return a text in the caller's voice, PCM16 mono at 16 kHz."""
    pcm = espeak.synthesize(text, voice=espeak.CALLER_VOICE, rate_wpm=espeak.CALLER_RATE_WPM)
    return at_16_khz(pcm)


def at_16_khz(pcm: bytes) -> bytes:
    """Return speech of espeak's at 16 kHz."""
    return soxr.resample(np.frombuffer(pcm, dtype="<i2"), espeak.RATE, RATE).tobytes()


def backwards(pcm: bytes) -> bytes:
    """Return speech as no language has it: it sounds like a voice, and says nothing."""
    return np.frombuffer(pcm, dtype="<i2")[::-1].tobytes()


def loudness(pcm: bytes) -> float:
    """Return the root mean square of PCM16 samples."""
    samples = array("h", pcm)
    return (sum(sample * sample for sample in samples) / max(len(samples), 1)) ** 0.5
