"""Twilio: Programmable Voice with TwiML and Media Streams."""

from datetime import datetime
from typing import Final

from greenroom.api.carriers import signatures, xml
from greenroom.api.carriers.base import Carrier, Dial, Document, RestAnswer, RestRequest, Transfer, Webhook
from greenroom.api.carriers.texml import TexmlWebhooks, dial_form

API_URL: Final = "https://api.twilio.com"
_EVENTS: Final = ["initiated", "ringing", "answered", "completed"]
_NOT_FOUND: Final = 404


class Twilio(TexmlWebhooks, Carrier):
    """An account at Twilio.

    Args:
        account_sid: of the account.
        auth_token: signs webhooks, and authenticates us.
        api_url: of the API.
    """

    name = "twilio"
    # Twilio waits 15 s.
    answer_within_s = 5.0
    holds = True
    detects_machines = True
    leaves_out_plus = False

    def __init__(self, account_sid: str, auth_token: str, api_url: str = API_URL) -> None:
        self._basic = account_sid, auth_token
        self._api = api_url.rstrip("/")
        self._calls = f"{self._api}/2010-04-01/Accounts/{account_sid}/Calls"

    @property
    def secret(self) -> bytes:
        """See `Carrier`."""
        return self._basic[1].encode()

    @property
    def environment(self) -> dict[str, str]:
        """See `Carrier`."""
        return {"TWILIO_ACCOUNT_SID": self._basic[0], "TWILIO_AUTH_TOKEN": self._basic[1]}

    @property
    def bot_api_url(self) -> str:
        """See `Carrier`: Pipecat's serializer goes wherever it is told."""
        return self._api

    def verify(self, webhook: Webhook, now: datetime) -> None:
        """See `Carrier`; there is no time in it."""
        del now
        signatures.check_twilio(self._basic[1], webhook)

    def connect(self, stream_url: str) -> Document:
        """See `Carrier`."""
        return xml.twilio_connect(stream_url)

    def dial(self, dial: Dial) -> RestRequest:
        """See `Carrier`."""
        form = {**dial_form(dial), "Method": "POST", "StatusCallbackEvent": _EVENTS}
        return RestRequest(method="POST", url=f"{self._calls}.json", form=form, basic=self._basic)

    def dialled(self, answer: RestAnswer) -> str:
        """See `Carrier`."""
        return str(answer.body.get("sid") or "")

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """See `Carrier`."""
        url = f"{self._calls}/{call_id}.json"
        return (RestRequest(method="POST", url=url, form={"Status": "completed"}, basic=self._basic),)

    def transfer(self, transfer: Transfer) -> RestRequest:
        """See `Carrier`: another document takes the place of the one that connected it."""
        form = {"Twiml": self.put_through(transfer.target).body.decode()}
        return RestRequest(method="POST", url=f"{self._calls}/{transfer.call_id}.json", form=form, basic=self._basic)

    def is_over(self, answer: RestAnswer) -> bool:
        """See `Carrier`."""
        return answer.status == _NOT_FOUND
