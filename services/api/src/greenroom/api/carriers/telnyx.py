"""Telnyx: TeXML applications and media streaming."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, cast

import msgspec

from greenroom.api.carriers import signatures, xml
from greenroom.api.carriers.base import Carrier, Dial, Document, RestAnswer, RestRequest, Transfer, Webhook
from greenroom.api.carriers.texml import TexmlWebhooks, dial_form

API_URL: Final = "https://api.telnyx.com"
_NOT_FOUND: Final = 404
_UNPROCESSABLE: Final = 422
# TeXML's `CallSid` is Call Control's `call_control_id`, which the hang-up takes; not the ids of leg and call session.
_IDS: Final = ("sid", "call_sid", "call_control_id")
# "Call has already ended."
_ENDED: Final = "90018"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account at Telnyx.

    Attributes:
        api_key: authenticates us.
        public_key: webhooks are signed with its counterpart.
        account_sid: of the account, where calls are made.
        application_id: of the TeXML application that makes them.
        api_url: of the API.
    """

    api_key: str
    public_key: str
    account_sid: str
    application_id: str
    api_url: str = API_URL


class Telnyx(TexmlWebhooks, Carrier):
    """See `Account`."""

    name = "telnyx"
    answer_within_s = 5.0
    holds = True
    detects_machines = True
    leaves_out_plus = False

    def __init__(self, account: Account) -> None:
        self._account = account
        self._api = account.api_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {account.api_key}"}

    @property
    def secret(self) -> bytes:
        """See `Carrier`."""
        return self._account.api_key.encode()

    @property
    def environment(self) -> dict[str, str]:
        """See `Carrier`."""
        return {"TELNYX_API_KEY": self._account.api_key}

    @property
    def bot_api_url(self) -> str:
        """See `Carrier`: Pipecat's serializer knows one address only."""
        return self._api if self._api == API_URL else ""

    def verify(self, webhook: Webhook, now: datetime) -> None:
        """See `Carrier`."""
        signatures.check_telnyx(self._account.public_key, webhook, now)

    def connect(self, stream_url: str) -> Document:
        """See `Carrier`."""
        return xml.twilio_connect(stream_url, codec="PCMU", bidirectionalMode="rtp", bidirectionalCodec="PCMU")

    def dial(self, dial: Dial) -> RestRequest:
        """See `Carrier`."""
        wish: dict[str, object] = {
            **dial_form(dial),
            "ApplicationSid": self._account.application_id,
            "UrlMethod": "POST",
            "StatusCallbackEvent": "initiated ringing answered completed",
        }
        url = f"{self._api}/v2/texml/Accounts/{self._account.account_sid}/Calls"
        return RestRequest(method="POST", url=url, json=wish, headers=self._headers)

    def dialled(self, answer: RestAnswer) -> str:
        """See `Carrier`.

        The documented answer has numbers and a status and no id, flat or as `data`. Where an id is there it is taken,
        by any of the names that its APIs have for the same one; else the first webhook (`initiated`) brings it.
        """
        data = answer.body.get("data")
        inside: Mapping[str, object] = cast("Mapping[str, object]", data) if isinstance(data, Mapping) else {}
        found = (place.get(name) for place in (answer.body, inside) for name in _IDS)
        return next((each for each in found if isinstance(each, str) and each), "")

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """See `Carrier`."""
        url = f"{self._api}/v2/calls/{call_id}/actions/hangup"
        return (RestRequest(method="POST", url=url, json={}, headers=self._headers),)

    def transfer(self, transfer: Transfer) -> RestRequest | str:
        """See `Carrier`: another document takes the place of the one that connected it.

        Call Control's own transfer leaves the document in charge, which ends the call when the bot's stream is closed.
        """
        if not self._account.account_sid:
            return "telnyx: GREENROOM_TELNYX_ACCOUNT_SID isn't set."
        url = f"{self._api}/v2/texml/Accounts/{self._account.account_sid}/Calls/{transfer.call_id}"
        form = {"Texml": self.put_through(transfer.target).body.decode()}
        return RestRequest(method="POST", url=url, form=form, headers=self._headers)

    def is_over(self, answer: RestAnswer) -> bool:
        """See `Carrier`."""
        if answer.status != _UNPROCESSABLE:
            return answer.status == _NOT_FOUND
        errors = answer.body.get("errors")
        return isinstance(errors, list) and _ENDED in msgspec.json.encode(errors).decode()
