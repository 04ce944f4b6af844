"""`/v1/webhooks/daily`: what Daily tells."""

from typing import Annotated, Final, cast

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, HeaderParameter

from greenroom.api.auth import SESSIONS_WRITE, Caller
from greenroom.api.body import JsonBody
from greenroom.api.daily_goers import DailyGoers, Done
from greenroom.api.ended_early import SessionEndedEarly
from greenroom.api.problem import CODE_KEY, retry_after
from greenroom.api.problem import MEDIA_TYPE as PROBLEM_TYPE
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.transports.daily_dialin import (
    Dialin,
    DialinAnswer,
    DialinWebhook,
    NumberNotAnswered,
)
from greenroom.api.transports.daily_events import DailyEvent, read
from greenroom.api.transports.daily_signature import Signatures, WebhookRefused
from greenroom.api.transports.provider import ProviderRefused, ProviderUnavailable
from greenroom.common import errors

_OK: Final = 200
_KEY_ID: Final = "daily-dialin"
_EXAMPLE: Final = {
    "To": "+15551234567",
    "From": "+15557654321",
    "callId": "0f5f3a2e-4a3f-4d7e-9c1e-3f1a2b3c4d5e",
    "callDomain": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
}
_EVENT: Final = {
    "version": "1.1.0",
    "type": "participant.joined",
    "id": "ptcpt-join-6497c79b-f326-4942-aef8-c36a29140ad1-1708972279961",
    "payload": {
        "room": "sales-42",
        "user_id": "6497c79b-f326-4942-aef8-c36a29140ad1",
        "user_name": "A guest",
        "session_id": "0c0d2dda-f21d-4cf9-ab56-86bf3c407ffa",
        "joined_at": 1708972279.96,
        "owner": False,
    },
    "event_ts": 1708972279.961,
}


def daily_routes(sessions: Sessions, dialin: Dialin, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        sessions: does what they say.
        dialin: knows which calls are genuine, and who answers them.
        public_url: how clients reach us.
    """

    @post(
        "/v1/webhooks/daily/dialin",
        operation_id="daily_dialin",
        tags=["webhooks"],
        opt={"public": True},
        security=[{}],
        status_code=_OK,
        dto=JsonBody.of(DialinWebhook),
        return_dto=None,
        summary="Take a call that Daily holds",
        responses={
            _OK: answer(
                DialinAnswer, "A session answers the call", {"status": "ok", "session_id": "0198c0de-0000-7000-8000-0"}
            ),
            **problems(
                errors.MalformedJson,
                WebhookRefused,
                NumberNotAnswered,
                errors.AgentNotFound,
                errors.TenantSuspended,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.IdempotencyMismatch,
                errors.IdempotencyInProgress,
                errors.Draining,
                TransportUnavailable,
                ProviderRefused,
                ProviderUnavailable,
            ),
        },
    )
    async def daily_dialin(
        request: AnyRequest,
        data: Annotated[DialinWebhook, Body(examples=[Example(value=_EXAMPLE)])],
        signature: Annotated[str | None, HeaderParameter(name="X-Pinless-Signature")] = None,
        timestamp: Annotated[str | None, HeaderParameter(name="X-Pinless-Timestamp")] = None,
    ) -> Response[DialinAnswer]:
        """Take a call that Daily holds; needs no key, but Daily's signature.

        Put this address into `room_creation_api` of the number's dial-in configuration at Daily, and its `hmac` into
        `GREENROOM_DAILY_DIALIN_SECRETS`. A call has one session, however often the webhook comes. A session that a
        limit refuses, or that ends at once, is a problem: Daily then plays what is set for nobody being there.
        """
        only_query(request)
        call = dialin.call(data, await request.body(), timestamp, signature)
        if call is None:
            return Response(DialinAnswer())
        caller = Caller(tenant=call.tenant, key_id=_KEY_ID, scopes=frozenset({SESSIONS_WRITE}), secret=b"")
        asked = Asked(caller=caller, origin=(public_url or "").rstrip("/"))
        created = await sessions.create(asked, call.wish, call.key, _stays)
        if created.created:
            return Response(DialinAnswer(session_id=created.session_id))
        request.scope["state"][CODE_KEY] = SessionEndedEarly.code
        return Response(
            cast("DialinAnswer", created.body),
            status_code=created.status,
            headers=retry_after(created.retry_after_s),
            media_type=PROBLEM_TYPE,
        )

    return [daily_dialin]


def daily_event_routes(goers: DailyGoers, signatures: Signatures, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        goers: does what events ask for.
        signatures: knows which are genuine.
        public_url: how clients reach us.
    """

    @post(
        "/v1/webhooks/daily/events",
        operation_id="daily_event",
        tags=["webhooks"],
        opt={"public": True},
        security=[{}],
        status_code=_OK,
        dto=JsonBody.of(DailyEvent),
        return_dto=None,
        summary="Take what Daily tells of rooms",
        responses={
            _OK: answer(
                Done,
                "What was done, or why nothing was",
                {"result": "begun", "reason": None, "session_id": "0198c0de-0000-7000-8000-0"},
            ),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                WebhookRefused,
                TransportUnavailable,
                ProviderUnavailable,
                errors.Draining,
                errors.LedgerConflict,
            ),
        },
    )
    async def daily_event(
        request: AnyRequest,
        data: Annotated[DailyEvent, Body(examples=[Example(value=_EVENT)])],
        signature: Annotated[str | None, HeaderParameter(name="X-Webhook-Signature")] = None,
        timestamp: Annotated[str | None, HeaderParameter(name="X-Webhook-Timestamp")] = None,
    ) -> Done:
        """Begin a session where somebody has come into a room, end it where a meeting is over.

        Needs no key, but Daily's signature. Put this address into `url` of a webhook at Daily (`POST /webhooks` there,
        `eventTypes` `participant.joined` and `meeting.ended`), and its `hmac` into `GREENROOM_DAILY_WEBHOOK_SECRETS`.
        Which agent goes to which rooms says `PUT /v1/daily-rooms/{tenant}/{agent}`. An event may come twice, late and
        in any order; what another try wouldn't change is answered with 200.
        """
        only_query(request)
        if data.type is None:
            return Done(result="ignored", reason="test")
        signatures.check(await request.body(), timestamp, signature)
        return await goers.tell(read(data), (public_url or "").rstrip("/"))

    return [daily_event]


async def _stays() -> None:
    """Return never: with a key nobody looks whether the caller's connection is open."""
