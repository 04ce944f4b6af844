"""What a session knows of its phone call."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.call_data import CallData
from greenroom.common.lifecycle import Connected, Session, State

AT = datetime(2026, 2, 3, tzinfo=UTC)
_TEXT = st.text(max_size=12)
_KNOWN = st.none() | _TEXT
CALLS = st.builds(
    CallData,
    carrier=st.sampled_from(["twilio", "telnyx", "plivo", "exotel", "vobiz", "daily"]),
    direction=st.sampled_from(["inbound", "outbound"]),
    call_id=_KNOWN,
    stream_id=_KNOWN,
    from_=_KNOWN,
    to=_KNOWN,
    body=st.dictionaries(_TEXT, _TEXT, max_size=3),
)


def on_the_line(call: CallData | None, **fields: Any) -> Session:
    """Return a session of a call that has just become ready."""
    named = {"id": "s", "tenant": "t", "agent": "a", "bot": "a", "state": State.READY, "epoch": 1}
    return Session(**named, requested_at=AT, queue_deadline_at=AT, call=call, **fields)


@given(call=CALLS)
def test_it_is_the_same_on_both_sides_of_the_wire(call: CallData) -> None:
    """Under the names that carriers and Pipecat have; what isn't known is null, not left out."""
    sent = msgspec.json.encode(call)
    assert msgspec.json.decode(sent, type=CallData) == call
    assert set(msgspec.json.decode(sent)) == {"carrier", "direction", "call_id", "stream_id", "from", "to", "body"}


@given(known=st.none() | CALLS, told=st.none() | CALLS, again=st.none() | CALLS)
def test_the_session_has_what_was_told_last(
    known: CallData | None, told: CallData | None, again: CallData | None
) -> None:
    """Whoever connects without a word of the call, as an older runner's process does, takes nothing away."""
    session = on_the_line(known)
    for call in (told, again):
        session = lifecycle.apply(session, Connected(epoch=1, call=call), AT)
        assert session.media_connected
    assert session.call == (again or told or known)


@given(call=CALLS, ids=st.tuples(_TEXT, _TEXT), more=st.dictionaries(_TEXT, _TEXT, max_size=3))
def test_a_stream_tells_its_ids_and_what_was_added(call: CallData, ids: tuple[str, str], more: dict[str, str]) -> None:
    """Who calls whom stays as it was; what the carrier adds goes over what was there."""
    streaming = call.streaming(call_id=ids[0], stream_id=ids[1], parameters=more)
    assert (streaming.call_id, streaming.stream_id) == ids
    assert streaming.body == {**call.body, **more}
    unchanged = {"call_id": None, "stream_id": None, "body": {}}
    assert msgspec.structs.replace(streaming, **unchanged) == msgspec.structs.replace(call, **unchanged)
