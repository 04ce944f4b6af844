"""Clients whose messages are read when there are as many as their app wants: real sockets, marked in the kernel."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, override

import pytest
import uvicorn
from uvicorn.server import ServerState

from greenroom.api.low_water import wake_for
from greenroom.api.media_protocol import MediaProtocol
from tests.support.websocket_frames import BINARY, PING, REQUEST, frame

# Longer than any test: nobody looks for what has come.
_EVER_S: Final = 60.0
_AUDIO: Final = frame(BINARY, bytes(400))


class _Line:
    """A client's connection to an app, and what both sides see of it."""

    def __init__(self, wanted: tuple[int, float] | None) -> None:
        self.wanted = wanted
        # Messages that the app has received, and how many bytes were read at once.
        self.received: list[Any] = []
        self.reads: list[int] = []
        self.writer: asyncio.StreamWriter
        self.protocol: MediaProtocol

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if self.wanted is not None:
            wake_for(scope, lambda: self.wanted or (1, 0.0))
        await send({"type": "websocket.accept"})
        while not self.received or self.received[-1]["type"] != "websocket.disconnect":
            self.received.append(await receive())

    @property
    def mark(self) -> int:
        """From how many bytes on the kernel wakes the server."""
        return self.protocol.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    async def say(self, *messages: bytes) -> None:
        """Send some bytes, and let the server read them if it is woken."""
        for message in messages:
            self.writer.write(message)
            await self.writer.drain()
            await asyncio.sleep(0.01)

    async def until(self, seen: Callable[[], bool]) -> None:
        """Wait for something."""
        async with asyncio.timeout(10):
            while not seen():
                await asyncio.sleep(0.002)

    @property
    def messages(self) -> int:
        """How many messages the app has received."""
        return sum(message["type"] == "websocket.receive" for message in self.received)


@contextlib.asynccontextmanager
async def connected(wanted: tuple[int, float] | None) -> AsyncGenerator[_Line]:
    """Connect a client."""
    line = _Line(wanted)
    config = uvicorn.Config(
        line.app, interface="asgi3", ws_ping_interval=None, ws_max_size=1 << 20, log_config=None, lifespan="off"
    )
    config.load()

    class Counted(MediaProtocol):
        @override
        def data_received(self, data: bytes) -> None:
            line.reads.append(len(data))
            super().data_received(data)

    def serve() -> MediaProtocol:
        line.protocol = Counted(config=config, server_state=ServerState(), app_state={})
        return line.protocol

    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
    reader, line.writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        line.writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        await line.until(lambda: bool(line.received))
        line.reads.clear()
        yield line
    finally:
        line.writer.close()
        server.close()


async def test_an_app_is_woken_for_as_many_messages_as_it_wants() -> None:
    """The first tells how long they are; from then on three are read at once, and none of them earlier."""
    async with connected((3, _EVER_S)) as line:
        await line.say(*[_AUDIO] * 3)
        assert line.messages == 1
        await line.say(*[_AUDIO] * 3)
        assert line.messages == 4
        await line.say(_AUDIO)
        await line.until(lambda: line.messages == 7)
    assert line.reads[:3] == [len(_AUDIO), 3 * len(_AUDIO), 3 * len(_AUDIO)]


async def test_an_app_that_wants_fewer_is_woken_for_fewer() -> None:
    """It is asked before each wait."""
    async with connected((3, _EVER_S)) as line:
        await line.say(_AUDIO)
        line.wanted = (1, _EVER_S)
        await line.say(*[_AUDIO] * 3, _AUDIO, _AUDIO)
        await line.until(lambda: line.messages == 6)
        assert line.mark == 1


async def test_an_app_that_wants_nothing_of_that_is_woken_for_each() -> None:
    """As it is everywhere else."""
    async with connected(None) as line:
        await line.say(*[_AUDIO] * 3)
        await line.until(lambda: line.messages == 3)
        assert line.reads == [len(_AUDIO)] * 3


async def test_a_message_that_stays_alone_is_read_when_its_time_is_up() -> None:
    """And whoever begins again after a while is heard at once."""
    async with connected((3, 0.01)) as line:
        await line.say(_AUDIO)
        await line.until(lambda: line.messages == 1)
        line.writer.write(_AUDIO)
        await line.until(lambda: line.messages == 2)
        await line.until(lambda: line.mark == 1)


async def test_the_rest_of_a_message_is_waited_for() -> None:
    """Of what is half there, only the other half is missing."""
    async with connected((1, _EVER_S)) as line:
        await line.say(_AUDIO)
        line.wanted = (2, _EVER_S)
        await line.say(_AUDIO, _AUDIO + _AUDIO[:100])
        await line.until(lambda: line.messages == 3)
        assert line.mark == len(_AUDIO) - 100 + 1


@pytest.mark.parametrize("last", [_AUDIO, b""])
async def test_an_end_is_heard_at_once(last: bytes) -> None:
    """With what came before it."""
    async with connected((9, _EVER_S)) as line:
        await line.say(_AUDIO, last)
        line.writer.write_eof()
        await line.until(lambda: line.received[-1]["type"] == "websocket.disconnect")
        assert line.messages == 1 + bool(last)


async def test_pings_are_no_messages() -> None:
    """How long a message is isn't told by a frame of control."""
    async with connected((1, _EVER_S)) as line:
        await line.say(_AUDIO)
        line.wanted = (3, _EVER_S)
        await line.say(frame(PING, b"") + _AUDIO)
        await line.until(lambda: line.mark == 2 * len(_AUDIO) + 1)


async def test_long_messages_are_read_before_the_kernel_is_full_of_them() -> None:
    """Of messages of 300 kB it never has three."""
    long = frame(BINARY, bytes(300_000))
    async with connected((3, _EVER_S)) as line:
        await line.say(*[long] * 5)
        await line.until(lambda: line.messages == 5)
        assert line.mark <= 16_384
