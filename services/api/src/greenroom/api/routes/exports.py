"""`/v1/exports/sessions`: all sessions of a range as a file."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from greenroom.api import reading_examples as examples
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.reading import exports
from greenroom.api.reading.exports import ExportedSession, ParquetMissing
from greenroom.api.reading.parts import Reading
from greenroom.api.reading.places import TooManyDownloads
from greenroom.api.routes.common import AnyRequest, moment, only_query, problems
from greenroom.common.clock import utcnow
from greenroom.common.errors import InvalidQuery

_OK: Final = 200
_JSONL: Final = "application/jsonl"
_PARQUET: Final = "application/vnd.apache.parquet"


def export_routes(reading: Reading) -> list[HTTPRouteHandler]:
    """Return the route; `reading` has the sessions."""

    @get(
        "/v1/exports/sessions",
        operation_id="export_sessions",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Fetch all sessions of a range",
        responses={
            _OK: ResponseSpec(
                ExportedSession,
                generate_examples=False,
                description="One such object a line; with `format=parquet` a Parquet file",
                media_type=_JSONL,
                examples=[Example(value=examples.EXPORTED)],
            ),
            **problems(ParquetMissing, TooManyDownloads),
        },
    )
    async def export_sessions(
        request: AnyRequest,
        *,
        since: Annotated[datetime, QueryParameter(name="from", description="Requested at or after")],
        until: Annotated[
            datetime | None, QueryParameter(name="to", description="Requested before; default: now")
        ] = None,
        agent: FromQuery[str | None] = None,
        kind: Annotated[Literal["jsonl", "parquet"], QueryParameter(name="format")] = "jsonl",
    ) -> Response[bytes]:
        """Return all sessions that were requested in a range of time, oldest first, as they are stored now.

        It is made while it is sent; if something fails on the way, the answer is cut off in the middle of its encoding,
        which HTTP clients report.
        """
        only_query(request, "from", "to", "agent", "format")
        begin, end = moment("from", since), moment("to", until) or utcnow()
        if begin is None or begin >= end:
            raise InvalidQuery("from: it isn't before `to`.")
        if agent is not None and "\0" in agent:
            raise InvalidQuery("agent: there is a NUL in it.")
        reading.places.check()
        packages = exports.parquet() if kind == "parquet" else None
        pages = await exports.begun(reading.shelves.export(caller_of(request).tenant, begin, end, agent))
        chunks = exports.as_jsonl(pages) if packages is None else exports.as_parquet(pages, *packages)
        stream: Any = Stream(
            reading.places.occupy(chunks),
            media_type=_JSONL if packages is None else _PARQUET,
            headers={
                "content-disposition": f'attachment; filename="{exports.name_of(begin, end, kind)}"',
                "cache-control": "no-store",
                "x-accel-buffering": "no",
            },
        )
        return stream

    return [export_sessions]
