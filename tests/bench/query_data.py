"""A year of calls in PostgreSQL, made inside it: what the plans of queries are looked at on.

Every table that grows is filled set-wise, as it stands after a year in which nearly all sessions were sealed,
transcribed and forgotten by the broker, and the last few are live, or what recorders are still at. Half of all sessions
are one tenant's, and the other half is spread over 39 more, the later the fewer. Two runs differ in nothing but their
times.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import asyncpg

EVENTS_EACH: Final = 50
TENANT: Final = "t01"
QUIET_TENANT: Final = "t20"
AGENT: Final = "agent-2"
_DAYS: Final = 365
# As many as there are cores in the machines that this runs on.
_SIDE_BY_SIDE: Final = 2
# What is made here isn't worth a log: partitions are written as unlogged tables, and no trigger fires.
_QUICK: Final = "SET session_replication_role = replica; SET synchronous_commit = off"

# Of one session: its number, 1 the oldest; those at the end are live, or the recorder is still at them.
_SESSIONS: Final = """
INSERT INTO sessions (
    id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch, attempt, runner_id, media_connected,
    requested_at, queue_deadline_at, leased_at, started_at, ready_at, ending_at, ended_at, outcome, reason, ended_by,
    traceparent, document, ledger_revision, sealed_at, purged_at, transcribed_at
)
SELECT
    id, tenant, agent, 1, agent, 'default', 'websocket', 'never', state, 1, 1, 'runner-' || n % 40,
    state <> 'requested', at, at + interval '1 min', at, at, at, ended_at, ended_at, outcome,
    CASE WHEN ended_at IS NOT NULL THEN 'goodbye' END, CASE WHEN ended_at IS NOT NULL THEN 'runner' END,
    '00-' || md5(id) || '-00f067aa0ba902b7-01',
    jsonb_build_object(
        'id', id, 'tenant', tenant, 'agent', agent, 'bot', agent, 'state', state, 'requested_at', at,
        'queue_deadline_at', at, 'metadata', jsonb_build_object('order', n::text), 'outcome', outcome
    ),
    n * 60,
    CASE WHEN is_done OR n % 10 = 0 THEN ended_at END, CASE WHEN is_done THEN ended_at END,
    CASE WHEN is_done THEN ended_at END
FROM (
    SELECT n, at, is_done, agent, tenant, state,
        substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7' || substr(random, 1, 3) || '-a' || substr(random, 4, 3)
            || '-' || substr(random, 7, 12) AS id,
        CASE WHEN state = 'ended' THEN least(at + interval '3 min', now()) END AS ended_at,
        CASE WHEN state = 'ended' THEN
            (ARRAY['completed', 'completed', 'completed', 'failed', 'canceled', 'lost'])[1 + n / 3 % 6]
        END AS outcome
    FROM (
        SELECT n, now() - make_interval(secs => ($1 - n) * $2::float8 / $1) AS at,
            n <= $1 - $1 / 500 AS is_done,
            'agent-' || 1 + (n / 7) % 5 AS agent,
            't' || lpad((CASE WHEN n % 2 = 0 THEN 1 ELSE
                2 + least(38, floor(-ln((1 + hashint4(n)::bigint + 2147483648) / 4294967297.0) * 8))
            END)::text, 2, '0') AS tenant,
            CASE WHEN n > $1 - greatest(10, $1 / 2000)
                THEN (ARRAY['requested', 'leased', 'started', 'ready', 'ready', 'ready', 'ready', 'ending'])[1 + n % 8]
                ELSE 'ended' END AS state
        FROM generate_series($3::int, $4::int) AS n
    ) AS counted, LATERAL (
        SELECT lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS hex, md5(n::text) AS random
    ) AS digits
) AS made
"""

_EVENTS: Final = """
INSERT INTO {partition} (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, stored_at, data)
SELECT id, ledger_revision + n, tenant, substr(id, 1, 24) || lpad(to_hex(n), 12, '0'), n, 1,
    CASE WHEN n <= 5 OR n = $3 THEN 'ledger' ELSE 'session' END,
    CASE n WHEN 1 THEN 'session.requested' WHEN 2 THEN 'session.leased' WHEN 3 THEN 'session.started'
        WHEN 4 THEN 'session.ready' WHEN 5 THEN 'session.connected' WHEN $3 THEN 'session.ended'
        ELSE (ARRAY['user_spoke', 'agent_spoke', 'metrics', 'turn_ended', 'metrics', 'tool_called'])[1 + n % 6] END,
    requested_at + n * interval '3 s', requested_at + n * interval '3 s',
    (ARRAY[
        '{{"text": "I would like to change my booking for friday", "start_ms": 12000, "end_ms": 14500}}',
        '{{"text": "Of course, which time would suit you best?", "start_ms": 15000, "end_ms": 17200}}',
        '{{"processor": "llm", "model": "m-large", "ttfb_s": 0.41, "prompt_tokens": 812, "completion_tokens": 44}}',
        '{{"turn": 4, "latency_ms": 640, "interrupted": false}}'
    ]::jsonb[])[1 + n % 4]
FROM sessions CROSS JOIN generate_series(1, $3) AS n
WHERE id >= $1 AND id < $2
ORDER BY id, n
"""

# Everything else, by the sessions that are there; $1 is how many.
_REST: Final = {
    "recordings": """
        INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,
            manifest, saved_at)
        SELECT id, tenant, tenant || '/' || id, 'wav', 180, 2, 16000, 11520044, md5(id) || md5(id), '[]', '{}',
            sealed_at
        FROM sessions WHERE sealed_at IS NOT NULL AND ledger_revision % 600 <> 0
    """,
    "usage": """
        INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity)
        SELECT id, tenant, agent, started_at, provider, model, unit, 1 + ledger_revision % 977
        FROM sessions, (VALUES ('greenroom', '', 'session_s'), ('openai', 'm-large', 'input_tokens'),
            ('openai', 'm-large', 'output_tokens'), ('deepgram', 'nova', 'stt_s'), ('cartesia', 'sonic', 'tts_chars')
        ) AS line (provider, model, unit)
        WHERE state = 'ended'
    """,
    # Of days that are over; the last ones were changed since.
    "usage_days": """
        INSERT INTO usage_days (tenant, day, agent, shape, provider, model, unit, sessions, quantity)
        SELECT tenant, (at AT TIME ZONE 'UTC')::date, agent, 1, provider, model, unit, count(*), sum(quantity)
        FROM usage WHERE at < date_trunc('day', now(), 'UTC')
        GROUP BY 1, 2, 3, 5, 6, 7
    """,
    # Of a day's sessions, whatever the hour: a tenth is left of yesterday.
    "usage_days_due": """
        INSERT INTO usage_days_due (tenant, day)
        SELECT tenant, (now() AT TIME ZONE 'UTC')::date - (ledger_revision / 60 % 10 = 0)::integer FROM sessions
        WHERE state = 'ended' AND requested_at > now() - interval '1 day'
    """,
    "notices": """
        INSERT INTO notices (id, tenant, type, subject, stream_seq, at, source, data)
        SELECT 'notice-' || n, 't' || lpad((1 + n % 40)::text, 2, '0'), 'limit.reached', 'limit-' || n % 100, n, now(),
            'scheduler', '{}'
        FROM generate_series(1, $1 / 20) AS n
    """,
    "transcripts": """
        INSERT INTO transcripts (session_id, part, tenant, agent, requested_at, text, starts_ms)
        SELECT id, 1, tenant, agent, requested_at,
            E'hello how can I help you\\nI would like to change order number' || ledger_revision / 60
                || E'\\nwhich day suits you\\n' || (ARRAY['monday morning', 'friday noon', 'tomorrow evening'])[
                    1 + ledger_revision / 60 % 3]
                || CASE WHEN ledger_revision / 60 % 1000 = 0 THEN ' lighthouse' ELSE '' END,
            ARRAY[0, 3000, 7000, 9000]
        FROM sessions WHERE transcribed_at IS NOT NULL
    """,
    "post_call_steps": """
        INSERT INTO post_call_steps (session_id, step, tenant, state, attempts, result)
        SELECT id, 'summary', tenant, 'done', 1, '{"text": "somebody changed a booking"}' FROM sessions
        WHERE sealed_at IS NOT NULL
    """,
    "post_call_sealed": """
        INSERT INTO post_call_sealed (session_id, sealed_at)
        SELECT id, sealed_at FROM sessions WHERE sealed_at IS NOT NULL AND transcribed_at IS NULL
    """,
    "usage_due": """
        INSERT INTO usage_due (session_id, marked_at)
        SELECT id, ended_at FROM sessions WHERE state = 'ended' AND sealed_at IS NULL
    """,
    "webhook_endpoints": """
        INSERT INTO webhook_endpoints (id, tenant, url, events, secret)
        SELECT 'endpoint-' || tenant || '-' || n, tenant, 'https://example.org', '{session.*}', 'whsec_x'
        FROM (SELECT DISTINCT tenant FROM sessions) AS known, generate_series(1, 2) AS n
    """,
    # What was delivered is kept for a week, what wasn't for a month.
    "webhook_deliveries": """
        INSERT INTO webhook_deliveries (endpoint_id, lane, position, session_id, event_id, type, state, attempts,
            created_at, give_up_at, settled_at)
        SELECT 'endpoint-' || tenant || '-1', id, ledger_revision + n, id, 'event-' || n, 'session.ended',
            CASE WHEN state <> 'ended' THEN 'pending' WHEN n = 1 AND ledger_revision % 1200 = 0 THEN 'dead'
                ELSE 'delivered' END,
            1, requested_at, requested_at + interval '1 day', ended_at
        FROM sessions, generate_series(1, 5) AS n
        WHERE requested_at > now() - interval '7 days'
            OR requested_at > now() - interval '30 days' AND n = 1 AND ledger_revision % 1200 = 0
    """,
    "webhook_lanes": """
        INSERT INTO webhook_lanes (endpoint_id, lane, session_id, next_at)
        SELECT DISTINCT endpoint_id, lane, session_id, now() + interval '1 s' * (position % 120 - 60)
        FROM webhook_deliveries WHERE state = 'pending' AND position % 5 = 1
    """,
    "tombstones": """
        INSERT INTO tombstones (session_id, erased_on)
        SELECT session_id_from(now() - n * interval '1 hour') || '-7000-a000-' || lpad(n::text, 12, '0'),
            current_date - n / 24 FROM generate_series(1, $1 / 100) AS n
    """,
    "erasures": """
        INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by, requested_at, next_try_at)
        SELECT id, 'recording', tenant, agent, requested_at::date, 'retention', now(),
            now() + interval '1 s' * (ledger_revision / 60 % 120 - 60)
        FROM sessions WHERE ledger_revision / 60 <= $1 / 1000
    """,
    "session_holds": """
        INSERT INTO session_holds (session_id, tenant)
        SELECT id, tenant FROM sessions WHERE ledger_revision / 60 % 5000 = 0
    """,
    "audit": """
        INSERT INTO audit (at, actor, action, tenant, subject)
        SELECT sealed_at, CASE ledger_revision / 60 % 3 WHEN 0 THEN 'key:k' ELSE 'retention' END,
            'recording.deleted', tenant, id
        FROM sessions WHERE ledger_revision / 60 % 10 = 0 AND sealed_at IS NOT NULL
    """,
    "tenants": "INSERT INTO tenants (name) SELECT DISTINCT tenant FROM sessions ON CONFLICT DO NOTHING",
    "api_keys": """
        INSERT INTO api_keys (id, tenant, name, prefix, sha256, scopes)
        SELECT 'key-' || n, 't' || lpad((1 + n % 40)::text, 2, '0'), 'n', 'gr_', md5(n::text), '{admin}'
        FROM generate_series(1, 400) AS n
    """,
    "agents": """
        INSERT INTO agents (tenant, name, version, bot)
        SELECT tenant, agent, version, agent
        FROM (SELECT DISTINCT tenant, agent FROM sessions UNION SELECT '*', 'echo') AS known,
            generate_series(1, 3) AS version
    """,
    "numbers": """
        INSERT INTO numbers (carrier, number, tenant, agent)
        SELECT 'twilio', '+49' || 1000 + n, 't' || lpad((1 + n % 40)::text, 2, '0'), 'agent-1'
        FROM generate_series(1, 2000) AS n
    """,
    "prices": """
        INSERT INTO prices (provider, model, unit, valid_from, price, currency)
        SELECT DISTINCT provider, '*', unit, now() - n * interval '90 days', 0.5, 'EUR'
        FROM (SELECT provider, unit FROM usage LIMIT 1000) AS used, generate_series(1, 5) AS n
    """,
    "budgets": """
        INSERT INTO budgets (id, tenant, amount, currency, period)
        SELECT 'budget-' || tenant, tenant, 1000, 'EUR', 'month' FROM (SELECT DISTINCT tenant FROM sessions) AS known
    """,
    "retention_rules": """
        INSERT INTO retention_rules (tenant, recordings_days) SELECT DISTINCT tenant, 90 FROM sessions
    """,
}


async def generate(dsn: str, sessions: int, *, say: Callable[[str], None], statistics: int = 100) -> None:
    """Fill a database that has the current schema and nothing in it.

    Args:
        dsn: the database; its server should have memory for it, and nobody else at it.
        sessions: how many.
        say: told what is being made.
        statistics: `default_statistics_target`; 300 times as many rows of a table are looked at, and if that is all of
            them, the same data always has the same statistics.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_QUICK)
        began = time.monotonic()
        span_s = float(_DAYS * 24 * 3600)
        # In one transaction, so that all of it is as of one moment.
        half = sessions // 2
        async with connection.transaction():
            await connection.execute(_SESSIONS, sessions, span_s, 1, half)
            await connection.execute(_SESSIONS, sessions, span_s, half + 1, sessions)
        say(f"{sessions:,} sessions in {time.monotonic() - began:.0f} s")
        await connection.execute(
            "SELECT make_event_partition(day::date) FROM generate_series("
            "date_trunc('month', now() - interval '366 days'), now(), interval '1 month') AS day"
        )
        await connection.execute("ANALYZE sessions")
        partitions = [
            row[0]
            for row in await connection.fetch(
                "SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid "
                r"WHERE inhparent = 'session_events'::regclass AND child.relname ~ '\d{4}_\d{2}$' ORDER BY relname"
            )
        ]
    finally:
        await connection.close()
    gate = asyncio.Semaphore(_SIDE_BY_SIDE)
    async with asyncio.TaskGroup() as tasks:
        for partition in partitions:
            tasks.create_task(_in_turn(gate, _fill_month(dsn, partition), f"{partition}", say))
    for name, statement in _REST.items():
        await _in_turn(gate, _execute(dsn, statement, *([sessions] if "$1" in statement else [])), name, say)
    names = await _tables(dsn)
    analyze = f"SET default_statistics_target = {statistics}"
    await _in_turn(gate, _execute(dsn, f"VACUUM (ANALYZE) {', '.join(names)}", before=analyze), "statistics", say)


async def _tables(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        )
    finally:
        await connection.close()
    return [row["name"] for row in rows]


async def _in_turn(gate: asyncio.Semaphore, work: Any, name: str, say: Callable[[str], None]) -> None:
    async with gate:
        began = time.monotonic()
        await work
        say(f"{name} in {time.monotonic() - began:.0f} s")


async def _fill_month(dsn: str, partition: str) -> None:
    month = partition.removeprefix("session_events_").replace("_", "-") + "-01"
    await _execute(dsn, f'ALTER TABLE "{partition}" SET UNLOGGED')
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_QUICK)
        bounds: Any = await connection.fetchrow(
            "SELECT session_id_from(day AT TIME ZONE 'UTC'),"
            " session_id_from((day + interval '1 month') AT TIME ZONE 'UTC')"
            " FROM (SELECT $1::text::timestamp AS day) AS month",
            month,
        )
        await connection.execute(_EVENTS.format(partition=f'"{partition}"'), *bounds, EVENTS_EACH)
    finally:
        await connection.close()


async def _execute(dsn: str, statement: str, *values: object, before: str = "") -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"{_QUICK}; {before}")
        await connection.execute(statement, *values)
    finally:
        await connection.close()
