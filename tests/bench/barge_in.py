"""How long the bot speaks on when the caller begins to speak: with the user's audio in pieces of 20 ms, and of 60 ms.

Two Greenrooms that differ in nothing else are called in turn, so that other work on the machine disturbs both alike.
The bot says a long greeting; somewhere in it the caller begins a sentence. What is timed ends with the last frame of
the bot that still comes: voice detection (200 ms of voice), the interruption and the way there and back are in it.
"""

import asyncio
import contextlib
import functools
import os
import random
import struct
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from greenroom.devtools import call, protobuf_frames
from tests.bench.density import AGENT, environment
from tests.bench.programs import program
from tests.bench.report import Report, median, percentile
from tests.bench.websocket_load import FRAME_S, PAYLOAD_BYTES, Call
from tests.support.stack import RunningStack, running_stack

_PIECES_MS: Final = (20, 60)
_CALLS: Final = int(os.environ.get("BENCH_CALLS", "40"))
_RATE: Final = 16_000
# A quarter of a minute of the stub's speech.
_GREETING: Final = " ".join(["a"] * 250)
_SENTENCE: Final = "I want to talk to a person"
# Louder than this is speech: the sentence begins with its first such frame.
_LOUD: Final = 1000
# Of that size is no message of a bot's but audio.
_MIN_AUDIO_BYTES: Final = 400
# The bot has been heard for so long when the caller begins, and up to a piece longer.
_LISTEN_S: Final = 1.2
_SPREAD_S: Final = 0.06
# After so much silence the bot has stopped.
_GAP_S: Final = 0.5
_PATIENCE_S: Final = 10.0


class Interrupter(Call):
    """A caller who lets the bot speak, and then speaks himself."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.first_heard: float | None = None
        self.last_heard = 0.0

    def speak(self, frame: bytes) -> None:
        """Send a frame."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def on_message(self, payload: bytes) -> None:
        """Note when the bot is heard."""
        if len(payload) >= _MIN_AUDIO_BYTES and isinstance(protobuf_frames.decode(payload), protobuf_frames.Audio):
            self.last_heard = time.monotonic()
            self.first_heard = self.first_heard or self.last_heard


async def run(report: Report) -> None:
    """Interrupt bots, some dozens of times each way."""
    took: dict[int, list[float]] = {piece_ms: [] for piece_ms in _PIECES_MS}
    async with program("tests.bench.openai_server") as stub, contextlib.AsyncExitStack() as started:
        env = environment((await stub.line()).strip()) | {"GREENROOM_SLOTS": "8", "GREENROOM_BRAKE": "false"}
        stacks: dict[int, RunningStack] = {}
        for piece_ms in _PIECES_MS:
            folder = Path(started.enter_context(tempfile.TemporaryDirectory()))
            settings = {**env, "GREENROOM_INPUT_CHUNK_MS": str(piece_ms)}
            stacks[piece_ms] = await started.enter_async_context(running_stack(folder, **settings))
        report.step(f"interrupting {AGENT}, {_CALLS} times with pieces of each length")
        for _ in range(_CALLS):
            for piece_ms in _PIECES_MS:
                took[piece_ms].append(await _interrupt(stacks[piece_ms]))
    for piece_ms, times in took.items():
        report.add(
            f"barge_in.{piece_ms}_ms",
            median(times),
            "ms",
            note=f"p95 {percentile(times, 0.95):.0f} ms, {len(times)} calls",
        )


async def _interrupt(stack: RunningStack) -> float:
    """Return for how many milliseconds the bot spoke on."""
    wish = {"agent": AGENT, "wait": "ready", "wait_timeout_s": 60, "body": {"greeting": _GREETING}}
    async with stack.client() as client:
        session = await client.post("/v1/sessions", wish)
        caller = Interrupter(session["transport"]["url"])
        await caller.connect()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await _hold(caller)
        finally:
            caller.close()
            await client.post(f"/v1/sessions/{session['id']}/stop", {})


async def _hold(caller: Interrupter) -> float:
    room, frames = _frames()
    sentence = iter(frames)
    listen_s = _LISTEN_S + random.random() * _SPREAD_S
    began: float | None = None
    due = time.monotonic()
    while True:
        now = time.monotonic()
        if began is None and caller.first_heard is not None and now - caller.first_heard >= listen_s:
            began = now
        elif began is not None and now - max(caller.last_heard, began) >= _GAP_S:
            return (caller.last_heard - began) * 1000
        caller.speak(next(sentence, room) if began is not None else room)
        due += FRAME_S
        await asyncio.sleep(max(due - time.monotonic(), 0))


@functools.cache
def _frames() -> tuple[bytes, list[bytes]]:
    """Return a frame of a quiet room, and those of the sentence, from its first sound on."""
    noise = np.random.default_rng(0).standard_normal(PAYLOAD_BYTES // 2) * 10 ** (-60 / 20) * 32768
    samples = np.frombuffer(call.spoken([_SENTENCE])[0].pcm, dtype="<i2")
    pcm = samples[int(np.argmax(np.abs(samples.astype(int)) > _LOUD)) :].tobytes()
    frames = [pcm[start : start + PAYLOAD_BYTES] for start in range(0, len(pcm) - PAYLOAD_BYTES, PAYLOAD_BYTES)]
    return _wire(noise.astype("<i2").tobytes()), [_wire(frame) for frame in frames]


def _wire(pcm: bytes) -> bytes:
    """Return a frame as it goes over the wire: masked with zeros, which leaves it as it is."""
    payload = protobuf_frames.encode_audio(pcm, _RATE)
    return struct.pack(">BBHI", 0x82, 0x80 | 126, len(payload), 0) + payload
