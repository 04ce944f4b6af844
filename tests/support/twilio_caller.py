"""A caller behind Twilio's media streams: JSON messages, μ-law at 8 kHz in base64, 20 ms each."""

import asyncio
import base64
import json
import time
from typing import Final

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect

RATE: Final = 8_000
_FRAME: Final = RATE // 50
_FRAME_S: Final = 0.02
_BIAS: Final = 0x84
_CLIP: Final = 32_635


async def hold(url: str, pcm: bytes, *, rate: int, patience_s: float, enough_s: float) -> float:
    """Say `pcm` after the bot's first words, and return how many seconds of the bot's audio came back.

    Ends as soon as `enough_s` seconds came after what was said.
    """
    samples = soxr.resample(np.frombuffer(pcm, dtype="<i2"), rate, RATE)
    async with connect(url, compression=None) as line:
        await line.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await line.send(json.dumps(_start()))
        heard = _Heard()
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(heard.listen(line))
            try:
                async with asyncio.timeout(patience_s):
                    await _say(line, heard, mu_law(samples), enough_s)
            finally:
                listening.cancel()
        return heard.seconds


class _Heard:
    def __init__(self) -> None:
        self.seconds = 0.0

    async def listen(self, line: ClientConnection) -> None:
        async for message in line:
            event = json.loads(message)
            if event["event"] == "media":
                assert event["streamSid"] == "MZ1"
                self.seconds += len(base64.b64decode(event["media"]["payload"])) / RATE


async def _say(line: ClientConnection, heard: _Heard, speech: bytes, enough_s: float) -> None:
    due, at, after = time.monotonic(), 0, None
    while after is None or heard.seconds - after < enough_s:
        frame = b"\xff" * _FRAME
        # What is said begins once the bot has greeted: silence before, silence behind.
        if heard.seconds > 0 and at < len(speech):
            frame = speech[at : at + _FRAME].ljust(_FRAME, b"\xff")
            at += _FRAME
            after = heard.seconds if at >= len(speech) else None
        media = {"track": "inbound", "payload": base64.b64encode(frame).decode()}
        await line.send(json.dumps({"event": "media", "streamSid": "MZ1", "media": media}))
        due += _FRAME_S
        await asyncio.sleep(max(due - time.monotonic(), 0))


def _start() -> dict[str, object]:
    return {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": "MZ1",
        "start": {
            "streamSid": "MZ1",
            "accountSid": "AC1",
            "callSid": "CA1",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1},
            "customParameters": {},
        },
    }


def mu_law(samples: "np.ndarray[tuple[int], np.dtype[np.int16]]") -> bytes:
    """Return samples as G.711 μ-law."""
    wide = samples.astype(np.int32)
    sign = np.where(wide < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(wide), _CLIP) + _BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()
