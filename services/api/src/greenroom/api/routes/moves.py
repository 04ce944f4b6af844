"""`/v1/sessions/{id}/move`: take a live session to another room."""

from typing import Annotated, Final, cast

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter

from greenroom.api import examples
from greenroom.api.auth import SESSIONS_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.idempotency import InvalidIdempotencyKey
from greenroom.api.moves import MoveFailed, Moves, MoveUnsupported, RoomBusy
from greenroom.api.problem import MEDIA_TYPE as PROBLEM_TYPE
from greenroom.api.problem import retry_after
from greenroom.api.routes.common import AnyRequest, answer, only_query, origin_of, problems
from greenroom.api.routes.sessions import name_session, replayed
from greenroom.api.schemas import MoveSession, SessionView
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.transports.daily import RoomNotFound
from greenroom.api.transports.provider import ProviderRefused, ProviderUnavailable
from greenroom.common import command_errors, errors

_OK: Final = 200


def move_routes(moves: Moves, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the route.

    Args:
        moves: does what it says.
        public_url: how clients reach us; None: as the request says.
    """

    @post(
        "/v1/sessions/{session_id:str}/move",
        operation_id="move_session",
        tags=["sessions"],
        opt={"scope": SESSIONS_WRITE},
        status_code=_OK,
        dto=JsonBody.of(MoveSession),
        return_dto=None,
        summary="Take a live session to another room",
        responses={
            _OK: answer(SessionView, "The bot is in the room, and this is the user's way there", examples.MOVED),
            **problems(
                errors.MalformedJson,
                InvalidIdempotencyKey,
                errors.SessionNotFound,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.IdempotencyMismatch,
                errors.IdempotencyInProgress,
                errors.SchedulerUnavailable,
                errors.LedgerConflict,
                command_errors.SessionNotLive,
                command_errors.SessionMoves,
                command_errors.CommandTimedOut,
                MoveUnsupported,
                MoveFailed,
                RoomBusy,
                TransportUnavailable,
                RoomNotFound,
                ProviderRefused,
                ProviderUnavailable,
            ),
        },
    )
    async def move_session(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[MoveSession, Body(examples=[Example(value=examples.MOVE)])],
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                description="Same key and same body within 24 hours: the same move and the same answer",
            ),
        ] = None,
    ) -> Response[SessionView]:
        """Have the bot of a live session leave its room and join another one; its id, process and conversation stay.

        `transport_options` are those of a start: with `room_url` it goes to a room that exists, without to one that is
        made for it. The answer, once the bot is there, is the session with the user's way in, as at a start; nothing
        happens to one that is in that room already. If the bot can't get in (`502 move-failed`) or another session has
        the room (`409 room-busy`), everything is as it was. After `504` it is on its way still: the same request tells.
        """
        only_query(request)
        asked = Asked(caller=caller_of(request), origin=origin_of(request, public_url))
        moved = await moves.move(asked, session_id, data, idempotency_key)
        name_session(session_id, asked.caller.tenant)
        body = cast("SessionView", moved.body)
        headers = replayed(moved) | retry_after(moved.retry_after_s)
        media_type = "application/json" if moved.status == _OK else PROBLEM_TYPE
        return Response(body, status_code=moved.status, headers=headers, media_type=media_type)

    return [move_session]
