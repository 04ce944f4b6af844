"""The consumer of SESSIONS: transitions and events become rows, in batches, acknowledged once they are committed.

The projection believes the ledger only as far as the lifecycle table allows. Each ledger message says on which
revision it was written (the header of its compare-and-set): where that is the revision we have, the step must be
a legal one; where it is a later one, a message in between hasn't come yet, and the newer document stands.

Any number of recorders take batches from the one consumer, so a session's messages may be in several hands at once,
and come in any order. Their order is that of the stream, which is in the key; each batch locks its sessions before it
writes, in the order of their ids, so two that have one in common are stored one after the other.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from greenroom.common import lifecycle, messages, subjects, telemetry
from greenroom.common.broker import Broker, Message
from greenroom.common.consumer import MAX_BATCH_BYTES, Consumer, Drop, Retry, malformed
from greenroom.common.errors import (
    BrokerUnavailable,
    DatabaseUnavailable,
    IllegalTransition,
    MalformedEvent,
    StaleEpoch,
)
from greenroom.common.events import decode_event, event_of
from greenroom.common.ledger import STREAM
from greenroom.common.lifecycle import Session
from greenroom.common.messages import LedgerEntry
from greenroom.common.metrics import Metrics
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.retention.sweep import forget_events
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import Stored, StoredBefore, StoredEvent, StoredSession

_log = structlog.get_logger()

CONSUMER: Final = "recorder-sessions"
# How long a message waits for others: history lags by as much (live readers read the stream itself). A start is five
# messages in 15 ms, and a transaction for each of them took half of what the machine had left for it.
LINGER_S: Final = 0.25
EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"
_LIFECYCLE: Final = ".lifecycle"
# While PostgreSQL is away; messages wait in the broker meanwhile.
AWAY_RETRY_S: Final = 1.0
BATCH_ROWS_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
# A full batch takes 0.1 s, and several times that on a busy machine.
BEHIND_S: Final = 1.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger entry and where it is in the ledger; revisions are stream sequences."""

    entry: LedgerEntry
    revision: int
    # The revision that it was written on, by compare-and-set; 0: it is the first.
    written_on: int


class Incoming(StoredEvent, frozen=True, kw_only=True):
    """One message of the stream: an event, and for a transition the step that it stands for."""

    step: Step | None = None
    # Whether it was delivered before: then it may be stored already.
    again: bool = False

    @property
    def session_id(self) -> str:
        """Whose."""
        return self.event.session_id

    @property
    def tenant(self) -> str:
        """Whose session."""
        return self.event.tenant


def decode(message: Message) -> Incoming:
    """Return what is in a message of SESSIONS.

    Raises:
        Drop: it is malformed.
    """
    # Most are events, and taking a subject apart takes longer than looking at its end.
    if message.subject.endswith(_LIFECYCLE) and (tokens := subjects.SESSION_LIFECYCLE.parse(message.subject)):
        return _decode_transition(message, tokens["tenant"], tokens["session_id"])
    try:
        event = decode_event(message)
    except MalformedEvent as error:
        raise Drop(f"malformed: {error}") from error
    return Incoming(event=event, stream_seq=message.stream_seq, again=message.deliveries > 1)


def _decode_transition(message: Message, tenant: str, session_id: str) -> Incoming:
    try:
        entry = messages.decode(message.data, LedgerEntry)
    except msgspec.MsgspecError as error:
        raise malformed(error) from error
    if (entry.session.tenant, entry.session.id) != (tenant, session_id):
        raise Drop("malformed: the document is another session's than the subject says")
    written_on = message.headers.get(EXPECTED_LAST, "")
    if not written_on.isdecimal():
        raise Drop("malformed: it wasn't written by compare-and-set")
    return Incoming(
        event=event_of(entry),
        stream_seq=message.stream_seq,
        step=Step(entry=entry, revision=message.stream_seq, written_on=int(written_on)),
        again=message.deliveries > 1,
    )


class Ingest:
    """Stores transitions and events.

    Args:
        broker: where they come from.
        store: where they go.
        on_ended: called with each session whose end is stored, also when it was stored before.
        metrics: rows, batches, duplicates.
        max_batch: messages in one transaction at most.
        max_batch_bytes: bytes in one transaction at most.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        on_ended: Callable[[Session], None],
        metrics: Metrics,
        max_batch: int,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self.consumer: Final = Consumer(
            broker,
            STREAM,
            CONSUMER,
            decode=decode,
            handle=self.handle,
            max_batch=max_batch,
            max_batch_bytes=max_batch_bytes,
            linger_s=LINGER_S,
            ahead=True,
        )
        self._broker = broker
        self._store = store
        self._on_ended = on_ended
        self._full_at = -BEHIND_S
        self._rows = metrics.counter("recorder_rows", "Rows stored", ["table"])
        self._duplicates = metrics.counter("recorder_duplicate_events", "Events that were stored already")
        self._erased = metrics.counter("recorder_events_of_erased", "Events that came after their session was erased")
        self._batch_rows = metrics.histogram(
            "recorder_batch_rows", "Messages in one transaction", buckets=BATCH_ROWS_BUCKETS
        )
        self._batch_s = metrics.histogram("recorder_batch_seconds", "From a batch's arrival to its commit")

    @property
    def behind(self) -> bool:
        """Whether a full batch has come in the last second: more are waiting, in all likelihood."""
        return time.monotonic() - self._full_at < BEHIND_S

    async def run(self) -> None:
        """Consume until canceled."""
        await self.consumer.run()

    async def handle(self, batch: Sequence[Incoming]) -> None:
        """Store a batch; when this returns, it is committed.

        Raises:
            Retry: PostgreSQL or the broker is away.
            Drop: something in it can never be stored.
        """
        began_ns, began = time.time_ns(), time.monotonic()
        if len(batch) >= self.consumer.at_once:
            self._full_at = began
        ordered = sorted(batch, key=lambda item: item.stream_seq)
        try:
            try:
                done = await self._store_all(ordered, new=not any(item.again for item in ordered))
            except StoredBefore:
                done = await self._store_all(ordered, new=False)
        except (DatabaseUnavailable, BrokerUnavailable) as error:
            _log.warning("batch_not_stored", code=error.code, messages=len(batch), again_in_s=AWAY_RETRY_S)
            # It may be there, but so slow that so many rows take longer than a statement may.
            raise Retry(AWAY_RETRY_S, fewer=True) from error
        except UnstorableRow as error:
            raise Drop(str(error)) from error
        ordered, changed, stored = done
        self._rows.inc(changed, table="sessions")
        self._rows.inc(stored.rows, table="session_events")
        self._duplicates.inc(len(ordered) - stored.rows)
        self._batch_rows.observe(len(ordered))
        self._batch_s.observe(time.monotonic() - began)
        self._after_commit(ordered, stored.ended, began_ns)

    async def _store_all(self, batch: list[Incoming], *, new: bool) -> tuple[list[Incoming], int, Stored]:
        """Store a batch in one transaction; return what was to be stored of it, the sessions changed, and the rest."""
        async with self._store.transaction() as transaction:
            known, erased = await transaction.look_up({item.event.session_id for item in batch})
            over = {id_ for id_, stored in known.items() if stored.session.ended}
            kept = await self._without(erased, batch) if erased else batch
            changed = await self._fold(kept, known)
            await transaction.save_sessions(changed)
            ended = {id_ for id_, stored in known.items() if stored.session.ended}
            stored = await transaction.add_events(kept, ended=ended, over=over, new=new)
            return kept, len(changed), stored

    async def _without(self, erased: set[str], batch: list[Incoming]) -> list[Incoming]:
        """Return what is to be stored of a batch; what came late of erased sessions is forgotten by the broker too."""
        late = [item for item in batch if item.session_id in erased]
        for tenant, session_id in {(item.tenant, item.session_id) for item in late}:
            await forget_events(self._broker, tenant, session_id)
        self._erased.inc(len(late))
        return [item for item in batch if item.session_id not in erased]

    async def _fold(self, batch: Sequence[Incoming], known: dict[str, StoredSession]) -> list[StoredSession]:
        """Return the documents that `batch` leads to, one a session, and put them into `known`."""
        changed: dict[str, StoredSession] = {}
        for item in batch:
            event = item.event
            before = known.get(event.session_id)
            if before is not None and before.session.tenant != event.tenant:
                raise Drop("the session belongs to another tenant")
            if item.step is not None:
                after = advance(before, item.step)
                if after is not before:
                    known[event.session_id] = changed[event.session_id] = after
            elif before is None:
                known[event.session_id] = changed[event.session_id] = await self._from_ledger(item)
        return list(changed.values())

    async def _from_ledger(self, item: Incoming) -> StoredSession:
        """Return the session of an event that has overtaken its session's request.

        That happens when the request was in the hands of a recorder that died: it comes again after a while, and
        nothing waits for it meanwhile.
        """
        subject = subjects.SESSION_LIFECYCLE.format(tenant=item.tenant, session_id=item.session_id)
        message = await self._broker.last(STREAM, subject)
        step = decode(message).step if message is not None else None
        if step is None:
            # In a cluster any server answers that, also one that is behind; what isn't there the stream's leader says.
            if message is None and await self._broker.count(STREAM, subject):
                raise Retry(AWAY_RETRY_S)
            raise Drop("there is no such session")
        return StoredSession(session=step.entry.session, revision=step.revision)

    def _after_commit(self, batch: Sequence[Incoming], newly_ended: frozenset[str], began_ns: int) -> None:
        for item in batch:
            if item.step is None or not item.step.entry.session.ended:
                continue
            session = item.step.entry.session
            if session.id in newly_ended:
                _log.info("session_stored", session_id=session.id, tenant=session.tenant, outcome=session.outcome)
                if session.traceparent is not None:
                    _trace_persist(session, began_ns, len(batch))
            self._on_ended(session)


def _trace_persist(session: Session, began_ns: int, batch_rows: int) -> None:
    """Leave one span in the session's trace: from the arrival of its end to the commit."""
    with telemetry.session_span(
        "session.persist",
        session_id=session.id,
        tenant=session.tenant,
        traceparent=session.traceparent,
        kind=SpanKind.CONSUMER,
        start_time_ns=began_ns,
        attributes={"greenroom.outcome": session.outcome or "", "greenroom.batch_rows": batch_rows},
    ):
        pass


def advance(before: StoredSession | None, step: Step) -> StoredSession:
    """Return what is known of a session after a step; `before` itself where the step is an old one.

    Args:
        before: what is known of it; None: nothing.
        step: the step.

    Raises:
        Drop: the lifecycle table has no such step, or it contradicts what was stored before.
    """
    if before is not None and step.revision <= before.revision:
        return before
    known_to = before.revision if before is not None else 0
    if step.written_on < known_to:
        raise Drop(f"it was written on revision {step.written_on}, but the session is at {known_to}")
    if step.written_on == known_to:
        _check(before.session if before is not None else None, step.entry)
    return StoredSession(session=step.entry.session, revision=step.revision)


def _check(before: Session | None, entry: LedgerEntry) -> None:
    try:
        expected = lifecycle.apply(before, entry.transition, entry.at)
    except (IllegalTransition, StaleEpoch) as error:
        raise Drop(f"{error.code}: {error.detail}") from error
    if _place(expected) != _place(entry.session):
        raise Drop(f"the document says {_place(entry.session)}, the lifecycle table {_place(expected)}")


def _place(session: Session) -> tuple[str, int, int, str | None]:
    """Return what the lifecycle decides of a session; other fields may grow with versions."""
    return (session.state.value, session.epoch, session.attempt, session.outcome and session.outcome.value)
