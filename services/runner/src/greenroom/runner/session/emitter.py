"""What the session process publishes: events in their envelope, and recorded audio, both through the spool."""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from greenroom.common import subjects
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import AudioHeader, Event, EventType, Track, encode
from greenroom.common.spool import Spool
from greenroom.common.telemetry import current_traceparent
from greenroom.runner.session.audio import RATE, Chunk

_log = structlog.get_logger()

SOURCE: Final = "session"
# A lively call has 2 events a second; a bot that floods its own session is held at this rate.
EVENTS_PER_S: Final = 50.0
EVENTS_BURST: Final = 200.0
# What one event may hold; the stream takes 512 KiB, readers 256 KiB.
MAX_EVENT_BYTES: Final = 64 * 1024
# What one foreign value in an event (a tool's arguments, its result) may hold.
MAX_VALUE_BYTES: Final = 8 * 1024
# The frame of a call, and what others did to it: never held back, or nobody could tell where it began and ended, or
# who did that.
_ALWAYS: Final = frozenset(
    {
        EventType.CALL_STARTED,
        EventType.CALL_CONNECTED,
        EventType.CALL_DISCONNECTED,
        EventType.CALL_COMPLETED,
        EventType.COMMAND,
        EventType.TRANSFER_REQUESTED,
        EventType.LISTENER_JOINED,
        EventType.LISTENER_LEFT,
        EventType.LISTENER_SPOKE,
    }
)

type EventSeen = Callable[[EventType, dict[str, Any]], None]


class Emitter:
    """Numbers the events of this session from 1 on and hands them to the spool; never blocks.

    Attributes:
        events: how many events were numbered, refused ones included: readers see those as missing.
        suppressed: events that were held back by the rate limit, which have no number.
        chunks: audio chunks by track.
        on_event: told of each event that was numbered.
    """

    def __init__(self, spool: Spool, session: Session, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.events = 0
        self.suppressed = 0
        self.chunks: dict[Track, int] = {"user": 0, "bot": 0}
        self.on_event: EventSeen | None = None
        self._spool = spool
        self._session = session
        self._monotonic = monotonic
        self._tokens = EVENTS_BURST
        self._refilled = monotonic()
        # The trace the events belong to: they are emitted from anywhere, so it is taken once.
        self._headers = {"traceparent": session.traceparent or current_traceparent() or ""}

    def emit(self, kind: EventType, data: dict[str, Any]) -> bool:
        """Publish an event; return False when it was held back or refused.

        Args:
            kind: its type.
            data: JSON values only; see `jsonable` for foreign ones.
        """
        if kind not in _ALWAYS and not self._may_emit():
            self.suppressed += 1
            return False
        self.events += 1
        if self.on_event is not None:
            self.on_event(kind, data)
        event = Event(
            id=uuid7(),
            tenant=self._session.tenant,
            session_id=self._session.id,
            type=kind.value,
            at=utcnow(),
            seq=self.events,
            epoch=self._session.epoch,
            source=SOURCE,
            data=data,
        )
        body = encode(event)
        if len(body) > MAX_EVENT_BYTES:
            body = encode(msgspec.structs.replace(event, data={"truncated": True, "bytes": len(body)}))
        subject = subjects.SESSION_EVENT.format(
            tenant=self._session.tenant, session_id=self._session.id, type=kind.value
        )
        return self._spool.put(subject, body, msg_id=event.id, headers=self._headers)

    def audio(self, track: Track, chunk: Chunk, origin_ns: int) -> None:
        """Publish a chunk of recorded audio, unless the agent wants no recording.

        It makes room for events when the spool is full.
        """
        if self._session.recording.off:
            return
        self.chunks[track] += 1
        seq, epoch = self.chunks[track], self._session.epoch
        self._spool.put(
            subjects.SESSION_AUDIO.format(tenant=self._session.tenant, session_id=self._session.id, track=track),
            chunk.pcm,
            msg_id=f"{self._session.id}/{epoch}/{track}/{seq}",
            headers={
                AudioHeader.SEQ.value: str(seq),
                AudioHeader.EPOCH.value: str(epoch),
                AudioHeader.POSITION.value: str(chunk.position),
                AudioHeader.ORIGIN_NS.value: str(origin_ns),
                AudioHeader.RATE.value: str(RATE),
            },
            droppable=True,
        )

    def _may_emit(self) -> bool:
        now = self._monotonic()
        self._tokens = min(self._tokens + (now - self._refilled) * EVENTS_PER_S, EVENTS_BURST)
        self._refilled = now
        if self._tokens < 1:
            if not self.suppressed:
                _log.warning("events_suppressed", events_per_s=EVENTS_PER_S)
            return False
        self._tokens -= 1
        return True


def jsonable(value: object, *, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Return a foreign value as plain JSON values; what is too large as its size, what isn't JSON as text."""
    try:
        encoded = msgspec.json.encode(value, enc_hook=repr)
        if len(encoded) > max_bytes:
            return {"truncated": True, "bytes": len(encoded)}
        return msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return {"unserializable": type(value).__qualname__}
