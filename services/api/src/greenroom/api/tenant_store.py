"""Tenants in PostgreSQL: each change with its line of the audit, in one transaction.

Who is suspended is a part of the policy: a change of that counts as one of the policy, takes the policy's lock first as
all of those do, and wakes whoever publishes it. So every api refuses by what it has heard, and asks nobody.
"""

from typing import Any, Final

import msgspec

from greenroom.api import policy_sql
from greenroom.api.auth import Caller
from greenroom.api.billing import keyset
from greenroom.api.policy_store import MAX_ROWS, PolicyFull, PolicyStore
from greenroom.api.store import Store
from greenroom.api.tenant_schemas import TenantChange, TenantPage, TenantState, TenantView, TenantWish
from greenroom.common import audit
from greenroom.common.audit import Action
from greenroom.common.errors import GreenroomError

_COLUMNS: Final = "name, display_name, state, state_since, note, metadata, created_at, updated_at"

_LIST: Final = f"""
SELECT {_COLUMNS} FROM tenants
WHERE ($1::text IS NULL OR state = $1) AND name > $2 ORDER BY name LIMIT $3
"""  # noqa: S608 a constant
_GET: Final = f"SELECT {_COLUMNS} FROM tenants WHERE name = $1"  # noqa: S608 a constant

# What it was before, locked until the change is done.
_STATE: Final = "SELECT state FROM tenants WHERE name = $1 FOR UPDATE"
_PUT: Final = f"""
INSERT INTO tenants (name, display_name, state, note, metadata)
VALUES ($1, $2, coalesce($3, 'active'), $4, $5::jsonb)
ON CONFLICT (name) DO UPDATE SET
    display_name = excluded.display_name, note = excluded.note, metadata = excluded.metadata, updated_at = now(),
    state = coalesce($3, tenants.state),
    state_since = CASE WHEN coalesce($3, tenants.state) = tenants.state THEN tenants.state_since ELSE now() END
RETURNING {_COLUMNS}
"""  # noqa: S608 a constant
_CHANGE: Final = f"""
UPDATE tenants SET
    display_name = coalesce($2, display_name), state = coalesce($3, state), note = coalesce($4, note),
    metadata = coalesce($5::jsonb, metadata), updated_at = now(),
    state_since = CASE WHEN coalesce($3, state) = state THEN state_since ELSE now() END
WHERE name = $1
RETURNING {_COLUMNS}
"""  # noqa: S608 a constant
_COUNT_SUSPENDED: Final = "SELECT count(*) FROM tenants WHERE state = 'suspended'"


class TenantNotFound(GreenroomError):
    """Nobody has made this tenant, and it never had a key or a session; `GET /v1/tenants` lists those there are."""

    code = "tenant-not-found"
    status = 404
    title = "No such tenant"


class TenantStore:
    """The table of tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
        policies: is told that who is suspended has changed.
    """

    def __init__(self, store: Store, policies: PolicyStore) -> None:
        self._store = store
        self._policies = policies

    async def page(self, state: TenantState | None, cursor: str | None, limit: int) -> TenantPage:
        """Return tenants by name; raises `InvalidQuery` for a cursor that isn't from here."""
        after: Any = keyset.decode(cursor, tuple[str]) or ("",)
        async with self._store.connection("tenants") as connection:
            rows = await connection.fetch(_LIST, state, *after, limit + 1)
        tenants = [_view(row) for row in rows[:limit]]
        return TenantPage(tenants=tenants, next=keyset.encode(tenants[-1].name) if len(rows) > limit else None)

    async def get(self, name: str) -> TenantView:
        """Return a tenant; raises `TenantNotFound`."""
        async with self._store.connection("tenant") as connection:
            row = await connection.fetchrow(_GET, name)
        if row is None:
            raise TenantNotFound
        return _view(row)

    async def put(self, caller: Caller, name: str, wish: TenantWish) -> TenantView:
        """Make a tenant, or replace what is said of it.

        Raises:
            PolicyFull: a thousand are suspended already.
        """
        return await self._write(caller, name, wish, _PUT)

    async def change(self, caller: Caller, name: str, change: TenantChange) -> TenantView:
        """Change what is named of a tenant.

        Raises:
            TenantNotFound: there is none.
            PolicyFull: a thousand are suspended already.
        """
        return await self._write(caller, name, change, _CHANGE)

    async def _write(self, caller: Caller, name: str, said: TenantWish | TenantChange, statement: str) -> TenantView:
        metadata = None if said.metadata is None else msgspec.json.encode(said.metadata).decode()
        async with self._store.connection("tenant_change") as connection:
            async with connection.transaction():
                await connection.fetchval(policy_sql.LOCK)
                before = await connection.fetchval(_STATE, name)
                row = await connection.fetchrow(statement, name, said.display_name, said.state, said.note, metadata)
                if row is None:
                    raise TenantNotFound
                after = row["state"]
                if after == "suspended" and await connection.fetchval(_COUNT_SUSPENDED) > MAX_ROWS:
                    raise PolicyFull(f"{MAX_ROWS} tenants are suspended.")
                await audit.write(
                    connection,
                    actor=audit.key_actor(caller.key_id),
                    action=_action(before, after),
                    tenant=name,
                    subject=name,
                    state=after,
                )
            self._policies.changed.set()
        return _view(row)


def _action(before: TenantState | None, after: TenantState) -> Action:
    if after == (before or "active"):
        return Action.TENANT_CHANGED
    return Action.TENANT_SUSPENDED if after == "suspended" else Action.TENANT_RESUMED


def _view(row: Any) -> TenantView:
    fields: dict[str, Any] = {**row, "metadata": msgspec.json.decode(row["metadata"])}
    return TenantView(**fields)
