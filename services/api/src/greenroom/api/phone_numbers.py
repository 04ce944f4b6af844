"""Phone numbers: which agent of which tenant answers a call to one, and what callers hear while no slot is free."""

from typing import Any, Final, Literal

import asyncpg
import msgspec

from greenroom.api.cache import Cache
from greenroom.api.canonical import canonical_number
from greenroom.api.store import Store
from greenroom.common.clock import Clock
from greenroom.common.errors import GreenroomError

# How long a change may go unnoticed.
_TTL_S: Final = 2.0
_ABSENT_TTL_S: Final = 0.5

type AtBusy = Literal["refuse", "hold"]

_COLUMNS: Final = "carrier, number, tenant, agent, at_busy, hold_s, hold_text, busy_text, body"
# Numbers are written with and without a plus.
_FIND: Final = f"SELECT {_COLUMNS} FROM numbers WHERE carrier = $1 AND ltrim(number, '+') = ltrim($2, '+')"  # noqa: S608 constants
_LIST: Final = f"SELECT {_COLUMNS} FROM numbers WHERE tenant = $1 ORDER BY carrier, number"  # noqa: S608 constants
# A number of another tenant stays as it is.
_PUT: Final = f"""
INSERT INTO numbers ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)
ON CONFLICT (carrier, number) DO UPDATE
SET (agent, at_busy, hold_s, hold_text, busy_text, body, updated_at) =
    (excluded.agent, excluded.at_busy, excluded.hold_s, excluded.hold_text, excluded.busy_text, excluded.body, now())
WHERE numbers.tenant = excluded.tenant
RETURNING tenant
"""  # noqa: S608 constants
_DELETE: Final = "DELETE FROM numbers WHERE carrier = $1 AND number = $2 AND tenant = $3 RETURNING tenant"


class NumberNotFound(GreenroomError):
    """The tenant has no such number at this carrier; `GET /v1/numbers` lists those it has."""

    code = "number-not-found"
    status = 404
    title = "No such number"


class NumberTaken(GreenroomError):
    """The number belongs to another tenant of this installation."""

    code = "number-taken"
    status = 409
    title = "The number is somebody else's"


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A phone number.

    Attributes:
        carrier: who has it.
        number: in the one way in which numbers are written here.
        tenant: whose it is.
        agent: who answers.
        at_busy: what becomes of a call that finds no free slot.
        hold_s: how long one is held.
        hold_text: what those hear who are held; empty: nothing.
        busy_text: what those hear who are refused; empty: that the line is busy.
        body: what the bot is given.
    """

    carrier: str
    number: str
    tenant: str
    agent: str
    at_busy: AtBusy = "refuse"
    hold_s: float = 60.0
    hold_text: str = ""
    busy_text: str = ""
    body: dict[str, Any] = {}


class Numbers:
    """The numbers of all tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
        clock: of what is remembered.
    """

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._store = store
        self._cache: Cache[tuple[str, str], Number] = Cache(
            self._load, ttl_s=_TTL_S, absent_ttl_s=_ABSENT_TTL_S, clock=clock
        )

    async def find(self, carrier: str, number: str) -> Number | None:
        """Return a number, as a carrier names it; while PostgreSQL is away, as it was last known."""
        return await self._cache.get((carrier, canonical_number(number)))

    async def all(self, tenant: str) -> list[Number]:
        """Return a tenant's numbers, by carrier and number."""
        async with self._store.connection("numbers") as connection:
            return [_number(row) for row in await connection.fetch(_LIST, tenant)]

    async def put(self, number: Number) -> None:
        """Make a number, or replace what is said of it.

        Raises:
            NumberTaken: another tenant has it.
        """
        values = msgspec.structs.astuple(number)
        body = msgspec.json.encode(number.body).decode()
        async with self._store.connection("put_number") as connection:
            try:
                written = await connection.fetchval(_PUT, *values[:-1], body)
            except asyncpg.UniqueViolationError:
                # The same digits, with or without a plus.
                written = None
        if written is None:
            raise NumberTaken

    async def delete(self, carrier: str, number: str, tenant: str) -> None:
        """Forget a number.

        Raises:
            NumberNotFound: the tenant doesn't have it.
        """
        async with self._store.connection("delete_number") as connection:
            if await connection.fetchval(_DELETE, carrier, number, tenant) is None:
                raise NumberNotFound

    async def _load(self, key: tuple[str, str]) -> Number | None:
        async with self._store.connection("number") as connection:
            row = await connection.fetchrow(_FIND, *key)
        return _number(row) if row is not None else None


def _number(row: Any) -> Number:
    fields: dict[str, Any] = {**row, "body": msgspec.json.decode(row["body"], type=dict[str, Any])}
    return Number(**fields)
