"""`/start`, as Pipecat's development runner has it, and `/v1/public/{agent}/start`, as Pipecat Cloud has it.

What their clients send becomes a request for a session like any other; the answer is what they read of it. A client
that is to speak over WebRTC makes the address of its offers out of the one it started at: `/start` becomes
`/sessions/{id}/api/offer`, with the same headers. So offers are taken there as well.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter

from greenroom.api import examples, pipecat_bodies
from greenroom.api.agents import Agents
from greenroom.api.auth import SESSIONS_WRITE, caller_of
from greenroom.api.body import MAX_START_BYTES, JsonBody
from greenroom.api.offers import Candidates, CandidatesTaken, Offer, OfferAnswer, Offers
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.pipecat_bodies import (
    JoinAnswer,
    JoinRoom,
    StartAgent,
    StartAnswer,
    StartBot,
    TransportNotOffered,
)
from greenroom.api.routes.common import AnyRequest, answer, only_query, origin_of, problems
from greenroom.api.routes.offers import OFFER_ERRORS
from greenroom.api.routes.sessions import LIMIT_REACHED, closed, name_session, refusal, replayed
from greenroom.api.schemas import CreateSession, SessionView
from greenroom.api.sessions import Sessions
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.transports.daily import RoomNotFound
from greenroom.api.transports.provider import ProviderRefused, ProviderUnavailable
from greenroom.common import errors
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.peer_messages import PeerNotFound

_OK: Final = 200
_TOO_MANY: Final = 429
_ERRORS: Final = (
    errors.MalformedJson,
    errors.AgentNotFound,
    errors.BodyTooLarge,
    errors.InvalidBody,
    errors.UnknownField,
    errors.IdempotencyMismatch,
    errors.IdempotencyInProgress,
    errors.Draining,
    errors.SecretMissing,
    errors.TenantSuspended,
    TransportNotOffered,
    ProviderRefused,
    ProviderUnavailable,
)

# A plain alias: Litestar reads no others yet.
Key = Annotated[str | None, HeaderParameter(name="Idempotency-Key", description="As of `POST /v1/sessions`")]


class _Starter:
    """Makes sessions of what Pipecat's clients ask for.

    Args:
        sessions: makes them.
        agents: which there are, where a request names none.
        public_url: how clients reach us; None: as the request says.
    """

    def __init__(self, sessions: Sessions, agents: Agents, public_url: str | None) -> None:
        self._sessions = sessions
        self._agents = agents
        self._public_url = public_url

    async def agent(self, tenant: str, named: str | None) -> str:
        """Return the agent that is named, or else the one that there is.

        Raises:
            InvalidBody: there are several, or none.
        """
        if named is not None:
            return named
        names = [agent.name for agent in await self._agents.all(tenant)]
        if len(names) == 1:
            return names[0]
        text = f"Say which agent: {', '.join(names[:20]) or 'there is none yet'}."
        raise InvalidBody(f"/agent: {text}", errors=[FieldProblem(pointer="/agent", detail=text)])

    async def start(self, request: AnyRequest, agent: str, data: StartBot, key: str | None) -> Response[Any]:
        """Answer a `/start`. Raises as `Sessions.create`, and `TransportNotOffered`."""
        only_query(request)
        wish = pipecat_bodies.wish_of(agent, data)
        try:
            return await self.create(request, wish, key, pipecat_bodies.start_answer)
        except TransportUnavailable as error:
            raise TransportNotOffered(error.detail) from error
        except InvalidBody as error:
            # One that the agent doesn't take.
            if [problem.pointer for problem in error.errors] == ["/transport"]:
                raise TransportNotOffered(error.detail, errors=error.errors) from error
            raise

    async def create(
        self, request: AnyRequest, wish: CreateSession, key: str | None, said: Callable[[SessionView], msgspec.Struct]
    ) -> Response[Any]:
        """Ask for a session, and answer what `said` makes of it, or the problem that it ended with."""
        asked = Asked(caller=caller_of(request), origin=origin_of(request, self._public_url))
        created = await self._sessions.create(asked, wish, key, lambda: closed(request))
        name_session(created.session_id, asked.caller.tenant)
        if not created.created:
            return refusal(request, created)
        headers = {"location": f"/v1/sessions/{created.session_id}"} | replayed(created)
        return Response(said(msgspec.json.decode(created.body, type=SessionView)), status_code=_OK, headers=headers)


def pipecat_routes(sessions: Sessions, agents: Agents, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes that start sessions. Args: see `_Starter`."""
    starter = _Starter(sessions, agents, public_url)
    responses = {
        _OK: answer(StartAnswer, "How to connect; each transport has its own fields", examples.PIPECAT_STARTED),
        _TOO_MANY: LIMIT_REACHED,
        **problems(*_ERRORS),
    }

    @post(
        "/start",
        operation_id="pipecat_start",
        tags=["pipecat"],
        opt={"scope": SESSIONS_WRITE},
        status_code=_OK,
        dto=JsonBody.of(StartAgent),
        return_dto=None,
        request_max_body_size=MAX_START_BYTES,
        summary="Ask for a session as Pipecat's clients do",
        responses=responses,
    )
    async def start(
        request: AnyRequest,
        data: Annotated[StartAgent | None, Body(examples=[Example(value=examples.PIPECAT_START)])] = None,
        idempotency_key: Key = None,
    ) -> Response[Any]:
        """Do what `POST /v1/sessions` does, with the body and the answer of Pipecat's development runner.

        Without `agent` it is the only one that the tenant may use. `/v1/public/{agent}/start` names it in the path.
        """
        wanted = data or StartAgent()
        agent = await starter.agent(caller_of(request).tenant, wanted.agent)
        return await starter.start(request, agent, wanted, idempotency_key)

    @post(
        "/v1/public/{agent:str}/start",
        operation_id="pipecat_cloud_start",
        tags=["pipecat"],
        opt={"scope": SESSIONS_WRITE},
        status_code=_OK,
        dto=JsonBody.of(StartBot),
        return_dto=None,
        request_max_body_size=MAX_START_BYTES,
        summary="Ask for a session as Pipecat Cloud's clients do",
        responses=responses,
    )
    async def public_start(
        request: AnyRequest,
        agent: FromPath[str],
        data: Annotated[StartBot | None, Body(examples=[Example(value=examples.PIPECAT_START)])] = None,
        idempotency_key: Key = None,
    ) -> Response[Any]:
        """Do what `POST /v1/sessions` does, with the body and the answer of Pipecat Cloud."""
        return await starter.start(request, agent, data or StartBot(), idempotency_key)

    @post(
        "/join",
        operation_id="join_room",
        tags=["pipecat"],
        opt={"scope": SESSIONS_WRITE},
        status_code=_OK,
        dto=JsonBody.of(JoinRoom),
        return_dto=None,
        request_max_body_size=MAX_START_BYTES,
        summary="Send a bot into a Daily room",
        responses={
            _OK: answer(JoinAnswer, "The session exists", examples.JOINED),
            _TOO_MANY: LIMIT_REACHED,
            **problems(*_ERRORS, RoomNotFound),
        },
    )
    async def join(
        request: AnyRequest,
        data: Annotated[JoinRoom, Body(examples=[Example(value=examples.JOIN)])],
        idempotency_key: Key = None,
    ) -> Response[Any]:
        """Do what `POST /v1/sessions` does for a Daily room that is brought, with the body of bot gateways' `/join`.

        What the body says of persona, voice and user is the bot's (`body`). A room has one bot: the second request for
        it is `409 room-busy`.
        """
        only_query(request)
        tenant = caller_of(request).tenant
        agent = await starter.agent(tenant, data.agent)
        wish = pipecat_bodies.join_wish(agent, data, tenant)
        try:
            return await starter.create(
                request, wish, idempotency_key, lambda view: pipecat_bodies.join_answer(view, data)
            )
        except (InvalidBody, RoomNotFound) as error:
            raise pipecat_bodies.as_join(error) from error

    return [start, public_start, join]


def pipecat_offer_routes(offers: Offers, tokens: PeerTokens) -> list[HTTPRouteHandler]:
    """Return the routes that take offers.

    Args:
        offers: brings them.
        tokens: says who may; keys may, too.
    """

    @post(
        "/sessions/{session_id:str}/api/offer",
        operation_id="pipecat_offer",
        tags=["pipecat"],
        opt={"public": True},
        status_code=_OK,
        dto=JsonBody.of(Offer),
        return_dto=None,
        summary="Connect to a session over WebRTC, by Pipecat's path",
        responses={
            _OK: answer(OfferAnswer, "The session's answer", examples.OFFER_ANSWER),
            **problems(*OFFER_ERRORS, errors.MediaAlreadyConnected),
        },
    )
    async def offer(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[Offer, Body(examples=[Example(value=examples.OFFER)])],
    ) -> Response[OfferAnswer]:
        """Do the same as `POST /v1/sessions/{session_id}/offer`."""
        only_query(request)
        entrant = await tokens.admit(request.headers.get("authorization"), session_id)
        return Response(await offers.offer(entrant, session_id, data), status_code=_OK)

    @patch(
        "/sessions/{session_id:str}/api/offer",
        operation_id="pipecat_add_candidates",
        tags=["pipecat"],
        opt={"public": True},
        dto=JsonBody.of(Candidates),
        return_dto=None,
        summary="Add ICE candidates to a connection, by Pipecat's path",
        responses={
            _OK: answer(CandidatesTaken, "They were added", {"status": "success"}),
            **problems(*OFFER_ERRORS, PeerNotFound),
        },
    )
    async def add_candidates(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[Candidates, Body(examples=[Example(value=examples.CANDIDATES)])],
    ) -> Response[CandidatesTaken]:
        """Do the same as `PATCH /v1/sessions/{session_id}/offer`."""
        only_query(request)
        entrant = await tokens.admit(request.headers.get("authorization"), session_id)
        await offers.candidates(entrant, session_id, data)
        return Response(CandidatesTaken(), status_code=_OK)

    return [offer, add_candidates]
