"""Calls beside a bad one: audio in real time through the broker to an echo bot, and how late it comes back."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from greenroom.common import media_frames, subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.ids import uuid7
from greenroom.common.media_frames import Close
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaAnswer, MediaKind
from greenroom.common.messages import encode
from greenroom.devtools import protobuf_frames

RATE: Final = 16_000
FRAME_S: Final = 0.02
_SILENCE: Final = bytes(2 * round(RATE * FRAME_S))


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came back within a window.

    `lost`: frames that were sent and didn't come; `lateness_s`: of each frame, against a clock that the earliest frame
    sets. Those that are due and haven't come are as late as they are by now.
    """

    lost: int
    lateness_s: tuple[float, ...]

    def late(self, share: float) -> float:
        """Return the lateness that so large a share of the frames doesn't exceed."""
        ordered = sorted(self.lateness_s)
        return ordered[min(round(share * len(ordered)), len(ordered) - 1)]


class Neighbour:
    """A caller of an echo bot.

    Args:
        broker: connected.
        session_id: of a session that is ready.
    """

    def __init__(self, broker: Broker, session_id: str) -> None:
        self.session_id = session_id
        self._broker = broker
        self._sent = 0
        self._numbers = media_frames.Sequence()
        self._arrivals: list[tuple[float, float]] = []
        self._seconds = 0.0
        self._lost_before = 0
        self._subscription: Subscription | None = None

    async def connect(self) -> None:
        """Get in."""
        self._subscription = await self._broker.subscribe(self._media("out"), self._on_frame)
        subject = subjects.SESSION_CMD.format(tenant="default", session_id=self.session_id, name="connect")
        reply = await self._broker.request(subject, encode(ConnectMedia(connection_id=uuid7())), timeout_s=5)
        answer = msgspec.json.decode(reply.data, type=MediaAnswer)
        assert isinstance(answer, MediaAccepted), answer

    async def hang_up(self) -> None:
        """Close the line, and listen no more."""
        close = media_frames.encode_close(self._sent, Close(code=1000, reason=""))
        await self._broker.publish(self._media("in"), close)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def talk(self) -> None:
        """Send audio in real time until canceled; what is late is made up for, as by a telephone."""
        frame = protobuf_frames.encode_audio(_SILENCE, RATE)
        due = time.monotonic()
        while True:
            await self._broker.publish(self._media("in"), media_frames.encode(MediaKind.BINARY, self._sent, frame))
            self._sent += 1
            due += FRAME_S
            await asyncio.sleep(max(due - time.monotonic(), 0))

    def begin(self) -> None:
        """Begin a window."""
        self._arrivals.clear()
        self._lost_before = self._numbers.lost

    def heard(self) -> Heard:
        """Return what has come since the window began."""
        assert self._arrivals, "nothing has come back"
        offsets = [arrived - position for arrived, position in self._arrivals]
        earliest, now, due = min(offsets), time.monotonic(), self._seconds
        while now - due > earliest:
            offsets.append(now - due)
            due += FRAME_S
        return Heard(
            lost=self._numbers.lost - self._lost_before,
            lateness_s=tuple(offset - earliest for offset in offsets),
        )

    async def _on_frame(self, message: Message) -> None:
        kind, number, payload = media_frames.decode(message.data)
        self._numbers.take(number, accepted=True)
        if kind != MediaKind.BINARY:
            return
        frame = protobuf_frames.decode(payload)
        if isinstance(frame, protobuf_frames.Audio):
            self._arrivals.append((time.monotonic(), self._seconds))
            self._seconds += len(frame.pcm) / 2 / RATE

    def _media(self, direction: str) -> str:
        return subjects.SESSION_MEDIA.format(tenant="default", session_id=self.session_id, direction=direction)


def together(heard: Sequence[Heard]) -> Heard:
    """Return what several heard as one."""
    return Heard(
        lost=sum(each.lost for each in heard),
        lateness_s=tuple(lateness for each in heard for lateness in each.lateness_s),
    )
