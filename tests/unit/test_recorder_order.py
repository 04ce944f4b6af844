"""What is known of a session never goes back, whatever comes in which order, how often and to how many recorders."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common import lifecycle, messages
from greenroom.common.broker import Message
from greenroom.common.lifecycle import (
    Ended,
    Ending,
    Leased,
    OnLoss,
    Outcome,
    Ready,
    Requested,
    Requeued,
    Session,
    Started,
    State,
    Transition,
)
from greenroom.common.messages import LedgerEntry
from greenroom.recorder.ingest import Step, advance, decode
from greenroom.recorder.reconcile import LastEntry, behind
from greenroom.recorder.transaction import StoredSession

AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


def possible(session: Session) -> list[Transition]:
    """Return steps that a session may take next."""
    epoch = session.epoch
    match session.state:
        case State.REQUESTED:
            return [Leased(runner_id="r", epoch=epoch + 1, expires_at=AT + timedelta(seconds=5))]
        case State.LEASED:
            return [Started(runner_id="r", epoch=epoch), Requeued(by="scheduler", epoch=epoch, reason="lease-expired")]
        case State.STARTED:
            return [Ready(epoch=epoch), Ending(by="api", epoch=epoch, outcome=Outcome.CANCELED, reason="x")]
        case State.READY:
            return [Ending(by="api", epoch=epoch, outcome=Outcome.COMPLETED, reason="x")]
        case State.ENDING:
            return [Ended(by="runner", epoch=epoch, outcome=Outcome.COMPLETED, reason="x")]
        case _:
            return []


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Draw a session's way through the ledger, at revisions with other messages between them."""
    values: dict[str, Any] = {
        "id": "s",
        "tenant": "t",
        "agent": "a",
        "bot": "b",
        "requested_at": AT,
        "queue_deadline_at": AT,
        "on_loss": OnLoss.ALWAYS,
    }
    transition: Transition = Requested(session=Session(**values))
    before: Session | None = None
    steps: list[Step] = []
    revision = 0
    for _ in range(draw(st.integers(1, 14))):
        before = lifecycle.apply(before, transition, AT)
        written_on, revision = revision, revision + draw(st.integers(1, 5))
        entry = LedgerEntry(id=f"e{revision}", at=AT, transition=transition, session=before)
        step = decode(
            Message(
                subject="gr.v1.session.t.s.lifecycle",
                data=messages.encode(entry),
                headers={"Nats-Expected-Last-Subject-Sequence": str(written_on)},
                stream_seq=revision,
            )
        ).step
        assert step is not None
        steps.append(step)
        following = possible(before)
        if not following:
            break
        transition = draw(st.sampled_from(following))
    return steps


class Row:
    """The row of a session, as the upsert keeps it: a newer document over an older one, never the other way round."""

    def __init__(self) -> None:
        self.stored: StoredSession | None = None

    def save(self, session: StoredSession) -> None:
        """Store a document, unless there is a newer one."""
        if self.stored is None or self.stored.revision < session.revision:
            self.stored = session


def folded(known: StoredSession | None, batch: Sequence[Step]) -> StoredSession | None:
    """Return what a recorder makes of a batch, of which it handles the older messages first."""
    for step in sorted(batch, key=lambda step: step.revision):
        known = advance(known, step)
    return known


@settings(max_examples=100, deadline=None)
@given(histories(), st.data())
def test_old_states_never_overwrite_newer_ones(history: list[Step], data: st.DataObject) -> None:
    """The row only ever goes on, nothing is refused, and when all have come it is the ledger's last word.

    Batches of any messages come again and again, to several recorders of which each may have read the row before
    others wrote it.
    """
    row = Row()
    read: dict[str, StoredSession | None] = {}
    came: set[int] = set()
    last_seen = 0
    for _ in range(data.draw(st.integers(0, 25))):
        recorder = data.draw(st.sampled_from(["first", "second", "reconciler"]))
        if recorder not in read:
            read[recorder] = row.stored
            continue
        batch = data.draw(st.lists(st.sampled_from(history), min_size=1, max_size=4))
        came |= {step.revision for step in batch}
        after = folded(read.pop(recorder), batch)
        assert after is not None
        row.save(after)
        assert row.stored is not None
        assert row.stored.revision >= last_seen
        assert row.stored.revision >= max(step.revision for step in batch)
        last_seen = row.stored.revision
    missing = [step for step in history if step.revision not in came]
    if missing:
        after = folded(row.stored, missing)
        assert after is not None
        row.save(after)
    assert row.stored == StoredSession(session=history[-1].entry.session, revision=history[-1].revision)


@given(histories(), st.integers(0, 80), st.integers(0, 80))
def test_behind_is_only_what_the_consumer_will_not_bring(history: list[Step], known: int, settled_to: int) -> None:
    """A session is read again if an entry is missing that the consumer is done with; then it isn't behind any more."""
    last = LastEntry(tenant="t", session_id="s", revision=history[-1].revision)
    missed = behind([last], {"s": known} if known else {}, settled_to)
    assert bool(missed) == (known < last.revision <= settled_to)
    assert behind([last], {"s": last.revision}, settled_to) == []
