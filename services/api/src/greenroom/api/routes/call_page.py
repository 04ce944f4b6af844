"""`/call`: a page to speak with a session on; and what that page shows of the session."""

from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from greenroom.api import call_page
from greenroom.api.call_page.shown import shown
from greenroom.api.handshake import EdgeFull
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.routes.common import AnyRequest, only_query, problems
from greenroom.api.sse import EventStreams
from greenroom.common import errors
from greenroom.common.errors import Draining, TicketInvalid, Unauthenticated

_OK: Final = 200
_SCHEME: Final = "bearer gro_"
_MAX_SEQUENCE: Final = 2**63 - 1


def call_page_routes(tokens: PeerTokens, streams: EventStreams, max_streams: int) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        tokens: says who speaks with a session.
        streams: has what happens.
        max_streams: how many streams this process serves at a time.
    """
    files = {path: (call_page.read(name), kind) for path, (name, kind) in call_page.FILES.items()}

    @get(list(files), opt={"public": True}, include_in_schema=False)
    async def get_call_page(request: AnyRequest) -> Response[bytes]:
        """Return the page or a file of it."""
        only_query(request)
        body, kind = files[request.scope["path"].rstrip("/")]
        return Response(body, media_type=kind, headers=call_page.HEADERS)

    @get(
        "/v1/sessions/{session_id:str}/call/events",
        operation_id="follow_call",
        tags=["sessions"],
        opt={"public": True},
        summary="Follow what is said, as who speaks",
        responses={
            _OK: ResponseSpec(
                str,
                generate_examples=False,
                media_type="text/event-stream",
                description="`user_spoke`, `agent_spoke`, and how the call stands; until the event `end`",
            ),
            **problems(errors.TicketInvalid, EdgeFull),
        },
    )
    async def follow_call(
        request: AnyRequest,
        session_id: FromPath[str],
        after: Annotated[int, QueryParameter(ge=0, le=_MAX_SEQUENCE, description="Begin behind this id")] = 0,
    ) -> Stream:
        """Follow what is said in a session over `smallwebrtc`, with the `token` of its `transport`.

        It is what the page `/call` shows: server-sent events with the text of both sides, nothing of the tenant's. The
        token has to be good when the stream begins.
        """
        only_query(request, "after")
        authorization = request.headers.get("authorization", "")
        if not authorization.lower().startswith(_SCHEME):
            raise Unauthenticated("Send `Authorization: Bearer <token>`, the one in the session's `transport`.")
        entrant = await tokens.admit(authorization, session_id)
        if not entrant.may_open:
            raise TicketInvalid("The token has expired.")
        if streams.draining.is_set():
            raise Draining
        if streams.open >= max_streams:
            raise EdgeFull
        stream: Any = shown(streams.follow(entrant.tenant, session_id, after))
        return Stream(
            stream,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return [get_call_page, follow_call]
