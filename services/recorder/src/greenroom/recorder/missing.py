"""The alarm for a live session of which no audio comes: seen while the call can still be helped, not in its recording.

Every few seconds the live sessions are looked at whose client has been connected for long enough. One is missed if
neither the disk nor the broker has a chunk of its present attempt. That is told by a warning in the log, a counter,
and the event `recording.missing` in the session's own stream: once, whichever recorder leads and however often it
looks. Sessions whose agent wants no recording are passed over.

While PostgreSQL or the broker is away nothing is told; afterwards, what still holds is.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects, telemetry
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.clock import utcnow
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import derived_id
from greenroom.common.messages import Event, EventType
from greenroom.common.metrics import Metrics
from greenroom.recorder.audio import STREAM
from greenroom.recorder.parts import Parts
from greenroom.recorder.store import Store, Unheard

_log = structlog.get_logger()

# An alarm is late by as much.
ROUND_S: Final = 2.0
ROUND_LIMIT: Final = 1000


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """What the event says."""

    connected_at: datetime
    after_s: float


class MissingAudio:
    """Looks for sessions without audio.

    Args:
        broker: knows what audio is on its way, and takes the event.
        store: knows who is connected.
        parts: the audio that has come.
        after_s: how long after the connection the first chunk is awaited.
        metrics: sessions missed.
    """

    def __init__(self, *, broker: Broker, store: Store, parts: Parts, after_s: float, metrics: Metrics) -> None:
        self._broker = broker
        self._store = store
        self._parts = parts
        self._after_s = after_s
        self._round_s = min(ROUND_S, after_s)
        self._missed = metrics.counter(
            "recorder_missing_audio", "Sessions whose client was connected while no audio came"
        )

    async def run(self) -> None:
        """Look until canceled."""
        while True:
            try:
                await self.look()
            except (GreenroomError, OSError) as error:
                code = error.code if isinstance(error, GreenroomError) else type(error).__name__
                _log.warning("missing_audio_not_looked_for", error=code, again_in_s=self._round_s)
            await asyncio.sleep(self._round_s)

    async def look(self) -> int:
        """Look once, and return how many sessions were missed that hadn't been told of.

        Raises:
            BrokerUnavailable, DatabaseUnavailable, OSError: it can't be told now.
        """
        told = 0
        for unheard in await self._store.unheard(after_s=self._after_s, limit=ROUND_LIMIT):
            if await asyncio.to_thread(self._parts.heard, unheard.session_id, unheard.epoch):
                continue
            audio = subjects.SESSION_AUDIO.wildcard(tenant=unheard.tenant, session_id=unheard.session_id)
            if await self._broker.count(STREAM, audio):
                continue
            told += await self._tell(unheard)
        return told

    async def _tell(self, unheard: Unheard) -> bool:
        """Publish the event; return whether it was the first."""
        missed = Missed(connected_at=unheard.connected_at, after_s=self._after_s)
        event = Event(
            id=derived_id(unheard.session_id, EventType.RECORDING_MISSING),
            tenant=unheard.tenant,
            session_id=unheard.session_id,
            type=EventType.RECORDING_MISSING,
            at=utcnow(),
            epoch=unheard.epoch,
            source="recorder",
            data=msgspec.to_builtins(missed, builtin_types=()),
        )
        subject = subjects.SESSION_EVENT.format(
            tenant=unheard.tenant, session_id=unheard.session_id, type=EventType.RECORDING_MISSING
        )
        try:
            await self._broker.append(
                subject, messages.encode(event), msg_id=event.id, expected_last=0, headers=telemetry.inject()
            )
        except WrongLastSequence:
            return False
        self._missed.inc()
        _log.warning(
            "recording_missing",
            session_id=unheard.session_id,
            tenant=unheard.tenant,
            epoch=unheard.epoch,
            after_s=self._after_s,
        )
        return True
