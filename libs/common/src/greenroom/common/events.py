"""Events as readers see them: the envelope completed and checked, whoever published it."""

from datetime import UTC, datetime

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.errors import MalformedEvent
from greenroom.common.ids import derived_id
from greenroom.common.messages import Event, ExternalEvent

# Event names of one service: `call_started`; of others: `crm.ticket_opened`.
MAX_DATA_BYTES = 256 * 1024


def decode_event(message: Message) -> Event:
    """Return the event in a message of the SESSIONS stream.

    What the publisher left out is taken from the subject, the `Nats-Msg-Id` header and the stream's own
    time, so that any NATS client can publish events with nothing but a JSON object.

    Raises:
        MalformedEvent: it isn't JSON, has unknown fields or a wrong type, or contradicts its subject.
    """
    tokens = subjects.SESSION_EVENT.parse(message.subject)
    if tokens is None:
        raise MalformedEvent(f"{message.subject} isn't the subject of an event")
    if len(message.data) > MAX_DATA_BYTES:
        raise MalformedEvent(f"the event has {len(message.data)} bytes, {MAX_DATA_BYTES} are allowed")
    try:
        given = messages.decode(message.data, ExternalEvent)
    except msgspec.MsgspecError as error:
        raise MalformedEvent(str(error)) from error
    for name in ("tenant", "session_id", "type"):
        value = getattr(given, name)
        if value is not None and value != tokens[name]:
            raise MalformedEvent(f"{name} is {value!r}, the subject says {tokens[name]!r}")
    if given.at is not None and given.at.tzinfo is None:
        raise MalformedEvent("`at` has no time zone")
    event_id = given.id or message.headers.get("Nats-Msg-Id") or derived_id(message.subject, str(message.stream_seq))
    return Event(
        id=event_id,
        tenant=tokens["tenant"],
        session_id=tokens["session_id"],
        type=tokens["type"],
        at=(given.at or message.at or datetime.now(UTC)).astimezone(UTC),
        seq=given.seq,
        epoch=given.epoch,
        source=given.source,
        data=given.data,
    )
