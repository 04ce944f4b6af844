"""A browser, as far as a peer connection is concerned: aiortc, on loopback, with a voice and an ear.

Args of the caller's `exchange`: what brings an offer to the session and returns the answer.
"""

import asyncio
import fractions
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
import pytest
from aioice import ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler

RATE: Final = 16_000
_FRAME: Final = RATE // 50
_PATIENCE_S: Final = 30.0

# Takes an offer as `{"sdp": …, "type": "offer", …}`, returns the answer.
type Exchange = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def over_http(url: str, token: str = "") -> Exchange:
    """Return what posts offers to a URL, with a token if there is one."""

    async def exchange(offer: dict[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(timeout=_PATIENCE_S) as client:
            response = await client.post(url, json=offer, headers=headers)
        assert response.status_code == httpx.codes.OK, response.text
        return response.json()

    return exchange


def use_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections of this process gather on loopback, and nowhere else."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda **_: ["127.0.0.1"])


class Voice(AudioStreamTrack):
    """Says what it is given, in real time, and is silent else."""

    def __init__(self) -> None:
        super().__init__()
        self._said: deque[bytes] = deque()
        self._count = 0
        self._began = 0.0

    @property
    def silent(self) -> bool:
        """Whether everything was said."""
        return not self._said

    def say(self, pcm: bytes) -> None:
        """Say PCM, 16 bit mono at 16 kHz."""
        size = 2 * _FRAME
        self._said.extend(pcm[start : start + size].ljust(size, b"\0") for start in range(0, len(pcm), size))

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms."""
        self._began = self._began or time.monotonic()
        await asyncio.sleep(max(self._began + self._count * 0.02 - time.monotonic(), 0))
        pcm = self._said.popleft() if self._said else bytes(2 * _FRAME)
        frame = AudioFrame.from_ndarray(np.frombuffer(pcm, dtype=np.int16)[None, :], layout="mono")
        frame.sample_rate = RATE
        frame.pts = self._count * _FRAME
        frame.time_base = fractions.Fraction(1, RATE)
        self._count += 1
        return frame


class RtcCaller:
    """A caller over a peer connection.

    Args:
        exchange: brings the offer to the session.
        configuration: which ways the connection may take; any that there is without it.
    """

    def __init__(self, exchange: Exchange, configuration: RTCConfiguration | None = None) -> None:
        self._exchange = exchange
        self.voice = Voice()
        self.heard = bytearray()
        self.messages: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}
        self.pc = RTCPeerConnection(configuration)
        self.channel = self.pc.createDataChannel("chat")
        self.channel.add_listener("message", self._on_message)
        self.pc.addTrack(self.voice)
        self.pc.add_listener("track", self._on_track)
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def offer(self) -> dict[str, Any]:
        """Make an offer, with all candidates in it."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return {"sdp": self.pc.localDescription.sdp, "type": "offer"}

    async def connect(self, **more: Any) -> None:
        """Make an offer, take the answer, and be there."""
        self.answer = await self._exchange({**await self.offer(), **more})
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=self.answer["sdp"], type="answer"))
        await self.until(lambda: self.pc.connectionState == "connected")

    async def until(self, happened: Callable[[], Any]) -> None:
        """Wait until something has happened."""
        async with asyncio.timeout(_PATIENCE_S):
            while not happened():
                await asyncio.sleep(0.02)

    async def until_heard(self, seconds: float) -> None:
        """Wait until that much sound has come."""
        await self.until(lambda: self.loud_s >= seconds)

    async def until_quiet(self) -> None:
        """Wait until nothing but silence has come for half a second."""
        samples = RATE // 2
        await self.until(lambda: np.abs(np.frombuffer(bytes(self.heard[-2 * samples :]), dtype=np.int16)).max() < 500)

    @property
    def loud_s(self) -> float:
        """How many seconds of what was heard aren't silence."""
        samples = np.frombuffer(bytes(self.heard[: len(self.heard) // 320 * 320]), dtype=np.int16).reshape(-1, 160)
        return float((np.abs(samples).max(axis=1) > 500).sum() / 100) if len(samples) else 0.0

    async def hang_up(self) -> None:
        """Close the connection, as leaving a page does."""
        await self.pc.close()

    def go_silent(self) -> None:
        """Send nothing any more, as a browser that was killed."""
        for sender in self.pc.getSenders():
            connection: Any = sender.transport.transport._connection
            for protocol in connection._protocols:
                protocol.transport.abort()

    def _on_message(self, message: str) -> None:
        self.messages.append(json.loads(message))

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = AudioResampler("s16", "mono", RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            for part in resampler.resample(frame):  # pyright: ignore[reportArgumentType] it is one of audio
                self.heard += part.to_ndarray().astype(np.int16).tobytes()


async def converse(caller: RtcCaller, pcm: bytes, *, enough_s: float = 0.15) -> None:
    """Connect, hear a greeting out, say something (PCM at 16 kHz), and hear an answer, each of at least `enough_s`."""
    await caller.connect()
    await caller.until_heard(enough_s)
    await caller.until_quiet()
    greeted_s = caller.loud_s
    caller.voice.say(pcm)
    await caller.until(lambda: caller.voice.silent)
    await caller.until_heard(greeted_s + enough_s)
