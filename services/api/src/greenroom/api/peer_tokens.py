"""What browsers send offers with: a token for one session, good for a new connection within five minutes.

    gro_{tenant}.{43 characters}

The last part is derived and stored as media tickets are (`tickets`). A token is no key: it opens nothing but the
offers of its session. One that has expired still is what its connection was made with; the session's process knows,
and lets whoever has connected change that connection for as long as it is there.
"""

import hashlib
import re
from typing import Final

import msgspec

from greenroom.api.auth import SESSIONS_WRITE, Keys
from greenroom.api.tickets import Tickets, derive
from greenroom.common.errors import Forbidden, TicketInvalid, Unauthenticated
from greenroom.common.messages import Ticket

_SCHEME: Final = "bearer "
_TOKEN: Final = re.compile(r"gro_([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{43})")
_PREFIX: Final = "gro_"
_PURPOSE: Final = "offer"


class Entrant(msgspec.Struct, frozen=True, kw_only=True):
    """Who comes to a session.

    Attributes:
        tenant: of the session, if it exists.
        credential: SHA-256 of what was shown.
        may_open: whether that is good for a new connection.
    """

    tenant: str
    credential: str
    may_open: bool


class PeerTokens:
    """Issues tokens and knows them again.

    Args:
        tickets: keeps them.
        keys: knows API keys, which do as well.
    """

    def __init__(self, tickets: Tickets, keys: Keys) -> None:
        self._tickets = tickets
        self._keys = keys

    async def issue(self, secret: bytes, tenant: str, session_id: str) -> Ticket:
        """Make the token of a key for a session good; again for one that is. Raises as `Tickets.issue`."""
        return await self._tickets.issue(secret, tenant, session_id, _PURPOSE)

    def text(self, secret: bytes, tenant: str, session_id: str) -> str:
        """Return the token that a key has for a session."""
        return f"{_PREFIX}{tenant}.{derive(secret, session_id, _PURPOSE)}"

    async def admit(self, authorization: str | None, session_id: str) -> Entrant:
        """Return who sends an `Authorization` header to a session's offers.

        Raises:
            Unauthenticated: no token, and no key that is known.
            Forbidden: the key may not connect.
            TicketInvalid: the token is another session's.
            BrokerUnavailable, DatabaseUnavailable: it can't be looked up now.
        """
        text = authorization or ""
        shown = text[len(_SCHEME) :].strip()
        if text[: len(_SCHEME)].lower() != _SCHEME or not shown:
            raise Unauthenticated("Send `Authorization: Bearer <token>`, the one in the session's `transport`.")
        if not shown.startswith(_PREFIX):
            caller = await self._keys.authenticate(text.encode("latin-1"))
            if not caller.may(SESSIONS_WRITE):
                raise Forbidden(f"The key lacks the scope {SESSIONS_WRITE}.")
            return Entrant(tenant=caller.tenant, credential=_digest(shown), may_open=True)
        found = _TOKEN.fullmatch(shown)
        if found is None:
            raise TicketInvalid("That is no token.")
        tenant, secret = found[1], found[2]
        try:
            ticket = (await self._tickets.find(secret)).ticket
        except TicketInvalid:
            # Never there, or no more: who has connected with it is known to the session's process.
            return Entrant(tenant=tenant, credential=_digest(shown), may_open=False)
        if (ticket.tenant, ticket.session_id) != (tenant, session_id):
            raise TicketInvalid("The token belongs to another session.")
        return Entrant(tenant=tenant, credential=_digest(shown), may_open=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("latin-1", "replace")).hexdigest()
