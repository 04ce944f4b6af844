"""Events as readers see them: the envelope completed and checked, whoever published it."""

import functools
from datetime import UTC, datetime
from typing import Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.errors import MalformedEvent
from greenroom.common.ids import derived_id
from greenroom.common.messages import Event, ExternalEvent, LedgerEntry

# The whole body: what happened, not the file that it is about.
MAX_DATA_BYTES: Final = 256 * 1024
# Ids and sources are indexed or shown; nobody's are longer.
_MAX_NAME: Final = 256
# What a bigint and an integer of PostgreSQL hold.
_MAX_SEQ: Final = 2**63 - 1
_MAX_EPOCH: Final = 2**31 - 1
# The scheduler's type has a dot, as those of other services do.
_DECISION: Final = "scheduler.decision"


# A live session speaks on ten subjects or so: those that are remembered are of some hundred sessions, in 2 MB.
_REMEMBERED: Final = 4096


class _OwnEvent(ExternalEvent, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """An event of a service of this system, maybe of a newer version, which may say more than we know of.

    To others an unknown field is more likely a mistake in a name, and what it was to say would be lost.
    """


def decode_event(message: Message) -> Event:
    """Return the event in a message of the SESSIONS stream.

    What the publisher left out is taken from the subject, the `Nats-Msg-Id` header and the stream's own
    time, so that any NATS client can publish events with nothing but a JSON object.

    Raises:
        MalformedEvent: it isn't JSON, has a wrong type or a value out of range, contradicts its subject, or has unknown
            fields though it is of another service of the house.
    """
    place = _place_of(message.subject)
    if place is None:
        raise MalformedEvent(f"{message.subject} isn't the subject of an event")
    if len(message.data) > MAX_DATA_BYTES:
        raise MalformedEvent(f"the event has {len(message.data)} bytes, {MAX_DATA_BYTES} are allowed")
    try:
        given = messages.decode(message.data, place.form)
    except msgspec.MsgspecError as error:
        raise MalformedEvent(str(error)) from error
    for name, said, value in (
        ("tenant", place.tenant, given.tenant),
        ("session_id", place.session_id, given.session_id),
        ("type", place.event_type, given.type),
    ):
        if value is not None and value != said:
            raise MalformedEvent(f"{name} is {value!r}, the subject says {said!r}")
    event_id = given.id or message.headers.get("Nats-Msg-Id") or derived_id(message.subject, str(message.stream_seq))
    if max(len(event_id), len(given.source)) > _MAX_NAME:
        raise MalformedEvent(f"`id` and `source` have at most {_MAX_NAME} characters")
    if not (0 <= given.seq <= _MAX_SEQ and 0 <= given.epoch <= _MAX_EPOCH):
        raise MalformedEvent("`seq` or `epoch` is out of range")
    return Event(
        id=event_id,
        tenant=place.tenant,
        session_id=place.session_id,
        type=place.event_type,
        at=_utc(given.at) if given.at is not None else message.at or utcnow(),
        seq=given.seq,
        epoch=given.epoch,
        source=given.source,
        data=given.data,
    )


class _Place(msgspec.Struct, frozen=True):
    """What a subject says, and in what form the event must be."""

    tenant: str
    session_id: str
    event_type: str
    form: type[ExternalEvent]


@functools.lru_cache(maxsize=_REMEMBERED)
def _place_of(subject: str) -> _Place | None:
    tokens = subjects.SESSION_EVENT.parse(subject)
    if tokens is None:
        return None
    own = "." not in tokens["type"] or tokens["type"] == _DECISION
    return _Place(tokens["tenant"], tokens["session_id"], tokens["type"], _OwnEvent if own else ExternalEvent)


def _utc(at: datetime) -> datetime:
    if at.tzinfo is UTC:
        return at
    if at.tzinfo is None:
        raise MalformedEvent("`at` has no time zone")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise MalformedEvent("`at` is no time in UTC that the calendar has") from error


def event_of(entry: LedgerEntry) -> Event:
    """Return a transition as an event: `session.{transition}`, its fields and where it led, without the document.

    Whoever shows the history of a session shows it in this form, so that what is stored and what is streamed agree.
    """
    transition, session = entry.transition, entry.session
    fields = {name: getattr(transition, name) for name in transition.__struct_fields__ if name != "session"}
    return Event(
        id=entry.id,
        tenant=session.tenant,
        session_id=session.id,
        type=f"session.{transition.__struct_config__.tag}",
        at=entry.at,
        epoch=session.epoch,
        source="ledger",
        data={"state": session.state, "attempt": session.attempt, **fields},
    )
