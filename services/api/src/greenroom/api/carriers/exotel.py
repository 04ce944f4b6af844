"""Exotel: the Voicebot applet, whose URL is asked for each call, and calls that are connected with a stream."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, cast
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from greenroom.api.carriers import signatures
from greenroom.api.carriers.base import (
    AnsweredBy,
    Call,
    CallNews,
    Carrier,
    Dial,
    Document,
    RestAnswer,
    RestRequest,
    Status,
    Transfer,
    Webhook,
)
from greenroom.api.carriers.texml import seconds

API_URL: Final = "https://api.exotel.com"
_STATUSES: Final = {
    "queued": Status.QUEUED,
    "ringing": Status.RINGING,
    "in-progress": Status.ANSWERED,
    "answered": Status.ANSWERED,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
    "busy": Status.BUSY,
    "no-answer": Status.NO_ANSWER,
    "canceled": Status.CANCELED,
}
_BUSY: Final = 503


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account at Exotel.

    Attributes:
        account_sid: of the account.
        api_key: authenticates us, with `api_token`.
        api_token: see there.
        webhook_token: webhooks have it, since they aren't signed.
        api_url: of the API; each region has one.
    """

    account_sid: str
    api_key: str
    api_token: str
    webhook_token: str
    api_url: str = API_URL


class Exotel(Carrier):
    """See `Account`."""

    name = "exotel"
    # It waits 10 s for a stream.
    answer_within_s = 7.0
    # The applet is told where to connect, and nothing else.
    holds = False
    detects_machines = False
    leaves_out_plus = False

    def __init__(self, account: Account) -> None:
        self._account = account
        self._calls = f"{account.api_url.rstrip('/')}/v1/Accounts/{account.account_sid}/Calls"

    @property
    def secret(self) -> bytes:
        """See `Carrier`."""
        return self._account.webhook_token.encode()

    @property
    def environment(self) -> dict[str, str]:
        """See `Carrier`: Pipecat's serializer can't hang up; closing the stream does."""
        return {}

    @property
    def bot_api_url(self) -> str:
        """See `Carrier`."""
        return ""

    def verify(self, webhook: Webhook, now: datetime) -> None:
        """See `Carrier`: a token of ours, since nothing is signed."""
        del now
        signatures.check_token(self._account.webhook_token, webhook)

    def call(self, webhook: Webhook) -> Call:
        """See `Carrier`."""
        fields = webhook.fields
        return Call(
            call_id=webhook.need("CallSid", "call_sid"),
            caller=fields.get("CallFrom") or fields.get("From", ""),
            called=fields.get("CallTo") or fields.get("To", ""),
        )

    def news(self, webhook: Webhook) -> CallNews:
        """See `Carrier`."""
        fields, told = webhook.fields, webhook.need("Status", "CallStatus", "EventType")
        duration_s = seconds(fields.get("ConversationDuration", ""))
        return CallNews(call=self.call(webhook), status=_STATUSES.get(told.lower()), told=told, duration_s=duration_s)

    def answered_by(self, webhook: Webhook) -> tuple[AnsweredBy, str] | None:
        """See `Carrier`; it doesn't say."""
        del webhook

    def connect(self, stream_url: str) -> Document:
        """See `Carrier`."""
        return Document(body=msgspec.json.encode({"url": stream_url}), media_type="application/json")

    def hold(self, text: str, again_url: str, pause_s: int) -> Document:
        """See `Carrier`: it can't."""
        del again_url, pause_s
        return self.refuse(text)

    def refuse(self, text: str) -> Document:
        """See `Carrier`: an error leads the call to the flow's next applet, which can say something."""
        return Document(
            body=msgspec.json.encode({"error": text or "busy"}), media_type="application/json", status=_BUSY
        )

    def dial(self, dial: Dial) -> RestRequest:
        """See `Carrier`: whom it calls is `From`, and the stream is told at once."""
        form: dict[str, str | list[str]] = {
            "From": dial.to,
            "CallerId": dial.caller,
            "StreamUrl": dial.stream_url,
            "StreamType": "bidirectional",
            "TimeOut": str(dial.ring_timeout_s),
            "StatusCallback": self._with_token(dial.status_url),
            "StatusCallbackEvents[]": ["answered", "terminal"],
            "StatusCallbackContentType": "application/json",
        }
        basic = self._account.api_key, self._account.api_token
        return RestRequest(method="POST", url=f"{self._calls}/connect.json", form=form, basic=basic)

    def dialled(self, answer: RestAnswer) -> str:
        """See `Carrier`."""
        inside = answer.body.get("Call") or answer.body.get("call")
        if not isinstance(inside, dict):
            return ""
        found = cast("Mapping[str, object]", inside)
        return str(found.get("Sid") or found.get("sid") or "")

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """See `Carrier`: there is no such request."""
        del call_id
        return ()

    def transfer(self, transfer: Transfer) -> str:
        """See `Carrier`: there is no such request for a call that is connected with a stream."""
        del transfer
        return "exotel: a call can't be handed over by its API; its flow can, behind the Voicebot applet."

    def put_through(self, target: str) -> Document:
        """See `Carrier`: it is never asked for."""
        del target
        return self.refuse("")

    def is_over(self, answer: RestAnswer) -> bool:
        """See `Carrier`."""
        del answer
        return True

    def _with_token(self, url: str) -> str:
        parts = urlsplit(url)
        return urlunsplit(parts._replace(query=f"token={quote(self._account.webhook_token, safe='')}"))
