"""What sessions used and what that costs, in groups."""

from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from greenroom.api.billing import keyset
from greenroom.api.billing.schemas import Cost, GroupBy, PricedLine, UnpricedLine, UsageGroup, UsagePage
from greenroom.api.store import Store
from greenroom.common.budgets import plain

PAGE: Final = 100
MAX_PAGE: Final = 500

# What groups are made by; a day is one of the zone ($6) that is asked for.
_KEYS: Final[dict[GroupBy, str]] = {
    "session": "session_id",
    "agent": "agent",
    "tenant": "tenant",
    "day": "to_char(at AT TIME ZONE $6, 'YYYY-MM-DD')",
    "provider": "provider",
    "model": "model",
    "unit": "unit",
}

# The next groups behind a key, and all that was used in them, by what it costs: something may be priced at one time and
# not at another. Days that are whole in it are read by their sums, tenant by tenant.
_GROUPS: Final = """
WITH wanted AS (
    SELECT used.tenant, ({key})::text COLLATE "C" AS key, whose, sessions, provider, model, unit, quantity, priced_at
    FROM (SELECT name FROM tenants WHERE $3::text IS NULL UNION ALL SELECT $3 WHERE $3 IS NOT NULL) AS known
    CROSS JOIN LATERAL usage_between(known.name, $1, $2, $6) AS used
    WHERE ($4::text IS NULL OR agent = $4) AND ($5::text IS NULL OR provider = $5) AND $10::text IS NULL
), page AS (
    SELECT DISTINCT tenant, key FROM wanted
    WHERE $7::text IS NULL OR (tenant, key) > ($7, $8::text)
    ORDER BY tenant, key LIMIT $9
), sizes AS (
    SELECT tenant, key, sum(sessions)::bigint AS sessions
    FROM (SELECT DISTINCT tenant, key, whose, sessions FROM page JOIN wanted USING (tenant, key)) AS once
    GROUP BY tenant, key
), used AS (
    SELECT tenant, key, provider, model, unit, priced_at, sum(quantity) AS quantity
    FROM page JOIN wanted USING (tenant, key)
    GROUP BY tenant, key, provider, model, unit, priced_at
)
SELECT tenant, key, sessions, provider, model, unit, currency, sum(quantity) AS quantity,
    sum(quantity * price_of_one) AS cost
FROM sizes
JOIN used USING (tenant, key)
LEFT JOIN LATERAL usage_price(tenant, provider, model, unit, priced_at) ON true
GROUP BY tenant, key, sessions, provider, model, unit, currency
ORDER BY tenant, key, provider, model, unit, currency
"""

# The same, of single sessions: by their lines.
_SESSIONS: Final = """
WITH wanted AS (
    SELECT session_id, provider, model, unit, tenant, ({key})::text COLLATE "C" AS key
    FROM (SELECT name FROM tenants WHERE $3::text IS NULL UNION ALL SELECT $3 WHERE $3 IS NOT NULL) AS known
    JOIN usage ON tenant = known.name
    WHERE at >= $1 AND at < $2 AND ($4::text IS NULL OR agent = $4)
        AND ($5::text IS NULL OR provider = $5) AND $6::text IS NOT NULL AND ($10::text IS NULL OR session_id = $10)
), page AS (
    SELECT DISTINCT tenant, key FROM wanted
    WHERE $7::text IS NULL OR (tenant, key) > ($7, $8::text)
    ORDER BY tenant, key LIMIT $9
), sizes AS (
    SELECT tenant, key, count(DISTINCT session_id) AS sessions FROM page JOIN wanted USING (tenant, key)
    GROUP BY tenant, key
)
SELECT tenant, key, sessions, provider, model, unit, currency, sum(quantity) AS quantity, sum(cost) AS cost
FROM sizes
JOIN wanted USING (tenant, key)
JOIN usage_priced USING (session_id, tenant, provider, model, unit)
GROUP BY tenant, key, sessions, provider, model, unit, currency
ORDER BY tenant, key, provider, model, unit, currency
"""


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions, by when they started and whose they are, and in which groups."""

    since: datetime
    until: datetime
    group_by: GroupBy
    zone: str = "UTC"
    tenant: str | None = None
    agent: str | None = None
    provider: str | None = None
    session_id: str | None = None
    limit: int = PAGE
    cursor: str | None = None


class Usages:
    """Usage, priced. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, query: UsageQuery) -> UsagePage:
        """Return a page of groups; raises `InvalidQuery` for a cursor that isn't from here."""
        after = keyset.decode(query.cursor, tuple[str, str]) or (None, None)
        # Days matter to nothing else, and none of UTC is of two.
        zone = query.zone if query.group_by == "day" else "UTC"
        values = (query.since, query.until, query.tenant, query.agent, query.provider, zone)
        statement = _SESSIONS if query.group_by == "session" or query.session_id is not None else _GROUPS
        async with self._store.connection("usage") as connection:
            rows = await connection.fetch(
                statement.format(key=_KEYS[query.group_by]), *values, *after, query.limit + 1, query.session_id
            )
        groups: dict[tuple[str, str], list[Any]] = {}
        for row in rows:
            groups.setdefault((row["tenant"], row["key"]), []).append(row)
        shown = list(groups.items())[: query.limit]
        return UsagePage(
            since=query.since,
            until=query.until,
            group_by=query.group_by,
            groups=[_group(tenant, key, lines) for (tenant, key), lines in shown],
            next=keyset.encode(*shown[-1][0]) if len(groups) > query.limit else None,
        )


def _group(tenant: str, key: str, rows: list[Any]) -> UsageGroup:
    costs: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        if row["currency"] is not None:
            costs[row["currency"]] += row["cost"]
    priced = [row for row in rows if row["currency"] is not None]
    return UsageGroup(
        tenant=tenant,
        key=key,
        sessions=rows[0]["sessions"],
        cost=[Cost(amount=plain(amount), currency=currency) for currency, amount in sorted(costs.items())],
        lines=[PricedLine(**_line(row), cost=plain(row["cost"]), currency=row["currency"]) for row in priced],
        unpriced=[UnpricedLine(**_line(row)) for row in rows if row["currency"] is None],
    )


def _line(row: Any) -> dict[str, str]:
    names = {name: row[name] for name in ("provider", "model", "unit")}
    return {**names, "quantity": plain(row["quantity"])}
