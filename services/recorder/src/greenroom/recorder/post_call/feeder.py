"""Queues the steps of sessions that were sealed, and tells that their transcripts are complete."""

import asyncio
import contextlib
from typing import Final

import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.clock import utcnow
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, TopologyMissing
from greenroom.common.ids import derived_id
from greenroom.common.messages import Event, EventType
from greenroom.common.post_call_messages import PostCall
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.post_call.store import Sealed, StepStore

_log = structlog.get_logger()

POLL_S: Final = 0.5
AWAY_RETRY_S: Final = 2.0


class Feeder:
    """Queues steps, beside any number of others.

    Args:
        broker: where the queue is.
        store: which sessions were sealed.
        steps: what is to be run for those for whom nothing was chosen.
    """

    def __init__(self, broker: Broker, store: StepStore, steps: tuple[str, ...]) -> None:
        self._broker = broker
        self._store = store
        self._steps = steps

    async def run(self) -> None:
        """Queue until canceled."""
        while True:
            try:
                if not await self._feed():
                    await asyncio.sleep(POLL_S)
            except (DatabaseUnavailable, BrokerUnavailable, TopologyMissing, UnstorableRow) as error:
                _log.warning("post_call_not_queued", error=str(error), again_in_s=AWAY_RETRY_S)
                await asyncio.sleep(AWAY_RETRY_S)

    async def _feed(self) -> bool:
        """Queue the steps of one session; return whether there was one."""
        async with self._store.next_sealed(self._steps) as sealed:
            if sealed is None:
                return False
            if sealed.lines:
                await self._tell(sealed)
            for step in sealed.steps:
                again = step in sealed.queued
                wanted = PostCall(
                    tenant=sealed.tenant, session_id=sealed.session_id, step=step, at=utcnow(), again=again
                )
                told = ("post-call", sealed.session_id, step, *([str(sealed.lines)] if again else []))
                await self._broker.append(
                    subjects.POST_CALL.format(tenant=sealed.tenant, session_id=sealed.session_id, step=step),
                    messages.encode(wanted),
                    msg_id=derived_id(*told),
                )
        return True

    async def _tell(self, sealed: Sealed) -> None:
        event = Event(
            id=derived_id(sealed.session_id, EventType.TRANSCRIPT_READY),
            tenant=sealed.tenant,
            session_id=sealed.session_id,
            type=EventType.TRANSCRIPT_READY,
            at=utcnow(),
            epoch=sealed.epoch,
            source="recorder",
            data={"lines": sealed.lines},
        )
        subject = subjects.SESSION_EVENT.format(tenant=event.tenant, session_id=event.session_id, type=event.type)
        with contextlib.suppress(WrongLastSequence):  # it was told before
            await self._broker.append(subject, messages.encode(event), msg_id=event.id, expected_last=0)
