"""The transports that sessions are offered over, and what has to be done for each."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Adapter, Asked, TransportUnavailable
from greenroom.api.transports.releases import Releases
from greenroom.common import bodies
from greenroom.common.bodies import Bodies
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.secrets import ROOM_TOKEN, SecretBox, with_token

# Who takes away large bodies, as plans name him; no transport can be called this.
_BODY: Final = "body"


class Transports:
    """All transports of this installation.

    Args:
        adapters: one for each.
        broker: keeps secrets, large bodies and plans.
        ledger: says which sessions are over.
        clock: of the plans.
    """

    def __init__(
        self, adapters: Sequence[Adapter], *, broker: Broker, ledger: Ledger, clock: Clock | None = None
    ) -> None:
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self._secrets = SecretBox(broker)
        self._bodies = Bodies(broker)
        releasers = {**self._adapters, _BODY: _BodyReleaser(self._bodies)}
        self.releases = Releases(broker=broker, ledger=ledger, secrets=self._secrets, adapters=releasers, clock=clock)

    @property
    def names(self) -> tuple[str, ...]:
        """What requests call them, by name."""
        return tuple(sorted(self._adapters))

    def check(self, transport: str, options: dict[str, Any]) -> None:
        """Look at what a request says of its transport.

        Raises:
            TransportUnavailable: there is none of this name here.
            InvalidBody: the options don't fit it.
        """
        self._adapter(transport).check(options)

    def room(self, transport: str, options: dict[str, Any]) -> str | None:
        """Return the room that a request brings; see `base.Adapter.room`."""
        return self._adapter(transport).room(options)

    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> tuple[Session, Transport]:
        """Prepare the way to a session; return the session with what is public of it, and the answer's public part.

        A body that the ledger can't have is laid down for the session's process.

        Raises:
            BodyTooLarge: nobody takes that.
            GreenroomError: it can't be prepared now. What was made of it goes by itself.
        """
        adapter = self._adapter(session.transport)
        kept = session
        if len(bodies.encoded(session.body)) > bodies.INLINE_BYTES:
            await self.releases.plan(session, {}, by=_BODY)
            kept = await self._bodies.put(session)
        plan = adapter.plan(session, options)
        if plan is not None:
            await self.releases.plan(session, plan)
        prepared = await adapter.prepare(asked, session, options)
        if prepared.secrets:
            await self._secrets.put(session.tenant, session.id, prepared.secrets)
        session = msgspec.structs.replace(
            kept,
            transport_info=prepared.info or session.transport_info,
            carrier=prepared.carrier or session.carrier,
            number=prepared.number or session.number,
            call=prepared.call,
        )
        return session, prepared.public

    def movable(self, transport: str) -> bool:
        """Tell whether live sessions can go to another room; see `base.Adapter.movable`."""
        return transport in self._adapters and self._adapters[transport].movable

    def public(self, session: Session, options: dict[str, Any]) -> Transport:
        """Return what the answer says of the room that a session is in; see `base.Adapter.public`."""
        return self._adapter(session.transport).public(session, options)

    async def prepare_room(self, asked: Asked, session: Session, options: dict[str, Any]) -> dict[str, str]:
        """Prepare another room for a live session that has it as `moving`; return the room's `transport_info`.

        What the bot gets in with is laid down beside what it has for the room that it is in.

        Raises:
            GreenroomError: it can't be prepared now. What was made of it goes by itself.
        """
        adapter = self._adapter(session.transport)
        plan = adapter.plan(session, options)
        if plan is not None:
            await self.releases.plan(session, plan)
        prepared = await adapter.prepare(asked, session, options)
        room, token, now = prepared.info["room"], prepared.secrets[ROOM_TOKEN], session.transport_info.get("room")
        await self._secrets.change(session.tenant, session.id, lambda values: with_token(values, room, token, now=now))
        return prepared.info

    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        """Return what a caller gets in with; see `base.Adapter.answer`."""
        return await self._adapter(public.type).answer(asked, session_id, public, again=again)

    async def run(self) -> None:
        """Release what is over, until canceled; then nothing can be asked of providers any more."""
        try:
            await self.releases.run()
        finally:
            for adapter in self._adapters.values():
                await adapter.close()

    def _adapter(self, transport: str) -> Adapter:
        found = self._adapters.get(transport)
        if found is None:
            raise TransportUnavailable(f"This installation isn't set up for {transport}.")
        return found


class _BodyReleaser:
    movable = False

    def __init__(self, kept: Bodies) -> None:
        self._bodies = kept

    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        del info
        await self._bodies.forget(tenant, session_id)
