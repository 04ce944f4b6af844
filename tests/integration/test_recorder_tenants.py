"""Tenants get their rows: from what was there before the table, and from whoever stores something after."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from greenroom.recorder.migrate import migrate, migrations

BEFORE: Final = [file for file in migrations() if file.name < "0013"]
# A row of each table that names tenants, with one that is its own, and one for all where there can be.
KNOWN: Final = {
    "key": "INSERT INTO api_keys (id, tenant, name, prefix, sha256, created_at) "
    "VALUES ('k', $1, 'n', 'gr_', 'x', '2026-02-01')",
    "agent": "INSERT INTO agents (tenant, name, version, bot, created_at) VALUES ($1, 'a', 1, 'b', '2026-02-02')",
    "number": "INSERT INTO numbers (carrier, number, tenant, agent) VALUES ('c', '+491', $1, 'a')",
    "webhook": "INSERT INTO webhook_endpoints (id, tenant, url, events, secret) VALUES ('w', $1, 'u', '{*}', 's')",
    "usage": "INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity) "
    "VALUES ('s', $1, 'a', '2026-01-05', 'p', 'm', 'u', 1)",
    "audit": "INSERT INTO audit (actor, action, tenant, subject) VALUES ('x', 'y', $1, 'z')",
    "hold": "INSERT INTO retention_holds (tenant) VALUES ($1)",
    "held": "INSERT INTO session_holds (session_id, tenant) VALUES ('s', $1)",
    "rule": "INSERT INTO retention_rules (tenant) VALUES ($1)",
    "price": "INSERT INTO prices (tenant, provider, unit, valid_from, price, currency) "
    "VALUES ($1, 'p', 'u', now(), 1, 'EUR')",
    "budget": "INSERT INTO budgets (id, tenant, amount, currency, period) VALUES ('b', $1, 1, 'EUR', 'day')",
    "limit": "INSERT INTO policy_limits (id, scope, tenant) VALUES ('l', 'tenant', $1)",
    "rollout": "INSERT INTO policy_rollouts (tenant, agent, current) VALUES ($1, 'a', 1)",
    "weight": "INSERT INTO policy_weights (tenant, weight) VALUES ($1, 2)",
    "pin": "INSERT INTO policy_pins (id, uid, document) "
    "VALUES ('p', 'u', jsonb_build_object('tenant', $1::text, 'count', 1))",
}
SHARED: Final = (
    "INSERT INTO retention_rules DEFAULT VALUES",
    "INSERT INTO agents (tenant, name, version, bot) VALUES ('*', 'a', 1, 'b')",
    "INSERT INTO policy_limits (id, scope) VALUES ('all', 'tenant')",
)
_SESSIONS: Final = """
INSERT INTO sessions (id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch, attempt,
    media_connected, requested_at, queue_deadline_at, document, ledger_revision)
SELECT $1 || n, $2 || n, 'a', 1, 'b', 'p', 'websocket', 'never', 'requested', 1, 1,
    false, '2026-03-01', '2026-03-09', '{}', 7
FROM generate_series(1, $3) AS n
ON CONFLICT (id) DO UPDATE SET ledger_revision = excluded.ledger_revision + 1
"""


async def tenants(connection: Any) -> dict[str, datetime]:
    """Return the tenants and when they were first known."""
    return {row["name"]: row["created_at"] for row in await connection.fetch("SELECT * FROM tenants ORDER BY name")}


async def test_whoever_was_known_before_has_a_row(empty_database: str) -> None:
    """Each tenant that any table names is one, since the first thing that is known of it; `*` is none."""
    await migrate(empty_database, files=BEFORE)
    connection = await asyncpg.connect(empty_database)
    try:
        for name, statement in KNOWN.items():
            await connection.execute(statement, name)
        for statement in SHARED:
            await connection.execute(statement)
        await connection.execute(_SESSIONS, "s", "session", 1)
        await connection.execute(KNOWN["usage"].replace("'m'", "'n'"), "key")
        await migrate(empty_database)
        found = await tenants(connection)
    finally:
        await connection.close()
    assert found.keys() == {*KNOWN, "session1"}
    assert found["key"] == datetime(2026, 1, 5, tzinfo=UTC)
    assert found["agent"] == datetime(2026, 2, 2, tzinfo=UTC)
    assert found["session1"] == datetime(2026, 3, 1, tzinfo=UTC)


async def test_recorders_that_store_new_tenants_at_once_do_not_hinder_each_other(database: str) -> None:
    """Batches of many new tenants, the same in several transactions at once, all go through, and each has one row."""
    connections = [await asyncpg.connect(database) for _ in range(4)]
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(
                *(connection.execute(_SESSIONS, f"{place}-", "t", 200) for place, connection in enumerate(connections))
            )
        assert await connections[0].fetchval("SELECT count(*) FROM sessions") == 800
        known = await tenants(connections[0])
        assert known.keys() == {f"t{n}" for n in range(1, 201)}
        # Stored again, they are no news.
        await connections[0].execute(_SESSIONS, "0-", "t", 200)
        assert await tenants(connections[0]) == known
    finally:
        for connection in connections:
            await connection.close()
