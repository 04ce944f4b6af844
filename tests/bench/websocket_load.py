"""A WebSocket client that costs next to nothing, so that a load generator doesn't measure itself.

Speaks just enough of RFC 6455 for binary messages, and for pings, without whose answer a server hangs up. Client frames
are masked with a key of zeros, which leaves the payload as it is.
"""

import asyncio
import base64
import os
import struct
import time
from array import array
from typing import Final, cast
from urllib.parse import urlsplit

# A 20 ms frame of PCM16 at 16 kHz, as Pipecat's clients send it.
PAYLOAD_BYTES: Final = 640
FRAME_S: Final = 0.02
# A timer of the loop is good for a millisecond.
_GROUPS: Final = 20
_TIMES: Final = struct.Struct(">QQ")
_MASKED: Final = 0x80
_BINARY_FINAL, _PING_FINAL, _PONG_FINAL = 0x82, 0x89, 0x8A
_LENGTH_16: Final = 126
_HEAD_SHORT, _HEAD_LONG = 2, 4


class Call(asyncio.Protocol):
    """One connection that sends a frame each 20 ms and times those that come back.

    `inbound_ms` and `outbound_ms` hold the one-way times of each frame: to the far end, and back.
    """

    def __init__(self, url: str) -> None:
        self.inbound_ms = array("d")
        self.outbound_ms = array("d")
        self.sent = 0
        self.open = asyncio.get_running_loop().create_future()
        self._url = urlsplit(url)
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def connect(self) -> None:
        """Connect and shake hands.

        Raises:
            ConnectionError: the server refused the upgrade.
        """
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._url.hostname or "127.0.0.1", self._url.port or 80)
        await asyncio.wait_for(self.open, 30)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        path = self._url.path or "/"
        self._transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {self._url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Read the answer to the handshake, then frames."""
        self._buffer += data
        if not self.open.done():
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.open.set_exception(ConnectionError(head.decode(errors="replace").splitlines()[0]))
                return
            self._buffer = bytearray(rest)
            self.open.set_result(None)
        while (frame := self._next_frame()) is not None:
            head, payload = frame
            if head == _BINARY_FINAL:
                self.on_message(payload)
            elif head == _PING_FINAL and self._transport is not None:
                self._transport.write(struct.pack(">BBI", _PONG_FINAL, _MASKED | len(payload), 0) + payload)

    def on_message(self, payload: bytes) -> None:
        """Time a frame that came back."""
        if len(payload) >= _TIMES.size:
            now = time.monotonic_ns()
            sent, arrived = _TIMES.unpack_from(payload)
            self.inbound_ms.append((arrived - sent) / 1e6)
            self.outbound_ms.append((now - arrived) / 1e6)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail a handshake that is still under way."""
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("closed during the handshake"))

    def send_frame(self) -> None:
        """Send one frame with the time in front."""
        if self._transport is None or self._transport.is_closing():
            return
        payload = time.monotonic_ns().to_bytes(8, "big") + bytes(PAYLOAD_BYTES - 8)
        head = struct.pack(">BBHI", _BINARY_FINAL, _MASKED | _LENGTH_16, len(payload), 0)
        self._transport.write(head + payload)
        self.sent += 1

    def close(self) -> None:
        """Hang up: close frame 1000, then the connection."""
        if self._transport is not None:
            self._transport.write(struct.pack(">BBIH", 0x88, _MASKED | 2, 0, 1000))
            self._transport.close()

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Return the next frame's first byte and its payload, once it is whole."""
        buffer = self._buffer
        if len(buffer) < _HEAD_SHORT:
            return None
        length, start = buffer[1] & 0x7F, _HEAD_SHORT
        if length == _LENGTH_16:
            if len(buffer) < _HEAD_LONG:
                return None
            length, start = int.from_bytes(buffer[2:4], "big"), _HEAD_LONG
        if len(buffer) < start + length:
            return None
        frame = (buffer[0], bytes(buffer[start : start + length]))
        del buffer[: start + length]
        return frame


async def hold(calls: list[Call], seconds: float) -> None:
    """Send a frame on each call every 20 ms, spread over the 20 ms, for some seconds."""
    loop = asyncio.get_running_loop()
    began, frames = loop.time(), round(seconds / FRAME_S)
    groups = [calls[index::_GROUPS] for index in range(_GROUPS)]
    for frame in range(frames):
        for index, group in enumerate(groups):
            await asyncio.sleep(max(began + frame * FRAME_S + index * FRAME_S / _GROUPS - loop.time(), 0))
            for call in group:
                call.send_frame()
    await asyncio.sleep(0.3)
