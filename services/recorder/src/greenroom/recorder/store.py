"""What the recorder knows of sessions and their recordings: a line over each query says what it is for.

Every method raises `DatabaseUnavailable` when the same call may succeed later, and `UnstorableRow` when it never
will.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from greenroom.common.lifecycle import Session
from greenroom.recorder.database import Pool, translated
from greenroom.recorder.documents import json_of, session_of
from greenroom.recorder.together import Together
from greenroom.recorder.transaction import Transaction

_log = structlog.get_logger()

# Sessions whose document can't be read: so many are passed over before they would keep others from being seen.
_MAX_UNREADABLE: Final = 10_000

# Sessions marked by one statement.
_MOST_MARKED: Final = 200

# Sessions that were erased.
_SELECT_ERASED: Final = "SELECT session_id FROM tombstones WHERE session_id = ANY($1::text[])"

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
        return {row["id"]: AudioPermit(session=session_of(row["document"]), sealed=row["sealed"]) for row in rows}

    async def unsealed(self, *, besides: Iterable[str], limit: int) -> list[Session]:
        """Return sessions that have ended and aren't sealed, without those of `besides`, oldest end first.

        One whose document can't be read is left to a version that can, and keeps nobody from the others.
        """
        with translated():
            rows = await self._pool.fetch(_SELECT_UNSEALED, sorted(self._unreadable.union(besides)), limit)
        found: list[Session] = []
        for row in rows:
            try:
                found.append(session_of(row["document"]))
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
                json_of(row.gaps),
                json_of(row.manifest),
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
