"""`/v1/webhook-endpoints`: whom a tenant's events are told to, and how that goes.

(`/v1/webhooks/{carrier}` is the other direction: what carriers tell us.)
"""

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, cast, get_args

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, QueryParameter
from msgspec import Meta

from greenroom.api import cursor as cursors
from greenroom.api.auth import WEBHOOKS_READ, WEBHOOKS_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.webhook_endpoints import (
    DEFAULT_EVENTS,
    Delivery,
    Endpoint,
    Endpoints,
    State,
    TooManyWebhookEndpoints,
    WebhookDeliveryNotFound,
    WebhookDeliveryPending,
    WebhookEndpointDisabled,
    WebhookEndpointNotFound,
)
from greenroom.common import errors
from greenroom.common.errors import InvalidQuery
from greenroom.common.outbound import MAX_URL, Exits, UrlRefused
from greenroom.common.webhook_samples import SAMPLES, TEST
from greenroom.common.webhook_secrets import WebhookKeyMissing

_PATH: Final = "/v1/webhook-endpoints"
_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202
_NO_CONTENT: Final = 204
_STATES: Final = get_args(State.__value__)
_READ: Final[dict[str, Any]] = {"tags": ["webhooks"], "opt": {"scope": (WEBHOOKS_READ, WEBHOOKS_WRITE)}}
_WRITE: Final[dict[str, Any]] = {"tags": ["webhooks"], "opt": {"scope": WEBHOOKS_WRITE}}
_BODY: Final = (errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField, UrlRefused)

# A type, all that begin alike, or all.
type EventName = Annotated[
    str, Meta(max_length=128, pattern=r"^(?:\*|[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,7}(?:\.\*)?)(?!\n)$")
]
type Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL, description="Where to: `https://…`")]
type Events = Annotated[
    tuple[EventName, ...],
    Meta(min_length=1, max_length=50, description="Types of events; `session.*` is all that begin so, `*` is all"),
]
type Text = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*(?!\n)$", description="For people")]


class WebhookEndpointWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell what."""

    url: Url
    events: Events = DEFAULT_EVENTS
    description: Text = ""
    enabled: bool = True


class WebhookEndpointChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different; what isn't named stays as it is."""

    url: Url | None = None
    events: Events | None = None
    description: Text | None = None
    enabled: bool | None = None


class WebhookEndpointMade(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint and its secret, which is shown this once."""

    endpoint: Endpoint
    secret: str


class WebhookEndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints, oldest first."""

    endpoints: list[Endpoint]


class WebhookDeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, newest first; with `next` the listing goes on."""

    deliveries: list[Delivery]
    next: str | None


_WISH: Final = {"url": "https://crm.example.org/hooks/voice", "events": ["session.ended", "recording.ready"]}
_ID: Final = "0192f0c1-2b1e-7c3a-9a51-3f0c5d1e7a10"
_AT: Final = "2026-11-21T15:00:00Z"
_EXAMPLE: Final[dict[str, Any]] = {
    "id": _ID,
    **_WISH,
    "description": "",
    "enabled": True,
    "disabled_reason": None,
    "failures": 0,
    "created_at": _AT,
    "updated_at": _AT,
    "old_secret_until": None,
}
_MADE: Final = {"endpoint": _EXAMPLE, "secret": "whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZSBvZiBvbmU="}
_DELIVERY: Final[dict[str, Any]] = {
    "id": "msg_0192f0c12b1e7c3a9a513f0c5d1e7a11",
    "type": "session.ended",
    "session_id": "0192f0c1-2b1e-7c3a-9a51-3f0c5d1e7a12",
    "event_id": "0192f0c1-2b1e-7c3a-9a51-3f0c5d1e7a13",
    "state": "pending",
    "attempts": 2,
    "last_status": 503,
    "last_error": None,
    "last_at": _AT,
    "next_at": "2026-11-21T15:00:10Z",
    "created_at": _AT,
    "give_up_at": "2026-11-22T15:00:00Z",
}


def webhook_endpoint_routes(endpoints: Endpoints, exits: Exits) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        endpoints: has them.
        exits: where requests may go.
    """
    return [*_of_endpoints(endpoints, exits), *_of_deliveries(endpoints)]


def _of_endpoints(endpoints: Endpoints, exits: Exits) -> list[HTTPRouteHandler]:
    @get(
        _PATH,
        operation_id="list_webhook_endpoints",
        summary="List webhook endpoints",
        responses={
            _OK: answer(WebhookEndpointList, "The tenant's endpoints", {"endpoints": [_EXAMPLE]}),
            **problems(),
        },
        **_READ,
    )
    async def list_endpoints(request: AnyRequest) -> WebhookEndpointList:
        """List whom the tenant's events are told to. Secrets aren't shown."""
        only_query(request)
        return WebhookEndpointList(endpoints=await endpoints.all(caller_of(request).tenant))

    @post(
        _PATH,
        operation_id="add_webhook_endpoint",
        summary="Add a webhook endpoint",
        dto=JsonBody.of(WebhookEndpointWish),
        return_dto=None,
        responses={
            _CREATED: answer(WebhookEndpointMade, "The endpoint, and its secret", _MADE),
            **problems(*_BODY, TooManyWebhookEndpoints, WebhookKeyMissing),
        },
        **_WRITE,
    )
    async def add_endpoint(
        request: AnyRequest, data: Annotated[WebhookEndpointWish, Body(examples=[Example(value=_WISH)])]
    ) -> Response[WebhookEndpointMade]:
        """Have events told to a URL, from now on. Keep the secret: it is shown once, and signs all that is sent."""
        only_query(request)
        exits.target(data.url)
        endpoint, secret = await endpoints.add(
            caller_of(request).tenant,
            url=data.url,
            description=data.description,
            events=data.events,
            enabled=data.enabled,
        )
        return _unkept(WebhookEndpointMade(endpoint=endpoint, secret=secret), _CREATED)

    @get(
        f"{_PATH}/{{endpoint_id:str}}",
        operation_id="get_webhook_endpoint",
        summary="Look at a webhook endpoint",
        responses={_OK: answer(Endpoint, "The endpoint", _EXAMPLE), **problems(WebhookEndpointNotFound)},
        **_READ,
    )
    async def get_endpoint(request: AnyRequest, endpoint_id: FromPath[str]) -> Endpoint:
        """Return an endpoint, without its secret."""
        only_query(request)
        return await endpoints.get(caller_of(request).tenant, endpoint_id)

    @patch(
        f"{_PATH}/{{endpoint_id:str}}",
        operation_id="change_webhook_endpoint",
        summary="Change a webhook endpoint",
        dto=JsonBody.of(WebhookEndpointChange),
        return_dto=None,
        responses={_OK: answer(Endpoint, "The endpoint", _EXAMPLE), **problems(*_BODY, WebhookEndpointNotFound)},
        **_WRITE,
    )
    async def change_endpoint(
        request: AnyRequest,
        endpoint_id: FromPath[str],
        data: Annotated[WebhookEndpointChange, Body(examples=[Example(value={"enabled": True})])],
    ) -> Endpoint:
        """Change an endpoint; what waits for it goes to its new URL, and is tried again at once where it is due."""
        only_query(request)
        if data.url is not None:
            exits.target(data.url)
        return await endpoints.change(
            caller_of(request).tenant,
            endpoint_id,
            url=data.url,
            description=data.description,
            events=data.events,
            enabled=data.enabled,
        )

    @delete(
        f"{_PATH}/{{endpoint_id:str}}",
        operation_id="delete_webhook_endpoint",
        summary="Delete a webhook endpoint",
        status_code=_NO_CONTENT,
        responses={
            _NO_CONTENT: ResponseSpec(None, description="Nothing is sent there any more"),
            **problems(WebhookEndpointNotFound),
        },
        **_WRITE,
    )
    async def delete_endpoint(request: AnyRequest, endpoint_id: FromPath[str]) -> Response[None]:
        """Delete an endpoint, with everything that waits for it."""
        only_query(request)
        await endpoints.delete(caller_of(request).tenant, endpoint_id)
        return Response(None, status_code=_NO_CONTENT)

    @post(
        f"{_PATH}/{{endpoint_id:str}}/rotate",
        operation_id="rotate_webhook_secret",
        summary="Change a webhook's secret",
        status_code=_OK,
        responses={
            _OK: answer(WebhookEndpointMade, "The endpoint, and its new secret", _MADE),
            **problems(WebhookEndpointNotFound, WebhookKeyMissing),
        },
        **_WRITE,
    )
    async def rotate_secret(request: AnyRequest, endpoint_id: FromPath[str]) -> Response[WebhookEndpointMade]:
        """Give an endpoint a new secret. For 24 h the one before signs too, so that nothing is refused meanwhile."""
        only_query(request)
        endpoint, secret = await endpoints.rotate(caller_of(request).tenant, endpoint_id)
        return _unkept(WebhookEndpointMade(endpoint=endpoint, secret=secret), _OK)

    return [list_endpoints, add_endpoint, get_endpoint, change_endpoint, delete_endpoint, rotate_secret]


def _of_deliveries(endpoints: Endpoints) -> list[HTTPRouteHandler]:
    @post(
        f"{_PATH}/{{endpoint_id:str}}/test",
        operation_id="test_webhook_endpoint",
        summary="Send a test",
        status_code=_ACCEPTED,
        responses={
            _ACCEPTED: answer(Delivery, "The delivery; look at it in a moment", {**_DELIVERY, "type": "webhook.test"}),
            **problems(WebhookEndpointNotFound, WebhookEndpointDisabled),
        },
        **_WRITE,
    )
    async def test_endpoint(
        request: AnyRequest,
        endpoint_id: FromPath[str],
        kind: Annotated[str, QueryParameter(name="type", description=", ".join(SAMPLES))] = TEST,
    ) -> Delivery:
        """Send a test, whatever the endpoint's filter; it is tried once, and its body has `"test": true`."""
        only_query(request, "type")
        if kind not in SAMPLES:
            raise InvalidQuery(f"type is one of {', '.join(SAMPLES)}.")
        return await endpoints.test(await endpoints.get(caller_of(request).tenant, endpoint_id), kind)

    @get(
        f"{_PATH}/{{endpoint_id:str}}/deliveries",
        operation_id="list_webhook_deliveries",
        summary="List deliveries",
        responses={
            _OK: answer(WebhookDeliveryPage, "Deliveries", {"deliveries": [_DELIVERY], "next": None}),
            **problems(WebhookEndpointNotFound),
        },
        **_READ,
    )
    async def list_deliveries(  # noqa: PLR0917 Litestar passes by name
        request: AnyRequest,
        endpoint_id: FromPath[str],
        in_state: Annotated[str | None, QueryParameter(name="state", description=", ".join(_STATES))] = None,
        session_id: Annotated[str | None, QueryParameter(description="Of this session")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, QueryParameter(description="The `next` of the page before")] = None,
    ) -> WebhookDeliveryPage:
        """List what was sent to an endpoint, what waits, and what was given up (`dead`), newest first."""
        only_query(request, "state", "session_id", "limit", "cursor")
        if in_state is not None and in_state not in _STATES:
            raise InvalidQuery(f"state is one of {', '.join(_STATES)}.")
        endpoint = await endpoints.get(caller_of(request).tenant, endpoint_id)
        found = await endpoints.deliveries(
            endpoint,
            state=cast("State | None", in_state),
            session_id=session_id,
            before=_place(cursor) if cursor is not None else None,
            limit=limit,
        )
        more = _cursor(found[-1]) if len(found) == limit else None
        return WebhookDeliveryPage(deliveries=found, next=more)

    @get(
        f"{_PATH}/{{endpoint_id:str}}/deliveries/{{delivery_id:str}}",
        operation_id="get_webhook_delivery",
        summary="Look at a delivery",
        responses={
            _OK: answer(Delivery, "The delivery", _DELIVERY),
            **problems(WebhookEndpointNotFound, WebhookDeliveryNotFound),
        },
        **_READ,
    )
    async def get_delivery(request: AnyRequest, endpoint_id: FromPath[str], delivery_id: FromPath[str]) -> Delivery:
        """Return how a delivery stands."""
        only_query(request)
        endpoint = await endpoints.get(caller_of(request).tenant, endpoint_id)
        return await endpoints.delivery(endpoint, delivery_id)

    @post(
        f"{_PATH}/{{endpoint_id:str}}/deliveries/{{delivery_id:str}}/replay",
        operation_id="replay_webhook_delivery",
        summary="Deliver again",
        status_code=_ACCEPTED,
        responses={
            _ACCEPTED: answer(Delivery, "The delivery", _DELIVERY),
            **problems(
                WebhookEndpointNotFound, WebhookDeliveryNotFound, WebhookDeliveryPending, WebhookEndpointDisabled
            ),
        },
        **_WRITE,
    )
    async def replay_delivery(request: AnyRequest, endpoint_id: FromPath[str], delivery_id: FromPath[str]) -> Delivery:
        """Deliver again what was delivered or given up, under the same `webhook-id`, for another 24 h."""
        only_query(request)
        endpoint = await endpoints.get(caller_of(request).tenant, endpoint_id)
        return await endpoints.replay(endpoint, delivery_id)

    return [test_endpoint, list_deliveries, get_delivery, replay_delivery]


def _cursor(last: Delivery) -> str:
    # Ids of deliveries are UUIDs, written otherwise.
    return cursors.encode(last.created_at, str(uuid.UUID(last.id.removeprefix("msg_"))))


def _place(cursor: str) -> tuple[datetime, str]:
    at, found = cursors.decode(cursor)
    return at, f"msg_{uuid.UUID(found).hex}"


def _unkept(made: WebhookEndpointMade, status: int) -> Response[WebhookEndpointMade]:
    """Return an answer that nobody on the way may keep."""
    return Response(made, status_code=status, headers={"cache-control": "no-store"})
