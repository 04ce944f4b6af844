"""`/v1/sessions/{id}/commands` and `/v1/sessions/{id}/listen`: steer a live session, and listen in."""

from typing import Annotated, Final

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from opentelemetry import trace

from greenroom.api import command_examples as examples
from greenroom.api.auth import SESSIONS_LISTEN, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.command_schemas import ANY_COMMAND, CommandView, ListenView, ListenWish, SendCommand
from greenroom.api.commands import Commands
from greenroom.api.listen_tickets import PATH, ListenTickets
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.common import command_errors, errors, telemetry

_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202


def command_routes(commands: Commands, listening: ListenTickets, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        commands: sends them.
        listening: makes tickets.
        public_url: how clients reach us; None: as the request says.
    """

    @post(
        "/v1/sessions/{session_id:str}/commands",
        operation_id="send_command",
        tags=["sessions"],
        opt={"scope": ANY_COMMAND},
        status_code=_OK,
        dto=JsonBody.of(SendCommand),
        return_dto=None,
        summary="Steer a live session",
        responses={
            _OK: answer(CommandView, "It was carried out", examples.DONE),
            _ACCEPTED: answer(CommandView, "It waits until the session is ready", examples.QUEUED),
            **problems(
                errors.MalformedJson,
                errors.SessionNotFound,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                command_errors.SessionNotLive,
                command_errors.CommandUnsupported,
                command_errors.CommandNotDone,
                command_errors.CommandIdReused,
                command_errors.CommandLost,
                command_errors.CommandTimedOut,
                command_errors.SettingsVersionStale,
                command_errors.SettingsLocked,
                command_errors.FunctionUnknown,
                command_errors.FunctionArgumentsInvalid,
                command_errors.FunctionFailed,
                command_errors.TransferTargetInvalid,
                command_errors.TransferFailed,
                command_errors.TooManyCommands,
            ),
        },
    )
    async def send_command(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[
            SendCommand,
            Body(examples=[Example(summary=name, value=value) for name, value in examples.SEND.items()]),
        ],
    ) -> Response[CommandView]:
        """Have a session say something, fall silent, change its voice, call a function, …, and wait for it.

        To a session that isn't ready yet, most commands wait (`202`, `status: queued`), and are carried out in order
        when it is; send one again with the same id to learn what became of it.

        The same `id` is carried out once and answered the same for 24 hours, at any instance, with the header
        `Idempotent-Replayed: true`. After `504` it may still be carried out: send it again with the same id. Every
        command is told in the session's events, with the key that sent it. `sessions:control` allows all of them;
        `whisper`, `barge_in` and `snapshot` also have scopes of their own (`sessions:whisper`, `sessions:barge_in`,
        `sessions:listen`).
        """
        only_query(request)
        caller = caller_of(request)
        sent = await commands.send(caller, session_id, data)
        trace.get_current_span().set_attributes(telemetry.session_attributes(session_id, caller.tenant))
        status = _ACCEPTED if sent.view.status == "queued" else _OK
        return Response(sent.view, status_code=status, headers={"idempotent-replayed": "true"} if sent.replayed else {})

    @post(
        "/v1/sessions/{session_id:str}/listen",
        operation_id="listen_in",
        tags=["sessions"],
        opt={"scope": SESSIONS_LISTEN},
        status_code=_CREATED,
        dto=JsonBody.of(ListenWish),
        return_dto=None,
        summary="Listen in",
        responses={
            _CREATED: answer(ListenView, "A way to listen in, once", examples.LISTENING),
            **problems(
                errors.MalformedJson,
                errors.SessionNotFound,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                command_errors.SessionNotLive,
            ),
        },
    )
    async def listen_in(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[ListenWish | None, Body(examples=[Example(value=examples.LISTEN)])] = None,
    ) -> Response[ListenView]:
        """Return a WebSocket URL for hearing a live session, good for one connection within a minute.

        Binary messages are PCM of a tenth of a second each, half a second behind. With `barge_in` (which needs the
        scope `sessions:barge_in` as well) what is sent there as mono PCM of 16 kHz is spoken into the call, in place of
        the bot. Neither the caller nor the bot notices a listener; who listened is told in the session's events.
        """
        only_query(request)
        caller = caller_of(request)
        base = public_url or f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}"
        # http → ws, https → wss
        url = f"ws{base.removeprefix('http').rstrip('/')}{PATH}"
        view = await listening.issue(caller, session_id, data or ListenWish(), url)
        trace.get_current_span().set_attributes(telemetry.session_attributes(session_id, caller.tenant))
        return Response(view, status_code=_CREATED, headers={"cache-control": "no-store"})

    return [send_command, listen_in]
