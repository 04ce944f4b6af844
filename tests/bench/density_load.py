"""The callers of the density benchmark: one process that holds any number of calls in real time, and times the bot.

Reads commands from standard input, a JSON object a line, and answers each with one:

    {"call": [URL, …]}       connect some more; answered once they are in
    {"measure": SECONDS}     answered with what the bot's frames and answers were like in that time, and what went over
                             the wire: bytes of messages, to the bots and from them

Each caller sits in a quiet room, speaks for some seconds, then listens, in turns of 10 s; callers are spread over the
ten seconds. A frame of the bot is late by as much as it comes after the end of all that was sent before it in the same
answer; an answer takes from the last frame of the caller's sentence to the first of the bot's.
"""

import asyncio
import struct
import sys
import time
from typing import Any, Final

import msgspec
import numpy as np
import uvloop

from greenroom.devtools import call, protobuf_frames
from tests.bench.websocket_load import FRAME_S, PAYLOAD_BYTES, Call

RATE: Final = 16_000
TURN_S: Final = 10.0
_TURN_FRAMES: Final = round(TURN_S / FRAME_S)
# Decibels below full scale.
_ROOM_DB: Final = -60.0
# The judge of turns is sure that it is over, wherever pieces of audio begin in it; of others, in this voice, it isn't,
# and then waits for 3 s.
_SENTENCE: Final = "I want to talk to a person"
# Of that size is no message of a bot's but audio.
_MIN_AUDIO_BYTES: Final = 400
# Callers of one moment are sent one after the other; a timer of the loop is good for a millisecond.
_PHASES: Final = 20
# Irrational: any number of callers is spread evenly.
_GOLDEN: Final = 0.6180339887


class Speaker(Call):
    """A call that speaks and listens in turns."""

    def __init__(self, url: str, script: list[bytes], first: int, spoken_frames: int) -> None:
        super().__init__(url)
        self.late_ms: list[float] = []
        self.answers_ms: list[float] = []
        self.sent_bytes = 0
        self.received_bytes = 0
        self._script = script
        self._at = first
        self._spoken = spoken_frames
        # When the caller fell silent, when the bot began to answer, and how many seconds it has sent since.
        self._silent_since: float | None = None
        self._began: float | None = None
        self._heard_s = 0.0

    def forget(self) -> None:
        """Begin to measure anew."""
        self.late_ms, self.answers_ms = [], []
        self.sent_bytes, self.received_bytes = 0, 0

    def speak(self) -> None:
        """Send the next frame of the script."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(self._script[self._at])
        self.sent_bytes += len(self._script[self._at])
        self._at += 1
        if self._at == self._spoken:
            self._silent_since, self._began, self._heard_s = time.monotonic(), None, 0.0
        elif self._at == _TURN_FRAMES:
            self._at = 0

    def on_message(self, payload: bytes) -> None:
        """Time a message of the bot."""
        self.received_bytes += len(payload)
        if len(payload) < _MIN_AUDIO_BYTES or self._silent_since is None:
            return
        now = time.monotonic()
        frame = protobuf_frames.decode(payload)
        if not isinstance(frame, protobuf_frames.Audio):
            return
        if self._began is None:
            self._began = now
            self.answers_ms.append((now - self._silent_since) * 1000)
        self.late_ms.append((now - self._began - self._heard_s) * 1000)
        self._heard_s += len(frame.pcm) / 2 / frame.rate


class Load:
    """All callers."""

    def __init__(self) -> None:
        pcm = call.spoken([_SENTENCE])[0].pcm
        frames = [pcm[start : start + PAYLOAD_BYTES] for start in range(0, len(pcm), PAYLOAD_BYTES)]
        self._spoken = len(frames)
        frames += [b""] * (_TURN_FRAMES - len(frames))
        room = _room(len(frames))
        self._script = [_wire(frame + noise[len(frame) :]) for frame, noise in zip(frames, room, strict=True)]
        self._speakers: list[Speaker] = []

    async def call(self, urls: list[str]) -> None:
        """Connect some more callers."""
        for url in urls:
            first = round((len(self._speakers) * _GOLDEN % 1.0) * _TURN_FRAMES) % _TURN_FRAMES
            speaker = Speaker(url, self._script, first, self._spoken)
            await speaker.connect()
            self._speakers.append(speaker)

    async def speak(self) -> None:
        """Send a frame of each caller every 20 ms, until canceled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for phase in range(_PHASES):
                await asyncio.sleep(max(due - loop.time(), 0))
                for speaker in self._speakers[phase::_PHASES]:
                    speaker.speak()
                due += FRAME_S / _PHASES

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Return what the bots were like for some seconds."""
        for speaker in self._speakers:
            speaker.forget()
        await asyncio.sleep(seconds)
        return {
            "late_ms": [late for speaker in self._speakers for late in speaker.late_ms],
            "answers_ms": [took for speaker in self._speakers for took in speaker.answers_ms],
            "sent_bytes": sum(speaker.sent_bytes for speaker in self._speakers),
            "received_bytes": sum(speaker.received_bytes for speaker in self._speakers),
            "silent": sum(not speaker.answers_ms for speaker in self._speakers),
        }


def _room(frames: int) -> list[bytes]:
    """Return frames of a quiet room: no microphone is as silent as zeros, and zeros may be cheaper to listen to."""
    random = np.random.default_rng(0)
    samples = random.standard_normal(frames * PAYLOAD_BYTES // 2) * 10 ** (_ROOM_DB / 20) * 32768
    pcm = samples.astype("<i2").tobytes()
    return [pcm[start : start + PAYLOAD_BYTES] for start in range(0, len(pcm), PAYLOAD_BYTES)]


def _wire(pcm: bytes) -> bytes:
    """Return a frame as it goes over the wire: masked with zeros, which leaves it as it is."""
    payload = protobuf_frames.encode_audio(pcm, RATE)
    return struct.pack(">BBHI", 0x82, 0x80 | 126, len(payload), 0) + payload


async def _main() -> None:
    load = Load()
    speaking = asyncio.create_task(load.speak())
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = msgspec.json.decode(line)
        if urls := command.get("call"):
            await load.call(urls)
            answer: dict[str, Any] = {}
        else:
            answer = await load.measure(command["measure"])
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()
    speaking.cancel()


if __name__ == "__main__":
    uvloop.run(_main())
