"""What the runner has to tell of a session beside its state: events of its own, in the session's stream.

They are numbered 0, as all that don't count, and come from `runner`. Like everything that isn't the ledger they go
through a spool: bounded, in order, kept while the broker is away. What a session process has left to say when it ends
goes the same way.
"""

from typing import Any, Final

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event, EventType, encode
from greenroom.common.spool import Spool
from greenroom.runner.control import Left

SOURCE: Final = "runner"


class Reports:
    """The events of one runner.

    Args:
        broker: where to.
        clock: time.
    """

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._spool = Spool(broker)
        self._clock = clock

    async def run(self) -> None:
        """Publish until canceled."""
        await self._spool.run()

    async def flush(self, deadline_s: float) -> int:
        """Wait until everything is published; return how many messages are left."""
        return await self._spool.flush(deadline_s)

    def inherit(self, left: Left) -> None:
        """Publish what a session process couldn't; of one that ended while the broker was away."""
        self._spool.put(left.subject, left.data, msg_id=left.msg_id, headers=left.headers, droppable=left.droppable)

    def tell(self, session: Session, kind: EventType, data: dict[str, Any]) -> None:
        """Publish an event of a session; never waits."""
        event = Event(
            id=uuid7(),
            tenant=session.tenant,
            session_id=session.id,
            type=kind.value,
            at=self._clock.now(),
            epoch=session.epoch,
            source=SOURCE,
            data=data,
        )
        subject = subjects.SESSION_EVENT.format(tenant=session.tenant, session_id=session.id, type=kind.value)
        headers = {"traceparent": session.traceparent} if session.traceparent else {}
        self._spool.put(subject, encode(event), msg_id=event.id, headers=headers)
