"""Budgets and prices in one currency: nothing is converted, so what a budget holds has to be priced in its own.

Looked at whenever a budget or prices are set, or a price is deleted, in their transaction, one after the other: none of
these can slip past.
A common price isn't looked at for a tenant that has its own of the same provider and unit in its place.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from greenroom.common.errors import GreenroomError

_ONE_BY_ONE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('currencies', 0))"

# In which currencies a tenant's sessions are priced from now on.
_OF_TENANT: Final = """
WITH own AS (
    SELECT DISTINCT ON (tenant, provider, model, unit) tenant, provider, model, unit, currency
    FROM prices WHERE tenant IN ($1, '*') AND valid_from <= now()
    ORDER BY tenant, provider, model, unit, valid_from DESC
), meant AS (
    SELECT * FROM own
    UNION
    SELECT tenant, provider, model, unit, currency FROM prices WHERE tenant IN ($1, '*') AND valid_from > now()
)
SELECT DISTINCT currency FROM meant
WHERE tenant <> '*' OR NOT EXISTS (
    SELECT FROM own
    WHERE own.tenant = $1 AND own.provider = meant.provider AND own.unit = meant.unit
        AND own.model IN (meant.model, '*')
)
ORDER BY currency
"""

# A budget that would be passed by prices ($1 tenants, $2 providers, $3 models, $4 units, $5 currencies), unnoticed.
_PASSED: Final = """
SELECT budget.id, budget.currency, price.currency AS other
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS price (tenant, provider, model, unit, currency)
JOIN budgets AS budget ON price.tenant IN (budget.tenant, '*') AND price.currency <> budget.currency
WHERE price.tenant <> '*' OR NOT EXISTS (
    SELECT FROM prices AS own
    WHERE own.tenant = budget.tenant AND own.provider = price.provider AND own.unit = price.unit
        AND own.model IN (price.model, '*') AND own.valid_from <= now()
)
ORDER BY budget.id LIMIT 1
"""

# Budgets that a price of a tenant ($1, `*`: of all), provider ($2) and unit ($3) may bear on, where there are such
# prices in another currency.
_CONCERNED: Final = """
SELECT id, tenant, currency FROM budgets AS budget
WHERE $1 IN (tenant, '*') AND EXISTS (
    SELECT FROM prices
    WHERE tenant IN (budget.tenant, '*') AND provider = $2 AND unit = $3 AND currency <> budget.currency
)
ORDER BY id
"""


class CurrencyMismatch(GreenroomError):
    """A budget and the prices that its tenant's sessions are billed by would be in different currencies.

    Nothing is converted: what is priced in another currency wouldn't count for the budget. Set prices in the budget's
    currency first, and none in another (a tenant's own prices stand in the place of common ones: where one is deleted,
    the common one would hold again). To change the currency, delete the budget, replace the prices, and make the budget
    anew.
    """

    code = "currency-mismatch"
    status = 409
    title = "The budget and the prices are in different currencies"


async def check_budget(connection: Any, tenant: str, currency: str) -> None:
    """Make sure that a tenant is billed in a currency, and in no other; in the transaction that sets the budget.

    Raises:
        CurrencyMismatch: it isn't.
    """
    await connection.execute(_ONE_BY_ONE)
    billed = [row["currency"] for row in await connection.fetch(_OF_TENANT, tenant)]
    if currency not in billed:
        raise CurrencyMismatch(f"There are no prices in {currency} for {tenant}, only {_named(billed)}.")
    if others := [each for each in billed if each != currency]:
        raise CurrencyMismatch(f"There are prices in {_named(others)} for {tenant} too.")


async def check_prices(connection: Any, keys: Sequence[tuple[str, str, str, str, str]]) -> None:
    """Make sure that no budget is of another currency than prices that were set; in their transaction.

    Args:
        connection: of the transaction.
        keys: tenant, provider, model, unit and currency of each.

    Raises:
        CurrencyMismatch: one is.
    """
    await connection.execute(_ONE_BY_ONE)
    row = await connection.fetchrow(_PASSED, *(list(column) for column in zip(*keys, strict=True)))
    if row is not None:
        raise CurrencyMismatch(f"Budget {row['id']} is in {row['currency']}, and a price would be in {row['other']}.")


@asynccontextmanager
async def deleting(connection: Any, tenant: str, provider: str, unit: str) -> AsyncGenerator[None]:
    """Make sure that a price that is deleted in the block leaves its place to none in another currency than budgets'.

    Args:
        connection: of the transaction.
        tenant: of the price; `*`: of all.
        provider: of the price.
        unit: the same.

    Raises:
        CurrencyMismatch: it does.
    """
    await connection.execute(_ONE_BY_ONE)
    concerned = await connection.fetch(_CONCERNED, tenant, provider, unit)
    before = {row["tenant"]: await _billed(connection, row["tenant"]) for row in concerned}
    yield
    after = {each: await _billed(connection, each) for each in before}
    for row in concerned:
        if come := after[row["tenant"]] - before[row["tenant"]] - {row["currency"]}:
            raise CurrencyMismatch(
                f"Budget {row['id']} is in {row['currency']}, and {_named(sorted(come))} would come into force."
            )


async def _billed(connection: Any, tenant: str) -> set[str]:
    return {row["currency"] for row in await connection.fetch(_OF_TENANT, tenant)}


def _named(currencies: Sequence[str]) -> str:
    return ", ".join(currencies) or "none at all"
