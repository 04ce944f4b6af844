"""From every earlier version of the schema, with data in it, to the newest."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from greenroom.recorder.migrate import migrate, migrations

FILES: Final = migrations()
# Two of one month, one without a month, one of long ago.
SESSIONS: Final = (
    "01a1feb5-c556-74ac-af78-f7f03561bce2",
    "01a1feb5-c557-7cac-8f78-f7f03561bce2",
    "f7f03561-c556-54ac-af78-f7f03561bce2",
    "01900000-0000-7000-8000-000000000000",
)
# What each version can hold, by the file that made room for it. What is in a table of a later file, put there by its
# own migration, is compared all the same.
SEEDS: Final[dict[str, tuple[str, ...]]] = {
    "0001_sessions": (
        """
        INSERT INTO sessions (id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch, attempt,
            media_connected, requested_at, queue_deadline_at, ended_at, outcome, document, ledger_revision, sealed_at)
        SELECT id, 't', 'a', 1, 'b', 'p', 'websocket', 'never', 'ended', 1, 1,
            true, '2026-03-01', '2026-03-09', '2026-03-10', 'completed', '{"body": {"n": 4}}', 7, now()
        FROM unnest(ARRAY[
            '01a1feb5-c556-74ac-af78-f7f03561bce2', '01a1feb5-c557-7cac-8f78-f7f03561bce2',
            'f7f03561-c556-54ac-af78-f7f03561bce2', '01900000-0000-7000-8000-000000000000'
        ]) AS id
        """,
        """
        INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)
        SELECT id, n, 't', 'e' || n, n, 1, 'session', 'user_spoke', '2026-03-01', jsonb_build_object('n', n, 'of', id)
        FROM sessions, generate_series(1, 20) AS n
        """,
    ),
    "0002_recordings": (
        """
        INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,
            manifest)
        SELECT id, 't', id, 'wav', 1.5, 2, 16000, 9, 'x', '[]', '{"a": 1}' FROM sessions
        """,
    ),
    "0003_keys_and_agents": (
        "INSERT INTO api_keys (id, tenant, name, prefix, sha256, scopes) VALUES ('k', 't', 'n', 'gr_', 'x', '{admin}')",
        "INSERT INTO agents (tenant, name, version, bot, config) VALUES ('t', 'a', 1, 'b', '{\"voice\": \"x\"}')",
    ),
    "0004_policy": (
        "INSERT INTO policy_limits (id, scope, max_sessions) VALUES ('l', 'tenant', 20)",
        "INSERT INTO policy_pools (name, baseline) VALUES ('gpu', 3)",
        "INSERT INTO policy_weights (tenant, weight) VALUES ('t', 2.5)",
    ),
    "0005_pins": ("INSERT INTO policy_pins (id, uid, document) VALUES ('pin', 'u', '{\"count\": 1}')",),
    "0006_numbers": ("INSERT INTO numbers (carrier, number, tenant, agent) VALUES ('c', '+491', 't', 'a')",),
    "0007_usage": (
        """
        INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity)
        VALUES ('s', 't', 'a', '2026-03-01', 'openai', 'gpt', 'llm_in', 70)
        """,
    ),
}
# Counts changes of its neighbours, also those that a migration makes.
COUNTERS: Final = {"policy_revision", "schema_migrations"}

type Rows = dict[str, list[dict[str, Any]]]


@asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator[Any]:
    """Give a connection for the time of the block."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def everything(dsn: str) -> Rows:
    """Return all rows of all tables; of a partitioned one as one table."""
    async with connected(dsn) as connection:
        names = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
            "AND NOT relispartition ORDER BY relname"
        )
        return {
            name: [
                json.loads(row[0])
                for row in await connection.fetch(f'SELECT to_jsonb(t)::text FROM "{name}" AS t')  # noqa: S608 - its own
            ]
            for (name,) in names
            if name not in COUNTERS
        }


def kept(before: Rows, after: Rows) -> None:
    """Check that each row is there as it was, whatever columns and rows came beside it."""
    for table, rows in before.items():
        known = rows[0].keys() if rows else set[str]()
        now = [json.dumps({name: row[name] for name in known}, sort_keys=True) for row in after[table]]
        for row in rows:
            assert json.dumps(row, sort_keys=True) in now, table
        assert len(now) >= len(rows)


@pytest.mark.parametrize("version", range(1, len(FILES)), ids=[file.name for file in FILES[:-1]])
async def test_from_an_earlier_version(empty_database: str, version: int) -> None:
    """Several starters at once bring a database of that version, with data in it, to the newest: all of it is there."""
    assert await migrate(empty_database, files=FILES[:version]) == [file.name for file in FILES[:version]]
    async with connected(empty_database) as connection:
        for file in FILES[:version]:
            for statement in SEEDS.get(file.name, ()):
                await connection.execute(statement)
    before = await everything(empty_database)
    assert len(before["session_events"]) == 20 * len(SESSIONS)
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(2)))
    assert sorted(applied, key=len) == [[], [file.name for file in FILES[version:]]]
    after = await everything(empty_database)
    kept(before, after)
    assert len(after["session_events"]) == 20 * len(SESSIONS), "moved, and not copied"


async def test_events_still_go_with_their_session(empty_database: str) -> None:
    """The reference from events to their session survives, and so do the keys that make each event one event."""
    await migrate(empty_database, files=FILES[:1])
    async with connected(empty_database) as connection:
        for statement in SEEDS["0001_sessions"]:
            await connection.execute(statement)
        await migrate(empty_database)
        columns = "session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data"
        for session in SESSIONS:
            for changed in ("stream_seq + 1000", "stream_seq"):
                again = f"SELECT {columns.replace('stream_seq', changed)} FROM session_events WHERE session_id = $1"  # noqa: S608 - constants
                with pytest.raises(asyncpg.UniqueViolationError):
                    await connection.execute(f"INSERT INTO session_events ({columns}) {again}", session)
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute(
                    f"INSERT INTO session_events ({columns}) SELECT 'x' || {columns} FROM session_events LIMIT 1"  # noqa: S608
                )
            await connection.execute("DELETE FROM sessions WHERE id = $1", session)
        assert await connection.fetchval("SELECT count(*) FROM session_events") == 0


async def test_what_others_have_added_to_the_events_is_taken_along(empty_database: str) -> None:
    """Columns, generated ones too, indices and triggers; and what is moved isn't taken for something new."""
    await migrate(empty_database, files=FILES[:1])
    async with connected(empty_database) as connection:
        for statement in SEEDS["0001_sessions"]:
            await connection.execute(statement)
        await connection.execute(
            """
            ALTER TABLE session_events ADD COLUMN n bigint GENERATED ALWAYS AS ((data ->> 'n')::bigint) STORED;
            ALTER TABLE session_events ADD COLUMN note text NOT NULL DEFAULT 'none';
            CREATE INDEX events_by_n ON session_events (n);
            CREATE TABLE fired (rows bigint);
            CREATE FUNCTION count_them() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN INSERT INTO fired SELECT count(*) FROM stored; RETURN NULL; END';
            CREATE TRIGGER counts AFTER INSERT ON session_events
                REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION count_them();
            UPDATE session_events SET note = 'of the third' WHERE n = 3;
            """
        )
        before = await everything(empty_database)
        await migrate(empty_database)
        kept(before, await everything(empty_database))
        assert await connection.fetchval("SELECT count(*) FROM fired") == 0
        await connection.execute(
            """
            INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)
            SELECT session_id, stream_seq + 1000, tenant, 'again' || id, seq, epoch, source, type, at, data
            FROM session_events
            """
        )
        assert await connection.fetchval("SELECT sum(rows) FROM fired") == 20 * len(SESSIONS)
        assert await connection.fetchval("SELECT count(*) FROM session_events WHERE n = 3 AND note = 'none'") == 4
        rows = await connection.fetch("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%(n)%'")
        assert len(rows) > 1, "one of the whole, and one of each partition"
