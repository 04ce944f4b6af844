"""uvicorn's WebSocket, with small buffers and a short way for media.

A call sends fifty frames a second, each a whole binary message. The library reads them by a generator that asks for two
bytes, four, and the rest, makes an object of each, and uvicorn stops and starts reading around each: two thirds of what
the edge takes for a frame. Here a whole binary message is unmasked where it lies and put on the queue. Everything else
(texts, fragments, pings, ends, what breaks the protocol) goes through the library, frame by frame, so that it never
keeps a part of one. And an app that has no use for single messages isn't woken for them (`low_water`).
"""

import asyncio
import socket
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import apply_mask  # pyright: ignore[reportPrivateImportUsage] - in C where that was built
from websockets.protocol import State

from greenroom.api.low_water import LowWater

# What of a client's frames may lie in our buffers. Live audio is 32 kB/s: if a client is seconds behind, we must
# see it here, where frames are counted, and not have it hidden by the kernel's megabytes.
_KERNEL_BUFFER_BYTES: Final = 64 * 1024
_WRITE_BUFFER_BYTES: Final = 32 * 1024
# For the close frame to get out, before the connection is cut.
_LINGER_S: Final = 2.0
# So many messages may wait for the app before reading stops: 160 ms of audio.
_AHEAD: Final = 8

# RFC 6455: the first byte of a whole binary message without extensions, and what the second one says.
_WHOLE_BINARY: Final = 0x82
_FINAL, _OPCODE, _CONTINUED = 0x80, 0x0F, 0x00
_MASKED, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_MASK_BYTES: Final = 4
# From here on opcodes are of control frames, which may come between fragments.
_CONTROL: Final = 0x08


class MediaProtocol(WebSocketsSansIOProtocol):
    """A WebSocket with small buffers, whose connection doesn't outlive its app for long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The beginning of a frame that isn't whole yet.
        self._rest = b""
        self._fragmented = False
        # The library has seen something that it may have kept a part of, or that ends the connection: it gets the rest.
        self._library_only = False
        self._requested = False
        self._low_water = LowWater(self.loop, None)
        # How long the last frame was that wasn't one of control.
        self._last_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound what may wait for the client."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        own: Any = self.transport.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER_BYTES)
        self._low_water = LowWater(self.loop, own)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._low_water.stop()
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        """Serve the app."""
        self._low_water.offer(self.scope)
        await super().run_asgi()

    async def receive(self) -> Any:
        """Return the next message; while there is none, the app is woken for as many as it wants."""
        if self.queue.empty() and not self.disconnected:
            self._low_water.await_next(self._last_bytes, len(self._rest))
        return await super().receive()

    def data_received(self, data: bytes) -> None:
        """Take what came from the client."""
        if self.conn.state is not State.OPEN:
            # The request comes as a whole, from uvicorn. Who sends more before it is answered is served, slowly.
            self._library_only = self._library_only or self._requested
            self._requested = True
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._library_only or self.conn.state is not State.OPEN:
            super().data_received(data)
            return
        at = 0
        while not self._library_only and not self.transport.is_closing() and (size := self._frame_size(data, at)):
            if at + size > len(data):
                break
            self._take(data[at : at + size])
            at += size
        self._rest = data[at:]
        # What is behind an end is nobody's.
        if self._library_only and self._rest and not self.transport.is_closing():
            rest, self._rest = self._rest, b""
            super().data_received(rest)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Cut the connection off if it doesn't close by itself: closing waits for what a stuck client never takes."""
        super().on_task_complete(task)
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _frame_size(self, data: bytes, at: int) -> int:
        """Return how long the frame is that begins there; 0: its head isn't there yet, or it is none to wait for."""
        have = len(data) - at
        if have < 2:  # noqa: PLR2004 - the two bytes that every frame has
            return 0
        length, head = data[at + 1] & _LENGTH, 2
        if length >= _LENGTH_16:
            head += 2 if length == _LENGTH_16 else 8
            if have < head:
                return 0
            length = int.from_bytes(data[at + 2 : at + head], "big")
        if length > self.config.ws_max_size or not data[at + 1] & _MASKED:
            # Refused by the library, which mustn't wait for the whole of it either.
            self._library_only = True
            return 0
        return head + _MASK_BYTES + length

    def _take(self, frame: bytes) -> None:
        """Take a whole frame."""
        first = frame[0]
        if first & _OPCODE < _CONTROL:
            self._last_bytes = len(frame)
        if first == _WHOLE_BINARY and not self._fragmented and not self.close_sent:
            length = frame[1] & _LENGTH
            body = _MASK_BYTES + (2 if length < _LENGTH_16 else 4 if length == _LENGTH_16 else 10)
            payload = apply_mask(frame[body:], frame[body - _MASK_BYTES : body])
            self.queue.put_nowait({"type": "websocket.receive", "bytes": payload})
            if not self.read_paused and self.queue.qsize() >= _AHEAD:
                self.read_paused = True
                self.transport.pause_reading()
            return
        if first & _OPCODE < _CONTROL:
            self._fragmented = not first & _FINAL
        super().data_received(frame)
        self._library_only = self.conn.state is not State.OPEN
