"""Everything that has happened in a session so far, in order and in constant memory.

As event streams do (greenroom.api.sse): the broker's stream has all of a session until it is purged as a whole, and
from then on PostgreSQL has all of it. While the broker is away, what is stored has to do: some milliseconds are missing
then of a session that is live.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from greenroom.api.schemas import EventView
from greenroom.api.store import Store
from greenroom.api.views import view_of_message, view_of_row
from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.errors import BrokerUnavailable, LedgerCorrupt
from greenroom.common.ledger import STREAM, Ledger
from greenroom.common.messages import Event

_PAGE: Final = 500
# The next message of a stream that has it takes a millisecond; a broker that is silent for this long is away.
_SILENCE_S: Final = 5.0


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: as callers see it, and as it is folded."""

    view: EventView
    event: Event


class History:
    """Reads what happened in sessions."""

    def __init__(self, *, broker: Broker, ledger: Ledger, store: Store) -> None:
        """Read from the broker's stream, and from `store` what that has forgotten."""
        self._broker = broker
        self._ledger = ledger
        self._store = store

    async def read(self, tenant: str, session_id: str) -> AsyncGenerator[Happened]:
        """Yield what has happened up to now in a session of `tenant`, in stream order.

        Raises:
            BrokerUnavailable: the broker went away meanwhile.
            DatabaseUnavailable: it isn't in the broker's stream any more, and can't be read from PostgreSQL now.
        """
        cursor = 0
        if await self._in_stream(tenant, session_id):
            async with contextlib.aclosing(self._from_stream(tenant, session_id)) as messages:
                async for happened in messages:
                    cursor = happened.view.stream_seq
                    yield happened
            if await self._in_stream(tenant, session_id):
                return
        # Purged, maybe while it was read: PostgreSQL has what came behind, too.
        while rows := await self._store.events(session_id, after=cursor, limit=_PAGE):
            for row in rows:
                view = view_of_row(row)
                cursor = row.stream_seq
                yield Happened(
                    view=view, event=_event(tenant, view, msgspec.json.decode(row.data, type=dict[str, Any]))
                )

    async def _from_stream(self, tenant: str, session_id: str) -> AsyncGenerator[Happened]:
        tokens = {"tenant": tenant, "session_id": session_id}
        wanted = [subjects.SESSION_LIFECYCLE.format(**tokens), subjects.SESSION_EVENT.wildcard(**tokens)]
        reader = await self._broker.read(STREAM, wanted, after=0)
        try:
            messages = aiter(reader)
            while not reader.caught_up.is_set():
                try:
                    async with asyncio.timeout(_SILENCE_S):
                        message = await anext(messages, None)
                except TimeoutError as error:
                    raise BrokerUnavailable("the stream is silent in the middle of what it has") from error
                if message is None:
                    return
                view = view_of_message(message)
                if view is not None:
                    yield Happened(view=view, event=_event(tenant, view, view.data))
        finally:
            await reader.close()

    async def _in_stream(self, tenant: str, session_id: str) -> bool:
        try:
            return await self._ledger.last(tenant, session_id) is not None
        except LedgerCorrupt:
            return True
        except BrokerUnavailable:
            return False


def _event(tenant: str, view: EventView, data: dict[str, Any]) -> Event:
    return Event(
        id=view.id,
        tenant=tenant,
        session_id=view.session_id,
        type=view.type,
        at=view.at,
        seq=view.seq,
        epoch=view.epoch,
        source=view.source,
        data=data,
    )
