"""Plivo: Voice API with XML and audio streaming."""

from datetime import datetime
from typing import Final

from greenroom.api.carriers import signatures
from greenroom.api.carriers.base import Carrier, Dial, RestRequest, Transfer, Webhook
from greenroom.api.carriers.plivoxml import PlivoWebhooks, dial_json, transfer_json

API_URL: Final = "https://api.plivo.com"


class Plivo(PlivoWebhooks, Carrier):
    """An account at Plivo.

    Args:
        auth_id: of the account.
        auth_token: signs webhooks, and authenticates us.
        api_url: of the API.
    """

    name = "plivo"
    answer_within_s = 5.0
    holds = True
    detects_machines = True
    leaves_out_plus = True

    def __init__(self, auth_id: str, auth_token: str, api_url: str = API_URL) -> None:
        self._basic = auth_id, auth_token
        self._api = api_url.rstrip("/")
        self._account = f"{self._api}/v1/Account/{auth_id}"

    @property
    def secret(self) -> bytes:
        """See `Carrier`."""
        return self._basic[1].encode()

    @property
    def environment(self) -> dict[str, str]:
        """See `Carrier`."""
        return {"PLIVO_AUTH_ID": self._basic[0], "PLIVO_AUTH_TOKEN": self._basic[1]}

    @property
    def bot_api_url(self) -> str:
        """See `Carrier`: Pipecat's serializer knows one address only."""
        return self._api if self._api == API_URL else ""

    def verify(self, webhook: Webhook, now: datetime) -> str:
        """See `Carrier`; there is no time in it."""
        del now
        return signatures.check_plivo(self._basic[1], webhook)

    def dial(self, dial: Dial) -> RestRequest:
        """See `Carrier`."""
        return RestRequest(method="POST", url=f"{self._account}/Call/", json=dial_json(dial), basic=self._basic)

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """See `Carrier`: a call that nobody has picked up yet is still a request."""
        paths = (f"Call/{call_id}/", f"Request/{call_id}/")
        return tuple(RestRequest(method="DELETE", url=f"{self._account}/{path}", basic=self._basic) for path in paths)

    def transfer(self, transfer: Transfer) -> RestRequest:
        """See `Carrier`."""
        url = f"{self._account}/Call/{transfer.call_id}/"
        return RestRequest(method="POST", url=url, json=transfer_json(transfer), basic=self._basic)
