"""`/v1/sessions/{id}/proxy/…`, and as Pipecat Cloud has it `/v1/public/{agent}/sessions/{id}/…`: a bot's own routes."""

from typing import Final

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from greenroom.api.auth import SESSIONS_CONTROL, Caller, caller_of
from greenroom.api.bot_http import TIMEOUT_S, BotHttpLink, shown
from greenroom.api.routes.common import AnyRequest, problems
from greenroom.common import command_errors, errors
from greenroom.common.commands import HttpCall

_METHODS: Final = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]
_RESPONSES: Final = {
    200: ResponseSpec(bytes, generate_examples=False, description="What the bot's route answers, whatever its status"),
    **problems(
        errors.SessionNotFound,
        errors.BodyTooLarge,
        command_errors.SessionNotLive,
        command_errors.CommandUnsupported,
        command_errors.FunctionFailed,
        command_errors.TooManyCommands,
        command_errors.CommandTimedOut,
    ),
}


def bot_http_routes(link: BotHttpLink) -> list[HTTPRouteHandler]:
    """Return the routes; `link` reaches the bots."""

    async def forward(request: AnyRequest, session_id: str, path: str, agent: str | None) -> Response[bytes]:
        caller: Caller = caller_of(request)
        call = HttpCall(
            by=caller.key_id,
            method=request.method,
            path=path,
            query=request.scope["query_string"].decode("latin-1"),
            headers=shown(request.scope["headers"]),
            body=await request.body(),
            timeout_s=TIMEOUT_S,
        )
        answered = await link.forward(caller, session_id, call, agent=agent)
        headers = {each.name.lower(): each.value for each in answered.headers}
        media_type = headers.pop("content-type", "text/plain")
        return Response(answered.body, status_code=answered.status, headers=headers, media_type=media_type)

    @route(
        "/v1/sessions/{session_id:str}/proxy/{path:path}",
        http_method=_METHODS,
        operation_id=lambda _handler, method, _path: f"proxy_{method.lower()}",
        tags=["sessions"],
        opt={"scope": SESSIONS_CONTROL},
        summary="Reach a route of the bot's own",
        responses=_RESPONSES,
    )
    async def proxy(request: AnyRequest, session_id: FromPath[str], path: FromPath[str]) -> Response[bytes]:
        """Forward a request to the HTTP routes that the bot of a live session has (`app` in its module).

        Headers are forwarded except those about the connection, `Authorization` and cookies. Bodies go up to 64 KiB,
        answers up to 512 KiB, within 15 s. That a route was called is told in the session's events.
        """
        return await forward(request, session_id, path, None)

    @route(
        "/v1/public/{agent:str}/sessions/{session_id:str}/{path:path}",
        http_method=_METHODS,
        operation_id=lambda _handler, method, _path: f"session_api_{method.lower()}",
        tags=["sessions"],
        opt={"scope": SESSIONS_CONTROL},
        summary="Reach a route of the bot's own, by Pipecat Cloud's path",
        responses=_RESPONSES,
    )
    async def session_api(
        request: AnyRequest, agent: FromPath[str], session_id: FromPath[str], path: FromPath[str]
    ) -> Response[bytes]:
        """Do the same as `/v1/sessions/{session_id}/proxy/{path}` for a session of `agent`."""
        return await forward(request, session_id, path, agent)

    return [proxy, session_api]
