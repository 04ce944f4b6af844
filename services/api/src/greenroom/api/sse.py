"""What happens in a session, as server-sent events: everything behind a stream sequence, then what comes.

The stream has all of a session until the recorder purges it as a whole, some time after its end; from then on
PostgreSQL has all of it. So one of the two is read at a time, and the order is always that of the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from greenroom.api.schemas import EventView
from greenroom.api.store import Store
from greenroom.api.views import view_of_message, view_of_row
from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, LedgerCorrupt
from greenroom.common.ledger import STREAM, Entry, Ledger
from greenroom.common.messages import EventType
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

HEARTBEAT_S: Final = 15.0
# How long after a session's end `recording_saved` may still come.
LINGER_S: Final = 10.0
_PAGE: Final = 500
_BEAT: Final = b": still here\n\n"
_END: Final = b"event: end\ndata: {}\n\n"
# What a client waits before it comes back, in milliseconds.
_HELLO: Final = b"retry: 1000\n\n"
_ENDED: Final = "session.ended"


class EventStreams:
    """Makes streams of events. Setting `draining` ends them all: clients come back, to another instance."""

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        store: Store,
        metrics: Metrics,
        clock: Clock | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Read from the broker's stream, and from `store` what that has forgotten."""
        self.draining: Final = asyncio.Event()
        self.open = 0
        self._open = metrics.gauge("api_event_streams", "Event streams that are open now")
        self.broker: Final = broker
        self.ledger: Final = ledger
        self.store: Final = store
        self.clock: Final = clock or SystemClock()
        self.heartbeat_s = heartbeat_s

    async def drain(self) -> None:
        """End all streams, and begin no more."""
        self.draining.set()

    async def follow(self, tenant: str, session_id: str, after: int) -> AsyncGenerator[bytes]:
        """Yield an event stream of what comes behind stream sequence `after`, to the end of the session.

        It ends with the event `end` once the session is over and its recording is saved. If it ends without, the
        client comes back with the last id it has seen, and misses nothing.
        """
        following = _Following(self, tenant, session_id, after)
        self._count(1)
        try:
            yield _HELLO
            async with contextlib.aclosing(following.run()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except GreenroomError as error:
            _log.info("event_stream_broken", session_id=session_id, code=error.code)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.open += change
        self._open.set(self.open)


class _Following:
    """One client's way through the events of one session."""

    def __init__(self, streams: EventStreams, tenant: str, session_id: str, after: int) -> None:
        self._streams = streams
        self._tenant = tenant
        self._session_id = session_id
        # Stream sequence of the last event that was sent.
        self._cursor = after
        self._ended_at: datetime | None = None
        self._saved = False

    async def run(self) -> AsyncGenerator[bytes]:
        entry = await self._entry()
        if entry is not None:
            self._ended_at = entry.session.ended_at
            async with contextlib.aclosing(self._from_stream()) as chunks:
                async for chunk in chunks:
                    yield chunk
            if self._streams.draining.is_set():
                return
        if entry is None or not self._over():
            async with contextlib.aclosing(self._from_store()) as chunks:
                async for chunk in chunks:
                    yield chunk
        yield _END

    async def _from_stream(self) -> AsyncGenerator[bytes]:
        """Yield what the stream has and gets, until the session is over or the stream has forgotten it."""
        tokens = {"tenant": self._tenant, "session_id": self._session_id}
        wanted = [subjects.SESSION_LIFECYCLE.format(**tokens), subjects.SESSION_EVENT.wildcard(**tokens)]
        reader = await self._streams.broker.read(STREAM, wanted, after=self._cursor)
        try:
            if reader.caught_up.is_set() and self._over():
                return
            async with contextlib.aclosing(self._with_pauses(aiter(reader))) as messages:
                async for message in messages:
                    view = view_of_message(message) if message is not None else None
                    if view is not None:
                        yield self._sent(view)
                    elif message is None:
                        yield _BEAT
                        if await self._forgotten():
                            return
                    if reader.caught_up.is_set() and self._over():
                        return
        finally:
            await reader.close()

    async def _from_store(self) -> AsyncGenerator[bytes]:
        """Yield what PostgreSQL has: all there will ever be, of a session that the stream has forgotten."""
        while rows := await self._streams.store.events(self._session_id, after=self._cursor, limit=_PAGE):
            for row in rows:
                yield self._sent(view_of_row(row))

    async def _with_pauses(self, messages: AsyncIterator[Message]) -> AsyncGenerator[Message | None]:
        """Yield messages, and None whenever there was none for a while; ends when the instance drains.

        The next message isn't asked for before the last one is dealt with: `caught_up` of the reader is then true
        of what was dealt with.
        """
        draining = asyncio.ensure_future(self._streams.draining.wait())
        coming: asyncio.Future[Message | None] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(messages, None))
                await asyncio.wait({coming, draining}, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)
                if draining.done():
                    return
                if not coming.done():
                    yield None
                    continue
                message, coming = coming.result(), None
                if message is None:
                    return
                yield message
        finally:
            waiting: list[asyncio.Future[Any]] = [draining] if coming is None else [draining, coming]
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _sent(self, view: EventView) -> bytes:
        self._cursor = view.stream_seq
        if view.type == _ENDED:
            self._ended_at = view.at
        elif view.type == EventType.RECORDING_SAVED:
            self._saved = True
        return encode(view)

    def _over(self) -> bool:
        """Tell whether nothing more is waited for."""
        return self._ended_at is not None and (self._saved or self._linger_s(self._ended_at) <= 0)

    def _pause_s(self) -> float:
        if self._ended_at is None:
            return self._streams.heartbeat_s
        return min(self._streams.heartbeat_s, max(self._linger_s(self._ended_at), 0.05))

    def _linger_s(self, ended_at: datetime) -> float:
        return (ended_at + timedelta(seconds=LINGER_S) - self._streams.clock.now()).total_seconds()

    async def _forgotten(self) -> bool:
        """Tell whether the stream has purged the session; while the broker is away, the reader waits for it."""
        try:
            return await self._entry() is None
        except (BrokerUnavailable, LedgerCorrupt):
            return False

    async def _entry(self) -> Entry | None:
        return await self._streams.ledger.last(self._tenant, self._session_id)


def encode(view: EventView) -> bytes:
    """Return an event as one of an event stream; its id is what to resume behind."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (view.stream_seq, view.type.encode(), msgspec.json.encode(view))
