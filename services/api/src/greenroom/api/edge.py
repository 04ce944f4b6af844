"""The media edge: tickets, waiting for the session to be there, and all the connections of this process.

A client that isn't let in gets an HTTP answer with problem details instead of the upgrade. Once it is in, `bridge`
carries its frames.
"""

import asyncio
import contextlib
import time
from typing import Any, Final, cast

import structlog
from litestar.types import Receive, Scope, Send
from opentelemetry.trace import SpanKind

from greenroom.api import closes, handshake
from greenroom.api.bridge import WATCHED, Bridge, Counts, SessionNotReady
from greenroom.api.carriers import base as carriers
from greenroom.api.handshake import EdgeFull
from greenroom.api.low_water import wake_for
from greenroom.api.openings import Opening
from greenroom.api.settings import ApiSettings
from greenroom.api.tickets import Held, Tickets
from greenroom.api.waiters import Waiters, Watch
from greenroom.common import telemetry
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.errors import BrokerUnavailable, Draining, GreenroomError, InternalError, SessionEnded
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

_TICK_S: Final = 0.5
# For the close frames of a drain to get out.
_GOODBYES_S: Final = 2.0
# The session is ready: its process answers within a millisecond, or within seconds where it was just put elsewhere.
_CONNECT_S: Final = 5.0
_OVER: Final = frozenset({State.ENDING, State.ENDED})


class _ClientGone(Exception):
    """The client left before it was let in."""


class MediaEdge:
    """All media sockets of this process; an ASGI app for WebSocket scopes."""

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        tickets: Tickets,
        waiters: Waiters,
        settings: ApiSettings,
        metrics: Metrics,
    ) -> None:
        """Hold the parts."""
        self._broker = broker
        self._ledger = ledger
        self._tickets = tickets
        self._waiters = waiters
        self._settings = settings
        # How many are at the door or in.
        self.guests = 0
        self._bridges: set[Bridge] = set()
        self._draining = asyncio.Event()
        self._away_since: float | None = None
        self._connections = metrics.gauge("media_connections", "Media sockets that are open now")
        self._frames = metrics.counter("media_frames", "Frames carried", ["direction"])
        self._lost = metrics.counter("media_frames_lost", "Frames of session processes that never came")
        self._dropped = metrics.counter(
            "media_frames_dropped", "Frames of clients, dropped while NATS or their session's process was away"
        )
        self._closed = metrics.counter("media_closed", "Media sockets closed", ["code", "by"])
        self._refused = metrics.counter("media_refused", "Handshakes refused", ["code"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket."""
        self.guests += 1
        try:
            await receive()  # websocket.connect
            await self._serve(scope, receive, send)
        except GreenroomError as error:
            self._refused.inc(code=error.code)
            await handshake.refuse(error, scope, send)
        except (_ClientGone, OSError):
            self._refused.inc(code="client-gone")
        except Exception:  # noqa: BLE001 the end of the line: whatever it was, it is logged, and the client is told
            self._closed.inc(code=str(closes.BOT_FAILED), by="edge")
            _log.exception("media_failed")
            await send({"type": "websocket.close", "code": closes.BOT_FAILED, "reason": InternalError.code})
        finally:
            self.guests -= 1

    async def run(self) -> None:
        """Watch over all connections until cancelled: stalled clients, an outage of the broker, the sums."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._tick(time.monotonic())

    async def drain(self) -> None:
        """Let nobody in any more, wait for the calls to end, and close those that are left at the end of the drain."""
        self._draining.set()
        await self._wait_until_empty(self._settings.drain_timeout_s - _GOODBYES_S)
        for bridge in self._bridges:
            bridge.end(closes.DRAINING, "edge")
        await self._wait_until_empty(_GOODBYES_S / 2)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining.is_set():
            raise Draining
        if self.guests > self._settings.media_max_connections:
            raise EdgeFull
        seen = handshake.read(scope, self._settings.allowed_origins)
        held = await self._tickets.find(scope["path"].removeprefix(handshake.PATH))
        async with self._waiters.watch(held.ticket.tenant, held.ticket.session_id, WATCHED) as watch:
            session = await self._session(held, watch, receive)
            bridge = Bridge(
                broker=self._broker,
                ledger=self._ledger,
                session=session,
                headers=seen.headers,
                query=seen.query,
                receive=receive,
                send=send,
                queue_frames=self._settings.media_queue_frames,
                opening=Opening(kept=session.transport in carriers.NAMES),
            )
            wake_for(scope, bridge.wanted)
            try:
                await self._let_in(bridge, held, session, scope, send)
            except BaseException:
                await bridge.abandon()
                raise
            await self._carry(bridge, session, watch)

    async def _session(self, held: Held, watch: Watch, receive: Receive) -> Session:
        """Return the session of a ticket once it is ready.

        Raises:
            SessionEnded: it is over, or about to be.
            SessionNotReady: it isn't ready in time.
            BrokerUnavailable: that can't be told now.
        """
        entry = await self._ledger.last(held.ticket.tenant, held.ticket.session_id)
        if entry is None:
            raise SessionEnded
        if entry.session.state is not State.READY:
            entry = await self._wait_for_session(entry, watch, receive)
        match entry.session.state:
            case State.READY:
                return entry.session
            case State.ENDING | State.ENDED:
                raise SessionEnded(f"The session has ended: {entry.session.reason}.")
            case state:
                raise SessionNotReady(f"The session is still {state}.")

    async def _wait_for_session(self, entry: Entry, watch: Watch, receive: Receive) -> Entry:
        # Before the upgrade, all that can come from the client is that it has left.
        leaving = asyncio.ensure_future(cast("Any", receive()))
        draining = asyncio.ensure_future(self._draining.wait())
        waiting = asyncio.ensure_future(
            self._waiters.wait(
                watch,
                entry,
                lambda session: session.state is State.READY or session.state in _OVER,
                self._settings.media_hold_s,
            )
        )
        try:
            await asyncio.wait({leaving, draining, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise _ClientGone
            if draining.done():
                raise Draining
            return waiting.result()
        finally:
            for future in (leaving, draining, waiting):
                future.cancel()
            await asyncio.gather(leaving, draining, waiting, return_exceptions=True)

    async def _let_in(self, bridge: Bridge, held: Held, session: Session, scope: Scope, send: Send) -> None:
        with telemetry.session_span(
            "media.connect",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            kind=SpanKind.SERVER,
        ):
            revision = await self._tickets.take(held)
            try:
                accepted = await bridge.connect(_CONNECT_S)
            except (SessionNotReady, BrokerUnavailable):
                # Nobody came through this door, so the ticket is good for another try.
                with contextlib.suppress(WrongLastSequence, BrokerUnavailable):
                    await self._tickets.give_back(held, revision)
                raise
            offered = cast("list[str]", scope.get("subprotocols") or [])
            subprotocol = accepted.subprotocol if accepted.subprotocol in offered else None
            await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})

    async def _carry(self, bridge: Bridge, session: Session, watch: Watch) -> None:
        _log.info("media_connected", session_id=session.id, tenant=session.tenant)
        self._bridges.add(bridge)
        try:
            ended = await bridge.run(watch)
        finally:
            self._bridges.discard(bridge)
            self._add_up(bridge.counts)
        self._closed.inc(code=str(ended.close.code), by=ended.by)
        _log.info(
            "media_closed",
            session_id=session.id,
            tenant=session.tenant,
            code=ended.close.code,
            by=ended.by,
            lost=bridge.lost,
        )

    def _tick(self, now: float) -> None:
        outage_s = self._outage_s(now)
        for bridge in self._bridges:
            self._add_up(bridge.counts)
            if bridge.stalled_s(now) > self._settings.media_stall_s:
                bridge.end(closes.SLOW, "edge")
            elif outage_s > self._settings.media_outage_s:
                bridge.end(closes.BROKER_AWAY, "edge")
        self._connections.set(len(self._bridges))

    def _outage_s(self, now: float) -> float:
        """Return for how long the broker has been away."""
        if self._broker.connected:
            self._away_since = None
            return 0.0
        if self._away_since is None:
            self._away_since = now
        return now - self._away_since

    def _add_up(self, counts: Counts) -> None:
        """Add what one connection has counted to the metrics, which are too slow to be told of each frame."""
        received, sent, lost, dropped = counts.take()
        self._frames.inc(received, direction="in")
        self._frames.inc(sent, direction="out")
        self._lost.inc(lost)
        self._dropped.inc(dropped)

    async def _wait_until_empty(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.guests and time.monotonic() < deadline:  # noqa: ASYNC110 asked ten times a second, in a drain
            await asyncio.sleep(_TICK_S / 5)
