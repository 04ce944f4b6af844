"""Calls whose events were published as a session process publishes them: for what reads them."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event, EventType
from tests.support.api_world import ApiWorld


def spoken_event(session: Session, kind: str, at: datetime, seq: int, data: dict[str, Any]) -> Event:
    """Return an event of a session process."""
    return Event(
        id=uuid7(),
        tenant=session.tenant,
        session_id=session.id,
        type=kind,
        at=at,
        seq=seq,
        epoch=1,
        source="session",
        data=data,
    )


def utterances(session: Session, *lines: str) -> list[Event]:
    """Return the events of a call that began with the request: the bot says the first line, then they take turns."""
    began = session.requested_at
    events = [spoken_event(session, EventType.CALL_CONNECTED, began, 1, {"connection_id": "c"})]
    for number, text in enumerate(lines):
        start, end = 1000 * number + 100, 1000 * number + 900
        kind = EventType.USER_SPOKE if number % 2 else EventType.AGENT_SPOKE
        data: dict[str, Any] = {"text": text, "start_ms": start, "end_ms": end}
        events.append(spoken_event(session, kind, began + timedelta(milliseconds=end), number + 2, data))
    return events


async def speak(world: ApiWorld, *lines: str, tenant: str = "default", **fields: Any) -> Session:
    """Return a session that is ready and in which these lines were said."""
    session = (await world.make_ready((await world.request(tenant=tenant, **fields)).session.id, tenant)).session
    for event in utterances(session, *lines):
        await world.publish(session.id, event.type, msgspec.json.encode(event), tenant)
    return session
