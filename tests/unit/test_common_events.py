"""Events as readers see them, whoever published them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import messages
from greenroom.common.broker import Message
from greenroom.common.clock import to_ns
from greenroom.common.errors import MalformedEvent
from greenroom.common.events import MAX_DATA_BYTES, decode_event
from greenroom.common.ids import is_uuid
from greenroom.common.messages import Event

SUBJECT = "gr.v1.session.acme.s1.event.crm.ticket_opened"
STORED_AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def message(
    data: bytes | Mapping[str, Any] = b"{}", *, headers: Mapping[str, str] | None = None, subject: str = SUBJECT
) -> Message:
    """Return a message of the SESSIONS stream."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Message(subject=subject, data=body, headers=headers or {}, stream_seq=42, at_ns=to_ns(STORED_AT))


def test_our_own_events_come_out_as_they_went_in() -> None:
    """A whole envelope is taken as it is."""
    event = Event(
        id="e1", tenant="acme", session_id="s1", type="crm.ticket_opened", at=STORED_AT, seq=3, epoch=2,
        source="session", data={"text": "hello", "list": [1, None]},
    )  # fmt: skip
    assert decode_event(message(messages.encode(event), headers={"Nats-Msg-Id": "other"})) == event


def test_an_empty_object_is_an_event() -> None:
    """Session and type are in the subject, the time is the stream's, the id is derived: nothing need be given."""
    event = decode_event(message())
    assert is_uuid(event.id)
    assert event == Event(
        id=event.id, tenant="acme", session_id="s1", type="crm.ticket_opened", at=STORED_AT, source="external", data={}
    )


def test_a_derived_id_tells_messages_apart() -> None:
    """Every reader derives the same id for one message, and another one for another message."""
    again = msgspec.structs.replace(message(), deliveries=7)
    later = msgspec.structs.replace(message(), stream_seq=43)
    assert decode_event(message()).id == decode_event(again).id != decode_event(later).id


def test_the_id_of_the_header_stands_where_the_body_has_none() -> None:
    """What the stream told duplicates by is what readers tell them by; an id in the body comes first."""
    assert decode_event(message(headers={"Nats-Msg-Id": "m1"})).id == "m1"
    assert decode_event(message({"id": "e1"}, headers={"Nats-Msg-Id": "m1"})).id == "e1"


def test_a_given_time_is_told_in_utc() -> None:
    """Any offset will do, none will not."""
    event = decode_event(message({"at": "2026-02-03T06:05:06+02:00"}))
    assert event.at == STORED_AT
    assert event.at.tzinfo is UTC
    with pytest.raises(MalformedEvent, match="time zone"):
        decode_event(message({"at": "2026-02-03T04:05:06"}))


@pytest.mark.parametrize("name", ["tenant", "session_id", "type"])
def test_an_envelope_may_repeat_its_subject_but_not_contradict_it(name: str) -> None:
    """An event can't pass for another session's, or for another type."""
    said = {"tenant": "acme", "session_id": "s1", "type": "crm.ticket_opened"}
    assert decode_event(message({name: said[name]}))
    with pytest.raises(MalformedEvent, match=name):
        decode_event(message({name: "other"}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"hello", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"{} {}", "trailing"),
        ({"data": []}, "data"),
        ({"data": None}, "data"),
        ({"id": 7}, "id"),
        ({"seq": "1"}, "seq"),
        ({"seq": 1.5}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": 2**63}, "seq"),
        ({"epoch": 2**31}, "epoch"),
        ({"at": "yesterday"}, "at"),
        ({"at": 1770091506}, "at"),
        ({"at": "0001-01-01T00:00:00+14:00"}, "at"),
        ({"at": "9999-12-31T23:59:59-14:00"}, "at"),
        ({"ticket": 42}, "ticket"),
        ({"id": "x" * 257}, "id"),
        ({"source": "x" * 257}, "source"),
        (b'{"data": {"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}", "nested"),
        ({"data": {"text": "x" * MAX_DATA_BYTES}}, "bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_malformed_is_named(body: bytes | dict[str, Any], says: str) -> None:
    """The publisher can find the mistake in the reason that its message is parked with."""
    with pytest.raises(MalformedEvent, match=says):
        decode_event(message(body))


def test_a_header_that_is_too_long_for_an_id_is_malformed() -> None:
    """Whichever way the id comes, it is indexed."""
    with pytest.raises(MalformedEvent, match="id"):
        decode_event(message(headers={"Nats-Msg-Id": "x" * 257}))


@pytest.mark.parametrize(
    "subject",
    ["gr.v1.session.acme.s1.lifecycle", "gr.v1.session.acme.s1.event.ümlaut", "gr.v1.session.acme.s1.event", "other"],
)
def test_a_message_of_another_subject_is_no_event(subject: str) -> None:
    """It is refused, not guessed at."""
    with pytest.raises(MalformedEvent, match="isn't the subject of an event"):
        decode_event(message(subject=subject))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "tenant", "session_id", "type", "at", "seq", "epoch", "source", "data"), JSON),
        "at": st.datetimes(timezones=st.timezones() | st.none()).map(str) | st.text(),
        "seq": st.integers(),
        "data": st.dictionaries(st.text(), JSON),
    },
)


@given(st.binary() | ENVELOPE.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_event_or_malformed(body: bytes) -> None:
    """No body ends a reader; what is an event can be stored and sent on."""
    try:
        event = decode_event(message(body))
    except MalformedEvent:
        return
    assert decode_event(message(messages.encode(event))) == event


def test_a_newer_version_of_ours_may_say_more() -> None:
    """A field that only newer services know doesn't park their events; of other services it is a mistake in a name."""
    newer = {"seq": 3, "data": {"text": "hello"}, "speaker": "second caller"}
    for ours in ("user_spoke", "scheduler.decision"):
        event = decode_event(message(newer, subject=SUBJECT.replace("crm.ticket_opened", ours)))
        assert (event.type, event.seq, event.data) == (ours, 3, {"text": "hello"})
    with pytest.raises(MalformedEvent, match="speaker"):
        decode_event(message(newer))
