"""The policy in PostgreSQL: read as a whole, changed row by row, each change one revision further."""

import asyncio
from typing import Any, Final

import asyncpg
import msgspec

from greenroom.api import policy_sql as sql
from greenroom.api.store import Store
from greenroom.common.errors import GreenroomError
from greenroom.common.pins import Pin
from greenroom.common.policy import Limit, Policy, PoolPolicy, Reservation, Rollout

# Of each kind. The whole travels as one message, which NATS takes up to 1 MiB of; a row is some 200 bytes.
MAX_ROWS: Final = 1000
# A pin takes up to 8 KiB.
MAX_PINS: Final = 64
_NOTHING_DELETED: Final = "DELETE 0"


class PolicyNotFound(GreenroomError):
    """There is no such limit, pool, reservation or rollout; a listing shows those there are."""

    code = "policy-not-found"
    status = 404
    title = "The policy has no such part"


class PolicyChanged(GreenroomError):
    """`If-Match` names another revision than the one that holds: the policy was changed. Read it and decide anew."""

    code = "policy-changed"
    status = 412
    title = "The policy was changed in between"


class PolicyFull(GreenroomError):
    """There are 1000 of the kind already, or 64 pins.

    Delete some: one limit with key `*` counts every key by itself, and one pin keeps up to 100 sessions running.
    """

    code = "policy-full"
    status = 409
    title = "The policy has as many as it may"


class PolicyUnusable(GreenroomError):
    """What stands in PostgreSQL is no policy; the schedulers go on with the last one that was.

    Somebody changed a row by hand to what the API wouldn't have taken (the detail says where, e.g. a schedule whose
    time isn't `08:00:00`), or the tables themselves, or their permissions. Correct that.
    """

    code = "policy-unusable"
    status = 500
    title = "The stored policy can't be used"


class PolicyStore:
    """The tables of the policy.

    Every method raises `DatabaseUnavailable`. Those that change something return the new revision; they take the
    revision that must hold (None: any), and raise `PolicyChanged` if another one does.

    Attributes:
        changed: set at each change that is made here; whoever publishes the policy waits for it.
    """

    def __init__(self, store: Store) -> None:
        """Use the connections of `store`."""
        self.changed: Final = asyncio.Event()
        self._store = store

    async def revision(self) -> int:
        """Return how far the policy has come; 0: nobody has decided anything.

        Raises:
            PolicyUnusable: PostgreSQL refuses to tell.
        """
        return await self._read("policy_revision", sql.REVISION) or 0

    async def policy(self) -> Policy:
        """Return all of it, as of one moment; reservations that are over left out.

        Raises:
            PolicyUnusable: a row was made by hand and is none, or PostgreSQL refuses to tell.
        """
        document = await self._read("policy", sql.POLICY)
        try:
            return msgspec.json.decode(document, type=Policy)
        except msgspec.ValidationError as error:
            raise PolicyUnusable(str(error)) from error

    async def put_limit(self, limit: Limit, expected: int | None = None) -> int:
        """Make a limit, or replace the one of its id; raises `PolicyFull`."""
        values = (limit.id, limit.scope, limit.tenant, limit.key)
        values = (*values, limit.max_sessions, limit.max_starts_per_s, limit.at_limit)
        return await self._put(expected, sql.COUNT_LIMITS, sql.PUT_LIMIT, *values)

    async def delete_limit(self, limit_id: str, expected: int | None = None) -> int:
        """Delete a limit; raises `PolicyNotFound`."""
        return await self._delete(expected, sql.DELETE_LIMIT, limit_id)

    async def put_pool(self, pool: PoolPolicy, expected: int | None = None) -> int:
        """Say how a pool is run; raises `PolicyFull`."""
        # The struct has its fields in the order of the statement, schedules last.
        *values, schedules = msgspec.structs.astuple(pool)
        return await self._put(
            expected, sql.COUNT_POOLS, sql.PUT_POOL, *values, msgspec.json.encode(schedules).decode()
        )

    async def delete_pool(self, name: str, expected: int | None = None) -> int:
        """Leave a pool to the defaults; raises `PolicyNotFound` where it is already."""
        return await self._delete(expected, sql.DELETE_POOL, name)

    async def add_reservation(self, reservation: Reservation, expected: int | None = None) -> int:
        """Add a reservation under an id that is new; raises `PolicyFull`."""
        values = msgspec.structs.astuple(reservation)
        return await self._put(expected, sql.COUNT_RESERVATIONS, sql.ADD_RESERVATION, *values)

    async def delete_reservation(self, reservation_id: str, expected: int | None = None) -> int:
        """Delete a reservation; raises `PolicyNotFound`."""
        return await self._delete(expected, sql.DELETE_RESERVATION, reservation_id)

    async def put_rollout(self, rollout: Rollout, expected: int | None = None) -> int:
        """Say which version of an agent new sessions get; raises `PolicyFull`."""
        return await self._put(expected, sql.COUNT_ROLLOUTS, sql.PUT_ROLLOUT, *msgspec.structs.astuple(rollout))

    async def delete_rollout(self, tenant: str, agent: str, expected: int | None = None) -> int:
        """Leave an agent's version to what is offered; raises `PolicyNotFound` where it is already."""
        return await self._delete(expected, sql.DELETE_ROLLOUT, tenant, agent)

    async def put_pin(self, pin: Pin, expected: int | None = None) -> int:
        """Keep sessions running, or replace the pin of its id, whose uid stays; raises `PolicyFull`."""
        document = msgspec.to_builtins(pin)
        plain = {name: value for name, value in document.items() if name not in {"id", "uid", "changed_at"}}
        values = (pin.id, pin.uid, pin.changed_at, msgspec.json.encode(plain).decode())
        return await self._change(expected, sql.COUNT_PINS, sql.PUT_PIN, *values, most=MAX_PINS)

    async def delete_pin(self, pin_id: str, expected: int | None = None) -> int:
        """Delete a pin; raises `PolicyNotFound`."""
        return await self._delete(expected, sql.DELETE_PIN, pin_id)

    async def put_weight(self, tenant: str, weight: float, expected: int | None = None) -> int:
        """Give a tenant its share; the usual one (1) isn't kept. Raises `PolicyFull`."""
        if weight == 1:
            return await self._change(expected, None, sql.DELETE_WEIGHT, tenant)
        return await self._put(expected, sql.COUNT_WEIGHTS, sql.PUT_WEIGHT, tenant, weight)

    async def _read(self, name: str, query: str) -> Any:
        try:
            async with self._store.connection(name) as connection:
                return await connection.fetchval(query)
        except asyncpg.PostgresError as error:  # it is there, and doesn't do what has always worked
            raise PolicyUnusable(f"PostgreSQL refuses: {type(error).__name__}") from error

    async def _put(self, expected: int | None, count: str, statement: str, *values: object) -> int:
        return await self._change(expected, count, statement, *values)

    async def _delete(self, expected: int | None, statement: str, *values: object) -> int:
        return await self._change(expected, None, statement, *values, must_exist=True)

    async def _change(
        self,
        expected: int | None,
        count: str | None,
        statement: str,
        *values: object,
        must_exist: bool = False,
        most: int = MAX_ROWS,
    ) -> int:
        """Carry out a statement; nothing has happened if this raises anything but `DatabaseUnavailable`."""
        async with self._store.connection("policy_change") as connection:
            async with connection.transaction():
                revision = await connection.fetchval(sql.LOCK) or 0
                if expected is not None and expected != revision:
                    raise PolicyChanged(f"Revision {revision} holds.")
                status = await connection.execute(statement, *values)
                if must_exist and status == _NOTHING_DELETED:
                    raise PolicyNotFound
                if count is not None and await connection.fetchval(count) > most:
                    raise PolicyFull
                revision = await connection.fetchval(sql.REVISION)
            self.changed.set()
            return revision
