"""Vobiz: Plivo's webhooks, documents and stream, with headers and a signature of its own."""

from datetime import datetime
from typing import Final

from greenroom.api.carriers import signatures
from greenroom.api.carriers.base import Carrier, Dial, RestRequest, Transfer, Webhook
from greenroom.api.carriers.plivoxml import PlivoWebhooks, dial_json, transfer_json

API_URL: Final = "https://api.vobiz.ai"


class Vobiz(PlivoWebhooks, Carrier):
    """An account at Vobiz.

    Args:
        auth_id: of the account.
        auth_token: signs webhooks, and authenticates us.
        api_url: of the API.
    """

    name = "vobiz"
    # It wants an answer within three seconds.
    answer_within_s = 2.0
    holds = True
    detects_machines = True
    leaves_out_plus = True

    def __init__(self, auth_id: str, auth_token: str, api_url: str = API_URL) -> None:
        self._auth_id, self._auth_token = auth_id, auth_token
        self._headers = {"x-auth-id": auth_id, "x-auth-token": auth_token}
        self._calls = f"{api_url.rstrip('/')}/api/v1/Account/{auth_id}/Call"

    @property
    def secret(self) -> bytes:
        """See `Carrier`."""
        return self._auth_token.encode()

    @property
    def environment(self) -> dict[str, str]:
        """See `Carrier`: Pipecat takes its stream for Plivo's, and wants something to hang up there with."""
        return {
            "VOBIZ_AUTH_ID": self._auth_id,
            "VOBIZ_AUTH_TOKEN": self._auth_token,
            "PLIVO_AUTH_ID": "not-at-plivo",
            "PLIVO_AUTH_TOKEN": "not-at-plivo",
        }

    @property
    def bot_api_url(self) -> str:
        """See `Carrier`: Pipecat's serializer would ask Plivo."""
        return ""

    def verify(self, webhook: Webhook, now: datetime) -> str:
        """See `Carrier`; there is no time in it, nor is the body signed."""
        del now
        return signatures.check_vobiz(self._auth_token, webhook)

    def dial(self, dial: Dial) -> RestRequest:
        """See `Carrier`."""
        return RestRequest(method="POST", url=f"{self._calls}/", json=dial_json(dial), headers=self._headers)

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """See `Carrier`."""
        return (RestRequest(method="DELETE", url=f"{self._calls}/{call_id}", headers=self._headers),)

    def transfer(self, transfer: Transfer) -> RestRequest:
        """See `Carrier`."""
        url = f"{self._calls}/{transfer.call_id}/"
        return RestRequest(method="POST", url=url, json=transfer_json(transfer), headers=self._headers)
