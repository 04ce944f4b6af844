"""Media tickets: each opens one WebSocket to one session, once, for five minutes.

A ticket is derived from the caller's key and the session's id, so a repeated request yields the same one without
anybody having stored it. The broker keeps it under its SHA-256: what is stored there opens nothing.
"""

import base64
import contextlib
import hashlib
import hmac
import re
from datetime import timedelta
from typing import Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import TicketInvalid, TicketUsed
from greenroom.common.messages import Ticket

STREAM: Final = "TICKETS"
LIFETIME_S: Final = 300.0
# 32 bytes in base64url without padding.
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that was found and not used yet; `revision` is what it is taken on."""

    ticket: Ticket
    key: str
    revision: int


class Tickets:
    """Issues tickets and takes them."""

    def __init__(self, broker: Broker, *, clock: Clock | None = None) -> None:
        """Keep tickets on `broker`."""
        self._broker = broker
        self._clock = clock or SystemClock()

    async def issue(self, secret: bytes, tenant: str, session_id: str, purpose: str = "media") -> Ticket:
        """Store the ticket of a session and return what it opens; again for one that is stored already.

        One that has expired unused is good again for as long as a new one: its session may have waited for longer.

        Args:
            secret: the caller's key.
            tenant: of the session.
            session_id: which.
            purpose: as for `derive`.

        Raises:
            BrokerUnavailable: it wasn't stored.
        """
        ticket = Ticket(
            tenant=tenant, session_id=session_id, expires_at=self._clock.now() + timedelta(seconds=LIFETIME_S)
        )
        subject = subjects.TICKET.format(key=_digest(derive(secret, session_id, purpose)))
        try:
            await self._broker.append(subject, messages.encode(ticket), expected_last=0)
        except WrongLastSequence:
            stored = await self._broker.last(STREAM, subject)
            if stored is not None and stored.data:
                known = messages.decode(stored.data, Ticket)
                if known.expires_at > self._clock.now():
                    return known
                # Whoever is first has made the same ticket good, for the same time.
                with contextlib.suppress(WrongLastSequence):
                    await self._broker.append(subject, messages.encode(ticket), expected_last=stored.stream_seq)
        return ticket

    async def find(self, text: str) -> Held:
        """Return what a ticket opens, without using it.

        Raises:
            TicketInvalid: not known, or expired.
            TicketUsed: taken before.
            BrokerUnavailable: it can't be looked up.
        """
        if not _SHAPE.fullmatch(text):
            raise TicketInvalid
        key = _digest(text)
        stored = await self._broker.last(STREAM, subjects.TICKET.format(key=key))
        if stored is None:
            raise TicketInvalid
        if not stored.data:
            raise TicketUsed
        ticket = messages.decode(stored.data, Ticket)
        if ticket.expires_at <= self._clock.now():
            raise TicketInvalid("The ticket has expired.")
        return Held(ticket=ticket, key=key, revision=stored.stream_seq)

    async def take(self, held: Held) -> int:
        """Use a ticket; of several who try, one succeeds. Returns the revision on which it can be given back.

        Raises:
            TicketUsed: somebody else took it.
            BrokerUnavailable: it isn't known whether it was taken.
        """
        try:
            return await self._broker.append(subjects.TICKET.format(key=held.key), b"", expected_last=held.revision)
        except WrongLastSequence as error:
            raise TicketUsed from error

    async def give_back(self, held: Held, revision: int) -> None:
        """Make a taken ticket good again, because nobody got through the door with it.

        Raises:
            WrongLastSequence: not ours to give back.
            BrokerUnavailable: it stays used.
        """
        await self._broker.append(
            subjects.TICKET.format(key=held.key), messages.encode(held.ticket), expected_last=revision
        )


def derive(secret: bytes, session_id: str, purpose: str = "media") -> str:
    """Return the ticket that `secret` has for a session: 43 characters that nobody else can guess.

    There is one for each purpose: a socket (`media`), or offers (`offer`).
    """
    digest = hmac.digest(secret, f"greenroom-{purpose}-ticket:{session_id}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
