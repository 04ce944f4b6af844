"""All SQL of webhooks out. Every method raises `DatabaseUnavailable`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from greenroom.common.webhook_secrets import ENCRYPTED
from greenroom.recorder.database import Connection, Pool, translated
from greenroom.recorder.webhooks.schedule import Outcome, Verdict

# Takes lanes that are due: $1 and $2 say how many requests each endpoint has here already, $3 how many it may have,
# $4 how many lanes are wanted, $5 whether endpoints that fail are meant, $6 for how long they are taken.
_TAKE: Final = """
WITH due AS (
    SELECT lane.endpoint_id, lane.lane
    FROM (
        SELECT id, $3 - coalesce(busy.requests, 0) AS room
        FROM webhook_endpoints
        LEFT JOIN unnest($1::text[], $2::integer[]) AS busy (endpoint_id, requests) ON busy.endpoint_id = id
        WHERE enabled AND deleted_at IS NULL AND paused_until <= now() AND (failures > 0) = $5
        -- Where not all can have something now, it isn't always the same that have nothing.
        ORDER BY random()
    ) AS endpoint
    CROSS JOIN LATERAL (
        SELECT endpoint_id, lane FROM webhook_lanes
        WHERE endpoint_id = endpoint.id AND next_at <= now()
        ORDER BY next_at LIMIT greatest(endpoint.room, 0)
        FOR UPDATE SKIP LOCKED
    ) AS lane
    LIMIT $4
),
taken AS (
    UPDATE webhook_lanes AS lane SET next_at = now() + make_interval(secs => $6)
    FROM due WHERE lane.endpoint_id = due.endpoint_id AND lane.lane = due.lane
    RETURNING lane.endpoint_id, lane.lane
)
SELECT taken.endpoint_id, taken.lane, head.id, head.type, head.session_id, head.position, head.attempts,
    head.created_at, head.give_up_at, endpoint.tenant, endpoint.url, endpoint.secret, endpoint.failures,
    CASE WHEN endpoint.old_secret_until > now() THEN endpoint.old_secret END AS old_secret,
    event.id AS event_id, event.at, event.source, event.data,
    session.agent, session.agent_version, session.transport, session.metadata, session.requested_at,
    session.ready_at, session.ended_at,
    (head.type = 'webhook.test' OR head.event_id = head.lane) AS is_test,
    notice.id AS notice_id, notice.at AS notice_at, notice.source AS notice_source, notice.data AS notice_data
FROM taken
JOIN webhook_endpoints AS endpoint ON endpoint.id = taken.endpoint_id
LEFT JOIN LATERAL (
    SELECT * FROM webhook_deliveries
    WHERE endpoint_id = taken.endpoint_id AND lane = taken.lane AND state = 'pending'
    ORDER BY position LIMIT 1
) AS head ON true
LEFT JOIN session_events AS event ON event.session_id = head.session_id AND event.stream_seq = head.position
LEFT JOIN sessions AS session ON session.id = head.session_id
-- One by one, by its key: an estimate of how many there are decides nothing.
LEFT JOIN LATERAL (
    SELECT id, at, source, data FROM notices WHERE head.session_id IS NULL AND id = head.event_id LIMIT 1
) AS notice ON true
"""

# Nobody may change what is pending in a lane between the two statements behind this one.
_LOCK_LANE: Final = "SELECT FROM webhook_lanes WHERE endpoint_id = $1 AND lane = $2 FOR UPDATE"

# Of two that sent the same (the first was given up too early) the first one is right.
_NOTE_ATTEMPT: Final = """
UPDATE webhook_deliveries SET
    state = $2, attempts = attempts + 1, last_status = $3, last_error = nullif($4, ''), last_at = now(),
    settled_at = CASE WHEN $2 <> 'pending' THEN now() END
WHERE id = $1 AND state = 'pending'
"""

_PUT_OFF_LANE: Final = """
UPDATE webhook_lanes SET next_at = now() + make_interval(secs => $3) WHERE endpoint_id = $1 AND lane = $2
"""

# The next one's turn.
_NEXT_IN_LANE: Final = """
UPDATE webhook_lanes SET next_at = now()
WHERE endpoint_id = $1 AND lane = $2 AND EXISTS (
    SELECT FROM webhook_deliveries WHERE endpoint_id = $1 AND lane = $2 AND state = 'pending'
)
RETURNING true
"""
_REMOVE_LANE: Final = "DELETE FROM webhook_lanes WHERE endpoint_id = $1 AND lane = $2"

_NOTE_SUCCESS: Final = """
UPDATE webhook_endpoints SET failures = 0, paused_until = '-infinity' WHERE id = $1 AND failures > 0
"""
_NOTE_FAILURE: Final = """
UPDATE webhook_endpoints SET failures = failures + 1, paused_until = now() + make_interval(secs => $2) WHERE id = $1
"""
_DISABLE: Final = """
UPDATE webhook_endpoints SET enabled = false, disabled_reason = $2, updated_at = now() WHERE id = $1 AND enabled
"""

# What waited behind others until its time was long over, or whose endpoint is disabled.
_EXPIRE: Final = """
WITH overdue AS (
    SELECT id FROM webhook_deliveries
    WHERE state = 'pending' AND give_up_at < now() - make_interval(secs => $1)
    ORDER BY give_up_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS delivery
SET state = 'dead', settled_at = now(), last_error = coalesce(last_error, 'not-tried-in-time')
FROM overdue WHERE delivery.id = overdue.id
RETURNING delivery.id
"""

# Deliveries that were settled long ago, the oldest first, and those of endpoints that were deleted, endpoint by
# endpoint: so indices are gone by, whatever the values may be.
_FORGET: Final = """
DELETE FROM webhook_deliveries WHERE id IN (
    (SELECT id FROM webhook_deliveries
        WHERE state = 'delivered' AND settled_at < now() - make_interval(secs => $1) ORDER BY settled_at LIMIT $3)
    UNION ALL
    (SELECT id FROM webhook_deliveries
        WHERE state = 'dead' AND settled_at < now() - make_interval(secs => $2) ORDER BY settled_at LIMIT $3)
    UNION ALL
    (SELECT delivery.id FROM webhook_endpoints AS endpoint
        CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries WHERE endpoint_id = endpoint.id ORDER BY created_at DESC, id DESC LIMIT $3
        ) AS delivery
        WHERE endpoint.deleted_at < now() - interval '1 minute' LIMIT $3)
)
"""
_FORGET_ENDPOINTS: Final = """
DELETE FROM webhook_endpoints AS endpoint
WHERE deleted_at < now() - interval '1 minute'
    AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE endpoint_id = endpoint.id)
"""

# Notices outlive the deliveries that are made of them.
_FORGET_NOTICES: Final = "DELETE FROM notices WHERE stored_at < now() - make_interval(secs => $1)"

# Endpoints with a secret that isn't encrypted ($1: how those begin that are), and one that is now, unless it was
# changed meanwhile.
_PLAIN: Final = """
SELECT id, tenant, secret, coalesce(old_secret, '') AS old_secret FROM webhook_endpoints
WHERE deleted_at IS NULL AND NOT (starts_with(secret, $1) AND starts_with(coalesce(old_secret, $1), $1))
"""
_ENCRYPTED: Final = """
UPDATE webhook_endpoints SET secret = $4, old_secret = nullif($5, '')
WHERE id = $1 AND secret = $2 AND coalesce(old_secret, '') = $3 RETURNING id
"""

_COUNT_PENDING: Final = "SELECT count(*) FROM webhook_deliveries WHERE state = 'pending'"


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload says of the session beside its id."""

    agent: str
    agent_version: int
    transport: str
    metadata: dict[str, Any]
    requested_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload is made of."""

    id: str
    at: datetime
    source: str
    data: dict[str, Any]
    session: SessionFacts


class StoredNotice(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload is made of that concerns no session."""

    id: str
    at: datetime
    source: str
    data: dict[str, Any]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery whose turn it is; its lane is taken. `event` is None where it was erased.

    What concerns no session has a `notice` instead, or is a test (`is_test`).
    """

    id: str
    endpoint_id: str
    lane: str
    tenant: str
    type: str
    session_id: str | None
    position: int
    attempts: int
    created_at: datetime
    give_up_at: datetime
    url: str
    # All that sign, as they are kept; in no log.
    secrets: tuple[str, ...]
    failures: int
    is_test: bool
    event: StoredEvent | None
    notice: StoredNotice | None

    def __repr__(self) -> str:
        """Return what tells it from others."""
        return f"Job(id={self.id!r}, endpoint_id={self.endpoint_id!r}, lane={self.lane!r})"


class KeptSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets of an endpoint as they are kept: the one that holds, and the one before it (empty: none)."""

    endpoint_id: str
    tenant: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        """Return whose they are."""
        return f"KeptSecrets({self.endpoint_id!r})"


class WebhookStore:
    """Deliveries in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, busy: Mapping[str, int], *, each: int, limit: int, failing: bool, lease_s: float) -> list[Job]:
        """Take lanes that are due, and return what is next in each.

        Args:
            busy: how many requests each endpoint has here already.
            each: how many it may have.
            limit: how many lanes at most.
            failing: of endpoints whose last attempt failed, or of the others.
            lease_s: for how long they are taken.
        """
        with translated():
            rows = await self._pool.fetch(_TAKE, list(busy), list(busy.values()), each, limit, failing, lease_s)
            for row in rows:
                if row["id"] is None:  # erased with its session
                    await self._finish_lane(row["endpoint_id"], row["lane"])
        return [_job(row) for row in rows if row["id"] is not None]

    async def settle(self, job: Job, outcome: Outcome, verdict: Verdict) -> bool:
        """Note how an attempt went, and free the lane; return whether the next of the lane is due at once."""
        state = "pending" if verdict.fate == "again" else verdict.fate
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK_LANE, job.endpoint_id, job.lane)
                await connection.execute(_NOTE_ATTEMPT, job.id, state, outcome.status, outcome.error)
                if verdict.fate == "again":
                    await connection.execute(_PUT_OFF_LANE, job.endpoint_id, job.lane, verdict.delay_s)
                    more = False
                else:
                    more = await _pass_on(connection, job.endpoint_id, job.lane)
                if verdict.disable:
                    await connection.execute(_DISABLE, job.endpoint_id, "gone")
                # What is wrong with a delivery itself says nothing of its endpoint.
                if outcome.accepted:
                    await connection.execute(_NOTE_SUCCESS, job.endpoint_id)
                elif not outcome.final:
                    await connection.execute(_NOTE_FAILURE, job.endpoint_id, verdict.pause_s)
        return more and not verdict.disable

    async def expire(self, *, grace_s: float, limit: int) -> int:
        """Give up what is pending for longer than anybody tries; return how many."""
        with translated():
            return len(await self._pool.fetch(_EXPIRE, grace_s, limit))

    async def forget(self, *, delivered_s: float, dead_s: float, limit: int) -> None:
        """Delete some of what was settled longer ago than that, and of endpoints that were deleted."""
        with translated():
            await self._pool.execute(_FORGET, delivered_s, dead_s, limit)
            await self._pool.execute(_FORGET_ENDPOINTS)

    async def forget_notices(self, *, stored_s: float) -> None:
        """Delete notices that were stored longer ago than that."""
        with translated():
            await self._pool.execute(_FORGET_NOTICES, stored_s)

    async def pending(self) -> int:
        """Return how many deliveries wait."""
        with translated():
            return await self._pool.fetchval(_COUNT_PENDING)

    async def plain(self) -> list[KeptSecrets]:
        """Return the endpoints with a secret that isn't encrypted."""
        with translated():
            rows = await self._pool.fetch(_PLAIN, ENCRYPTED)
        return [
            KeptSecrets(endpoint_id=row["id"], tenant=row["tenant"], secrets=(row["secret"], row["old_secret"]))
            for row in rows
        ]

    async def encrypted(self, kept: KeptSecrets, secrets: tuple[str, ...]) -> bool:
        """Keep an endpoint's secrets instead; return whether they still were what was to be encrypted."""
        with translated():
            return await self._pool.fetchval(_ENCRYPTED, kept.endpoint_id, *kept.secrets, *secrets) is not None

    async def _finish_lane(self, endpoint_id: str, lane: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK_LANE, endpoint_id, lane)
            await _pass_on(connection, endpoint_id, lane)


async def _pass_on(connection: Connection, endpoint_id: str, lane: str) -> bool:
    """Make the next of a lane due, or remove the lane; its row has to be locked."""
    if await connection.fetchval(_NEXT_IN_LANE, endpoint_id, lane):
        return True
    await connection.execute(_REMOVE_LANE, endpoint_id, lane)
    return False


def _job(row: Any) -> Job:
    event = None
    if row["event_id"] is not None:
        facts: dict[str, Any] = {name: row[name] for name in SessionFacts.__struct_fields__}
        facts["metadata"] = msgspec.json.decode(row["metadata"])
        event = StoredEvent(
            id=row["event_id"],
            at=row["at"],
            source=row["source"],
            data=msgspec.json.decode(row["data"]),
            session=SessionFacts(**facts),
        )
    notice = None
    if row["notice_id"] is not None:
        said: dict[str, Any] = {name: row[f"notice_{name}"] for name in StoredNotice.__struct_fields__}
        notice = StoredNotice(**{**said, "data": msgspec.json.decode(said["data"])})
    names = (name for name in Job.__struct_fields__ if name not in {"secrets", "event", "notice"})
    fields: dict[str, Any] = {name: row[name] for name in names}
    secrets = tuple(secret for secret in (row["secret"], row["old_secret"]) if secret is not None)
    return Job(**fields, secrets=secrets, event=event, notice=notice)
