"""The short way of media through the edge: the same messages, answers and ends as uvicorn's own protocol has."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, override

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from greenroom.api.media_protocol import MediaProtocol
from tests.support.websocket_frames import BINARY, CLOSE, CONTINUED, PING, PONG, REQUEST, TEXT, frame

_MAX_BYTES: Final = 500
# Whereupon the app ends the call.
_BYE: Final = "bye"


class _Line(asyncio.Transport):
    """A transport that keeps what is written, and on which reading can be stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = 0
        self.reading = True

    @override
    def write(self, data: Any) -> None:
        self.written += bytes(data)

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def abort(self) -> None:
        self.closed = True

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def pause_reading(self) -> None:
        self.paused += 1
        self.reading = False

    @override
    def resume_reading(self) -> None:
        self.reading = True

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low


async def heard(
    kind: type[WebSocketsSansIOProtocol], pieces: Sequence[bytes], *, most_bytes: int = _MAX_BYTES
) -> tuple[list[Any], bytes, bool]:
    """Return what an app receives, what the client is sent, and whether the line is closed."""
    received: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while True:
            received.append(await receive())
            if received[-1].get("text") == _BYE:
                await send({"type": "websocket.close", "code": 1000})
            if received[-1]["type"] == "websocket.disconnect":
                return

    config = uvicorn.Config(
        app,
        ws_max_size=most_bytes,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        log_config=None,
        lifespan="off",
    )
    config.load()
    protocol = kind(config=config, server_state=ServerState(), app_state={})
    line = _Line()
    protocol.connection_made(line)
    protocol.data_received(REQUEST)
    await _turns(5)
    written = len(line.written)
    for piece in pieces:
        if line.closed:
            break
        protocol.data_received(piece)
        await _turns(5)
        # An app that has left takes nothing any more.
        await _turns(1000, until=lambda: line.reading)
    await _turns(10)
    closed = line.closed
    protocol.connection_lost(None)
    await _turns(5)
    return received, line.written[written:], closed


async def _turns(count: int, until: Callable[[], bool] = lambda: False) -> None:
    for _ in range(count):
        if until():
            return
        await asyncio.sleep(0)


_PAYLOADS: Final = st.one_of(st.binary(max_size=300), st.sampled_from((b"a" * 125, b"b" * 126, b"c" * 500, b"d" * 501)))
_WHOLE: Final = st.builds(frame, st.sampled_from((BINARY, BINARY, BINARY, TEXT)), _PAYLOADS)
_CONTROLS: Final = st.builds(frame, st.sampled_from((PING, PONG, CLOSE)), st.sampled_from((b"", b"\x03\xe8", b"hello")))
_PARTS: Final = st.lists(st.binary(max_size=50), min_size=2, max_size=4).map(
    lambda parts: [
        frame(CONTINUED if place else BINARY, part, final=place == len(parts) - 1) for place, part in enumerate(parts)
    ]
)
_WRONG: Final = st.builds(
    frame,
    st.sampled_from((BINARY, CONTINUED, 0x3)),
    st.binary(max_size=20),
    final=st.booleans(),
    masked=st.booleans(),
    first_bits=st.sampled_from((0, 0x40)),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """What a client sends: its frames, and the pieces into which a network has cut them."""
    one = st.one_of(_WHOLE, _WHOLE, _CONTROLS, _WHOLE, _CONTROLS, _WRONG).map(lambda only: [only])
    frames = list(itertools.chain.from_iterable(draw(st.lists(st.one_of(one, one, one, _PARTS), max_size=12))))
    data = b"".join(frames)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return frames, [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if end > begin]


@settings(max_examples=150, deadline=None)
@given(streams())
@example(([frame(TEXT, b"\x80"), frame(PING, b"")], [frame(TEXT, b"\x80") + frame(PING, b"")]))
def test_everything_is_as_with_the_library(sent: tuple[list[bytes], list[bytes]]) -> None:
    """Whole, in fragments, pinged, ended or broken, and cut anywhere: apps and clients see what the frames say.

    (The library by itself forgets what came in one piece with something broken.)
    """
    frames, pieces = sent
    ours, theirs = asyncio.run(heard(MediaProtocol, pieces)), asyncio.run(heard(WebSocketsSansIOProtocol, frames))
    assert ours == theirs


@pytest.mark.parametrize("length", [65_535, 65_536, 70_000, 70_001])
async def test_long_messages_are_as_with_the_library(length: int) -> None:
    """Lengths of two and of eight bytes, and one that is too long."""
    data = frame(BINARY, bytes(length)) + frame(TEXT, b"and then?")
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    ours = await heard(MediaProtocol, pieces, most_bytes=70_000)
    assert ours == await heard(WebSocketsSansIOProtocol, pieces, most_bytes=70_000)
    assert ("websocket.receive" in {message["type"] for message in ours[0]}) == (length <= 70_000)


async def test_a_frame_that_is_cut_by_our_end_is_read_to_its_own() -> None:
    """The app hangs up while half of a frame is there: the other half isn't taken for the next one."""
    media, goodbye = frame(BINARY, bytes(range(200))), frame(CLOSE, b"\x03\xe8")
    pieces = [frame(TEXT, _BYE.encode()) + media[:100], media[100:150], media[150:] + goodbye]
    for count, closed in ((1, False), (2, False), (3, True)):
        ours = await heard(MediaProtocol, pieces[:count])
        assert ours == await heard(WebSocketsSansIOProtocol, pieces[:count])
        assert ours[2] is closed


async def test_binary_messages_never_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred frames of audio in pieces of the network's: the library sees the request, and nothing else."""
    seen: list[bytes] = []
    inner = WebSocketsSansIOProtocol.data_received
    monkeypatch.setattr(
        WebSocketsSansIOProtocol, "data_received", lambda self, data: (seen.append(data), inner(self, data))[1]
    )
    audio = [bytes([number]) * 400 for number in range(100)]
    data = b"".join(frame(BINARY, payload) for payload in audio)
    received, _, _ = await heard(MediaProtocol, [data[at : at + 1448] for at in range(0, len(data), 1448)])
    assert [message.get("bytes") for message in received if message["type"] == "websocket.receive"] == audio
    assert seen == [REQUEST]


async def test_reading_stops_when_the_app_is_behind() -> None:
    """An app that takes nothing has a few messages waiting for it, and the rest stays with the client."""
    release = asyncio.Event()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await release.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    config = uvicorn.Config(app, ws_max_size=_MAX_BYTES, ws_ping_interval=None, log_config=None, lifespan="off")
    config.load()
    protocol = MediaProtocol(config=config, server_state=ServerState(), app_state={})
    line = _Line()
    protocol.connection_made(line)
    protocol.data_received(REQUEST)
    await asyncio.sleep(0.01)
    sent = 0
    while line.reading and sent < 100:
        protocol.data_received(frame(BINARY, bytes(400)))
        sent += 1
    assert 1 < sent < 20
    release.set()
    await asyncio.sleep(0.01)
    assert line.reading
    protocol.connection_lost(None)
    await asyncio.sleep(0.01)
