"""Listening in: a supervisor's WebSocket, fed with the live audio of a call, and its way into the call.

The session's process publishes live audio only while somebody holds a lease, so the socket renews one as long as it is
open. A listener that is too slow loses audio and hears silence in its place; the call never waits for one. Audio comes
as windows of both tracks with their place on the call's timeline; here they become what was asked for.
"""

import asyncio
from array import array
from typing import Any, Final, cast

import structlog
from litestar.types import Receive, Scope, Send

from greenroom.api import closes, handshake
from greenroom.api.handshake import EdgeFull
from greenroom.api.listen_tickets import PATH, RATE, ListenTickets
from greenroom.api.settings import ApiSettings
from greenroom.common import media_frames as frames
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, NoResponder, RequestTimeout, Subscription
from greenroom.common.command_errors import SessionNotLive
from greenroom.common.commands import Listen
from greenroom.common.errors import BrokerUnavailable, Draining, GreenroomError, InternalError
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.media_frames import Close
from greenroom.common.messages import Ticket
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

SHOWN_PATH: Final = "/v1/listen/{ticket}"
LEASE_S: Final = 6.0
_RENEW_S: Final = 2.0
_ASK_TIMEOUT_S: Final = 2.0
# Of renewals in a row, before a listener is sent away.
_MAX_FAILURES: Final = 3
# Windows of a tenth of a second that wait for a slow listener.
_QUEUE: Final = 30
# What a listener may send at a time: half a second.
_MAX_VOICE_BYTES: Final = RATE
# Position of the first sample (8 bytes, big-endian), then interleaved samples of 2 × 2 bytes.
_HEAD_BYTES: Final = 8
_FRAME_BYTES: Final = 4
_SAMPLE_BYTES: Final = 2
# A longer hole is no hole any more: what comes after it continues at once.
_MAX_FILL: Final = 2 * RATE
_GOODBYE_S: Final = 1.0
NOT_ALLOWED: Final = Close(code=1008, reason="barge-in-not-allowed")
TOO_MUCH: Final = Close(code=1009, reason="frame-too-large")


class ListenEdge:
    """All listening sockets of this process; an ASGI app for WebSocket scopes."""

    def __init__(
        self, *, broker: Broker, ledger: Ledger, tickets: ListenTickets, settings: ApiSettings, metrics: Metrics
    ) -> None:
        """Hold the parts."""
        self._broker = broker
        self._ledger = ledger
        self._tickets = tickets
        self._settings = settings
        self._open: set[Listener] = set()
        self._draining = False
        self._listeners = metrics.gauge("listeners", "Supervisors' sockets that are open now")
        self._refused = metrics.counter("listeners_refused", "Handshakes for listening in that were refused", ["code"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket."""
        try:
            await receive()  # websocket.connect
            await self._serve(scope, receive, send)
        except GreenroomError as error:
            self._refused.inc(code=error.code)
            await handshake.refuse(error, scope, send, shown=SHOWN_PATH)
        except OSError:
            self._refused.inc(code="client-gone")
        except Exception:  # noqa: BLE001 the end of the line: it is logged, and the client is told
            _log.exception("listening_failed")
            await send({"type": "websocket.close", "code": closes.BOT_FAILED, "reason": InternalError.code})

    async def drain(self) -> None:
        """Send all listeners away: their next socket is another instance's."""
        self._draining = True
        for listener in self._open:
            listener.end(closes.DRAINING)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining:
            raise Draining
        if len(self._open) >= self._settings.media_max_connections:
            raise EdgeFull
        handshake.read(scope, self._settings.allowed_origins)
        ticket = await self._tickets.take(scope["path"].removeprefix(PATH))
        listener = Listener(
            ticket, broker=self._broker, ledger=self._ledger, send=send, stall_s=self._settings.media_stall_s
        )
        self._open.add(listener)
        self._listeners.set(len(self._open))
        try:
            await listener.run(receive)
        finally:
            self._open.discard(listener)
            self._listeners.set(len(self._open))


class Listener:
    """One socket.

    Args:
        ticket: what it may.
        broker: carries the audio.
        ledger: says how the session ended.
        send: to the listener (ASGI).
        stall_s: how long it may take nothing.
    """

    def __init__(self, ticket: Ticket, *, broker: Broker, ledger: Ledger, send: Send, stall_s: float) -> None:
        self._ticket = ticket
        self._broker = broker
        self._ledger = ledger
        self._send = send
        self._stall_s = stall_s
        self._id = uuid7()
        tokens = {"tenant": ticket.tenant, "session_id": ticket.session_id}
        self._lease = subjects.SESSION_CMD.format(**tokens, name="listen")
        self._tap = subjects.SESSION_TAP.format(**tokens, direction="listen")
        self._barge = subjects.SESSION_TAP.format(**tokens, direction="barge")
        self._ended: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        self._expected: int | None = None
        self._spoken = 0

    def end(self, close: Close | None) -> None:
        """End it; None: the listener has left. The first who says so is heard."""
        if not self._ended.done():
            self._ended.set_result(close)

    async def run(self, receive: Receive) -> None:
        """Carry audio until somebody ends it.

        Raises:
            SessionNotLive: nobody is there to listen to.
            BrokerUnavailable: that can't be told.
        """
        try:
            await self._ask()
        except (NoResponder, RequestTimeout) as error:
            raise SessionNotLive("Its process isn't there.") from error
        await self._send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        subscription = await self._broker.subscribe(self._tap, self._on_window, max_pending=_QUEUE)
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._renew()), tasks.create_task(self._from_listener(receive))]
                ended = await self._ended
                for task in work:
                    task.cancel()
        finally:
            await self._leave(subscription)
        if ended is not None:
            await self._say_goodbye(ended)

    async def _leave(self, subscription: Subscription) -> None:
        await subscription.unsubscribe()
        try:
            await self._broker.publish(self._lease, messages.encode(self._listen(over=True)))
        except BrokerUnavailable:
            # The lease runs out.
            return

    async def _say_goodbye(self, close: Close) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})
        except (TimeoutError, OSError):
            return

    # ------------------------------------------------------------------------ the lease

    async def _ask(self) -> None:
        await self._broker.request(self._lease, messages.encode(self._listen()), timeout_s=_ASK_TIMEOUT_S)

    def _listen(self, *, over: bool = False) -> Listen:
        ticket = self._ticket
        return Listen(listener_id=self._id, by=ticket.by, barge_in=ticket.barge_in, lease_s=LEASE_S, over=over)

    async def _renew(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(_RENEW_S)
            try:
                await self._ask()
                failures = 0
            except (NoResponder, RequestTimeout, BrokerUnavailable) as error:
                failures += 1
                if isinstance(error, NoResponder):
                    await self._look()
                if failures >= _MAX_FAILURES:
                    self.end(closes.BROKER_AWAY)

    async def _look(self) -> None:
        """End with the session, if it has ended."""
        try:
            entry = await self._ledger.last(self._ticket.tenant, self._ticket.session_id)
        except BrokerUnavailable:
            return
        if entry is None or entry.session.ended:
            self.end(closes.of_session(entry.session) if entry else Close(code=closes.SESSION_ENDED))

    # ------------------------------------------------------------------------ audio

    async def _on_window(self, message: Message) -> None:
        try:
            kind, _, payload = frames.decode(message.data)
        except frames.MalformedFrame:
            return
        if kind != frames.BINARY or len(payload) <= _HEAD_BYTES or self._ended.done():
            return
        position, samples = int.from_bytes(payload[:_HEAD_BYTES]), payload[_HEAD_BYTES:]
        missing = position - self._expected if self._expected is not None else 0
        self._expected = position + len(samples) // _FRAME_BYTES
        if missing < 0:
            return
        silence = bytes(min(missing, _MAX_FILL) * _FRAME_BYTES)
        pcm = silence + samples
        await self._write(pcm if self._ticket.tracks == "both" else mixed(pcm))

    async def _write(self, pcm: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send({"type": "websocket.send", "bytes": pcm, "text": None})
        except TimeoutError:
            self.end(closes.SLOW)
        except OSError:
            self.end(None)

    async def _from_listener(self, receive: Receive) -> None:
        while True:
            event = cast("dict[str, Any]", await receive())
            if event["type"] == "websocket.disconnect":
                self.end(None)
                return
            pcm = event.get("bytes")
            if not pcm:
                continue
            if not self._ticket.barge_in:
                self.end(NOT_ALLOWED)
            elif len(pcm) > _MAX_VOICE_BYTES:
                self.end(TOO_MUCH)
            else:
                await self._speak(pcm[: len(pcm) - len(pcm) % _SAMPLE_BYTES])

    async def _speak(self, pcm: bytes) -> None:
        self._spoken += 1
        try:
            await self._broker.publish(self._barge, frames.encode(frames.BINARY, self._spoken, pcm))
        except BrokerUnavailable:
            # Late audio is worth nothing.
            return


def mixed(stereo: bytes) -> bytes:
    """Return interleaved stereo as mono, at half the level of each, so that both at once don't clip."""
    samples = array("h", stereo)
    return array("h", [(left + right) >> 1 for left, right in zip(samples[0::2], samples[1::2], strict=True)]).tobytes()
