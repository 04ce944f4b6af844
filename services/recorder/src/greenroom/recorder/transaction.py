"""What a batch of the stream does to PostgreSQL, in one transaction; errors are those of `recorder.store`."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event
from greenroom.recorder.database import Connection
from greenroom.recorder.documents import document_of, json_of, session_of
from greenroom.recorder.transcripts import speakers
from greenroom.recorder.usage import store as usage

# Those of a batch's sessions that were erased, which have no document here, and the others as they are stored: locked,
# in the order of their ids so that no two recorders deadlock. Whoever erases waits for the transaction that reads this.
_SELECT_KNOWN: Final = """
WITH erased AS MATERIALIZED (
    SELECT session_id FROM tombstones WHERE session_id = ANY($1::text[])
), known AS (
    SELECT id, document, ledger_revision FROM sessions
    WHERE id = ANY($1::text[]) AND id NOT IN (SELECT session_id FROM erased)
    ORDER BY id
    FOR NO KEY UPDATE
)
SELECT id, document, ledger_revision FROM known
UNION ALL SELECT session_id, NULL, NULL FROM erased
"""

# Newer documents over older ones, never the other way round; all columns are read out of the document.
_UPSERT_SESSIONS: Final = """
INSERT INTO sessions AS stored (
    id, tenant, agent, agent_version, bot, pool, transport, on_loss,
    state, epoch, attempt, runner_id, media_connected,
    requested_at, queue_deadline_at, lease_expires_at, leased_at, started_at, ready_at, ending_at, ended_at,
    outcome, reason, ended_by, detail, traceparent,
    document, ledger_revision
)
SELECT new.*, given.document, given.revision
FROM unnest($1::jsonb[], $2::bigint[]) AS given (document, revision)
CROSS JOIN LATERAL jsonb_to_record(given.document) AS new (
    id text, tenant text, agent text, agent_version integer, bot text, pool text, transport text, on_loss text,
    state text, epoch integer, attempt integer, runner_id text, media_connected boolean,
    requested_at timestamptz, queue_deadline_at timestamptz, lease_expires_at timestamptz, leased_at timestamptz,
    started_at timestamptz, ready_at timestamptz, ending_at timestamptz, ended_at timestamptz,
    outcome text, reason text, ended_by text, detail text, traceparent text
)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, epoch = excluded.epoch, attempt = excluded.attempt, runner_id = excluded.runner_id,
    media_connected = excluded.media_connected, queue_deadline_at = excluded.queue_deadline_at,
    lease_expires_at = excluded.lease_expires_at, leased_at = excluded.leased_at, started_at = excluded.started_at,
    ready_at = excluded.ready_at, ending_at = excluded.ending_at, ended_at = excluded.ended_at,
    outcome = excluded.outcome, reason = excluded.reason, ended_by = excluded.ended_by, detail = excluded.detail,
    document = excluded.document, ledger_revision = excluded.ledger_revision
WHERE stored.ledger_revision < excluded.ledger_revision
"""

# What is filled of an event, in the order of `_row`.
_EVENT_COLUMNS: Final = ("session_id", "stream_seq", "tenant", "id", "seq", "epoch", "source", "type", "at", "data")

# What happened, each once: what is there already (same stream sequence, or same id sent twice) is passed over.
# Says how many were new, and which sessions have ended by them.
_INSERT_EVENTS: Final = """
WITH stored AS (
    INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)
    SELECT * FROM unnest(
        $1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::integer[], $7::text[], $8::text[],
        $9::timestamptz[], $10::jsonb[]
    )
    ON CONFLICT DO NOTHING
    RETURNING session_id, type
)
SELECT count(*) AS rows, coalesce(array_agg(session_id) FILTER (WHERE type = 'session.ended'), '{}') AS ended
FROM stored
"""

# Something came after the purge: there is something to be purged again. Something was said ($2): its transcript is made
# again.
_REVIVE: Final = """
UPDATE sessions SET purged_at = NULL, transcribed_at = CASE WHEN id = ANY($2::text[]) THEN NULL ELSE transcribed_at END
WHERE id = ANY($1::text[]) AND (purged_at IS NOT NULL OR (transcribed_at IS NOT NULL AND id = ANY($2::text[])))
"""

# Speech of sessions that were sealed already (it was in the hands of a recorder that died): whoever saw them then may
# have seen less said, and looks again. What was told isn't told twice. Whoever looks at the same time as we store this
# waits until we are done (`post_call/store.py`), as nothing says that we have seen the seal.
_REMIND: Final = """
INSERT INTO post_call_sealed (session_id) SELECT id FROM sessions WHERE id = ANY($1::text[]) AND sealed_at IS NOT NULL
"""

_ENDED: Final = "session.ended"


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the projection has it."""

    session: Session
    # Stream sequence of the ledger message that the document comes from.
    revision: int


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event and where it is in the stream."""

    event: Event
    stream_seq: int


class StoredBefore(Exception):
    """Of events that were taken for new some are stored already: nothing of the transaction is kept."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch of events added: new rows, and the ids of the sessions whose end is among them."""

    rows: int
    ended: frozenset[str]


class Transaction:
    """One batch: read what is known, decide, write. Committed when its block is left without an error."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def look_up(self, ids: Iterable[str]) -> tuple[dict[str, StoredSession], set[str]]:
        """Return and lock those of `ids` that are stored, and return those that were erased.

        Until this transaction is over, none is erased for good.
        """
        rows = await self._connection.fetch(_SELECT_KNOWN, sorted(set(ids)))
        stored = {
            row["id"]: StoredSession(session=session_of(row["document"]), revision=row["ledger_revision"])
            for row in rows
            if row["document"] is not None
        }
        return stored, {row["id"] for row in rows if row["document"] is None}

    async def save_sessions(self, sessions: Sequence[StoredSession]) -> None:
        """Store the documents, one a session, unless a newer one is there."""
        if not sessions:
            return
        ordered = sorted(sessions, key=lambda stored: stored.session.id)
        await self._connection.execute(
            _UPSERT_SESSIONS,
            [document_of(stored.session) for stored in ordered],
            [stored.revision for stored in ordered],
        )

    async def add_events(
        self,
        events: Sequence[StoredEvent],
        *,
        ended: Collection[str] | None = None,
        over: Collection[str] | None = None,
        new: bool = False,
    ) -> Stored:
        """Store events whose sessions are stored; those that are there already are passed over.

        Args:
            events: what happened.
            ended: those of the sessions that are over by now, and so are to be counted; None: it isn't known.
            over: those that were so before this transaction, and so may have been sealed, transcribed or purged; None:
                it isn't known.
            new: none of them has been stored yet, as far as anybody knows. Then they are copied, which takes half as
                long, and can't pass over anything.

        Raises:
            StoredBefore: that was wrong.
        """
        stored = await self._copy(events) if new else await self._insert(events)
        if not stored.rows:
            return stored
        whose = {each.event.session_id for each in events}
        if late := whose if over is None else whose.intersection(over):
            heard = speakers([each.event for each in events if each.event.session_id in late])
            await self._connection.execute(_REVIVE, sorted(late), heard)
            if heard:
                await self._connection.execute(_REMIND, heard)
        if due := whose if ended is None else whose.intersection(ended):
            await usage.mark(self._connection, sorted(due))
        return stored

    async def _copy(self, events: Sequence[StoredEvent]) -> Stored:
        try:
            await self._connection.copy_records_to_table(
                "session_events", records=map(_row, events), columns=_EVENT_COLUMNS
            )
        except asyncpg.UniqueViolationError as error:
            raise StoredBefore from error
        ended = frozenset(stored.event.session_id for stored in events if stored.event.type == _ENDED)
        return Stored(rows=len(events), ended=ended)

    async def _insert(self, events: Sequence[StoredEvent]) -> Stored:
        columns = [list(column) for column in zip(*map(_row, events), strict=True)]
        row = await self._connection.fetchrow(_INSERT_EVENTS, *(columns or [[] for _ in _EVENT_COLUMNS]))
        return Stored(rows=row["rows"], ended=frozenset(row["ended"]))


def _row(stored: StoredEvent) -> tuple[Any, ...]:
    """Return the columns of an event, as `_EVENT_COLUMNS` names them."""
    event = stored.event
    return (
        event.session_id,
        stored.stream_seq,
        event.tenant,
        event.id,
        event.seq,
        event.epoch,
        event.source,
        event.type,
        event.at,
        json_of(event.data),
    )
