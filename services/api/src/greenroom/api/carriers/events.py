"""What carriers say of a call, as events of its session."""

from typing import Any, Final

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ids import derived_id
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event, EventType

SOURCE: Final = "carrier"


async def publish(broker: Broker, session: Session, kind: EventType, data: dict[str, Any], clock: Clock) -> None:
    """Publish an event; a carrier that says the same again says it once.

    Raises:
        BrokerUnavailable: it wasn't published.
    """
    said = data.get("told") or data.get("status") or ""
    event_id = derived_id(session.id, kind.value, str(said))
    event = Event(
        id=event_id,
        tenant=session.tenant,
        session_id=session.id,
        type=kind.value,
        at=clock.now(),
        epoch=session.epoch,
        source=SOURCE,
        data={"carrier": session.transport, **data},
    )
    subject = subjects.SESSION_EVENT.format(tenant=session.tenant, session_id=session.id, type=kind.value)
    headers = {"traceparent": session.traceparent} if session.traceparent else None
    await broker.append(subject, messages.encode(event), msg_id=event_id, headers=headers)
