"""`/v1/sessions/{id}/proxy/…`, and as Pipecat Cloud has it `/v1/public/{agent}/sessions/{id}/…`: a bot's own routes."""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog
from litestar import route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from greenroom.api.auth import SESSIONS_CONTROL, SESSIONS_WRITE, Caller, caller_of
from greenroom.api.body import decode
from greenroom.api.bot_http import TIMEOUT_S, AnswerBroken, BotHttpLink, Forwarded, shown
from greenroom.api.handshake import EdgeFull
from greenroom.api.offers import TRANSPORT, Candidates, CandidatesTaken, Offer, Offers
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.routes.common import AnyRequest, problems
from greenroom.common import command_errors, errors
from greenroom.common.commands import HttpCall
from greenroom.common.errors import Forbidden

_log = structlog.get_logger()

_METHODS: Final = [
    HttpMethod.GET,
    HttpMethod.HEAD,
    HttpMethod.OPTIONS,
    HttpMethod.POST,
    HttpMethod.PUT,
    HttpMethod.PATCH,
    HttpMethod.DELETE,
]
# A client that takes nothing for so long is given up.
_STALL_S: Final = 20.0
# Where Pipecat's clients send offers.
_OFFER: Final = "/api/offer"
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
        EdgeFull,
    ),
}


class BotAnswer(ASGIResponse):
    """Sends on what a bot's route answers, as it comes."""

    __slots__ = ("_forwarded",)

    def __init__(self, forwarded: Forwarded) -> None:
        """Send what `forwarded` has."""
        super().__init__(status_code=forwarded.answer.status)
        self._forwarded = forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until all is sent or the client has gone."""
        del scope
        answer = self._forwarded.answer
        headers = [
            (each.name.lower().encode("latin-1", "replace"), each.value.encode("latin-1", "replace"))
            for each in answer.headers
        ]
        if answer.stream is None and not any(name == b"content-length" for name, _ in headers):
            headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.stream is not None})
        if answer.stream is None:
            return
        sending = asyncio.get_running_loop().create_task(self._send_rest(send))
        gone = asyncio.get_running_loop().create_task(_hung_up(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send_rest(self, send: Send) -> None:
        try:
            async with contextlib.aclosing(self._forwarded.parts()) as parts:
                async for part in parts:
                    async with asyncio.timeout(_STALL_S):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        except (AnswerBroken, TimeoutError, OSError) as error:
            # Without its end the server cuts the connection: the client sees that something is missing.
            _log.info("bot_answer_cut", why=type(error).__name__)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def bot_http_routes(link: BotHttpLink, offers: Offers, tokens: PeerTokens) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        link: reaches the bots.
        offers: brings those of browsers, which Pipecat Cloud has among the bot's routes.
        tokens: says who may send them.
    """

    async def offer(request: AnyRequest, session_id: str) -> ASGIResponse:
        entrant, raw = await tokens.admit(request.headers.get("authorization"), session_id), await request.body()
        if request.method == HttpMethod.POST:
            answered = await offers.offer(entrant, session_id, decode(raw, Offer))
        else:
            await offers.candidates(entrant, session_id, decode(raw, Candidates))
            answered = CandidatesTaken()
        return ASGIResponse(body=msgspec.json.encode(answered), media_type="application/json")

    async def forward(request: AnyRequest, session_id: str, path: str, agent: str | None) -> BotAnswer:
        caller: Caller = caller_of(request)
        call = HttpCall(
            by=caller.key_id,
            method=request.method,
            path=path,
            query=request.scope["query_string"].decode("latin-1"),
            headers=shown(request.scope["headers"]),
            body=await request.body(),
            timeout_s=TIMEOUT_S,
            streams=True,
        )
        return BotAnswer(await link.forward(caller, session_id, call, agent=agent))

    @route(
        "/v1/sessions/{session_id:str}/proxy/{path:path}",
        http_method=_METHODS,
        operation_id=lambda _handler, method, _path: f"proxy_{method.lower()}",
        tags=["sessions"],
        opt={"scope": SESSIONS_CONTROL},
        summary="Reach a route of the bot's own",
        responses=_RESPONSES,
    )
    async def proxy(request: AnyRequest, session_id: FromPath[str], path: FromPath[str]) -> BotAnswer:
        """Forward a request to the HTTP routes that the bot of a live session has (`app` in its module).

        Headers are forwarded except those about the connection, `Authorization` and cookies. Bodies go up to 64 KiB.
        Answers begin within 15 s and go up to 512 KiB as a whole; those in parts (server-sent events) up to 64 MiB, as
        fast as they are read, as long as the session lives. One that breaks off has no end. That a route was called is
        told in the session's events.
        """
        return await forward(request, session_id, path, None)

    @route(
        "/v1/public/{agent:str}/sessions/{session_id:str}/{path:path}",
        http_method=_METHODS,
        operation_id=lambda _handler, method, _path: f"session_api_{method.lower()}",
        tags=["sessions"],
        opt={"scope": (SESSIONS_CONTROL, SESSIONS_WRITE)},
        summary="Reach a route of the bot's own, by Pipecat Cloud's path",
        responses=_RESPONSES,
    )
    async def session_api(
        request: AnyRequest, agent: FromPath[str], session_id: FromPath[str], path: FromPath[str]
    ) -> ASGIResponse:
        """Do the same as `/v1/sessions/{session_id}/proxy/{path}` for a session of `agent`.

        At `api/offer` a session over `smallwebrtc` takes offers and candidates, as `/v1/sessions/{session_id}/offer`
        does; a key with `sessions:write` will do for that.
        """
        caller = caller_of(request)
        if path == _OFFER and request.method in {HttpMethod.POST, HttpMethod.PATCH}:
            session = await link.find(caller, session_id, agent)
            if session.transport == TRANSPORT:
                return await offer(request, session_id)
        if not caller.may(SESSIONS_CONTROL):
            raise Forbidden(f"The key lacks the scope {SESSIONS_CONTROL}.")
        return await forward(request, session_id, path, agent)

    return [proxy, session_api]
