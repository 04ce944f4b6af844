"""The SQL of retention: a line over each query says what it is for.

Every method raises `DatabaseUnavailable` when the same call may succeed later.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

import msgspec

from greenroom.common import audit
from greenroom.common.audit import Action
from greenroom.common.retention import EACH, Hold, Kept, Rule, What
from greenroom.recorder.database import Connection, Pool, translated

# Who asks for what a rule says; in `requested_by`, and in the audit.
RETENTION: Final = "retention"
HELD: Final = "session-held"

_SELECT_RULES: Final = "SELECT tenant, agent, recordings_days, events_days, sessions_days FROM retention_rules"
_SELECT_HOLDS: Final = "SELECT tenant, agent FROM retention_holds"

# Ended sessions behind a place in the order of their ends, and what there is of each: looked up one by one (OFFSET 0
# keeps the planner from gathering all there is instead), so that a page costs the same however much is kept.
_SELECT_ENDED: Final = """
SELECT session.id, session.tenant, session.agent, session.ended_at,
    (session.requested_at AT TIME ZONE 'UTC')::date AS day,
    EXISTS (SELECT FROM session_holds WHERE session_id = session.id OFFSET 0) AS held,
    EXISTS (SELECT FROM recordings WHERE session_id = session.id OFFSET 0) AS recording,
    EXISTS (SELECT FROM session_events WHERE session_id = session.id OFFSET 0) AS events
FROM sessions AS session
WHERE session.sealed_at IS NOT NULL AND session.ended_at <= $1 AND (session.ended_at, session.id) > ($2, $3)
ORDER BY session.ended_at, session.id LIMIT $4
"""

# What is due by a rule.
_INSERT_ERASURES: Final = """
INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by)
SELECT *, $6 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::date[])
ON CONFLICT DO NOTHING
"""

# What is to be tried now, and what is known of each session.
_SELECT_OPEN: Final = """
SELECT wish.session_id, wish.what, wish.tenant, wish.agent, wish.day, wish.requested_by,
    wish.begun_at IS NOT NULL AS begun, session.id IS NOT NULL AS known,
    session.sealed_at IS NOT NULL AS sealed, session.purged_at IS NOT NULL AS purged, recording.path
FROM erasures AS wish
LEFT JOIN sessions AS session ON session.id = wish.session_id
LEFT JOIN recordings AS recording ON recording.session_id = wish.session_id
WHERE wish.next_try_at <= now()
ORDER BY wish.next_try_at, wish.session_id LIMIT $1
"""

_LOCK: Final = "SELECT retention_lock()"

# The point of no return, for those that nothing holds.
_BEGIN: Final = """
UPDATE erasures SET begun_at = coalesce(begun_at, now()), waits_for = NULL
FROM unnest($1::text[], $2::text[]) AS wanted (session_id, what)
WHERE erasures.session_id = wanted.session_id AND erasures.what = wanted.what
    AND (erasures.begun_at IS NOT NULL OR NOT session_held(erasures.session_id, erasures.tenant, erasures.agent))
RETURNING erasures.session_id, erasures.what
"""
_BURY: Final = "INSERT INTO tombstones (session_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
_WITHDRAW: Final = "DELETE FROM erasures WHERE session_id = $1 AND what = $2"

# Waits for every transaction that has asked for tombstones before the last ones were written.
_BARRIER: Final = "LOCK TABLE tombstones IN ACCESS EXCLUSIVE MODE"
_BARRIER_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"

_PUT_OFF: Final = """
UPDATE erasures SET waits_for = $3, next_try_at = now() + make_interval(secs => $4)
WHERE session_id = $1 AND what = $2
"""

# Taken by whoever finishes it; of two that do, one finds it gone.
_TAKE: Final = "SELECT requested_by FROM erasures WHERE session_id = $1 AND what = $2 FOR UPDATE"
# Every table that has rows of sessions, whichever part of Greenroom they belong to.
_SELECT_TABLES: Final = """
SELECT class.oid::regclass::text AS name
FROM pg_class AS class
JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attname = 'session_id'
WHERE class.relnamespace = current_schema()::regnamespace AND class.relkind IN ('r', 'p')
    AND NOT class.relispartition AND NOT attribute.attisdropped
    AND class.relname NOT IN ('erasures', 'tombstones', 'session_holds')
ORDER BY name
"""
# Tables that have what happened and was said, or was made of it.
WHAT_WAS_SAID: Final = frozenset({"session_events", "transcripts", "post_call_steps"})
# What was used has to be paid for: of an erased session it stays, all of it under one id that leads nowhere.
ACCOUNTS: Final = frozenset({"usage"})
_DISOWN: Final = "UPDATE {name} SET session_id = (SELECT 'erased-' || gen_random_uuid()) WHERE session_id = $1"
# Sessions whose use isn't counted yet, where that is done.
_COUNTS_USE: Final = "SELECT to_regclass('usage_due') IS NOT NULL"
_SELECT_UNCOUNTED: Final = "SELECT session_id FROM usage_due WHERE session_id = ANY($1::text[])"
_DELETE_SESSION: Final = "DELETE FROM sessions WHERE id = $1"
_DELETE_WISHES: Final = "DELETE FROM erasures WHERE session_id = $1"
_DELETE_RECORDING: Final = "DELETE FROM recordings WHERE session_id = $1"

# Erased lately: for as long as streams keep what couldn't be read.
_SELECT_BURIED: Final = "SELECT session_id FROM tombstones WHERE erased_on >= current_date - $1::integer"

_DROP_EMPTY: Final = "SELECT drop_empty_event_partitions(current_date - $1::integer) AS name"

_LAST_RUN: Final = "SELECT max(due_at) FROM retention_runs"
_COUNT_DELETIONS: Final = """
SELECT count(*) FILTER (WHERE action = 'recording.deleted') AS recordings,
    count(*) FILTER (WHERE action = 'events.deleted') AS events,
    count(*) FILTER (WHERE action = 'session.erased') AS sessions
FROM audit WHERE actor = $1 AND at >= $2
"""
_INSERT_RUN: Final = """
INSERT INTO retention_runs (due_at, recordings, events, sessions) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING due_at
"""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An ended session that may be due, and the day of its request."""

    kept: Kept
    day: date


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be deleted, and what is known of its session."""

    session_id: str
    what: What
    tenant: str
    agent: str
    day: date
    requested_by: str
    begun: bool
    known: bool
    sealed: bool
    purged: bool
    path: str | None

    @property
    def key(self) -> tuple[str, What]:
        """What tells it from others."""
        return self.session_id, self.what


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a daily run has deleted."""

    recordings: int
    events: int
    sessions: int


class RetentionStore:
    """Rules, holds, and what is to be deleted."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def rules(self) -> list[Rule]:
        """Return all rules."""
        with translated():
            return [Rule(**dict(row)) for row in await self._pool.fetch(_SELECT_RULES)]

    async def holds(self) -> list[Hold]:
        """Return the holds of tenants and agents."""
        with translated():
            return [Hold(**dict(row)) for row in await self._pool.fetch(_SELECT_HOLDS)]

    async def ended(self, until: datetime, after: tuple[datetime, str], limit: int) -> list[Found]:
        """Return sessions that ended up to `until`, in the order of their ends, behind `after` (end and id)."""
        with translated():
            rows = await self._pool.fetch(_SELECT_ENDED, until, *after, limit)
        return [
            Found(
                kept=Kept(
                    session_id=row["id"],
                    tenant=row["tenant"],
                    agent=row["agent"],
                    ended_at=row["ended_at"],
                    held=row["held"],
                    recording=row["recording"],
                    events=row["events"],
                ),
                day=row["day"],
            )
            for row in rows
        ]

    async def wish(self, due: Sequence[tuple[Found, What]]) -> None:
        """Write down what is due by rules; what is written down already stays as it is."""
        with translated():
            await self._pool.execute(
                _INSERT_ERASURES,
                [found.kept.session_id for found, _ in due],
                [what.value for _, what in due],
                [found.kept.tenant for found, _ in due],
                [found.kept.agent for found, _ in due],
                [found.day for found, _ in due],
                RETENTION,
            )

    async def open(self, limit: int) -> list[Erasure]:
        """Return what is to be tried now, longest waiting first."""
        with translated():
            rows = await self._pool.fetch(_SELECT_OPEN, limit)
        return [_erasure(dict(row)) for row in rows]

    async def uncounted(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` whose use is still to be counted, from what would be gone."""
        with translated():
            if not await self._pool.fetchval(_COUNTS_USE):
                return set()
            return {row["session_id"] for row in await self._pool.fetch(_SELECT_UNCOUNTED, sorted(set(ids)))}

    async def begin(self, erasures: Collection[Erasure], *, look_again_s: float) -> set[tuple[str, What]]:
        """Pass the point of no return, and return the keys of those that did: the others are held.

        Of a held one that a rule wants nothing stays; one that somebody asked for is looked at again.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK)
                rows = await connection.fetch(
                    _BEGIN, [each.session_id for each in erasures], [each.what.value for each in erasures]
                )
                begun = {(row["session_id"], What(row["what"])) for row in rows}
                await connection.execute(_BURY, [each for each, what in sorted(begun) if what is What.SESSION])
                for erasure in erasures:
                    if erasure.key in begun:
                        continue
                    if erasure.requested_by == RETENTION:
                        await self._withhold(connection, erasure)
                    else:
                        await connection.execute(_PUT_OFF, *erasure.key, HELD, look_again_s)
        return begun

    async def barrier(self) -> None:
        """Return once nobody is writing who hasn't seen the tombstones."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_BARRIER_TIMEOUT)
                await connection.execute(_BARRIER)

    async def put_off(self, erasure: Erasure, why: str, for_s: float) -> None:
        """Try it again later."""
        with translated():
            await self._pool.execute(_PUT_OFF, *erasure.key, why, for_s)

    async def finish(self, erasure: Erasure, *, files: int) -> bool:
        """Delete the rows, close the wish and audit it, all at once; False: somebody else has.

        Args:
            erasure: one that has begun, and of which files and messages are gone.
            files: how many files there were, for the audit.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                actor = await connection.fetchval(_TAKE, *erasure.key)
                if actor is None:
                    return False
                rows = await _delete_rows(connection, erasure)
                await audit.write(
                    connection,
                    actor=actor,
                    action=_ACTIONS[erasure.what],
                    tenant=erasure.tenant,
                    subject=erasure.session_id,
                    agent=erasure.agent,
                    files=files,
                    rows=rows,
                )
        return True

    async def buried(self, days: int) -> set[str]:
        """Return the sessions that were erased in the last `days`."""
        with translated():
            return {row["session_id"] for row in await self._pool.fetch(_SELECT_BURIED, days)}

    async def drop_empty_partitions(self, days: int) -> list[str]:
        """Drop the months of events, over for `days`, of which nothing is left; return their names."""
        with translated():
            return [row["name"] for row in await self._pool.fetch(_DROP_EMPTY, days)]

    async def last_run(self) -> datetime | None:
        """Return when the latest run that is finished was due."""
        with translated():
            return await self._pool.fetchval(_LAST_RUN)

    async def finish_run(self, due_at: datetime) -> Run | None:
        """Write down that a run is over, and return what was deleted since it was due; None: somebody else has."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                run = Run(**dict(await connection.fetchrow(_COUNT_DELETIONS, RETENTION, due_at)))
                counts = msgspec.structs.asdict(run)
                if await connection.fetchval(_INSERT_RUN, due_at, *counts.values()) is None:
                    return None
                await audit.write(
                    connection,
                    actor=RETENTION,
                    action=Action.CLEANUP_COMPLETED,
                    tenant=EACH,
                    subject=due_at.isoformat(),
                    **counts,
                )
        return run

    async def _withhold(self, connection: Connection, erasure: Erasure) -> None:
        await connection.execute(_WITHDRAW, *erasure.key)
        await audit.write(
            connection,
            actor=RETENTION,
            action=Action.DELETION_WITHHELD,
            tenant=erasure.tenant,
            subject=erasure.session_id,
            what=erasure.what,
        )


def _statement(name: str) -> str:
    """Return what is done to the rows of a session in a table; `name` is quoted where it must be."""
    if name in ACCOUNTS:
        return _DISOWN.format(name=name)
    return f"DELETE FROM {name} WHERE session_id = $1"  # noqa: S608 from the catalogue


def _erasure(row: dict[str, Any]) -> Erasure:
    row["what"] = What(row["what"])
    return Erasure(**row)


_ACTIONS: Final = {
    What.SESSION: Action.ERASED,
    What.RECORDING: Action.RECORDING_DELETED,
    What.EVENTS: Action.EVENTS_DELETED,
}


async def _delete_rows(connection: Connection, erasure: Erasure) -> dict[str, int]:
    """Delete what PostgreSQL has of it, and return how many rows of which table."""
    session_id = erasure.session_id
    names = [row["name"] for row in await connection.fetch(_SELECT_TABLES)]
    match erasure.what:
        case What.RECORDING:
            statements = {"recordings": _DELETE_RECORDING}
        case What.EVENTS:
            statements = {name: _statement(name) for name in names if name in WHAT_WAS_SAID}
        case What.SESSION:
            statements = {name: _statement(name) for name in names} | {"sessions": _DELETE_SESSION}
    counts: dict[str, int] = {}
    for name, statement in statements.items():
        status: Any = await connection.execute(statement, session_id)
        if deleted := int(status.split()[-1]):
            counts[name] = deleted
    if erasure.what is What.SESSION:
        await connection.execute(_DELETE_WISHES, session_id)
    else:
        await connection.execute(_WITHDRAW, *erasure.key)
    return counts
