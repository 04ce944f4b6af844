"""Tickets for listening in: random, good for one connection within a minute, kept by digest like those for media.

The digest is another one than theirs, so that neither opens what the other one opens.
"""

import hashlib
import re
import secrets
from datetime import timedelta
from typing import Final

from greenroom.api.auth import SESSIONS_BARGE_IN, Caller
from greenroom.api.command_schemas import ListenView, ListenWish
from greenroom.api.sessions import Sessions
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.command_errors import NoSuchListener, SessionNotLive
from greenroom.common.errors import Forbidden
from greenroom.common.lifecycle import State
from greenroom.common.messages import Ticket

PATH: Final = "/v1/listen/"
STREAM: Final = "TICKETS"
LIFETIME_S: Final = 60.0
RATE: Final = 16_000
_BYTES: Final = 32
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class ListenTickets:
    """Issues tickets for listening in, and takes them."""

    def __init__(self, broker: Broker, sessions: Sessions, *, clock: Clock | None = None) -> None:
        """Keep tickets on `broker`."""
        self._broker = broker
        self._sessions = sessions
        self._clock = clock or SystemClock()

    async def issue(self, caller: Caller, session_id: str, wish: ListenWish, base_url: str) -> ListenView:
        """Make a ticket.

        Raises:
            Forbidden: the key may listen but not barge in.
            SessionNotFound, SessionNotLive: there is no such session, or it isn't running.
            BrokerUnavailable: it wasn't stored.
        """
        if wish.barge_in and not caller.may(SESSIONS_BARGE_IN):
            raise Forbidden(f"The key lacks the scope {SESSIONS_BARGE_IN}.")
        session = await self._sessions.find(caller.tenant, session_id)
        if session.state is not State.READY:
            raise SessionNotLive(f"It is {session.state}.")
        text = secrets.token_urlsafe(_BYTES)
        ticket = Ticket(
            tenant=caller.tenant,
            session_id=session_id,
            expires_at=self._clock.now() + timedelta(seconds=LIFETIME_S),
            by=caller.key_id,
            tracks=wish.tracks,
            barge_in=wish.barge_in,
        )
        await self._broker.append(_subject(text), messages.encode(ticket), expected_last=0)
        return ListenView(
            session_id=session_id,
            url=base_url + text,
            expires_at=ticket.expires_at,
            tracks=wish.tracks,
            barge_in=wish.barge_in,
            rate=RATE,
            channels=1 if wish.tracks == "mixed" else 2,
        )

    async def take(self, text: str) -> Ticket:
        """Use a ticket; of several who try, one succeeds.

        Raises:
            NoSuchListener: not known, expired or used.
            BrokerUnavailable: it isn't known whether it was taken.
        """
        if not _SHAPE.fullmatch(text):
            raise NoSuchListener
        stored = await self._broker.last(STREAM, _subject(text))
        if stored is None or not stored.data:
            raise NoSuchListener
        ticket = messages.decode(stored.data, Ticket)
        if ticket.expires_at <= self._clock.now():
            raise NoSuchListener
        try:
            await self._broker.append(_subject(text), b"", expected_last=stored.stream_seq)
        except WrongLastSequence as error:
            raise NoSuchListener from error
        return ticket


def _subject(text: str) -> str:
    return subjects.TICKET.format(key=hashlib.sha256(f"greenroom-listen:{text}".encode()).hexdigest())
