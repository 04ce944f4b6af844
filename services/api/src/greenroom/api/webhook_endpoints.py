"""Webhook endpoints and their deliveries, as their tenant sees them. The recorder does the delivering."""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import asyncpg
import msgspec

from greenroom.api.store import Store
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.webhook_secrets import WebhookSecrets

# As many as anybody has use for; each costs a row for each event.
MAX_ENDPOINTS: Final = 20
# For so long the secret before the last one signs too.
ROTATION: Final = timedelta(hours=24)
# What there is beside what is said and measured in a call.
DEFAULT_EVENTS: Final = ("session.*", "recording.ready", "transcript.ready", "post_call.*", "limit.reached", "budget.*")
type State = Literal["pending", "delivered", "dead"]

_COLUMNS: Final = """
    id, url, description, events, enabled, disabled_reason, failures, created_at, updated_at,
    CASE WHEN old_secret_until > now() THEN old_secret_until END AS old_secret_until
"""
_MINE: Final = "tenant = $1 AND deleted_at IS NULL"
_LIST: Final = f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {_MINE} ORDER BY created_at, id"  # noqa: S608 constants
_GET: Final = f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {_MINE} AND id = $2"  # noqa: S608 constants
# Of two that ask at once, one waits here for the other, so that both count.
_ONE_BY_ONE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoints/' || $1, 0))"
_COUNT: Final = f"SELECT count(*) FROM webhook_endpoints WHERE {_MINE}"  # noqa: S608 constants
_ADD: Final = f"""
INSERT INTO webhook_endpoints (id, tenant, url, description, events, enabled, secret)
VALUES ($2, $1, $3, $4, $5, $6, $7) RETURNING {_COLUMNS}
"""  # noqa: S608 constants
# Whoever changes anything of it has looked at it: it is asked again at once.
_CHANGE: Final = f"""
UPDATE webhook_endpoints SET
    url = coalesce($3, url), description = coalesce($4, description), events = coalesce($5, events),
    enabled = coalesce($6, enabled), disabled_reason = CASE WHEN $6 THEN NULL ELSE disabled_reason END,
    failures = 0, paused_until = '-infinity', updated_at = now()
WHERE {_MINE} AND id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608 constants
_DELETE: Final = f"""
UPDATE webhook_endpoints SET
    deleted_at = now(), enabled = false, secret = '', old_secret = NULL, old_secret_until = NULL
WHERE {_MINE} AND id = $2 RETURNING id
"""  # noqa: S608 constants
_ROTATE: Final = f"""
UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + $4, secret = $3, updated_at = now()
WHERE {_MINE} AND id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608 constants

_DELIVERY: Final = """
    delivery.id, delivery.type, delivery.session_id, delivery.event_id, delivery.state, delivery.attempts,
    delivery.last_status, delivery.last_error, delivery.last_at, delivery.created_at, delivery.give_up_at,
    CASE WHEN delivery.state = 'pending' AND NOT EXISTS (
        SELECT FROM webhook_deliveries AS former
        WHERE former.endpoint_id = delivery.endpoint_id AND former.lane = delivery.lane
            AND former.state = 'pending' AND former.position < delivery.position
    ) THEN lane.next_at END AS next_at
"""
_FROM: Final = """
FROM webhook_deliveries AS delivery
LEFT JOIN webhook_lanes AS lane ON lane.endpoint_id = delivery.endpoint_id AND lane.lane = delivery.lane
"""
_DELIVERIES: Final = f"""
SELECT {_DELIVERY} {_FROM}
WHERE delivery.endpoint_id = $1 AND ($2::text IS NULL OR delivery.state = $2)
    AND ($3::text IS NULL OR delivery.session_id = $3)
    AND ($4::timestamptz IS NULL OR (delivery.created_at, delivery.id) < ($4, $5))
ORDER BY delivery.created_at DESC, delivery.id DESC LIMIT $6
"""
_ONE_DELIVERY: Final = f"SELECT {_DELIVERY} {_FROM} WHERE delivery.endpoint_id = $1 AND delivery.id = $2"
_ADD_TEST: Final = """
INSERT INTO webhook_deliveries (endpoint_id, lane, position, event_id, type, give_up_at)
VALUES ($1, $2, 0, $2, $3, now()) RETURNING id
"""
# Somebody waits for it: before all others, and though the endpoint has failed.
_QUEUE_TEST: Final = "INSERT INTO webhook_lanes (endpoint_id, lane, next_at) VALUES ($1, $2, to_timestamp(0))"
_RESUME: Final = "UPDATE webhook_endpoints SET paused_until = '-infinity' WHERE id = $1"
_REPLAY: Final = """
UPDATE webhook_deliveries SET
    state = 'pending', attempts = 0, settled_at = NULL, give_up_at = now() + interval '24 hours'
WHERE endpoint_id = $1 AND id = $2 AND state <> 'pending' RETURNING lane, session_id
"""
_QUEUE_LANE: Final = """
INSERT INTO webhook_lanes (endpoint_id, lane, session_id) VALUES ($1, $2, $3)
ON CONFLICT (endpoint_id, lane) DO UPDATE SET next_at = webhook_lanes.next_at
"""


class WebhookEndpointNotFound(GreenroomError):
    """The tenant has no such endpoint; `GET /v1/webhook-endpoints` lists those it has."""

    code = "webhook-endpoint-not-found"
    status = 404
    title = "No such webhook endpoint"


class WebhookDeliveryNotFound(GreenroomError):
    """The endpoint has no such delivery: they are kept for 7 days where they succeeded, and for 30 where not."""

    code = "webhook-delivery-not-found"
    status = 404
    title = "No such delivery"


class WebhookDeliveryPending(GreenroomError):
    """The delivery is still being tried: only what was delivered or given up can be replayed."""

    code = "webhook-delivery-pending"
    status = 409
    title = "It is still being delivered"


class WebhookEndpointDisabled(GreenroomError):
    """Nothing is sent to a disabled endpoint. Enable it first: `PATCH …` with `{"enabled": true}`."""

    code = "webhook-endpoint-disabled"
    status = 409
    title = "The endpoint is disabled"


class TooManyWebhookEndpoints(GreenroomError):
    """A tenant has 20 webhook endpoints at most. Delete one, or have one take the events of two."""

    code = "too-many-webhook-endpoints"
    status = 409
    title = "There are too many webhook endpoints"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint, without its secret."""

    id: str
    url: str
    description: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    failures: int
    created_at: datetime
    updated_at: datetime
    old_secret_until: datetime | None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint; `next_at` is None while it isn't its turn."""

    id: str
    type: str
    session_id: str | None
    event_id: str
    state: State
    attempts: int
    last_status: int | None
    last_error: str | None
    last_at: datetime | None
    next_at: datetime | None
    created_at: datetime
    give_up_at: datetime


class Endpoints:
    """The endpoints of all tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
        secrets: encrypts what they sign with.
    """

    def __init__(self, store: Store, secrets: WebhookSecrets) -> None:
        self._store = store
        self._secrets = secrets

    async def all(self, tenant: str) -> list[Endpoint]:
        """Return a tenant's endpoints, oldest first."""
        async with self._store.connection("webhook_endpoints") as connection:
            return [_endpoint(row) for row in await connection.fetch(_LIST, tenant)]

    async def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """Return an endpoint.

        Raises:
            WebhookEndpointNotFound: the tenant doesn't have it.
        """
        return await self._one("webhook_endpoint", _GET, tenant, endpoint_id)

    async def add(
        self, tenant: str, *, url: str, description: str, events: Sequence[str], enabled: bool
    ) -> tuple[Endpoint, str]:
        """Make an endpoint; return it and its secret.

        Raises:
            TooManyWebhookEndpoints: the tenant has as many as it may have.
            WebhookKeyMissing: what encrypts its secret isn't there.
        """
        endpoint_id, secret = uuid7(), _new_secret()
        kept = await asyncio.to_thread(self._secrets.seal, tenant, endpoint_id, secret)
        async with self._store.connection("add_webhook_endpoint") as connection, connection.transaction():
            await connection.execute(_ONE_BY_ONE, tenant)
            if await connection.fetchval(_COUNT, tenant) >= MAX_ENDPOINTS:
                raise TooManyWebhookEndpoints
            row = await connection.fetchrow(_ADD, tenant, endpoint_id, url, description, events, enabled, kept)
        return _endpoint(row), secret

    async def change(
        self,
        tenant: str,
        endpoint_id: str,
        *,
        url: str | None,
        description: str | None,
        events: Sequence[str] | None,
        enabled: bool | None,
    ) -> Endpoint:
        """Change what isn't None of an endpoint; raises as `get`."""
        values = (url, description, events, enabled)
        return await self._one("change_webhook_endpoint", _CHANGE, tenant, endpoint_id, *values)

    async def delete(self, tenant: str, endpoint_id: str) -> None:
        """Delete an endpoint with all that waits for it; raises as `get`."""
        async with self._store.connection("delete_webhook_endpoint") as connection:
            if await connection.fetchval(_DELETE, tenant, endpoint_id) is None:
                raise WebhookEndpointNotFound

    async def rotate(self, tenant: str, endpoint_id: str) -> tuple[Endpoint, str]:
        """Give an endpoint a new secret, beside which the old one signs for a day; raises as `get`, and as `add`."""
        secret = _new_secret()
        kept = await asyncio.to_thread(self._secrets.seal, tenant, endpoint_id, secret)
        return await self._one("rotate_webhook_secret", _ROTATE, tenant, endpoint_id, kept, ROTATION), secret

    async def deliveries(
        self,
        endpoint: Endpoint,
        *,
        state: State | None,
        session_id: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Delivery]:
        """Return deliveries to an endpoint, newest first."""
        at, delivery_id = before or (None, None)
        async with self._store.connection("webhook_deliveries") as connection:
            rows = await connection.fetch(_DELIVERIES, endpoint.id, state, session_id, at, delivery_id, limit)
        return [_delivery(row) for row in rows]

    async def delivery(self, endpoint: Endpoint, delivery_id: str) -> Delivery:
        """Return one delivery.

        Raises:
            WebhookDeliveryNotFound: there is none of this id.
        """
        async with self._store.connection("webhook_delivery") as connection:
            row = await connection.fetchrow(_ONE_DELIVERY, endpoint.id, delivery_id)
        if row is None:
            raise WebhookDeliveryNotFound
        return _delivery(row)

    async def test(self, endpoint: Endpoint, kind: str) -> Delivery:
        """Queue a delivery of nothing that has happened, as if it were a `kind`; it is tried once.

        Raises:
            WebhookEndpointDisabled: nothing is sent there.
        """
        _check_enabled(endpoint)
        async with self._store.connection("test_webhook") as connection, connection.transaction():
            lane = f"test-{uuid7()}"
            delivery_id = await connection.fetchval(_ADD_TEST, endpoint.id, lane, kind)
            await connection.execute(_QUEUE_TEST, endpoint.id, lane)
            await connection.execute(_RESUME, endpoint.id)
        return await self.delivery(endpoint, delivery_id)

    async def replay(self, endpoint: Endpoint, delivery_id: str) -> Delivery:
        """Deliver again what was delivered or given up, under the same id.

        Raises:
            WebhookEndpointDisabled: nothing is sent there.
            WebhookDeliveryNotFound: there is none of this id.
            WebhookDeliveryPending: it is being tried.
        """
        _check_enabled(endpoint)
        await self.delivery(endpoint, delivery_id)
        async with self._store.connection("replay_webhook") as connection, connection.transaction():
            row = await connection.fetchrow(_REPLAY, endpoint.id, delivery_id)
            if row is None:
                raise WebhookDeliveryPending
            await connection.execute(_QUEUE_LANE, endpoint.id, row["lane"], row["session_id"])
        return await self.delivery(endpoint, delivery_id)

    async def _one(self, name: str, query: str, *values: object) -> Endpoint:
        async with self._store.connection(name) as connection:
            row = await connection.fetchrow(query, *values)
        if row is None:
            raise WebhookEndpointNotFound
        return _endpoint(row)


def _check_enabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        raise WebhookEndpointDisabled


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(**dict(row))


def _delivery(row: asyncpg.Record) -> Delivery:
    return Delivery(**dict(row))
