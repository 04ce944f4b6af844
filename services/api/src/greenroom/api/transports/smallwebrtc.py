"""Browsers that speak with the session's process itself: they get where to send their offer, and with what."""

from typing import Any, Final, override

import msgspec

from greenroom.api import call_page
from greenroom.api.ice import IceServers
from greenroom.api.offers import TRANSPORT
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Adapter, Asked, Prepared, options_of
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.lifecycle import Session

PATH: Final = "/v1/sessions/{session_id}/offer"


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There are none."""


class SmallWebRTCAdapter(Adapter):
    """Peer connections of session processes.

    Args:
        tokens: what browsers get in with.
        ice: how they find a way.
        clock: says until when.
    """

    def __init__(self, tokens: PeerTokens, ice: IceServers, *, clock: Clock | None = None) -> None:
        self._tokens = tokens
        self._ice = ice
        self._clock = clock or SystemClock()

    @property
    @override
    def name(self) -> str:
        return TRANSPORT

    @override
    def check(self, options: dict[str, Any]) -> None:
        options_of(options, _Options)

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> None:
        return None

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        token = await self._tokens.issue(asked.caller.secret, session.tenant, session.id)
        return Prepared(public=Transport(type=TRANSPORT, expires_at=token.expires_at))

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        caller = asked.caller
        if again:
            # As of media tickets: for another key of the tenant, and where the first one has expired.
            ticket = await self._tokens.issue(caller.secret, caller.tenant, session_id)
            public = msgspec.structs.replace(public, expires_at=ticket.expires_at)
        token = self._tokens.text(caller.secret, caller.tenant, session_id)
        servers = self._ice.for_user(session_id, self._clock.now())
        return msgspec.structs.replace(
            public,
            url=asked.origin + PATH.format(session_id=session_id),
            token=token,
            ice_servers=servers,
            page_url=call_page.url(asked.origin, session_id, token, servers),
        )

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        pass
