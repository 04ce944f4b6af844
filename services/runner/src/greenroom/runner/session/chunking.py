"""Audio from the user in larger pieces: a pipeline does the same for each piece, however long it is.

Clients send 20 ms at a time. With 60 ms a session takes two thirds of the processor, and what the user says
is heard 40 ms later at most: a fraction of the 200 ms that voice detection waits before it believes in a pause.

Where frames come through an edge it is asked to send as many in one message as make a piece (`Packs`): they wait there
as long as they would have waited here, and are carried for the price of one.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog
from pipecat.frames.frames import Frame, InputAudioRawFrame
from pipecat.transports.base_input import BaseInputTransport

# Bytes per sample: 16 bit.
_WIDTH: Final = 2
# Of what a piece lasts, how much longer its first frame waits for the others: a client that has stopped in the middle
# of a piece shall be heard to its last sample.
_PATIENCE: Final = 1.5
# The same where the frames of a piece come at once: what is left over belongs to no piece that is whole.
PACKED_PATIENCE: Final = 0.4
# Frames that were resampled differ by some samples.
_WHOLE: Final = 0.9
# After so many frames it is known how long they are: half a second, usually.
_KNOWN_AFTER: Final = 25
_MAX_PACK: Final = 20


# What a bot says of its own in its module, in milliseconds; 0: as it comes.
OWN: Final = "INPUT_CHUNK_MS"
_LONGEST_MS: Final = 200

_log = structlog.get_logger()


def piece_ms(module: str | None, default: int) -> int:
    """Return how long pieces are for the bot of a module, where that says nothing (or nonsense): `default`."""
    own: object = getattr(sys.modules.get(module or ""), OWN, default)
    if type(own) is int and 0 <= own <= _LONGEST_MS:
        return own
    _log.warning("input_chunk_ignored", module=module, problem=f"{OWN} isn't a whole number from 0 to {_LONGEST_MS}")
    return default


class Packs(Protocol):
    """Whoever carries frames to the transport, and can send several at once."""

    @property
    def packing(self) -> bool:
        """Whether several frames come at once."""
        ...

    async def pack(self, messages: int, hold_ms: int) -> None:
        """Ask for so many frames at once, none of them held longer than that."""
        ...


class InputChunks:
    """Joins the audio frames of a transport, of one kind and one source, into pieces.

    Works on the instance: through `push_audio_frame`, which all of Pipecat's transports use for what they receive, and
    `cancel` and `stop`, which end the pipeline; a conformance test pins that. Frames with more than audio (of one of
    several participants, for example) go through.

    Args:
        transport: the input side of the bot's transport, before its pipeline starts.
        piece_s: how long a piece is, in seconds; what comes in one frame isn't cut.
        carrier: is asked to send several frames at once, once it is known how long they are.
    """

    def __init__(self, transport: BaseInputTransport, piece_s: float, carrier: Packs | None = None) -> None:
        self._carrier = carrier
        # How many frames were heard, and how much audio, until that is known.
        self._heard = 0
        self._heard_s = 0.0
        self._piece_s = piece_s
        self._held: list[InputAudioRawFrame] = []
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # Whoever lets a piece out late must not be overtaken by the next one.
        self._order = asyncio.Lock()
        self._late: set[asyncio.Task[None]] = set()
        self._transport = transport
        self._push = transport.push_audio_frame
        owner: Any = transport
        owner.push_audio_frame = self._take
        owner.cancel, owner.stop = self._before(transport.cancel), self._before(transport.stop)

    def _before[F: Frame](self, end: Callable[[F], Awaitable[None]]) -> Callable[[F], Awaitable[None]]:
        async def ends(frame: F) -> None:
            # Past the queue, which nobody reads any more.
            if held := self._held_so_far():
                await self._transport.push_frame(_joined(held))
            await end(frame)

        return ends

    async def _take(self, frame: InputAudioRawFrame) -> None:
        if type(frame) is not InputAudioRawFrame:
            await self._let_out()
            await self._push(frame)
            return
        if self._held and not _alike(self._held[0], frame):
            await self._let_out()
        self._held.append(frame)
        self._held_bytes += len(frame.audio)
        bytes_s = frame.sample_rate * frame.num_channels * _WIDTH
        packed = self._carrier is not None and self._carrier.packing
        if self._held_bytes >= self._piece_s * bytes_s * (_WHOLE if packed else 1):
            await self._let_out()
        elif self._timer is None:
            patience = PACKED_PATIENCE if packed else _PATIENCE
            self._timer = asyncio.get_running_loop().call_later(self._piece_s * patience, self._give_up)
        if self._heard < _KNOWN_AFTER:
            await self._learn(len(frame.audio) / bytes_s)

    async def _learn(self, frame_s: float) -> None:
        self._heard += 1
        self._heard_s += frame_s
        if self._heard == _KNOWN_AFTER and self._heard_s and self._carrier is not None:
            frames = min(round(self._piece_s * self._heard / self._heard_s), _MAX_PACK)
            if frames > 1:
                await self._carrier.pack(frames, round(self._piece_s * 1000))

    def _give_up(self) -> None:
        self._timer = None
        task = asyncio.create_task(self._let_out())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _let_out(self) -> None:
        if held := self._held_so_far():
            async with self._order:
                await self._push(_joined(held))

    def _held_so_far(self) -> list[InputAudioRawFrame]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held, self._held_bytes = self._held, [], 0
        return held


def _alike(left: InputAudioRawFrame, right: InputAudioRawFrame) -> bool:
    return (
        left.sample_rate == right.sample_rate
        and left.num_channels == right.num_channels
        and left.transport_source == right.transport_source
    )


def _joined(frames: list[InputAudioRawFrame]) -> InputAudioRawFrame:
    first = frames[0]
    if len(frames) == 1:
        return first
    audio = b"".join([frame.audio for frame in frames])
    joined = InputAudioRawFrame(audio=audio, sample_rate=first.sample_rate, num_channels=first.num_channels)
    joined.pts, joined.transport_source = first.pts, first.transport_source
    return joined
