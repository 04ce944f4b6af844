"""What the recorder makes of messages, and which steps of a session it believes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from greenroom.common import lifecycle, messages
from greenroom.common.broker import Message
from greenroom.common.consumer import Drop
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, State, Transition
from greenroom.common.messages import LedgerEntry
from greenroom.recorder.ingest import Step, advance, decode
from greenroom.recorder.transaction import StoredSession

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASED = Leased(runner_id="r", epoch=1, expires_at=AT + timedelta(seconds=5))


def session(**fields: Any) -> Session:
    """Return a session as it is requested."""
    values: dict[str, Any] = {
        "id": "s",
        "tenant": "t",
        "agent": "a",
        "bot": "b",
        "requested_at": AT,
        "queue_deadline_at": AT,
    }
    return lifecycle.apply(None, Requested(session=Session(**values | fields)), AT)


def ledger_message(after: Session, transition: Transition, *, seq: int, written_on: int | None) -> Message:
    """Return a message as the ledger writes it."""
    entry = LedgerEntry(id=f"entry-{seq}", at=AT, transition=transition, session=after)
    headers = {} if written_on is None else {"Nats-Expected-Last-Subject-Sequence": str(written_on)}
    return Message(subject="gr.v1.session.t.s.lifecycle", data=messages.encode(entry), headers=headers, stream_seq=seq)


def decoded(after: Session, transition: Transition, *, seq: int, written_on: int) -> Step:
    """Return what the recorder reads from the ledger's message."""
    item = decode(ledger_message(after, transition, seq=seq, written_on=written_on))
    assert item.step is not None
    return item.step


def step(before: StoredSession | None, transition: Transition, *, seq: int, written_on: int) -> Step:
    """Return a legal step from `before`."""
    after = lifecycle.apply(before.session if before else None, transition, AT)
    return decoded(after, transition, seq=seq, written_on=written_on)


def test_transition_as_event() -> None:
    """A transition is in the history under its own type, with its fields and where it led, without the document."""
    item = decode(ledger_message(session(), Requested(session=session()), seq=7, written_on=0))
    event = item.event
    assert (event.type, event.source, event.id, item.stream_seq) == ("session.requested", "ledger", "entry-7", 7)
    assert event.data == {"state": State.REQUESTED, "attempt": 1, "by": "api"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": b"{"}, "malformed"),
        ({"data": b'{"id": 1}'}, "malformed"),
        ({"subject": "gr.v1.session.other.s.lifecycle"}, "another session's"),
        ({"headers": {}}, "compare-and-set"),
        ({"headers": {"Nats-Expected-Last-Subject-Sequence": "-1"}}, "compare-and-set"),
    ],
)
def test_malformed_transition(change: dict[str, Any], reason: str) -> None:
    """A ledger message that isn't one, or that nobody fenced, is dropped with the reason."""
    message = ledger_message(session(), Requested(session=session()), seq=7, written_on=0)
    with pytest.raises(Drop, match=reason):
        decode(msgspec.structs.replace(message, **change))


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"surprise": 1}',
        b'{"at": "0001-01-01T00:00:00+23:59"}',
        b'{"id": "' + b"x" * 257 + b'"}',
        b'{"tenant": "other"}',
    ],
)
def test_malformed_event(body: bytes) -> None:
    """An event that breaks the rules of the envelope is dropped."""
    with pytest.raises(Drop, match="malformed"):
        decode(Message(subject="gr.v1.session.t.s.event.crm.ticket_opened", data=body, stream_seq=1))


def test_first_step() -> None:
    """A session begins by being requested."""
    item = step(None, Requested(session=session()), seq=3, written_on=0)
    after = advance(None, item)
    assert (after.session.state, after.revision) == (State.REQUESTED, 3)


def test_legal_step() -> None:
    """A step that was written on the revision we have, and is legal, leads to its document."""
    before = StoredSession(session=session(), revision=3)
    after = advance(before, step(before, LEASED, seq=9, written_on=3))
    assert (after.session.state, after.session.runner_id, after.revision) == (State.LEASED, "r", 9)


def test_repeated_step() -> None:
    """A message that comes again, or late, changes nothing."""
    requested = StoredSession(session=session(), revision=3)
    leased = advance(requested, step(requested, LEASED, seq=9, written_on=3))
    assert advance(leased, step(requested, LEASED, seq=9, written_on=3)) is leased
    assert advance(leased, step(None, Requested(session=session()), seq=3, written_on=0)) is leased


def test_overtaking_step() -> None:
    """A step that has overtaken the one before it stands, unchecked: the one it was written on isn't known yet."""
    requested = StoredSession(session=session(), revision=3)
    leased = StoredSession(session=lifecycle.apply(requested.session, LEASED, AT), revision=5)
    started = step(leased, Started(runner_id="r", epoch=1), seq=8, written_on=5)
    assert advance(requested, started).session.state is State.STARTED
    assert advance(None, started).session.state is State.STARTED


@pytest.mark.parametrize(
    ("transition", "lies", "reason"),
    [
        (Ready(epoch=0), {"state": State.READY}, "illegal-transition"),
        (Leased(runner_id="r", epoch=5, expires_at=AT), {"state": State.LEASED, "epoch": 5}, "stale-epoch"),
        (LEASED, {"state": State.READY, "epoch": 1}, "the lifecycle table"),
        (LEASED, {"state": State.LEASED, "epoch": 2}, "the lifecycle table"),
    ],
)
def test_illegal_step(transition: Transition, lies: dict[str, Any], reason: str) -> None:
    """A step that the table doesn't have, or whose document says something else than the table, is dropped."""
    before = StoredSession(session=session(), revision=3)
    document = msgspec.structs.replace(before.session, **lies)
    with pytest.raises(Drop, match=reason):
        advance(before, decoded(document, transition, seq=9, written_on=3))


def test_history_begun_anew() -> None:
    """A ledger that begins again for a session we know is dropped: its id was used twice."""
    ended = lifecycle.apply(session(), Ended(by="api", epoch=0, outcome=Outcome.CANCELED, reason="x"), AT)
    with pytest.raises(Drop, match="revision 0"):
        advance(
            StoredSession(session=ended, revision=30), step(None, Requested(session=session()), seq=99, written_on=0)
        )
