"""Clients that speak with this service over a WebSocket: a ticket is all there is to prepare."""

from typing import Any, Final, override

import msgspec

from greenroom.api.handshake import PATH
from greenroom.api.schemas import Transport
from greenroom.api.tickets import Tickets, derive
from greenroom.api.transports.base import Adapter, Asked, Prepared, options_of
from greenroom.common.lifecycle import Session

NAME: Final = "websocket"


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There are none."""


class WebSocketAdapter(Adapter):
    """The media WebSocket of this service.

    Args:
        tickets: what clients get in with.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    def check(self, options: dict[str, Any]) -> None:
        options_of(options, _Options)

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> None:
        return None

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        # Before the session is requested: one that nobody can get into must not exist.
        ticket = await self._tickets.issue(asked.caller.secret, session.tenant, session.id)
        return Prepared(public=Transport(type=NAME, expires_at=ticket.expires_at))

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        if again:
            # Another key of the tenant has a ticket of its own; and the session may have waited for longer than the
            # first one was good.
            ticket = await self._tickets.issue(asked.caller.secret, asked.caller.tenant, session_id)
            public = msgspec.structs.replace(public, expires_at=ticket.expires_at)
        url = "ws" + asked.origin.removeprefix("http") + PATH + derive(asked.caller.secret, session_id)
        return msgspec.structs.replace(public, url=url)

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        pass
