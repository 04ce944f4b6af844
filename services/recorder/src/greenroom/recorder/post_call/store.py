"""All SQL of steps after calls. Every method raises `DatabaseUnavailable`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import msgspec

from greenroom.recorder.database import Connection, Pool, translated
from greenroom.recorder.post_call.step import Call, Line

type StepState = Literal["pending", "done", "failed"]

# One that nobody else is at.
_NEXT_SEALED: Final = """
SELECT session.id, session.tenant, session.epoch,
    (SELECT count(*) FROM session_events
        WHERE session_id = session.id AND type IN ('user_spoke', 'agent_spoke')) AS lines,
    -- The agent's choice, else its tenant's; NULL: nobody chose.
    (SELECT steps FROM post_call_choices
        WHERE tenant = session.tenant AND agent IN (session.agent, '*') ORDER BY agent = '*' LIMIT 1) AS chosen
FROM post_call_sealed AS sealed JOIN sessions AS session ON session.id = sealed.session_id
ORDER BY sealed.sealed_at LIMIT 1
FOR UPDATE OF sealed SKIP LOCKED
"""
_QUEUED: Final = """
INSERT INTO post_call_steps (session_id, step, tenant) SELECT $1, step, $2 FROM unnest($3::text[]) AS step
ON CONFLICT DO NOTHING
"""
_FORGET_SEALED: Final = "DELETE FROM post_call_sealed WHERE session_id = $1"

# Counted before it is begun, so that one that takes its recorder down with it comes to an end too. One that failed and
# is queued again is begun again.
_BEGIN: Final = """
INSERT INTO post_call_steps AS step (session_id, step, tenant, attempts) VALUES ($1, $2, $3, 1)
ON CONFLICT (session_id, step) DO UPDATE SET
    attempts = CASE step.state WHEN 'pending' THEN step.attempts + 1 WHEN 'failed' THEN 1 ELSE step.attempts END,
    state = CASE step.state WHEN 'done' THEN 'done' ELSE 'pending' END, updated_at = now()
RETURNING state, attempts, result
"""
_NOTE: Final = """
UPDATE post_call_steps SET state = $3, result = $4::jsonb, error = $5, updated_at = now()
WHERE session_id = $1 AND step = $2 AND state = 'pending'
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
    """A session that was sealed; `lines` counts what was said in it, `steps` are to be run."""

    session_id: str
    tenant: str
    epoch: int
    lines: int
    steps: tuple[str, ...]


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it stands; `attempts` counts the one that begins now."""

    state: StepState
    attempts: int
    result: dict[str, Any] | None


class StepStore:
    """Steps in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def next_sealed(self, steps: tuple[str, ...]) -> AsyncGenerator[Sealed | None]:
        """Give a session that was sealed; when the block is left without an error, its steps count as queued.

        Args:
            steps: of those for whom nothing was chosen.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_NEXT_SEALED)
                if row is None:
                    yield None
                    return
                sealed = Sealed(
                    session_id=row["id"],
                    tenant=row["tenant"],
                    epoch=row["epoch"],
                    lines=row["lines"],
                    steps=tuple(row["chosen"]) if row["chosen"] is not None else steps,
                )
                yield sealed
                await self._queued(connection, sealed)

    async def _queued(self, connection: Connection, sealed: Sealed) -> None:
        await connection.execute(_QUEUED, sealed.session_id, sealed.tenant, list(sealed.steps))
        await connection.execute(_FORGET_SEALED, sealed.session_id)

    async def begin(self, session_id: str, step: str, tenant: str) -> Begun:
        """Count an attempt, unless the step is done; raises `UnstorableRow` where there is no such session."""
        with translated():
            row = await self._pool.fetchrow(_BEGIN, session_id, step, tenant)
        result = msgspec.json.decode(row["result"]) if row["result"] is not None else None
        return Begun(state=row["state"], attempts=row["attempts"], result=result)

    async def note(
        self, session_id: str, step: str, state: StepState, *, result: dict[str, Any] | None = None, error: str = ""
    ) -> None:
        """Note what became of an attempt."""
        text = msgspec.json.encode(result).decode() if result is not None else None
        with translated():
            await self._pool.execute(_NOTE, session_id, step, state, text, error or None)

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
