"""A caller on the other end of the line: speaks in turns, waits for the bot, and keeps what was said and heard.

Speaks Pipecat's Protobuf frames over the media WebSocket, one 20 ms frame each 20 ms, silence included, as a
telephone or a browser would.
"""

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from greenroom.common.errors import GreenroomError
from greenroom.devtools import protobuf_frames, wav

RATE: Final = 16_000
FRAME_S: Final = 0.02
_FRAME_SAMPLES: Final = int(RATE * FRAME_S)
_SILENCE: Final = bytes(2 * _FRAME_SAMPLES)

# Quieter than this (root mean square of 16 bit samples) isn't speech.
_VOICE_RMS: Final = 200
# The bot has finished its turn once it was quiet for this long; sentences follow one another within 0.5 s.
_TURN_GAP_S: Final = 1.0
# How far into the bot's turn a barge-in begins.
_BARGE_IN_AFTER_S: Final = 1.2
# How long to wait for the bot to begin to speak, and for it to hang up after its answer to the last line.
ANSWER_TIMEOUT_S: Final = 12.0
LINGER_S: Final = 5.0


class CallFailed(GreenroomError):
    """The media WebSocket was refused or broke: the close code says why (docs/api.md)."""

    code = "call-failed"
    status = 502
    title = "The call could not be held"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller says next: PCM16 mono at 16 kHz; `barge_in` speaks into the bot's turn instead of behind it."""

    pcm: bytes
    text: str = ""
    barge_in: bool = False


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """How the call went, and both sides' audio on one timeline (PCM16 mono, 16 kHz)."""

    said: bytes
    heard: bytes
    lines_said: int
    barge_ins: int
    # How often the bot stopped speaking because it was interrupted.
    interruptions: int
    close_code: int
    close_reason: str
    duration_s: float


class Caller:
    """One call.

    Args:
        url: the media WebSocket, ticket included.
        lines: what to say, in order; then the caller waits for the bot to hang up.
        source: further audio to send as it comes (a microphone), frame by frame.
        linger_s: how long to wait, after the answer to the last line, for the bot to hang up first.
        answer_s: how long to wait for the bot to begin to speak: before the first line, and after each.
    """

    def __init__(
        self,
        url: str,
        lines: Sequence[Line],
        *,
        source: AsyncIterator[bytes] | None = None,
        linger_s: float = LINGER_S,
        answer_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._url = url
        self._lines = lines
        self._source = source
        self._linger_s = linger_s
        self._answer_s = answer_s
        self._outgoing: list[bytes] = []
        self._said = bytearray()
        self._heard = bytearray()
        self._playing_until = 0.0
        self._voice_since: float | None = None
        self._last_voice = 0.0
        self._interruptions = 0
        self._barge_ins = 0
        self._lines_said = 0
        # Set with each frame that is sent: what waits for the conversation looks again.
        self._tick = asyncio.Event()

    async def run(self) -> CallResult:
        """Hold the call until the bot hangs up, or nobody has anything left to say.

        Raises:
            CallFailed: the WebSocket was refused.
        """
        began = time.monotonic()
        try:
            connection = await connect(self._url, max_size=2**20, compression=None, open_timeout=20)
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise CallFailed(f"the media WebSocket was refused: {error}") from error
        tasks = [
            asyncio.create_task(work)
            for work in (self._send(connection), self._receive(connection), self._converse(), self._listen())
        ]
        try:
            # Whatever ends first (the bot hung up, or the script is over) ends the call.
            done, _ = await asyncio.wait(tasks[:3], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()
        return CallResult(
            said=bytes(self._said),
            heard=bytes(self._heard),
            lines_said=self._lines_said,
            barge_ins=self._barge_ins,
            interruptions=self._interruptions,
            close_code=connection.close_code or 1006,
            close_reason=connection.close_reason or "",
            duration_s=time.monotonic() - began,
        )

    async def _send(self, connection: ClientConnection) -> None:
        due = time.monotonic()
        while True:
            frame = self._outgoing.pop(0) if self._outgoing else _SILENCE
            self._said += frame
            with contextlib.suppress(ConnectionClosed):
                await connection.send(protobuf_frames.encode_audio(frame, RATE))
            self._tick.set()
            due += FRAME_S
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def _receive(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                if isinstance(message, str):
                    continue
                match protobuf_frames.decode(message):
                    case protobuf_frames.Audio() as audio:
                        self._hear(audio)
                    case protobuf_frames.Interruption():
                        self._interrupted()
                    case _:
                        pass

    def _hear(self, audio: protobuf_frames.Audio) -> None:
        now = time.monotonic()
        pcm = wav.resample(audio.pcm, audio.rate, RATE)
        # Played behind what is still playing, or at once; the timeline is that of what was sent.
        if len(self._heard) < len(self._said):
            self._heard += bytes(len(self._said) - len(self._heard))
        self._heard += pcm
        if _rms(pcm) < _VOICE_RMS:
            return
        self._playing_until = max(now, self._playing_until) + len(pcm) / 2 / RATE
        if self._voice_since is None or now - self._last_voice > _TURN_GAP_S:
            self._voice_since = now
        self._last_voice = max(now, self._playing_until)

    def _interrupted(self) -> None:
        now = time.monotonic()
        if self._playing_until > now - _TURN_GAP_S:
            self._interruptions += 1
        self._playing_until = min(self._playing_until, now)
        del self._heard[max(len(self._said), 0) :]

    async def _listen(self) -> None:
        if self._source is not None:
            async for frame in self._source:
                self._outgoing.append(frame)

    async def _converse(self) -> None:
        if self._source is not None:
            await asyncio.Event().wait()
        spoke_at = 0.0
        for line in self._lines:
            await (self._bot_has_begun(spoke_at) if line.barge_in else self._bot_has_finished(spoke_at))
            await self._speak(line)
            spoke_at = time.monotonic()
        await self._bot_has_finished(spoke_at)
        # The bot hangs up after a goodbye; otherwise the caller does.
        if self._lines:
            await asyncio.sleep(self._linger_s)

    async def _speak(self, line: Line) -> None:
        for start in range(0, len(line.pcm), 2 * _FRAME_SAMPLES):
            self._outgoing.append(line.pcm[start : start + 2 * _FRAME_SAMPLES].ljust(2 * _FRAME_SAMPLES, b"\0"))
        self._lines_said += 1
        self._barge_ins += line.barge_in
        await self._until(lambda: not self._outgoing)

    async def _bot_has_begun(self, since: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._answer_s):
                await self._until(lambda: self._voice_since is not None and self._voice_since > since)
                await asyncio.sleep(_BARGE_IN_AFTER_S)

    async def _bot_has_finished(self, since: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._answer_s):
                await self._until(lambda: self._last_voice > since)
        await self._until(lambda: time.monotonic() - self._last_voice >= _TURN_GAP_S)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._tick.clear()
            await self._tick.wait()


def _rms(pcm: bytes) -> float:
    samples = array("h", pcm)
    # Every eighth sample tells speech from silence as well as all of them do.
    picked = samples[::8]
    return (sum(sample * sample for sample in picked) / max(len(picked), 1)) ** 0.5
