"""`/v1/sessions/{session_id}/events`: what happened, by pages or as it happens."""

import re
from datetime import timedelta
from typing import Annotated, Any, Final, cast

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from greenroom.api import examples
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.handshake import EdgeFull
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.schemas import EventPage
from greenroom.api.sessions import Sessions
from greenroom.api.sse import LINGER_S, EventStreams
from greenroom.api.store import Store
from greenroom.api.views import view_of_row
from greenroom.common import errors
from greenroom.common.clock import utcnow
from greenroom.common.errors import DatabaseUnavailable, Draining, InvalidQuery
from greenroom.common.lifecycle import Session

_EVENT_STREAM: Final = "text/event-stream"
_MAX_PAGE: Final = 1000
_OK: Final = 200
_NO_CONTENT: Final = 204
# PostgreSQL's bigint, which is what the stream's own numbers fit into too.
_MAX_SEQUENCE: Final = 2**63 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,19}")


def event_routes(sessions: Sessions, store: Store, streams: EventStreams, max_streams: int) -> list[HTTPRouteHandler]:
    """Return the route.

    Args:
        sessions: knows which there are.
        store: has what happened.
        streams: has what happens.
        max_streams: how many streams this process serves at a time.
    """

    @get(
        "/v1/sessions/{session_id:str}/events",
        operation_id="get_events",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Look at what happened, or follow it",
        responses={
            _OK: answer(EventPage, "A page, or with `Accept: text/event-stream` a stream", examples.EVENTS),
            _NO_CONTENT: ResponseSpec(
                None, description="Event stream: there is nothing behind `Last-Event-ID`, and nothing will come"
            ),
            **problems(errors.SessionNotFound, EdgeFull),
        },
    )
    async def get_events(
        request: AnyRequest,
        session_id: FromPath[str],
        after: Annotated[int, QueryParameter(ge=0, le=_MAX_SEQUENCE, description="Begin behind this sequence")] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE, description="Of a page")] = 100,
        last_event_id: Annotated[
            str | None, HeaderParameter(name="Last-Event-ID", description="Of an event stream: goes before `after`")
        ] = None,
    ) -> Response[EventPage]:
        """Return what happened in a session, its lifecycle included (`session.requested` … `session.ended`).

        With `Accept: text/event-stream` it is a stream of server-sent events: all behind `after`, then each as it
        happens, until the event `end`. The `id` of each is its stream sequence; a client that comes back with
        `Last-Event-ID` misses nothing. Otherwise it is a page of what is stored.
        """
        only_query(request, "after", "limit")
        tenant = caller_of(request).tenant
        session = await sessions.find(tenant, session_id)
        if _EVENT_STREAM not in request.headers.get("accept", ""):
            rows = await store.events(session_id, after=after, limit=limit + 1)
            page = [view_of_row(row) for row in rows[:limit]]
            return Response(EventPage(events=page, next=page[-1].stream_seq if len(rows) > limit else None))
        if streams.draining.is_set():
            raise Draining
        if streams.open >= max_streams:
            raise EdgeFull
        if last_event_id is not None:
            after = _sequence(last_event_id)
            if await _nothing_comes(store, session, after):
                return Response(cast("EventPage", b""), status_code=_NO_CONTENT)
        stream: Any = Stream(
            streams.follow(tenant, session_id, after),
            media_type=_EVENT_STREAM,
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        return stream

    return [get_events]


def _sequence(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > _MAX_SEQUENCE:
        raise InvalidQuery("Last-Event-ID: it isn't one of this stream.")
    return int(text)


async def _nothing_comes(store: Store, session: Session, after: int) -> bool:
    """Tell whether a client that comes back has everything: browsers come back until they are told so by a 204."""
    if session.ended_at is None or utcnow() < session.ended_at + timedelta(seconds=LINGER_S):
        return False
    try:
        return not await store.events(session.id, after=after, limit=1)
    except DatabaseUnavailable:
        return False
