"""All SQL of steps after calls. Every method raises `DatabaseUnavailable`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import msgspec

from greenroom.recorder.database import Connection, Pool, translated
from greenroom.recorder.post_call.step import Call, Line

type StepState = Literal["pending", "done", "failed"]

# A transaction that stores what was said can't last longer: its statements have their timeouts, and in between the
# server ends it after 15 s. Others of the server may, and steps don't wait for those.
SETTLED_AFTER_S: Final = 60.0

# What may be under way while a note is seen for the first time is over as soon as no transaction is left that began
# before this. Whatever begins later sees the seal, and leaves a note of its own.
_LOOK_AT: Final = """
UPDATE post_call_sealed SET before_xid = pg_snapshot_xmax(pg_current_snapshot())
WHERE id IN (
    SELECT id FROM post_call_sealed WHERE before_xid IS NULL ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""

# One that nobody else is at.
_NEXT_SEALED: Final = """
SELECT sealed.id AS note, session.id, session.tenant, session.epoch,
    (SELECT count(*) FROM session_events
        WHERE session_id = session.id AND type IN ('user_spoke', 'agent_spoke')) AS lines,
    -- The agent's choice, else its tenant's; NULL: nobody chose.
    (SELECT steps FROM post_call_choices
        WHERE tenant = session.tenant AND agent IN (session.agent, '*') ORDER BY agent = '*' LIMIT 1) AS chosen,
    (SELECT array_agg(step) FROM post_call_steps WHERE session_id = session.id) AS queued
FROM post_call_sealed AS sealed JOIN sessions AS session ON session.id = sealed.session_id
WHERE sealed.before_xid <= pg_snapshot_xmin(pg_current_snapshot())
    OR sealed.sealed_at < now() - make_interval(secs => $1)
ORDER BY sealed.sealed_at LIMIT 1
FOR UPDATE OF sealed SKIP LOCKED
"""
_QUEUED: Final = """
INSERT INTO post_call_steps (session_id, step, tenant) SELECT $1, step, $2 FROM unnest($3::text[]) AS step
ON CONFLICT DO NOTHING
"""
_FORGET_SEALED: Final = "DELETE FROM post_call_sealed WHERE id = $1"

# Counted before it is begun, so that one that takes its recorder down with it comes to an end too. One that failed and
# is queued again is begun again, and so is ($4) one that is done when more was said since.
_BEGIN: Final = """
INSERT INTO post_call_steps AS step (session_id, step, tenant, attempts) VALUES ($1, $2, $3, 1)
ON CONFLICT (session_id, step) DO UPDATE SET (attempts, state, updated_at) = (
    SELECT
        CASE WHEN step.state = 'pending' THEN step.attempts + 1 WHEN kept THEN step.attempts ELSE 1 END,
        CASE WHEN kept THEN 'done' ELSE 'pending' END,
        now()
    FROM (
        SELECT step.state = 'done' AND NOT ($4 AND coalesce(step.lines, -1) < count(*)) AS kept FROM session_events
        WHERE session_id = $1 AND type IN ('user_spoke', 'agent_spoke')
    ) AS since
)
RETURNING state, attempts, result, lines,
    (SELECT count(*) FROM session_events WHERE session_id = $1 AND type IN ('user_spoke', 'agent_spoke')) AS said
"""
# Of two that are made at the same time the one that saw more is kept; what was made before stays until then.
_NOTE: Final = """
UPDATE post_call_steps SET state = $3, error = $5, updated_at = now(),
    result = CASE $3 WHEN 'done' THEN $4::jsonb ELSE result END, lines = CASE $3 WHEN 'done' THEN $6 ELSE lines END
WHERE session_id = $1 AND step = $2 AND (state = 'pending' OR ($3 = 'done' AND state = 'done' AND lines < $6))
RETURNING true
"""

_CALL: Final = """
SELECT session.id AS session_id, session.tenant, session.agent, session.agent_version, session.transport,
    session.outcome, session.reason, session.metadata, session.body, session.epoch,
    session.requested_at, session.ready_at, session.ended_at, recording.path AS recording
FROM sessions AS session LEFT JOIN recordings AS recording ON recording.session_id = session.id
WHERE session.id = $1 AND session.tenant = $2 AND session.state = 'ended'
"""
_LINES: Final = """
SELECT type, data ->> 'text' AS text, data -> 'start_ms' AS start_ms FROM session_events
WHERE session_id = $1 AND type IN ('user_spoke', 'agent_spoke') ORDER BY stream_seq
"""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was sealed; `lines` counts what was said in it, `steps` are to be run, `queued` were before."""

    note: int
    session_id: str
    tenant: str
    epoch: int
    lines: int
    steps: tuple[str, ...]
    queued: frozenset[str] = frozenset()


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it stands; `attempts` counts the one that begins now.

    `lines` is what it is made of: what there is now, or of one that is done what there was (None: that isn't known).
    """

    state: StepState
    attempts: int
    result: dict[str, Any] | None
    lines: int | None


class StepStore:
    """Steps in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def next_sealed(self, steps: tuple[str, ...]) -> AsyncGenerator[Sealed | None]:
        """Give a session that was sealed; when the block is left without an error, its steps count as queued.

        None is given as long as somebody may be storing what was said in it; nobody waits for anybody.

        Args:
            steps: of those for whom nothing was chosen.
        """
        with translated():
            await self._pool.execute(_LOOK_AT)
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_NEXT_SEALED, SETTLED_AFTER_S)
                if row is None:
                    yield None
                    return
                sealed = Sealed(
                    note=row["note"],
                    session_id=row["id"],
                    tenant=row["tenant"],
                    epoch=row["epoch"],
                    lines=row["lines"],
                    steps=tuple(row["chosen"]) if row["chosen"] is not None else steps,
                    queued=frozenset(row["queued"] or ()),
                )
                yield sealed
                await self._queued(connection, sealed)

    async def _queued(self, connection: Connection, sealed: Sealed) -> None:
        await connection.execute(_QUEUED, sealed.session_id, sealed.tenant, sorted(sealed.steps))
        await connection.execute(_FORGET_SEALED, sealed.note)

    async def begin(self, session_id: str, step: str, tenant: str, *, again: bool = False) -> Begun:
        """Count an attempt, unless the step is done; raises `UnstorableRow` where there is no such session.

        Args:
            session_id: of which session.
            step: which one.
            tenant: whose it is.
            again: begin one that is done, too, when more was said since.
        """
        with translated():
            row = await self._pool.fetchrow(_BEGIN, session_id, step, tenant, again)
        result = msgspec.json.decode(row["result"]) if row["result"] is not None else None
        lines = row["lines"] if row["state"] == "done" else row["said"]
        return Begun(state=row["state"], attempts=row["attempts"], result=result, lines=lines)

    async def note(
        self,
        session_id: str,
        step: str,
        state: StepState,
        *,
        result: dict[str, Any] | None = None,
        error: str = "",
        lines: int | None = None,
    ) -> bool:
        """Note what became of an attempt; return whether it counts: not where another one saw more, or was erased."""
        text = msgspec.json.encode(result).decode() if result is not None else None
        with translated():
            return bool(await self._pool.fetchval(_NOTE, session_id, step, state, text, error or None, lines))

    async def call(self, session_id: str, tenant: str) -> Call | None:
        """Return a session that is over, with what was said; None: there is none."""
        with translated():
            row = await self._pool.fetchrow(_CALL, session_id, tenant)
            if row is None:
                return None
            said = await self._pool.fetch(_LINES, session_id)
        fields: dict[str, Any] = {name: row[name] for name in Call.__struct_fields__ if name != "lines"}
        for name in ("metadata", "body"):
            fields[name] = msgspec.json.decode(row[name])
        return Call(**fields, lines=tuple(_line(line) for line in said if line["text"]))


def _line(row: Any) -> Line:
    start_ms = msgspec.json.decode(row["start_ms"]) if row["start_ms"] is not None else None
    return Line(
        who="caller" if row["type"] == "user_spoke" else "bot",
        text=row["text"],
        start_ms=round(start_ms) if isinstance(start_ms, int | float) else None,
    )
