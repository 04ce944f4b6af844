"""The SQL of usage and budgets: a line over each query says what it is for. Errors are those of `recorder.store`."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from greenroom.common import messages
from greenroom.common.budgets import BudgetNotice
from greenroom.common.lifecycle import Session
from greenroom.recorder.database import Connection, Pool, translated
from greenroom.recorder.event_rows import read_events
from greenroom.recorder.usage.lines import KINDS, TYPES, Happened, usage_of
from greenroom.recorder.usage.live import Live, Whose
from greenroom.recorder.usage.spending import Budget

# Something was stored of these sessions: those that have ended are to be counted (again). A mark that is there is
# written all the same: so this waits for whoever counts the session at this moment, and can't be taken away with it.
# In the order of ids, so that no two deadlock.
_MARK: Final = """
INSERT INTO usage_due (session_id)
SELECT id FROM sessions WHERE id = ANY($1::text[]) AND state = 'ended' ORDER BY id
ON CONFLICT (session_id) DO UPDATE SET marked_at = clock_timestamp()
"""

# Marked for long enough that what belongs together has come, first marked first.
_DUE: Final = """
SELECT session_id FROM usage_due WHERE marked_at < clock_timestamp() - make_interval(secs => $1)
ORDER BY marked_at LIMIT $2
"""

# The marks of sessions, locked; not there, or somebody else's: nothing to do. They are waited for by nobody here, so
# no two deadlock. They are taken away in the same transaction, once the lines are written: until then whoever marks one
# waits for it, and then writes it anew.
_TAKE: Final = "SELECT session_id FROM usage_due WHERE session_id = ANY($1::text[]) FOR UPDATE SKIP LOCKED"
_UNMARK: Final = "DELETE FROM usage_due WHERE session_id = ANY($1::text[])"

# One that can't be counted now is tried again later, behind the others.
_POSTPONE: Final = """
UPDATE usage_due SET marked_at = clock_timestamp() + make_interval(secs => $2) WHERE session_id = $1
"""

# What sessions are counted from: their documents, and their events in the order of the ids that are given, those of one
# behind another. Read behind their marks, by statements of their own: what was stored before is seen.
_SESSIONS: Final = "SELECT document FROM sessions WHERE id = ANY($1::text[])"
_EVENTS: Final = """
SELECT due.id AS session_id, event.id, event.type, event.at, event.epoch, event.data
FROM unnest($1::text[]) WITH ORDINALITY AS due (id, place)
CROSS JOIN LATERAL (
    SELECT id, type, at, epoch, data FROM session_events
    WHERE session_id = due.id AND type = ANY($2::text[]) AND (type <> 'metrics' OR data ->> 'kind' = ANY($3::text[]))
) AS event
ORDER BY due.place
"""

# The lines of sessions: all that they have now, instead of all that they had.
_FORGET: Final = "DELETE FROM usage WHERE session_id = ANY($1::text[])"
_COLUMNS: Final = ("session_id", "tenant", "agent", "at", "provider", "model", "unit", "quantity")

_BUDGETS: Final = """
SELECT id, tenant, agent, amount, currency, period, zone, warn_share, at_limit FROM budgets ORDER BY id
"""

# What was spent by each of tenants and agents, between two times, in a currency; of whole days by their sums.
_SPENT: Final = """
SELECT asked.place, coalesce(sum(used.quantity * priced.price_of_one), 0) AS spent
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    WITH ORDINALITY AS asked (tenant, agent, since, until, currency, place)
LEFT JOIN LATERAL (
    SELECT provider, model, unit, priced_at, sum(quantity) AS quantity
    FROM usage_between(asked.tenant, asked.since, asked.until, 'UTC')
    WHERE asked.agent IN (agent, '*')
    GROUP BY provider, model, unit, priced_at
) AS used ON true
LEFT JOIN LATERAL usage_price(asked.tenant, used.provider, used.model, used.unit, used.priced_at) AS priced
    ON priced.currency = asked.currency
GROUP BY asked.place ORDER BY asked.place
"""

# The sessions of tenants ($1) that have used something and aren't counted: live ones, and those that have just ended;
# with their events of some types ($2), of those that are known ($3) behind a place in the stream ($4).
_LIVE: Final = """
WITH live AS (
    SELECT id FROM sessions
    WHERE tenant = ANY($1::text[]) AND epoch > 0 AND state IN ('requested', 'leased', 'started', 'ready', 'ending')
    UNION ALL
    SELECT session.id FROM usage_due AS due JOIN sessions AS session ON session.id = due.session_id
    WHERE session.tenant = ANY($1::text[]) AND NOT EXISTS (SELECT FROM usage WHERE session_id = session.id)
)
SELECT session.id, session.tenant, session.agent, session.pool, session.document ->> 'carrier' AS carrier,
    session.requested_at, session.ended_at,
    event.stream_seq, event.id AS event_id, event.type, event.at, event.epoch, event.data
FROM live
JOIN sessions AS session ON session.id = live.id
LEFT JOIN unnest($3::text[], $4::bigint[]) AS known (session_id, after) ON known.session_id = session.id
LEFT JOIN LATERAL (
    SELECT stream_seq, id, type, at, epoch, data FROM session_events
    WHERE session_id = session.id AND stream_seq > coalesce(known.after, 0) AND type = ANY($2::text[])
) AS event ON true
"""

# What those have cost so far, as `_SPENT`.
_LIVE_SPENT: Final = """
SELECT asked.place, coalesce(sum(used.cost), 0) AS spent
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[])
    WITH ORDINALITY AS asked (tenant, agent, since, until, currency, place)
LEFT JOIN (
    SELECT line.tenant, line.agent, line.at, priced.currency, line.quantity * priced.price_of_one AS cost
    FROM unnest(
        $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::numeric[]
    ) AS line (tenant, agent, at, provider, model, unit, quantity)
    CROSS JOIN LATERAL usage_price(line.tenant, line.provider, line.model, line.unit, line.at) AS priced
) AS used
    ON used.tenant = asked.tenant AND asked.agent IN (used.agent, '*')
    AND used.at >= asked.since AND used.at < asked.until AND used.currency = asked.currency
GROUP BY asked.place ORDER BY asked.place
"""

# What is to be said of budgets, each once. Says which are new.
_NOTE: Final = """
INSERT INTO budget_notices (budget_id, period_start, amount, kind, notice)
VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT DO NOTHING
RETURNING kind
"""
_UNPUBLISHED: Final = """
SELECT notice FROM budget_notices WHERE published_at IS NULL ORDER BY made_at, kind DESC LIMIT $1
"""
_PUBLISHED: Final = """
UPDATE budget_notices SET published_at = now()
WHERE budget_id = $1 AND period_start = $2 AND amount = $3 AND kind = $4
"""


# Made once: it takes longer than what it does.
_DATA: Final = msgspec.json.Decoder(dict[str, Any])


async def mark(connection: Connection, session_ids: Sequence[str]) -> None:
    """Say that something was stored of sessions, in the transaction that stores it."""
    await connection.execute(_MARK, sorted(session_ids))


async def write_lines(connection: Connection, session_ids: Sequence[str], lines: Sequence[tuple[Any, ...]]) -> None:
    """Write the lines of sessions instead of those that they had; `lines` are rows with all columns."""
    await connection.execute(_FORGET, session_ids)
    await connection.copy_records_to_table("usage", records=lines, columns=_COLUMNS)


class UsageStore:
    """Usage, budgets and what is said of them.

    Args:
        pool: connections to PostgreSQL.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def due(self, *, settle_s: float, limit: int) -> list[str]:
        """Return ended sessions of which something was stored since they were counted, `settle_s` ago or longer."""
        with translated():
            return [row["session_id"] for row in await self._pool.fetch(_DUE, settle_s, limit)]

    async def count(self, session_ids: Sequence[str]) -> tuple[int, list[str]]:
        """Count what sessions used, in one transaction; what has no mark, or somebody else is at, is passed over.

        Returns:
            How many were counted, and which are left, since there was too much of the others.

        Raises:
            UnstorableRow, msgspec.MsgspecError: one of them can't be counted; so none of them is.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                taken = [row["session_id"] for row in await connection.fetch(_TAKE, session_ids)]
                return await _count(connection, taken) if taken else (0, [])

    async def postpone(self, session_id: str, *, by_s: float) -> None:
        """Count a session so much later."""
        with translated():
            await self._pool.execute(_POSTPONE, session_id, by_s)

    async def budgets(self) -> list[Budget]:
        """Return all budgets, by id."""
        with translated():
            return [msgspec.convert(dict(row), Budget) for row in await self._pool.fetch(_BUDGETS)]

    async def spent(
        self, asked: Sequence[tuple[Budget, datetime, datetime]], live: Live, now: datetime
    ) -> list[Decimal]:
        """Return how much was spent of each budget between two times, by now.

        Args:
            asked: budgets and times.
            live: what is known of sessions that aren't counted; learns what was stored since.
            now: the time.
        """
        rows = [(budget.tenant, budget.agent, since, until, budget.currency) for budget, since, until in asked]
        if not rows:
            return []
        columns = [list(column) for column in zip(*rows, strict=True)]
        tenants = sorted({budget.tenant for budget, _, _ in asked})
        # One picture of all: what is counted meanwhile is in it once.
        picture: Any = {"isolation": "repeatable_read", "readonly": True}
        with translated():
            async with self._pool.acquire() as connection, connection.transaction(**picture):
                counted = [row["spent"] for row in await connection.fetch(_SPENT, *columns)]
                after = live.after()
                found = await connection.fetch(_LIVE, tenants, list(TYPES), list(after), list(after.values()))
                live.look(_found(found))
                lines = [(each.tenant, each.agent, at, *line, used) for each, at, line, used in live.lines(now)]
                if not lines:
                    return counted
                running = (list(column) for column in zip(*lines, strict=True))
                estimated = [row["spent"] for row in await connection.fetch(_LIVE_SPENT, *columns, *running)]
        return [one + other for one, other in zip(counted, estimated, strict=True)]

    async def note(self, notice: BudgetNotice) -> bool:
        """Keep what is to be said of a budget, and return whether it is new."""
        document = messages.encode(notice).decode()
        with translated():
            return await self._pool.fetchval(_NOTE, *_key(notice), document) is not None

    async def unpublished(self, *, limit: int) -> list[BudgetNotice]:
        """Return what wasn't published yet, oldest first."""
        with translated():
            rows = await self._pool.fetch(_UNPUBLISHED, limit)
        return [messages.decode(row["notice"].encode(), BudgetNotice) for row in rows]

    async def published(self, notice: BudgetNotice) -> None:
        """Keep that a notice was published."""
        with translated():
            await self._pool.execute(_PUBLISHED, *_key(notice))


async def _count(connection: Connection, taken: Sequence[str]) -> tuple[int, list[str]]:
    documents = [messages.decode(row["document"].encode(), Session) for row in await connection.fetch(_SESSIONS, taken)]
    happened: dict[str, list[Happened]] = {session.id: [] for session in documents}
    left = await read_events(
        connection,
        _EVENTS,
        list(happened),
        TYPES,
        KINDS,
        add=lambda session_id, row: happened[session_id].append(_happened(row, row["id"])),
    )
    counted = [session for session in documents if session.id not in left]
    lines: list[tuple[Any, ...]] = []
    for session in counted:
        used = usage_of(session, happened[session.id])
        whose = (session.id, session.tenant, session.agent, used.at)
        lines += [(*whose, *line, quantity) for line, quantity in used.lines.items()]
    await write_lines(connection, [session.id for session in counted], lines)
    # Also those of sessions that are gone.
    await connection.execute(_UNMARK, [session_id for session_id in taken if session_id not in left])
    return len(counted), left


def _found(rows: Sequence[Any]) -> dict[str, tuple[Whose, list[tuple[int, Happened]]]]:
    found: dict[str, tuple[Whose, list[tuple[int, Happened]]]] = {}
    for row in rows:
        known = found.get(row["id"])
        if known is None:
            known = found[row["id"]] = (Whose(**{name: row[name] for name in Whose.__struct_fields__}), [])
        if row["stream_seq"] is not None:
            known[1].append((row["stream_seq"], _happened(row, row["event_id"])))
    return found


def _happened(row: Any, event_id: str) -> Happened:
    return Happened(
        id=event_id,
        type=row["type"],
        at=row["at"],
        epoch=row["epoch"],
        data=_DATA.decode(row["data"]),
    )


def _key(notice: BudgetNotice) -> tuple[str, datetime, Decimal, str]:
    return notice.budget, notice.period_start, Decimal(notice.amount), notice.kind
