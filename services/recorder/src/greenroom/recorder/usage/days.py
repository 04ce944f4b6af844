"""Adds up usage by day: what the api and budgets read instead of lines, wherever a day is whole.

Whatever changes lines marks their days in the same transaction (triggers of 0018_usage_days.sql). A day is added up
from all of its lines, never by the difference: so it is exact whatever had changed, and however often it is done. Its
marks are taken away in the transaction that adds it up, and the lines are read behind that: who changes lines meanwhile
leaves a mark that stays. Whoever asks for usage reads the lines of days that are marked, so sums are never old; while
nobody adds up, answers take longer.

Days that aren't over are left alone: their marks wait for their end.
"""

from datetime import date
from typing import Final

from greenroom.recorder.database import Pool, translated

# Days that are over and marked ($1: nothing was for so long, or $2: something is for so long), longest marked first.
_DUE: Final = """
SELECT tenant, day FROM usage_days_due WHERE day < (now() AT TIME ZONE 'UTC')::date
GROUP BY tenant, day
HAVING max(marked_at) < clock_timestamp() - make_interval(secs => $1)
    OR min(marked_at) < clock_timestamp() - make_interval(secs => $2)
ORDER BY min(marked_at) LIMIT $3
"""

# One at a time, whoever leads: the statements behind this one see what the one before has done.
_LOCK: Final = "SELECT pg_advisory_xact_lock(7453010313431117925)"
_TAKE: Final = "DELETE FROM usage_days_due WHERE tenant = $1 AND day = $2"
_FORGET: Final = "DELETE FROM usage_days WHERE tenant = $1 AND day = $2"

# Sessions that used the same things are counted together.
_ADD_UP: Final = """
WITH lines AS MATERIALIZED (
    SELECT session_id, agent, provider, model, unit, quantity FROM usage
    WHERE tenant = $1 AND at >= $2::date::timestamp AT TIME ZONE 'UTC'
        AND at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
), shapes AS (
    SELECT session_id, agent, dense_rank() OVER (
        PARTITION BY agent ORDER BY array_agg(ARRAY[provider, model, unit] ORDER BY provider, model, unit)
    ) AS shape
    FROM lines GROUP BY session_id, agent
)
INSERT INTO usage_days (tenant, day, agent, shape, provider, model, unit, sessions, quantity)
SELECT $1, $2::date, agent, shape, provider, model, unit, count(*), sum(quantity)
FROM lines JOIN shapes USING (session_id, agent)
GROUP BY agent, shape, provider, model, unit
"""


class UsageDays:
    """Sums by day. Every method raises `DatabaseUnavailable`.

    Args:
        pool: connections to PostgreSQL.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def due(self, *, settle_s: float, longest_s: float, limit: int) -> list[tuple[str, date]]:
        """Return tenants and days that are to be added up.

        Args:
            settle_s: those of which nothing has changed for so long.
            longest_s: those of which something has changed so long ago.
            limit: how many at most.
        """
        with translated():
            rows = await self._pool.fetch(_DUE, settle_s, longest_s, limit)
        return [(row["tenant"], row["day"]) for row in rows]

    async def add_up(self, tenant: str, day: date) -> None:
        """Add up a day of a tenant, instead of what there was of it."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK)
                await connection.execute(_TAKE, tenant, day)
                await connection.execute(_FORGET, tenant, day)
                await connection.execute(_ADD_UP, tenant, day)
