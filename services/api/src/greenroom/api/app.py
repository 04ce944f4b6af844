"""The ASGI app: HTTP to Litestar, WebSockets to the media edge, everything refused that has no key."""

from collections.abc import Sequence
from typing import Final

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from greenroom.api import handshake, problem
from greenroom.api.auth import Keys, guard
from greenroom.api.edge import MediaEdge
from greenroom.api.listen_tickets import PATH as LISTEN_PATH
from greenroom.api.observe import Observed
from greenroom.api.routes.common import AnyRequest
from greenroom.api.settings import ApiSettings
from greenroom.common.errors import NotFound
from greenroom.common.metrics import Metrics

# What pages may send, and what of the answers they may read.
_PAGES_SEND: Final = [
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "last-event-id",
    "range",
    "traceparent",
    "tracestate",
]
_PAGES_READ: Final = [
    "content-range",
    "etag",
    "idempotent-replayed",
    "location",
    "retry-after",
    "x-request-id",
    "x-trace-id",
]


def http_app(routes: Sequence[HTTPRouteHandler], keys: Keys, settings: ApiSettings, metrics: Metrics) -> Observed:
    """Return the HTTP side of the service."""
    litestar = Litestar(
        route_handlers=routes,
        guards=[guard(keys)],
        before_request=_is_a_name,
        exception_handlers=problem.handlers(),
        request_max_body_size=settings.api_max_body_bytes,
        cors_config=_cors(settings.allowed_origins),
        openapi_config=None,
        # Logs are set up by the shell of the service; Litestar's own would start a thread.
        logging_config=None,
        # Not from the environment: tracebacks are for the log.
        debug=False,
        pdb_on_exception=False,
    )
    return Observed(litestar, metrics)


def compose(http: ASGIApp, media: MediaEdge, listening: ASGIApp) -> ASGIApp:
    """Return the whole: sockets go to the edges before anything of HTTP touches them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await http(scope, receive, send)
        elif scope["path"].startswith(handshake.PATH):
            await media(scope, receive, send)
        elif scope["path"].startswith(LISTEN_PATH):
            await listening(scope, receive, send)
        else:
            await receive()
            await handshake.refuse(NotFound(), scope, send)

    return app


async def _is_a_name(request: AnyRequest) -> None:
    """Refuse paths with a zero byte: neither the database nor a file can hold one, so nothing has such a name."""
    if "\0" in request.scope["path"]:
        raise NotFound


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    """Return what pages of `origins` may do. Cookies aren't among it: keys are headers."""
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_PAGES_SEND,
        expose_headers=_PAGES_READ,
    )
