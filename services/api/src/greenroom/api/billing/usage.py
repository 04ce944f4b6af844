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

# What groups are made by; a day is one of the zone that is asked for.
_KEYS: Final[dict[GroupBy, str]] = {
    "session": "session_id",
    "agent": "agent",
    "tenant": "tenant",
    "day": "to_char(at AT TIME ZONE $7, 'YYYY-MM-DD')",
    "provider": "provider",
    "model": "model",
    "unit": "unit",
}

# The next groups behind a key, and all that was used in them, by what it costs: a line may be priced in one session
# and not in another. The zone is looked at in any case, so that its type is known.
_GROUPS: Final = """
WITH wanted AS (
    SELECT session_id, provider, model, unit, tenant, ({key})::text COLLATE "C" AS key
    FROM usage
    WHERE at >= $1 AND at < $2 AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR agent = $4)
        AND ($5::text IS NULL OR provider = $5) AND ($6::text IS NULL OR session_id = $6) AND $7::text IS NOT NULL
), page AS (
    SELECT DISTINCT tenant, key FROM wanted
    WHERE $8::text IS NULL OR (tenant, key) > ($8, $9::text)
    ORDER BY tenant, key LIMIT $10
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
        values = (query.since, query.until, query.tenant, query.agent, query.provider, query.session_id, query.zone)
        async with self._store.connection("usage") as connection:
            rows = await connection.fetch(_GROUPS.format(key=_KEYS[query.group_by]), *values, *after, query.limit + 1)
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
