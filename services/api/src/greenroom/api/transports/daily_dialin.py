"""Calls that Daily holds: its webhook, from which a session with a room and a SIP address for the caller is made.

    Daily                                 api                              session's process
    somebody calls, hears music  ──POST──▶ signature, time, number
                                           session, room with SIP ───────▶ the bot joins the room
    the room's SIP is ready   ◀──────────────── pinlessCallUpdate ──────── Pipecat's transport

Each call has an id, by which the session is asked for once, however often the webhook comes. It is signed with the
`hmac` of the number's configuration at Daily (daily_signature.py).

When a number is set up, Daily sends a body without a call, to see that somebody answers. Its secret may not be known
yet, so that is answered without a signature: nothing is done for it.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from greenroom.api.canonical import canonical_number
from greenroom.api.numbers import Answering, answering, find
from greenroom.api.schemas import CreateSession
from greenroom.api.transports.daily_signature import Signatures
from greenroom.common.clock import Clock
from greenroom.common.errors import FieldProblem, GreenroomError, InvalidBody

CARRIER: Final = "daily"

type CallId = Annotated[str, Meta(pattern=r"^[!-~]{1,128}(?!\n)$")]
type Party = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}(?!\n)$")]
type SipHeaders = Annotated[
    dict[Annotated[str, Meta(max_length=128)], Annotated[str, Meta(max_length=1024)]], Meta(max_length=64)
]


class NumberNotAnswered(GreenroomError):
    """No agent answers the number that was called.

    Add it to the setting (for Daily: `GREENROOM_DAILY_NUMBERS`), e.g. `+15551234567=default/frontdesk`, or `*=…` for
    all numbers that have no agent of their own.
    """

    code = "number-not-answered"
    status = 404
    title = "Nobody answers this number"


class DialinWebhook(msgspec.Struct, frozen=True, kw_only=True, rename={"to": "To", "from_": "From"}):
    """What Daily sends: a call, or (without `callId`) a test of the address."""

    callId: CallId | None = None  # noqa: N815 Daily's own name
    callDomain: CallId | None = None  # noqa: N815
    to: Party | None = None
    from_: Party | None = None
    sipHeaders: SipHeaders | None = None  # noqa: N815


class DialinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What Daily is answered; it looks at the status only."""

    status: str = "ok"
    # None for a test.
    session_id: str | None = None


class DialinCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call, as a request for a session."""

    tenant: str
    wish: CreateSession
    # The idempotency key.
    key: str


class Dialin:
    """Turns Daily's webhooks into requests.

    Args:
        secrets: that webhooks may be signed with, base64.
        numbers: who answers; see `numbers.answering`.
        clock: says which webhooks are old.
    """

    def __init__(self, secrets: Iterable[str], numbers: Iterable[str], *, clock: Clock | None = None) -> None:
        self._signatures = Signatures(secrets, "GREENROOM_DAILY_DIALIN_SECRETS", clock=clock)
        self._numbers = answering(numbers)

    def call(
        self, webhook: DialinWebhook, raw: bytes, timestamp: str | None, signature: str | None
    ) -> DialinCall | None:
        """Return the call that a webhook is about; None: it is a test.

        Args:
            webhook: what was sent.
            raw: the same, byte by byte.
            timestamp: the header `X-Pinless-Timestamp`.
            signature: the header `X-Pinless-Signature`.

        Raises:
            TransportUnavailable: there are no secrets to tell by whether it is genuine.
            WebhookRefused: it isn't, or is old.
            InvalidBody: it lacks what makes a call.
            NumberNotAnswered: no agent answers.
        """
        if webhook.callId is None:
            return None
        self._signatures.check(raw, timestamp, signature)
        if webhook.callDomain is None:
            problem = FieldProblem(pointer="/callDomain", detail="It is missing.")
            raise InvalidBody("/callDomain: it is missing.", errors=[problem])
        who = find(self._numbers, webhook.to)
        if who is None:
            raise NumberNotAnswered
        return DialinCall(tenant=who.tenant, wish=_wish(webhook, who), key=f"daily-dialin {webhook.callId}")


def _wish(webhook: DialinWebhook, who: Answering) -> CreateSession:
    dialin: dict[str, Any] = {
        "call_id": webhook.callId,
        "call_domain": webhook.callDomain,
        "to": webhook.to,
        "from": webhook.from_,
        "sip_headers": webhook.sipHeaders or {},
    }
    return CreateSession(
        agent=who.agent,
        transport="daily",
        transport_options={"dialin": {name: value for name, value in dialin.items() if value is not None}},
        carrier=CARRIER,
        number=canonical_number(webhook.to) if webhook.to is not None else None,
    )
