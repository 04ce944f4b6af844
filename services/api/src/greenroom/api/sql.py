"""Every SQL statement of the api, the policy's aside (policy_sql.py).

Values are always parameters; what is put together is constants.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

# A key that may still be used; whether it has expired is told by the reader's clock, which outlives the cache.
API_KEY: Final = """
SELECT id, tenant, sha256, scopes, expires_at FROM api_keys WHERE sha256 = $1 AND revoked_at IS NULL
"""

# Last use, from several processes in any order.
TOUCH_API_KEYS: Final = """
UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)
WHERE api_keys.id = used.id
"""

_AGENT_COLUMNS: Final = """
agents.tenant, agents.name, version, bot, pool, description, body_schema, config, limits,
coalesce(kept.on_loss, agents.on_loss) AS on_loss, coalesce(kept.recording, agents.recording) AS recording, transports
"""

# What the tenant has set goes over what the agent says.
_AGENTS_OF_TENANT: Final = """
agents LEFT JOIN agent_settings AS kept ON kept.tenant = $1 AND kept.agent = agents.name
WHERE agents.tenant IN ($1, '*')
"""

# The tenant's own agent goes before the shared one of the same name.
AGENT: Final = f"""
SELECT {_AGENT_COLUMNS} FROM {_AGENTS_OF_TENANT} AND agents.name = $2
ORDER BY agents.tenant = '*', version DESC LIMIT 1
"""  # noqa: S608 constants

# The same, for all names.
AGENTS: Final = f"""
SELECT DISTINCT ON (agents.name) {_AGENT_COLUMNS} FROM {_AGENTS_OF_TENANT}
ORDER BY agents.name, agents.tenant = '*', version DESC
"""  # noqa: S608 constants

# What runners announce; rows that say it already are left alone, so that repeating it costs no write.
ANNOUNCE_AGENT: Final = """
INSERT INTO agents (tenant, name, version, bot, pool, description, body_schema, transports)
VALUES ('*', $1, 1, $1, $2, $3, $4::jsonb, $5)
ON CONFLICT (tenant, name, version) DO UPDATE
SET pool = excluded.pool, description = excluded.description, body_schema = excluded.body_schema,
    transports = excluded.transports, updated_at = now()
WHERE (agents.pool, agents.description, agents.body_schema, agents.transports)
    IS DISTINCT FROM (excluded.pool, excluded.description, excluded.body_schema, excluded.transports)
"""

SESSION: Final = "SELECT document, sealed_at FROM sessions WHERE tenant = $1 AND id = $2"

# Live sessions only: there are at most as many as slots and waiting requests.
SESSION_COUNTS: Final = """
SELECT state, count(*) FROM sessions
WHERE tenant = $1 AND state IN ('requested', 'leased', 'started', 'ready', 'ending') GROUP BY state
"""

EVENTS: Final = """
SELECT stream_seq, id, tenant, session_id, type, at, seq, epoch, source, data FROM session_events
WHERE session_id = $1 AND stream_seq > $2 ORDER BY stream_seq LIMIT $3
"""

RECORDING: Final = """
SELECT session_id, path, format, duration_s, channels, rate, bytes, sha256, manifest, saved_at
FROM recordings WHERE session_id = $1
"""

APPLIED_MIGRATIONS: Final = "SELECT name FROM schema_migrations"
SCHEMA_VERSION: Final = "SELECT name FROM schema_migrations ORDER BY name DESC LIMIT 1"


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions to list; None: any. `before` is the place behind which to go on (newest first)."""

    state: str | None = None
    agent: str | None = None
    outcome: str | None = None
    user: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[datetime, str] | None = None


def sessions(tenant: str, wanted: SessionFilter, limit: int) -> tuple[str, list[Any]]:
    """Return the query for a page of sessions and its values: newest first, each filter served by an index."""
    conditions: list[str] = ["tenant = $1"]
    values: list[Any] = [tenant, limit]
    for condition, value in (
        ("state = ${}", wanted.state),
        ("agent = ${}", wanted.agent),
        ("outcome = ${}", wanted.outcome),
        ("document ->> 'user' = ${}", wanted.user),
        ("requested_at >= ${}", wanted.since),
        ("requested_at < ${}", wanted.until),
    ):
        if value is not None:
            values.append(value)
            conditions.append(condition.format(len(values)))
    if wanted.before is not None:
        values += wanted.before
        conditions.append(f"(requested_at, id) < (${len(values) - 1}, ${len(values)})")
    where = " AND ".join(conditions)
    query = f"SELECT document FROM sessions WHERE {where} ORDER BY requested_at DESC, id DESC LIMIT $2"  # noqa: S608 constants
    return query, values
