"""The outermost layer of a request: its id, its span, and what the metrics say of it.

Names come from the route (`/v1/sessions/{session_id}`), never from the path.
"""

import re
import time
from typing import Any, Final, cast

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from greenroom.api.problem import CODE_KEY
from greenroom.common import telemetry
from greenroom.common.ids import uuid7
from greenroom.common.metrics import Metrics

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_NO_ROUTE: Final = "unknown"
_TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})
_SERVER_ERROR: Final = 500
# What is asked each second by machines, and what stays open for minutes, has no span.
_UNTRACED_PATHS: Final = frozenset({"/livez", "/readyz"})
_EVENT_STREAM: Final = b"text/event-stream"


class Observed:
    """Wraps the HTTP app.

    Args:
        app: what answers.
        metrics: requests by route, method and status; refusals by code.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.counter("api_requests", "Requests answered", ["route", "method", "status"])
        self._problems = metrics.counter("api_problems", "Requests answered with a problem", ["route", "code"])
        self._seconds = metrics.histogram("api_request_seconds", "Time to the beginning of the answer", ["route"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        if scope["path"] in _UNTRACED_PATHS or _EVENT_STREAM in headers.get(b"accept", b""):
            await self._answer(scope, receive, send, headers, None)
            return
        parent = {name.decode(): headers[name].decode("latin-1") for name in _TRACE_HEADERS if name in headers}
        method = _method(scope)
        with telemetry.span(
            method,
            parent=telemetry.extract(parent) if parent else Context(),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        ) as span:
            await self._answer(scope, receive, send, headers, span)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], span: Span | None
    ) -> None:
        began = time.perf_counter()
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid7().encode()
        trace_id = telemetry.current_trace_id() if span is not None else None
        scope.setdefault("state", {})

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"x-request-id", request_id)]
                if trace_id is not None:
                    own.append((b"x-trace-id", trace_id.encode()))
                message["headers"] = [*message["headers"], *own]
                self._count(scope, message["status"], time.perf_counter() - began, span)
            await send(message)

        await self._app(scope, receive, observed)

    def _count(self, scope: Scope, status: int, seconds: float, span: Span | None) -> None:
        route, method = cast("dict[str, Any]", scope).get("path_template") or _NO_ROUTE, _method(scope)
        self._requests.inc(route=route, method=method, status=str(status))
        self._seconds.observe(seconds, route=route)
        code = scope["state"].get(CODE_KEY)
        if code is not None:
            self._problems.inc(route=route, code=code)
        if span is not None:
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": status})
            if status >= _SERVER_ERROR:
                telemetry.mark_failed(span, code or str(status))


def _method(scope: Scope) -> str:
    """Return the method, if it is one of HTTP: a label of a metric mustn't be of the caller's making."""
    method = scope["method"] if scope["type"] == "http" else "GET"
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "OTHER"
