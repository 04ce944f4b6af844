"""The partitions of the events, on a real PostgreSQL: where an event goes, and what a dropped month takes along."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.ids import derived_id
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as recorder_database
from greenroom.recorder.partitions import MONTHS_AHEAD, Partitions
from tests.support.recorder_world import eventually, world


def uuid7_at(at: datetime, random: int = 1) -> str:
    """Return a UUIDv7 as it is made at a time."""
    ms = int(at.timestamp() * 1000)
    return str(uuid.UUID(int=ms << 80 | 0x7 << 76 | 0x2 << 62 | random))


def month(at: datetime) -> str:
    """Return the name of the partition of a time."""
    return f"session_events_{at:%Y_%m}"


class Events:
    """A database with sessions and events in it."""

    def __init__(self, connection: Any, partitions: Partitions) -> None:
        self.connection = connection
        self.partitions = partitions

    async def add(self, session_id: str, requested_at: datetime, *, state: str = "ended") -> None:
        """Store a session with three events."""
        await self.connection.execute(
            """INSERT INTO sessions (id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch,
                attempt, media_connected, requested_at, queue_deadline_at, ended_at, document, ledger_revision)
            VALUES ($1, 't', 'a', 1, 'b', 'p', 'w', 'never', $3::text, 1, 1, true, $2::timestamptz, $2,
                CASE WHEN $3 = 'ended' THEN $2 END, '{}', 1)""",
            session_id,
            requested_at,
            state,
        )
        await self.connection.execute(
            """INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)
            SELECT $1, n, 't', 'e' || n, n, 1, 's', 'x', $2, '{}' FROM generate_series(1, 3) AS n""",
            session_id,
            requested_at,
        )

    async def where(self, session_id: str) -> set[str]:
        """Return the partitions that a session's events are in."""
        rows = await self.connection.fetch(
            "SELECT DISTINCT tableoid::regclass::text FROM session_events WHERE session_id = $1", session_id
        )
        return {row[0] for row in rows}

    async def count(self, session_id: str) -> int:
        """Return how many events a session has."""
        return await self.connection.fetchval("SELECT count(*) FROM session_events WHERE session_id = $1", session_id)


@pytest.fixture
async def events(database: str) -> AsyncGenerator[Events]:
    """A database without anything in it but its partitions."""
    pool = await recorder_database.open_pool(database, size=3)
    connection = await asyncpg.connect(database)
    yield Events(connection, Partitions(pool, Metrics()))
    await connection.close()
    await recorder_database.close_pool(pool, timeout_s=2)


NOW = datetime.now(UTC)


def months_from_now(count: int) -> datetime:
    """Return the middle of a month that is so many months away."""
    years, index = divmod(NOW.month - 1 + count, 12)
    return NOW.replace(year=NOW.year + years, month=index + 1, day=15)


async def test_a_session_is_in_the_month_of_its_request(events: Events) -> None:
    """Made ahead for three months; what has no month, or an id without a time, is in the default partition."""
    for ahead in range(MONTHS_AHEAD + 1):
        at = months_from_now(ahead)
        await events.add(uuid7_at(at), at)
        assert await events.where(uuid7_at(at)) == {month(at)}
    late, pinned = months_from_now(MONTHS_AHEAD + 1), derived_id("pin", "0")
    await events.add(uuid7_at(late), late)
    await events.add(pinned, NOW)
    assert await events.where(uuid7_at(late)) == await events.where(pinned) == {"session_events_default"}


async def test_made_later_a_partition_takes_what_is_its(events: Events) -> None:
    """What came before its month had a partition is moved there, each row once; whoever comes second has no work."""
    late, pinned = months_from_now(MONTHS_AHEAD + 2), derived_id("pin", "0")
    await events.add(uuid7_at(late), late)
    await events.add(pinned, NOW)
    made = await asyncio.gather(*(events.partitions.make_ahead(MONTHS_AHEAD + 2) for _ in range(3)))
    assert sorted(name for names in made for name in names) == [
        month(months_from_now(MONTHS_AHEAD + n)) for n in (1, 2)
    ]
    assert await events.where(uuid7_at(late)) == {month(late)}
    assert (await events.count(uuid7_at(late)), await events.where(pinned)) == (3, {"session_events_default"})
    assert await events.partitions.make_ahead() == []


async def test_a_month_that_is_dropped_takes_its_events_and_no_others(events: Events) -> None:
    """Whole months before the day; a live session, and one whose id only looks like that month, keep theirs."""
    old, older = months_from_now(-2), months_from_now(-3)
    for at in (old, older):
        await events.connection.execute("SELECT make_event_partition($1)", at.date())
    live, lookalike = uuid7_at(older, random=2), uuid7_at(older, random=3)
    await events.add(uuid7_at(older), older)
    await events.add(uuid7_at(old), old)
    await events.add(live, older, state="ready")
    await events.add(lookalike, NOW)
    await events.add(uuid7_at(NOW), NOW)
    assert await events.partitions.drop_partitions_before(old.date()) == [month(older)]
    counts = [await events.count(each) for each in (uuid7_at(older), live, lookalike, uuid7_at(old), uuid7_at(NOW))]
    assert counts == [0, 3, 3, 3, 3]
    assert await events.where(live) == {"session_events_default"}
    assert await events.partitions.drop_partitions_before(old.date()) == []
    first = old.date().replace(day=1)
    assert await events.partitions.drop_partitions_before(first) == []
    assert await events.partitions.drop_partitions_before((first + timedelta(days=31)).replace(day=1)) == [month(old)]
    assert await events.connection.fetchval("SELECT count(*) FROM sessions") == 5


async def test_what_is_held_by_law_is_kept(events: Events) -> None:
    """Of a session, of a tenant's agent, or of everybody's: nothing that is held goes with its month."""
    await events.connection.execute(
        """CREATE TABLE IF NOT EXISTS session_holds (session_id text, tenant text);
        CREATE TABLE IF NOT EXISTS retention_holds (tenant text DEFAULT '*', agent text DEFAULT '*')"""
    )
    at = months_from_now(-3)
    await events.connection.execute("SELECT make_event_partition($1)", at.date())
    held, free = uuid7_at(at, random=2), uuid7_at(at, random=3)
    for session_id in (held, free):
        await events.add(session_id, at)
    await events.connection.execute("INSERT INTO session_holds (session_id, tenant) VALUES ($1, 't')", held)
    assert await events.partitions.drop_partitions_before(NOW.date().replace(day=1)) == [month(at)]
    assert (await events.count(held), await events.count(free)) == (3, 0)

    at = months_from_now(-4)
    await events.connection.execute("SELECT make_event_partition($1)", at.date())
    await events.add(uuid7_at(at), at)
    await events.connection.execute("INSERT INTO retention_holds (tenant, agent) VALUES ('*', 'a')")
    assert await events.partitions.drop_partitions_before(NOW.date().replace(day=1)) == [month(at)]
    assert await events.count(uuid7_at(at)) == 3


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
async def test_what_is_moved_is_not_new(events: Events, level: str) -> None:
    """Triggers on new events fire when an event comes, and not when it is moved from one partition to another."""
    await events.connection.execute(
        """CREATE TABLE fired (n bigint);
        CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO fired VALUES (1); RETURN NULL; END'"""
    )
    await events.connection.execute(
        f"CREATE TRIGGER counts AFTER INSERT ON session_events FOR EACH {level} EXECUTE FUNCTION count_it()"
    )
    late, old = months_from_now(MONTHS_AHEAD + 1), months_from_now(-3)
    await events.connection.execute("SELECT make_event_partition($1)", old.date())
    await events.add(uuid7_at(late), late)
    await events.add(uuid7_at(old), old, state="ready")
    fired = await events.connection.fetchval("SELECT count(*) FROM fired")
    await events.partitions.make_ahead(MONTHS_AHEAD + 1)
    await events.partitions.drop_partitions_before(NOW.date())
    assert (await events.where(uuid7_at(late)), await events.count(uuid7_at(old))) == ({month(late)}, 3)
    assert await events.connection.fetchval("SELECT count(*) FROM fired") == fired > 0
    for session_id, at in ((uuid7_at(late, random=9), late), (derived_id("pin"), old)):
        await events.add(session_id, at)
    assert await events.connection.fetchval("SELECT count(*) FROM fired") == 2 * fired


async def test_a_recorder_makes_them(nats_url: str, database: str, tmp_path: Path) -> None:
    """The one that leads, as soon as it does: nobody has to think of it at the end of a month."""
    async with world(nats_url, database, tmp_path) as here:
        next_month = month(months_from_now(1))
        connection = await asyncpg.connect(database)
        await connection.execute(f"DROP TABLE {next_month}")
        await connection.close()
        async with here.recorder():
            await eventually(
                lambda: here.rows("SELECT to_regclass($1) AS there", next_month), lambda rows: rows[0]["there"]
            )


async def test_what_is_open_is_found_without_reading_what_is_over(events: Events) -> None:
    """The reconciler's question is answered by an index that is as small as what is live."""
    await events.connection.execute("SET enable_seqscan = off")
    rows = await events.connection.fetch(
        "EXPLAIN SELECT id, tenant FROM sessions WHERE state <> 'ended' ORDER BY id LIMIT 10"
    )
    assert "sessions_open" in "\n".join(row[0] for row in rows)


async def test_a_table_that_somebody_holds_is_left_for_later(events: Events, database: str) -> None:
    """Whoever reads the events for long isn't disturbed, and nobody waits behind us for him: nothing is dropped now."""
    await events.connection.execute("SELECT make_event_partition($1)", date(2026, 1, 1))
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM session_events")
            with pytest.raises(DatabaseUnavailable):
                await events.partitions.drop_partitions_before(date(2026, 3, 1))
    finally:
        await reader.close()
    assert await events.partitions.drop_partitions_before(date(2026, 3, 1)) == ["session_events_2026_01"]


async def test_one_sessions_events_are_looked_for_in_one_partition(events: Events) -> None:
    """Whatever the plan was prepared for: by the key, in the month of the id."""
    at = months_from_now(1)
    await events.add(uuid7_at(at), at)
    await events.connection.execute("SET plan_cache_mode = force_generic_plan")
    await events.connection.execute(
        "PREPARE history (text, bigint) AS SELECT type FROM session_events "
        "WHERE session_id = $1 AND stream_seq > $2 ORDER BY stream_seq LIMIT 100"
    )
    rows = await events.connection.fetch(f"EXPLAIN (ANALYZE, COSTS off) EXECUTE history ('{uuid7_at(at)}', 0)")
    plan = "\n".join(row[0] for row in rows)
    assert f"Index Scan using {month(at)}_pkey" in plan
    looked = [line for line in plan.splitlines() if "session_events_" in line and "never executed" not in line]
    assert len(looked) == 1, plan


async def test_the_bounds_are_those_of_ids(events: Events) -> None:
    """The first id of a month sorts behind every one of the month before, and the time of an id can be read from it."""
    for at in (
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2032, 2, 29, 23, tzinfo=UTC),
    ):
        bound = await events.connection.fetchval("SELECT session_id_from($1)", at)
        just_before = at - timedelta(milliseconds=1)
        assert uuid7_at(just_before, random=2**62 - 1) < bound < uuid7_at(at, random=0)
        assert await events.connection.fetchval("SELECT session_id_at($1)", uuid7_at(at)) == at
    assert await events.connection.fetchval("SELECT session_id_at($1)", derived_id("pin")) is None
