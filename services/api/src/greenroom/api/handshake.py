"""The handshake of a media socket: what it must fulfil, what of it the bot may see, and how it is refused."""

from typing import Any, Final, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.types import Scope, Send

from greenroom.api import closes
from greenroom.api.body import check_query
from greenroom.api.bridge import MediaNotTaken, SessionNotReady
from greenroom.api.problem import render
from greenroom.common import errors
from greenroom.common.errors import Forbidden, GreenroomError

PATH: Final = "/v1/media/"
# In problems, logs and spans: the path itself holds the ticket.
SHOWN_PATH: Final = "/v1/media/{ticket}"
# What a bot may be shown of headers, names and values together; carriers send some hundred bytes.
_MAX_SHOWN: Final = 16 * 1024
_HIDDEN: Final = frozenset(
    {"authorization", "connection", "cookie", "host", "proxy-authorization", "upgrade", "x-api-key"}
)
_HIDDEN_PREFIX: Final = "sec-websocket-"


class EdgeFull(GreenroomError):
    """This instance holds as many sockets or event streams as it may; another one may take it.

    If it lasts, run more instances, or raise GREENROOM_MEDIA_MAX_CONNECTIONS or GREENROOM_API_MAX_STREAMS.
    """

    code = "edge-full"
    status = 503
    title = "This instance takes no more connections"
    retryable = True
    default_retry_after_s = 1.0


# For servers that can't answer a handshake with problem details.
_CLOSE_CODES: Final = {
    errors.TicketInvalid.code: closes.BAD_TICKET,
    errors.TicketUsed.code: closes.BAD_TICKET,
    errors.SessionEnded.code: closes.SESSION_ENDED,
    errors.MediaAlreadyConnected.code: closes.ALREADY_CONNECTED,
    errors.Draining.code: closes.GOING_AWAY,
    errors.BrokerUnavailable.code: closes.TRY_AGAIN,
    SessionNotReady.code: closes.TRY_AGAIN,
    MediaNotTaken.code: closes.BOT_FAILED,
    EdgeFull.code: closes.TRY_AGAIN,
}


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """What of the client's request the bot may see."""

    headers: dict[str, str] = {}
    query: dict[str, str] = {}


def read(scope: Scope, allowed_origins: tuple[str, ...]) -> Handshake:
    """Return what the bot may see of a handshake.

    Args:
        scope: of the WebSocket.
        allowed_origins: browser origins that may connect; empty: the ticket alone decides.

    Raises:
        Forbidden: it comes from a page of another origin.
        BodyTooLarge: its URL has more than a bot is shown.
    """
    check_query(scope["query_string"])
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    origin = headers.get("origin")
    if allowed_origins and origin is not None and origin not in allowed_origins:
        raise Forbidden("Pages of this origin may not connect.")
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    shown = {name: value for name, value in headers.items() if not _hidden(name)}
    return Handshake(headers=_bounded(shown), query=query)


async def refuse(error: GreenroomError, scope: Scope, send: Send, *, shown: str = SHOWN_PATH) -> None:
    """Answer a handshake with an error, on a path as it may be `shown`."""
    rendered = render(error, shown)
    # Litestar's types know the extension for HTTP answers as little as the ones of other servers.
    answer = cast("Any", send)
    if "websocket.http.response" in (scope.get("extensions") or {}):
        headers = [(name.encode(), value.encode()) for name, value in rendered.headers.items()]
        await answer({"type": "websocket.http.response.start", "status": rendered.status, "headers": headers})
        await answer({"type": "websocket.http.response.body", "body": rendered.body, "more_body": False})
    else:
        code = _CLOSE_CODES.get(rendered.code, closes.BAD_TICKET)
        await answer({"type": "websocket.close", "code": code, "reason": rendered.code})


def _hidden(name: str) -> bool:
    return name in _HIDDEN or name.startswith(_HIDDEN_PREFIX)


def _bounded(items: dict[str, str]) -> dict[str, str]:
    """Return the first of `items`, as far as they fit."""
    kept: dict[str, str] = {}
    left = _MAX_SHOWN
    for name, value in items.items():
        left -= len(name) + len(value)
        if left < 0:
            break
        kept[name] = value
    return kept
