"""`/v1/sessions/{id}/offer`: how browsers connect to a session over WebRTC."""

from typing import Annotated, Final

from litestar import Response, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from greenroom.api import examples
from greenroom.api.body import JsonBody
from greenroom.api.bridge import MediaNotTaken, SessionNotReady
from greenroom.api.offers import (
    Candidates,
    CandidatesTaken,
    Offer,
    OfferAnswer,
    Offers,
    OfferTimedOut,
    WrongTransport,
)
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.common import errors
from greenroom.common.peer_messages import PeerNotFound, SdpInvalid

_OK: Final = 200
OFFER_ERRORS: Final = (
    errors.MalformedJson,
    errors.InvalidBody,
    errors.BodyTooLarge,
    errors.SessionNotFound,
    errors.SessionEnded,
    errors.TicketInvalid,
    SdpInvalid,
    WrongTransport,
    SessionNotReady,
    OfferTimedOut,
    MediaNotTaken,
)


def offer_routes(offers: Offers, tokens: PeerTokens) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        offers: brings them.
        tokens: says who may; keys may, too.
    """

    @post(
        "/v1/sessions/{session_id:str}/offer",
        operation_id="offer",
        tags=["sessions"],
        opt={"public": True},
        status_code=_OK,
        dto=JsonBody.of(Offer),
        return_dto=None,
        summary="Connect to a session over WebRTC",
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
        """Send an SDP offer of a browser, and get the session's answer.

        For sessions over `smallwebrtc`; `Authorization: Bearer` has the `token` of the session's `transport`, or a key.
        An offer that comes before the session is ready waits for it. With `pc_id` it changes the connection it names;
        that can be done with the token that the connection was made with for as long as it is there, though it has
        expired for others.
        """
        only_query(request)
        entrant = await tokens.admit(request.headers.get("authorization"), session_id)
        return Response(await offers.offer(entrant, session_id, data), status_code=_OK)

    @patch(
        "/v1/sessions/{session_id:str}/offer",
        operation_id="add_candidates",
        tags=["sessions"],
        opt={"public": True},
        dto=JsonBody.of(Candidates),
        return_dto=None,
        summary="Add ICE candidates to a connection",
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
        """Send ICE candidates that a browser found after its offer; an empty one says that there are no more."""
        only_query(request)
        entrant = await tokens.admit(request.headers.get("authorization"), session_id)
        await offers.candidates(entrant, session_id, data)
        return Response(CandidatesTaken(), status_code=_OK)

    return [offer, add_candidates]
