"""What routes share: problems and examples in the schema, and strict query parameters."""

from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from greenroom.api.problem import MEDIA_TYPE, Problem
from greenroom.common import errors
from greenroom.common.errors import GreenroomError, InvalidQuery

# A plain alias: Litestar reads it, and knows no others yet.
AnyRequest = Request[Any, Any, Any]

# What every route with a key may answer.
_ALWAYS: Final = (
    errors.InvalidQuery,
    errors.Unauthenticated,
    errors.KeyExpired,
    errors.Forbidden,
    errors.BrokerUnavailable,
    errors.DatabaseUnavailable,
)


def problems(*own: type[GreenroomError]) -> dict[int, ResponseSpec]:
    """Return what the schema says of the errors a route answers with: its own and those of every route."""
    by_status: dict[int, list[type[GreenroomError]]] = {}
    for error in (*own, *_ALWAYS):
        by_status.setdefault(error.status, []).append(error)
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description="; ".join(f"`{error.code}`: {error.title}" for error in those),
            media_type=MEDIA_TYPE,
            examples=[Example(summary=error.code, value=error().problem()) for error in those if error in own],
        )
        for status, those in sorted(by_status.items())
    }


def answer(kind: Any, description: str, example: Any) -> ResponseSpec:
    """Return what the schema says of an answer that isn't an error."""
    return ResponseSpec(kind, generate_examples=False, description=description, examples=[Example(value=example)])


def only_query(request: AnyRequest, *known: str) -> None:
    """Make sure that a request has no query parameters but `known`: a misspelt filter would filter nothing.

    Raises:
        InvalidQuery: it has; the detail names them.
    """
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        raise InvalidQuery(f"Unknown: {', '.join(name[:64] for name in unknown)}. Known: {', '.join(known) or 'none'}.")


def moment(name: str, at: datetime | None) -> datetime | None:
    """Return a time of the query in UTC.

    Raises:
        InvalidQuery: it has no zone, or there is none such in UTC.
    """
    if at is None:
        return None
    if at.tzinfo is None:
        raise InvalidQuery(f"{name}: a time needs its zone, e.g. 2026-03-02T09:30:00Z.")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidQuery(f"{name}: there is no such time.") from error


def origin_of(request: AnyRequest, public_url: str | None) -> str:
    """Return how whoever asks reaches us, without a slash at the end."""
    return (public_url or f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}").rstrip("/")
