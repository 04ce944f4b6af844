"""Errors as answers: RFC 9457 problem details, from our own catalogue and from what Litestar raises."""

import math
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from greenroom.api.ranges import RangeNotSatisfiable
from greenroom.common import errors
from greenroom.common.errors import FieldProblem, GreenroomError, InternalError

_log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"
# What a route counts as refused, for the metrics: set by the handlers below, read by the outermost layer.
CODE_KEY: Final = "greenroom.problem"
_SERVER_ERROR: Final = 500
# What Litestar calls an internal error when a client hangs up in the middle of its body; nobody reads the answer.
_CLIENT_GONE: Final = "client disconnected prematurely"

# A plain alias: Litestar reads it, and knows no others yet.
AnyRequest = Request[Any, Any, Any]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457). `code` is stable, texts are not; `greenroom error CODE` explains it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    # Whether the same request may succeed later without anybody changing anything.
    retryable: bool
    instance: str | None = None
    # How long to wait before that, in seconds; also in the header `Retry-After`.
    retry_after_s: float | None = None
    # The problems field by field, where a body is at fault; JSON pointers (RFC 6901).
    errors: list[FieldProblem] = []
    # Of the session, where there is one already.
    session_id: str | None = None
    outcome: str | None = None
    # Of the command, to ask for its answer again.
    command_id: str | None = None
    trace_id: str | None = None


def handlers() -> dict[int | type[Exception], Any]:
    """Return the exception handlers of the app."""
    return {GreenroomError: _ours, HTTPException: _litestar, Exception: _unknown}


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it is sent; `headers` include the content type."""

    status: int
    code: str
    body: bytes
    headers: dict[str, str]


def render(error: GreenroomError, instance: str) -> Rendered:
    """Return what is sent for an error that happened to `instance` (a path)."""
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    headers |= retry_after(error.retry_after_s)
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    problem = error.problem(instance)
    return Rendered(status=problem["status"], code=problem["code"], body=msgspec.json.encode(problem), headers=headers)


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that says when to ask again, in whole seconds and not too early; none if `seconds` is None."""
    return {} if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}


def _ours(request: AnyRequest, error: GreenroomError) -> Response[bytes]:
    rendered = render(error, request.scope["path"])
    if rendered.status == _SERVER_ERROR and not isinstance(error, InternalError):
        _log.error("request_failed", route=request.scope.get("path_template", ""), code=rendered.code)
    request.scope["state"][CODE_KEY] = rendered.code
    return Response(rendered.body, status_code=rendered.status, headers=rendered.headers, media_type=MEDIA_TYPE)


def _litestar(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    if error.status_code >= _SERVER_ERROR and error.detail != _CLIENT_GONE:
        return _unknown(request, error)
    response = _ours(request, _translated(error))
    response.headers.update(error.headers or {})
    return response


def _unknown(request: AnyRequest, error: Exception) -> Response[bytes]:
    route = request.scope.get("path_template", "")
    _log.error("request_failed", route=route, error=type(error).__name__, exc_info=error)
    return _ours(request, InternalError())


def _translated(error: HTTPException) -> GreenroomError:
    match error:
        case NotFoundException():
            return errors.NotFound()
        case MethodNotAllowedException():
            return errors.MethodNotAllowed()
        case ValidationException():
            return _translated_validation(error)
        case HTTPException(status_code=413):
            return errors.BodyTooLarge()
        case _:
            return errors.InvalidQuery("The request can't be understood.")


def _translated_validation(error: ValidationException) -> GreenroomError:
    found: object = error.extra
    problems = cast("list[dict[str, str]]", found) if isinstance(found, list) else []
    if any(problem.get("key") == "data" for problem in problems):
        # Bodies are decoded by `body`; all that Litestar can miss is one that isn't there.
        return errors.MalformedJson("The body is empty.")
    # Litestar's own text repeats the whole URL.
    return errors.InvalidQuery(
        "; ".join(f"{problem.get('key', 'query')}: {problem['message']}" for problem in problems)
    )
