"""A phone on a carrier's media socket: speaks in real time, and plays what comes, at the pace at which it is heard.

What comes is put into a buffer, of which 20 ms are played every 20 ms; a mark is told when everything before it was
played; `clear` empties the buffer.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any, Final

import msgspec
import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.carriers import mulaw
from tests.support.carriers.dialect import Dialect, Leg

RATE: Final = 8_000
_TICK_S: Final = 0.02


class Phone:
    """One call's media.

    Attributes:
        heard: what was played, PCM at 8 kHz, silence left out.
        thrown_away: how much of what came was never played, in bytes of PCM.
        marks: names of marks that were reached or cleared.
        clears: how often the buffer was emptied.
        closed: set when the socket is closed, by whomever.
    """

    def __init__(self, dialect: Dialect, leg: Leg) -> None:
        self.leg = leg
        self.heard = bytearray()
        self.thrown_away = 0
        self.marks: list[str] = []
        self.clears = 0
        self.closed = asyncio.Event()
        self._dialect = dialect
        self._buffer: deque[bytes | str] = deque()
        self._speech = bytearray()
        self._sent = 0
        self._socket: ClientConnection
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def voiced_s(self) -> float:
        """For how long something was heard that isn't silence."""
        samples = np.abs(np.frombuffer(bytes(self.heard), dtype="<i2").astype(int))
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
        return float((frames.max(axis=1) > 500).sum() * 160 / RATE)

    @property
    def buffered_s(self) -> float:
        """How much is yet to be played."""
        return sum(len(piece) for piece in self._buffer if isinstance(piece, bytes)) / (2 * RATE)

    async def connect(self, url: str) -> None:
        """Open the media socket, as the carrier does when it was told to."""
        self._socket = await connect(url, ping_interval=None, open_timeout=15)
        for message in self._dialect.opening(self.leg):
            await self._send(message)
        self._tasks = [asyncio.create_task(work) for work in (self._speak(), self._listen(), self._play())]

    async def say(self, pcm: bytes) -> None:
        """Say something (PCM at 16 kHz); returns when it is said."""
        self._speech += soxr.resample(np.frombuffer(pcm, dtype="<i2"), 16_000, RATE).astype("<i2").tobytes()
        while self._speech and not self.closed.is_set():
            await asyncio.sleep(_TICK_S)

    async def press(self, digit: str) -> None:
        """Press a key."""
        await self._send(self._dialect.dtmf(self.leg, digit))

    async def hang_up(self) -> None:
        """Put the receiver down: the carrier says so, and closes."""
        last = self._dialect.stop(self.leg)
        if last is not None:
            await self._send(last)
        await self._socket.close()
        await self.closed.wait()

    async def end(self) -> None:
        """Leave nothing behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self._socket.close()

    async def _speak(self) -> None:
        """Send what there is to say, and silence else, as a phone does."""
        frame = round(RATE * self._dialect.frame_s) * 2
        due = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            while True:
                piece = bytes(self._speech[:frame]).ljust(frame, b"\0")
                del self._speech[:frame]
                payload = mulaw.encode(piece) if self._dialect.mulaw else piece
                await self._send(self._dialect.media(self.leg, self._sent, payload))
                self._sent += 1
                due += self._dialect.frame_s
                await asyncio.sleep(max(due - time.monotonic(), 0))

    async def _listen(self) -> None:
        try:
            async for text in self._socket:
                await self._hear(msgspec.json.decode(text))
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()

    async def _hear(self, message: dict[str, Any]) -> None:
        match self._dialect.hears(self.leg, message):
            case "audio", payload:
                self._buffer.append(mulaw.decode(payload) if self._dialect.mulaw else payload)
            case "mark", name:
                self._buffer.append(name)
            case "clear", _:
                self.clears += 1
                self.thrown_away += sum(len(piece) for piece in self._buffer if isinstance(piece, bytes))
                names = [piece for piece in self._buffer if isinstance(piece, str)]
                self._buffer.clear()
                if self._dialect.marks_after_clear:
                    for name in names:
                        await self._reached(name)
            case _:
                pass

    async def _play(self) -> None:
        due = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            while True:
                left = round(RATE * _TICK_S) * 2
                while self._buffer and left > 0:
                    piece = self._buffer.popleft()
                    if isinstance(piece, str):
                        await self._reached(piece)
                        continue
                    self.heard += piece[:left]
                    if len(piece) > left:
                        self._buffer.appendleft(piece[left:])
                    left -= len(piece[:left])
                due += _TICK_S
                await asyncio.sleep(max(due - time.monotonic(), 0))

    async def _reached(self, name: str) -> None:
        self.marks.append(name)
        await self._send(self._dialect.mark(self.leg, name))

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send(msgspec.json.encode(message).decode())
