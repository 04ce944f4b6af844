"""The addresses that carriers are given: media sockets with a ticket, webhooks with a reference to their session."""

import hashlib
import hmac
from typing import Final, Literal

from greenroom.api.carriers.base import Carrier
from greenroom.api.carriers.references import reference
from greenroom.api.handshake import PATH as MEDIA_PATH
from greenroom.api.tickets import Tickets, derive

WEBHOOKS: Final = "/v1/webhooks"

type What = Literal["answer", "status", "machine", "transfer"]


class Links:
    """Makes addresses.

    Args:
        tickets: opens media sockets.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    async def stream(self, carrier: Carrier, origin: str, tenant: str, session_id: str) -> str:
        """Return the media socket of a session; good for one connection, and the same however often it is asked for.

        Raises:
            BrokerUnavailable: the ticket couldn't be stored.
        """
        secret = hmac.digest(carrier.secret, b"greenroom-carrier-tickets", hashlib.sha256)
        await self._tickets.issue(secret, tenant, session_id)
        return "ws" + origin.removeprefix("http") + MEDIA_PATH + derive(secret, session_id)

    def webhook(self, carrier: Carrier, origin: str, tenant: str, session_id: str, what: What) -> str:
        """Return where a carrier asks or tells of the call of one session."""
        return webhook_url(carrier, origin, tenant, session_id, what)


def webhook_url(carrier: Carrier, origin: str, tenant: str, session_id: str, what: What) -> str:
    """Return where a carrier asks or tells of the call of one session."""
    return f"{origin}{WEBHOOKS}/{carrier.name}/calls/{reference(carrier.secret, tenant, session_id)}/{what}"
