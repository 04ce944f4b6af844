"""The price table: a line over each query says what it is for. Every method raises `DatabaseUnavailable`."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from greenroom.api.billing import keyset
from greenroom.api.billing.currencies import check_prices, deleting
from greenroom.api.billing.schemas import Price, PricePage
from greenroom.api.store import Store
from greenroom.common.budgets import plain
from greenroom.common.errors import GreenroomError

PAGE: Final = 500
# Of a hundred providers with ten models and four units each, two changes a year for a decade are a fifth of it.
MAX_PRICES: Final = 500_000

# A page of the table, behind a key; the filters are optional.
_LIST: Final = """
SELECT tenant, provider, model, unit, price, per, currency, valid_from FROM prices
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR provider = $2)
    AND ($3::text IS NULL OR (tenant, provider, model, unit, valid_from) > ($3, $4, $5, $6, $7::timestamptz))
ORDER BY tenant, provider, model, unit, valid_from LIMIT $8
"""

# A price, instead of the one of its key and time.
_PUT: Final = """
INSERT INTO prices (tenant, provider, model, unit, price, per, currency, valid_from)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::numeric[], $6::integer[], $7::text[], $8::timestamptz[]
)
ON CONFLICT (tenant, provider, model, unit, valid_from)
DO UPDATE SET (price, per, currency) = (excluded.price, excluded.per, excluded.currency)
"""
_FULL: Final = "SELECT count(*) > $1 FROM prices"

_DELETE: Final = """
DELETE FROM prices WHERE tenant = $1 AND provider = $2 AND model = $3 AND unit = $4 AND valid_from = $5
RETURNING tenant
"""

type _Key = tuple[str, str, str, str, datetime]


class PriceNotFound(GreenroomError):
    """There is no price of this tenant, provider, model and unit from this time on; `GET /v1/prices` lists them."""

    code = "price-not-found"
    status = 404
    title = "There is no such price"


class PricesFull(GreenroomError):
    """The price table has half a million rows. Delete what is older than anything that is still to be billed."""

    code = "prices-full"
    status = 409
    title = "There are as many prices as there may be"


class Prices:
    """The price table.

    Args:
        store: lends connections.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, tenant: str | None, provider: str | None, cursor: str | None) -> PricePage:
        """Return a page of the table; raises `InvalidQuery` for a cursor that isn't from here."""
        key: Any = keyset.decode(cursor, _Key.__value__) or (None,) * 5
        async with self._store.connection("prices") as connection:
            rows = await connection.fetch(_LIST, tenant, provider, *key, PAGE + 1)
        prices = [_price(row) for row in rows[:PAGE]]
        more = keyset.encode(*key_of(prices[-1])) if len(rows) > PAGE else None
        return PricePage(prices=prices, next=more)

    async def put(self, prices: Sequence[Price]) -> None:
        """Make or replace prices: all of them, or none.

        Raises:
            PricesFull: there are too many.
            CurrencyMismatch: a budget is in another currency.
            InvalidBody: the time of one can't be meant.
        """
        checked = [each.check(place) for place, each in enumerate(prices)]
        # Twice the same key: the last one stands, as if they had been sent one after the other.
        rows = [
            (*key_of(each)[:4], Decimal(each.price), each.per, each.currency, each.valid_from)
            for each in {key_of(each): each for each in checked}.values()
        ]
        async with self._store.connection("put_prices") as connection, connection.transaction():
            await connection.execute(_PUT, *(list(column) for column in zip(*rows, strict=True)))
            await check_prices(connection, [(*row[:4], row[6]) for row in rows])
            if await connection.fetchval(_FULL, MAX_PRICES):
                raise PricesFull

    async def delete(self, key: _Key) -> None:
        """Delete a price.

        Raises:
            PriceNotFound: there is none of this key and time.
            CurrencyMismatch: one in another currency than a budget's would come into force.
        """
        tenant, provider, _, unit, _ = key
        async with (
            self._store.connection("delete_price") as connection,
            connection.transaction(),
            deleting(connection, tenant, provider, unit),
        ):
            if await connection.fetchval(_DELETE, *key) is None:
                raise PriceNotFound


def key_of(price: Price) -> _Key:
    """Return what a price is known by."""
    return price.tenant, price.provider, price.model, price.unit, price.valid_from


def _price(row: Any) -> Price:
    fields: dict[str, Any] = {**row, "price": plain(row["price"])}
    return Price(**fields)
