"""`/v1/sessions`: ask, list, look, stop."""

from datetime import datetime
from typing import Annotated, Any, Final, cast

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, FromQuery, HeaderParameter, QueryParameter
from opentelemetry import trace

from greenroom.api import cursor as cursors
from greenroom.api import examples
from greenroom.api.auth import SESSIONS_READ, SESSIONS_WRITE, caller_of
from greenroom.api.body import MAX_START_BYTES, JsonBody
from greenroom.api.ended_early import SessionEndedEarly
from greenroom.api.idempotency import InvalidIdempotencyKey
from greenroom.api.problem import CODE_KEY, Problem, retry_after
from greenroom.api.problem import MEDIA_TYPE as PROBLEM_TYPE
from greenroom.api.routes.common import AnyRequest, answer, moment, only_query, origin_of, problems
from greenroom.api.schemas import CreateSession, SessionPage, SessionView, StopSession, session_view
from greenroom.api.sessions import Answer, Sessions
from greenroom.api.sql import SessionFilter
from greenroom.api.store import Store
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.transports.daily import RoomNotFound
from greenroom.api.transports.provider import ProviderRefused, ProviderUnavailable
from greenroom.common import errors, telemetry
from greenroom.common.errors import InvalidQuery
from greenroom.common.lifecycle import Outcome, State

_MAX_PAGE: Final = 200
_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202
_TOO_MANY: Final = 429
# Its code is the reason of a session's end, so it isn't one of the catalogue's classes.
LIMIT_REACHED: Final = ResponseSpec(
    Problem,
    generate_examples=False,
    description=(
        "`limit-reached`: A limit refuses the session; `Retry-After` says when to ask again. `budget-reached`: what "
        "may be spent in this day or month is gone; `Retry-After` is its end"
    ),
    media_type=PROBLEM_TYPE,
    examples=[Example(summary="limit-reached", value=examples.LIMIT_REACHED)],
)


def session_routes(sessions: Sessions, store: Store, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        sessions: does what they say.
        store: lists.
        public_url: how clients reach us; None: as the request says.
    """

    @post(
        "/v1/sessions",
        operation_id="create_session",
        tags=["sessions"],
        opt={"scope": SESSIONS_WRITE},
        dto=JsonBody.of(CreateSession),
        return_dto=None,
        request_max_body_size=MAX_START_BYTES,
        summary="Ask for a session",
        responses={
            _CREATED: answer(SessionView, "It exists, and has come as far as `wait` asks for", examples.CREATED),
            _ACCEPTED: answer(SessionView, "It exists; `wait_timeout_s` passed before that", examples.WAITING),
            _TOO_MANY: LIMIT_REACHED,
            **problems(
                errors.MalformedJson,
                InvalidIdempotencyKey,
                errors.AgentNotFound,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.IdempotencyMismatch,
                errors.IdempotencyInProgress,
                errors.Draining,
                errors.SecretMissing,
                errors.TenantSuspended,
                TransportUnavailable,
                RoomNotFound,
                ProviderRefused,
                ProviderUnavailable,
            ),
        },
    )
    async def create_session(
        request: AnyRequest,
        data: Annotated[CreateSession, Body(examples=[Example(value=examples.CREATE)])],
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                description="Same key and same body within 24 hours: the same session and the same answer",
            ),
        ] = None,
    ) -> Response[SessionView]:
        """Ask for a session. Once this is answered, it can't be lost.

        The answer has the way for the client to connect: by default a WebSocket whose URL is good for one connection
        within five minutes; see docs/transports.md for the others. With `wait` it comes when the session has come that
        far, and with a typed problem if the session has ended before; its `code` is then the reason of the end. One
        that a limit, a budget or a busy room refuses is such a problem at once (`429 limit-reached`, `429
        budget-reached`, `409 room-busy`), whatever `wait` says.
        """
        only_query(request)
        asked = Asked(caller=caller_of(request), origin=origin_of(request, public_url))
        created = await sessions.create(asked, data, idempotency_key, lambda: closed(request))
        name_session(created.session_id, asked.caller.tenant)
        if not created.created:
            return refusal(request, created)
        headers = {"location": f"/v1/sessions/{created.session_id}"} | replayed(created)
        body = cast("SessionView", created.body)
        return Response(body, status_code=created.status, headers=headers, media_type="application/json")

    @get(
        "/v1/sessions",
        operation_id="list_sessions",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="List sessions",
        responses={
            _OK: answer(SessionPage, "A page", {"sessions": [examples.SESSION], "next": None}),
            **problems(),
        },
    )
    async def list_sessions(
        request: AnyRequest,
        *,
        in_state: Annotated[State | None, QueryParameter(name="state")] = None,
        agent: FromQuery[str | None] = None,
        outcome: FromQuery[Outcome | None] = None,
        user: FromQuery[str | None] = None,
        since: Annotated[datetime | None, QueryParameter(description="Requested at or after")] = None,
        until: Annotated[datetime | None, QueryParameter(description="Requested before")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE)] = 50,
        cursor: Annotated[str | None, QueryParameter(description="`next` of the page before")] = None,
    ) -> SessionPage:
        """List sessions, newest first, as they are stored: some milliseconds behind what goes on."""
        only_query(request, "state", "agent", "outcome", "user", "since", "until", "limit", "cursor")
        for name, value in (("agent", agent), ("user", user)):
            if value is not None and "\0" in value:
                raise InvalidQuery(f"{name}: there is a NUL in it.")
        wanted = SessionFilter(
            state=in_state,
            agent=agent,
            outcome=outcome,
            user=user,
            since=moment("since", since),
            until=moment("until", until),
            before=cursors.decode(cursor) if cursor is not None else None,
        )
        found = await store.sessions(caller_of(request).tenant, wanted, limit + 1)
        page, more = found[:limit], len(found) > limit
        return SessionPage(
            sessions=[session_view(session) for session in page],
            next=cursors.encode(page[-1].requested_at, page[-1].id) if more else None,
        )

    @get(
        "/v1/sessions/{session_id:str}",
        operation_id="get_session",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Look at a session",
        responses={_OK: answer(SessionView, "The session", examples.SESSION), **problems(errors.SessionNotFound)},
    )
    async def get_session(request: AnyRequest, session_id: FromPath[str]) -> SessionView:
        """Return a session as it is now; while it waits, with its place in the queue and what it waits for."""
        only_query(request)
        caller = caller_of(request)
        view = await sessions.view(caller.tenant, session_id)
        name_session(session_id, caller.tenant)
        return view

    @post(
        "/v1/sessions/{session_id:str}/stop",
        operation_id="stop_session",
        tags=["sessions"],
        opt={"scope": SESSIONS_WRITE},
        status_code=_OK,
        dto=JsonBody.of(StopSession),
        return_dto=None,
        summary="End a session",
        responses={
            _OK: answer(SessionView, "The session has ended", examples.ENDED),
            _ACCEPTED: answer(SessionView, "The session ends: the bot may finish its sentence", examples.STOPPING),
            **problems(
                errors.MalformedJson,
                errors.SessionNotFound,
                errors.LedgerConflict,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
            ),
        },
    )
    async def stop_session(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[StopSession | None, Body(examples=[Example(value=examples.STOP)])] = None,
    ) -> Response[SessionView]:
        """End a session, whatever it is doing; nothing happens to one that has ended.

        One that waits is `canceled` at once. One that is being started is `canceled`, one that is ready is `completed`
        with the reason `client-stop`, both in order: follow its events, or ask again, to see it end.
        """
        only_query(request)
        caller = caller_of(request)
        view = await sessions.stop(caller.tenant, session_id, data.reason if data else None)
        name_session(session_id, caller.tenant)
        return Response(view, status_code=_OK if view.state is State.ENDED else _ACCEPTED)

    return [create_session, list_sessions, get_session, stop_session]


def refusal(request: AnyRequest, answered: Answer) -> Response[Any]:
    """Return the problem that a session ended with before there was anything to answer."""
    request.scope["state"][CODE_KEY] = SessionEndedEarly.code
    headers = replayed(answered) | retry_after(answered.retry_after_s)
    return Response(answered.body, status_code=answered.status, headers=headers, media_type=PROBLEM_TYPE)


def replayed(answered: Answer) -> dict[str, str]:
    """Return the header that says that this was answered before."""
    return {"idempotent-replayed": "true"} if answered.replayed else {}


async def closed(request: AnyRequest) -> None:
    """Return when the caller's connection is closed; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def name_session(session_id: str, tenant: str) -> None:
    """Put the session's ids on the request's span."""
    trace.get_current_span().set_attributes(telemetry.session_attributes(session_id, tenant))
