"""The partitions of `session_events`, one a month: made ahead, and dropped when nobody wants them any more.

What they are made by, and why by the session's id, is in migrations/0012_event_partitions.sql. A month that has none
(nobody made it, since no recorder has run for months) costs nothing but its later move: its events are in the default
partition until then.
"""

import asyncio
from datetime import date
from typing import Final

import structlog

from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.metrics import Metrics
from greenroom.recorder.database import Pool, translated

_log = structlog.get_logger()

# Partitions are there for so many months to come: a recorder may be away for as long.
MONTHS_AHEAD: Final = 3
# They are needed once a month, and looking costs a millisecond.
ROUND_S: Final = 3600.0
# Something holds a lock on the events for longer than we wait for it, or the database is away.
AWAY_RETRY_S: Final = 30.0

# This month's partition and the next ones, unless they are there.
_MAKE: Final = "SELECT make_event_partitions($1)"

# What lies wholly before a day.
_DROP: Final = "SELECT drop_partitions_before($1)"

# By the estimates of the last ANALYZE; -1: never analyzed.
_DEFAULT_ROWS: Final = (
    "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'session_events_default'::regclass"
)


class Partitions:
    """Makes and drops partitions. Any number of recorders may, at the same time.

    Args:
        pool: connections to PostgreSQL.
        metrics: partitions made and dropped, rows in the default one.
    """

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._changes = metrics.counter("recorder_event_partitions", "Partitions of events", ["change"])
        self._default_rows = metrics.gauge(
            "recorder_default_partition_rows", "Events in no month's partition, about: of pinned sessions, and of holes"
        )

    async def run(self) -> None:
        """Make what is needed until canceled."""
        while True:
            try:
                await self.make_ahead()
            except DatabaseUnavailable as error:
                _log.warning("partitions_not_made", code=error.code, again_in_s=AWAY_RETRY_S)
                await asyncio.sleep(AWAY_RETRY_S)
            else:
                await asyncio.sleep(ROUND_S)

    async def make_ahead(self, months: int = MONTHS_AHEAD) -> list[str]:
        """Make the partitions of this month and the next ones, and return the names of those that weren't there.

        Raises:
            DatabaseUnavailable: it is away, or somebody holds the table: try again later.
        """
        with translated():
            made: list[str] = [row[0] for row in await self._pool.fetch(_MAKE, months)]
            self._default_rows.set(await self._pool.fetchval(_DEFAULT_ROWS))
        if made:
            self._changes.inc(len(made), change="made")
            _log.info("partitions_made", partitions=made)
        return made

    async def drop_partitions_before(self, day: date) -> list[str]:
        """Drop the months that lie wholly before `day` (UTC), and return the names of what was dropped.

        Events of sessions that haven't ended, or were requested on `day` or later, are kept.

        Raises:
            DatabaseUnavailable: it is away, or somebody holds the table: nothing was dropped; try again later.
        """
        with translated():
            dropped: list[str] = [row[0] for row in await self._pool.fetch(_DROP, day)]
        if dropped:
            self._changes.inc(len(dropped), change="dropped")
            _log.info("partitions_dropped", partitions=dropped, before=day.isoformat())
        return dropped
