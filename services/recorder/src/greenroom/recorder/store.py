"""All SQL of the recorder: a line over each query says what it is for.

Every method raises `DatabaseUnavailable` when the same call may succeed later, and `UnstorableRow` when it never
will.
"""

import re
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from greenroom.common import messages
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event
from greenroom.recorder.database import Connection, Pool, translated
from greenroom.recorder.together import Together
from greenroom.recorder.transcripts import speakers
from greenroom.recorder.usage import store as usage

_log = structlog.get_logger()

# Sessions whose document can't be read: so many are passed over before they would keep others from being seen.
_MAX_UNREADABLE: Final = 10_000

# Sessions marked by one statement.
_MOST_MARKED: Final = 200

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

# Sessions that were erased.
_SELECT_ERASED: Final = "SELECT session_id FROM tombstones WHERE session_id = ANY($1::text[])"

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

# Who may still add audio to which sessions.
_SELECT_FOR_AUDIO: Final = """
SELECT id, tenant, document, sealed_at IS NOT NULL AS sealed FROM sessions WHERE id = ANY($1::text[])
"""

# Ended and not sealed: the ones a recorder before us left behind, oldest first.
_SELECT_UNSEALED: Final = """
SELECT id, document FROM sessions
WHERE state = 'ended' AND sealed_at IS NULL AND NOT id = ANY($1::text[])
ORDER BY ended_at LIMIT $2
"""

# The recording as it lies on the disk; written again when sealing was interrupted behind this point.
_UPSERT_RECORDING: Final = """
INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps, manifest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb)
ON CONFLICT (session_id) DO UPDATE SET
    path = excluded.path, format = excluded.format, duration_s = excluded.duration_s, channels = excluded.channels,
    rate = excluded.rate, bytes = excluded.bytes, sha256 = excluded.sha256, gaps = excluded.gaps,
    manifest = excluded.manifest
"""

# From here on no audio is taken for the session, and it may be purged.
_MARK_SEALED: Final = "UPDATE sessions SET sealed_at = now() WHERE id = $1 AND sealed_at IS NULL"

# The same for many, besides those that somebody else has now: nobody is waited for, so no two deadlock. Says which.
_MARK_ALL_SEALED: Final = """
WITH free AS (
    SELECT id FROM sessions WHERE id = ANY($1::text[]) AND sealed_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE sessions SET sealed_at = now() FROM free WHERE sessions.id = free.id RETURNING sessions.id
"""

# Whose parts are left over from a sealing that stopped behind its commit, or came after the session was erased.
_SELECT_SEALED: Final = """
SELECT id FROM sessions WHERE id = ANY($1::text[]) AND sealed_at IS NOT NULL
UNION ALL SELECT session_id FROM tombstones WHERE session_id = ANY($1::text[])
"""

# Live sessions whose client has been connected for $1 seconds in the present attempt, and that were not told of yet.
# Who is connected is found first, by its own index: what is asked of the events looks so dear to the planner (it counts
# each month, though a session is in one) that it would rather share out all sessions among several processes.
_SELECT_UNHEARD: Final = """
WITH session AS MATERIALIZED (
    SELECT id, tenant, epoch FROM sessions
    WHERE state IN ('ready', 'ending') AND media_connected
        AND NOT coalesce((document -> 'recording' -> 'off')::boolean, false)
)
SELECT session.id, session.tenant, session.epoch, connected.at
FROM session
CROSS JOIN LATERAL (
    SELECT at FROM session_events
    WHERE session_id = session.id AND type = 'session.connected' AND epoch = session.epoch
    ORDER BY stream_seq LIMIT 1
) AS connected
WHERE connected.at < now() - make_interval(secs => $1)
    AND NOT EXISTS (SELECT FROM session_events WHERE session_id = session.id AND type = 'recording.missing')
ORDER BY connected.at LIMIT $2
"""

# Sealed sessions in which nothing has happened for the time of grace, with the last thing that is stored of each.
_SELECT_PURGEABLE: Final = """
SELECT session.id, session.tenant, newest.stream_seq
FROM sessions AS session
CROSS JOIN LATERAL (
    SELECT stream_seq, stored_at FROM session_events
    WHERE session_id = session.id ORDER BY stream_seq DESC LIMIT 1
) AS newest
WHERE session.sealed_at IS NOT NULL AND session.purged_at IS NULL
    AND session.ended_at < now() - make_interval(secs => $1)
    AND newest.stored_at < now() - make_interval(secs => $1)
ORDER BY session.ended_at LIMIT $2
"""

# The broker has forgotten it up to $2; not true any more if something was stored since.
_MARK_PURGED: Final = """
UPDATE sessions SET purged_at = now()
WHERE id = $1 AND NOT EXISTS (SELECT FROM session_events WHERE session_id = $1 AND stream_seq > $2)
"""

_ENDED: Final = "session.ended"

# An escaped NUL, which PostgreSQL can't store; an even number of backslashes before it are backslashes of their own.
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the projection has it."""

    session: Session
    # Stream sequence of the ledger message that the document comes from.
    revision: int


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event and where it is in the stream."""

    event: Event
    stream_seq: int


class AudioPermit(msgspec.Struct, frozen=True, kw_only=True):
    """Whose audio a session takes."""

    session: Session
    sealed: bool


class RecordingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed recording; `path` is relative to the folder of recordings."""

    session_id: str
    tenant: str
    path: str
    format: str
    duration_s: float
    channels: int
    rate: int
    bytes: int
    sha256: str
    gaps: Any
    manifest: Any


class Purgeable(msgspec.Struct, frozen=True, kw_only=True):
    """A session that the broker may forget up to `stream_seq`."""

    session_id: str
    tenant: str
    stream_seq: int


class Unheard(msgspec.Struct, frozen=True, kw_only=True):
    """A live session whose client is connected, by its present attempt."""

    session_id: str
    tenant: str
    epoch: int
    connected_at: datetime


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
            row["id"]: StoredSession(session=_session(row["document"]), revision=row["ledger_revision"])
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
            [_whole_document(stored.session) for stored in ordered],
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


class Store:
    """What the recorder keeps in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._unreadable: set[str] = set()
        self._marking = Together(self._mark_sealed, most=_MOST_MARKED)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Begin a batch."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                yield Transaction(connection)

    async def ping(self) -> None:
        """Make sure that the database answers."""
        with translated():
            await self._pool.fetchval("SELECT 1")

    async def audio_permits(self, ids: Iterable[str]) -> dict[str, AudioPermit]:
        """Return the stored sessions among `ids`, and whether each is sealed."""
        with translated():
            rows = await self._pool.fetch(_SELECT_FOR_AUDIO, sorted(set(ids)))
        return {row["id"]: AudioPermit(session=_session(row["document"]), sealed=row["sealed"]) for row in rows}

    async def unsealed(self, *, besides: Iterable[str], limit: int) -> list[Session]:
        """Return sessions that have ended and aren't sealed, without those of `besides`, oldest end first.

        One whose document can't be read is left to a version that can, and keeps nobody from the others.
        """
        with translated():
            rows = await self._pool.fetch(_SELECT_UNSEALED, sorted(self._unreadable.union(besides)), limit)
        found: list[Session] = []
        for row in rows:
            try:
                found.append(_session(row["document"]))
            except msgspec.MsgspecError as error:
                _log.error("session_unreadable", session_id=row["id"], error=str(error))
                if len(self._unreadable) < _MAX_UNREADABLE:
                    self._unreadable.add(row["id"])
        return found

    async def sealed(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that are sealed."""
        with translated():
            rows = await self._pool.fetch(_SELECT_SEALED, sorted(set(ids)))
        return {row["id"] for row in rows}

    async def erased(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that were erased."""
        with translated():
            rows = await self._pool.fetch(_SELECT_ERASED, sorted(set(ids)))
        return {row["session_id"] for row in rows}

    async def save_recording(self, row: RecordingRow) -> None:
        """Store where a session's recording is."""
        with translated():
            await self._pool.execute(
                _UPSERT_RECORDING,
                row.session_id,
                row.tenant,
                row.path,
                row.format,
                row.duration_s,
                row.channels,
                row.rate,
                row.bytes,
                row.sha256,
                _json(row.gaps),
                _json(row.manifest),
            )

    async def mark_sealed(self, session_id: str) -> None:
        """Say that the session's recording is done, or that there is none; with others that say it now."""
        if await self._marking.ask(session_id):
            return
        # Somebody is storing something of it: that is waited for, and keeps no other from its mark.
        with translated():
            await self._pool.execute(_MARK_SEALED, session_id)

    async def _mark_sealed(self, session_ids: Sequence[str]) -> list[bool]:
        with translated():
            marked = {row["id"] for row in await self._pool.fetch(_MARK_ALL_SEALED, session_ids)}
        return [session_id in marked for session_id in session_ids]

    async def unheard(self, *, after_s: float, limit: int) -> list[Unheard]:
        """Return live sessions whose client has been connected for `after_s`, as far as nobody was told of them."""
        with translated():
            rows = await self._pool.fetch(_SELECT_UNHEARD, after_s, limit)
        return [
            Unheard(session_id=row["id"], tenant=row["tenant"], epoch=row["epoch"], connected_at=row["at"])
            for row in rows
        ]

    async def purgeable(self, *, grace_s: float, limit: int) -> list[Purgeable]:
        """Return sealed sessions in which nothing has happened for `grace_s`, oldest end first."""
        with translated():
            rows = await self._pool.fetch(_SELECT_PURGEABLE, grace_s, limit)
        return [Purgeable(session_id=row["id"], tenant=row["tenant"], stream_seq=row["stream_seq"]) for row in rows]

    async def mark_purged(self, purged: Purgeable) -> None:
        """Say that the broker has forgotten the session up to `purged.stream_seq`."""
        with translated():
            await self._pool.execute(_MARK_PURGED, purged.session_id, purged.stream_seq)


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
        _json(event.data),
    )


def _session(document: str) -> Session:
    return messages.decode(document.encode(), Session)


def _whole_document(session: Session) -> str:
    """Return the document with its defaults, which `Session` leaves out on the wire, so that SQL sees them."""
    return _json({name: getattr(session, name) for name in session.__struct_fields__})


def _json(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text
