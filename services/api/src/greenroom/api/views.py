"""Messages of the SESSIONS stream as callers see them: transitions and events alike, as the recorder stores them."""

from typing import Any, cast

import msgspec

from greenroom.api.schemas import EventView
from greenroom.api.store import EventRow
from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.errors import MalformedEvent
from greenroom.common.events import decode_event, event_of
from greenroom.common.messages import LedgerEntry


def view_of_message(message: Message) -> EventView | None:
    """Return what a message of the stream says, or None for a malformed one (which the recorder parks)."""
    try:
        if subjects.SESSION_LIFECYCLE.parse(message.subject):
            event = event_of(messages.decode(message.data, LedgerEntry))
        else:
            event = decode_event(message)
    except (msgspec.MsgspecError, MalformedEvent, OverflowError):  # the last: a time at the edge of the calendar
        return None
    return EventView(
        stream_seq=message.stream_seq,
        id=event.id,
        session_id=event.session_id,
        type=event.type,
        at=event.at,
        seq=event.seq,
        epoch=event.epoch,
        source=event.source,
        data=event.data,
    )


def view_of_row(row: EventRow) -> EventView:
    """Return what a stored event says; its data stays the JSON that it is."""
    return EventView(
        stream_seq=row.stream_seq,
        id=row.id,
        session_id=row.session_id,
        type=row.type,
        at=row.at,
        seq=row.seq,
        epoch=row.epoch,
        source=row.source,
        data=cast("dict[str, Any]", row.data),
    )
