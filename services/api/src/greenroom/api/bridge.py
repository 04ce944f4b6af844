"""A client's WebSocket joined to its session process, wherever that runs: edge ↔ NATS ↔ process.

Nothing is kept here but what is under way. Towards the process a frame is published as it comes, or several in one if
the process has asked for that (`packing`), and NATS' own buffer holds the reading back. Towards the client a frame is
written as it comes; while the client takes none, the subscription's bounded queue holds the next ones. A client that
is further behind than that is given up: late audio is worth nothing.
"""

import asyncio
import contextlib
import time
from typing import Any, Final, Literal, cast

import msgspec
import structlog
from litestar.types import Receive, Send

from greenroom.api import closes
from greenroom.api.openings import Opening
from greenroom.api.packing import Packer
from greenroom.api.waiters import Watch
from greenroom.common import media_frames as frames
from greenroom.common import messages, subjects, telemetry
from greenroom.common.broker import Broker, Message, NoResponder, RequestTimeout, Subscription
from greenroom.common.errors import (
    BrokerUnavailable,
    GreenroomError,
    LedgerCorrupt,
    MediaAlreadyConnected,
    SessionEnded,
)
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State
from greenroom.common.media_frames import HEAD, Close
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaAnswer, MediaRefused

_log = structlog.get_logger()

# The session process answers at once; longer than this it is stuck, and is asked again with the same id.
_CONNECT_TIMEOUT_S: Final = 2.0
_NOBODY_RETRY_S: Final = 0.05
# How long the ledger may be unread while nothing is heard of the session.
_LOOK_EVERY_S: Final = 10.0
# The last frames of a session that has ended are still on their way.
_LAST_FRAMES_S: Final = 0.3
# For the close frame to get out to a client that takes nothing.
_GOODBYE_S: Final = 1.0
# A write that took this long had to wait for the client.
_BLOCKED_S: Final = 0.05
_SEQUENCE_MASK: Final = 0xFFFF_FFFF

WATCHED: Final = frozenset({State.REQUESTED, State.READY, State.ENDING, State.ENDED})


class SessionNotReady(GreenroomError):
    """The session wasn't ready for its client in time; the ticket is still good, so connect again.

    It waits for a slot (`GET /v1/sessions/{id}` says why), or its bot takes long to start.
    """

    code = "session-not-ready"
    status = 503
    title = "The session isn't ready yet"
    retryable = True
    default_retry_after_s = 1.0


class MediaNotTaken(GreenroomError):
    """The session's process didn't take the client, for the reason named in the detail. Ask for a new session."""

    code = "media-not-taken"
    status = 502
    title = "The session doesn't take a client"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection ended, and through whom."""

    close: Close
    by: Literal["client", "process", "session", "edge"]


class Counts:
    """Frames of one connection since they were last taken."""

    __slots__ = ("dropped", "lost", "received", "sent")

    def __init__(self) -> None:
        """Begin at zero."""
        # From the client, to the client.
        self.received = 0
        self.sent = 0
        # On their way from the process: holes in its numbers.
        self.lost = 0
        # From the client, while the broker was away, or while the session went over to another process.
        self.dropped = 0

    def take(self) -> tuple[int, int, int, int]:
        """Return received, sent, lost and dropped, and begin at zero again."""
        taken = self.received, self.sent, self.lost, self.dropped
        self.received = self.sent = self.lost = self.dropped = 0
        return taken


class Bridge:
    """One connection.

    Args:
        broker: carries the frames.
        ledger: tells of the session.
        session: whose media it is.
        headers: of the client's handshake, what the bot may see of them.
        query: of the client's handshake, the same.
        receive: from the client (ASGI).
        send: to the client (ASGI).
        queue_frames: how many frames may wait for the client.
        opening: what the client says once; a process that takes the session over hears it again.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        session: Session,
        headers: dict[str, str],
        query: dict[str, str],
        receive: Receive,
        send: Send,
        queue_frames: int,
        opening: Opening | None = None,
    ) -> None:
        self.counts: Final = Counts()
        # All that were lost on their way from the process.
        self.lost = 0
        self._broker = broker
        self._ledger = ledger
        self._session = session
        self._headers = headers
        self._query = query
        self._receive = receive
        self._send = send
        self._queue_frames = queue_frames
        self._opening = opening or Opening(kept=False)
        # Whether the session goes over to another process now, which hears nothing but the opening.
        self._going_over = False
        tokens = {"tenant": session.tenant, "session_id": session.id}
        self._in = subjects.SESSION_MEDIA.format(**tokens, direction="in")
        self._out = subjects.SESSION_MEDIA.format(**tokens, direction="out")
        self._connect_subject = subjects.SESSION_CMD.format(**tokens, name="connect")
        self._ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._subscription: Subscription | None = None
        # Set once the client's handshake is through.
        self._open = asyncio.Event()
        # Since when a frame to the client is being written; 0: none is. And whether the last one had to wait.
        self._writing_since = 0.0
        self._blocked = False
        self._packer = Packer(self._to_process)
        self._begin_counting()

    def _begin_counting(self) -> None:
        self._accepted = False
        self._numbers = frames.Sequence()
        self._next = 0
        self.counts.dropped += self._packer.forget()

    # ------------------------------------------------------------------------ beginning

    async def connect(self, deadline_s: float) -> MediaAccepted:
        """Ask the session process to take the client.

        Args:
            deadline_s: how long to go on asking while there is nobody yet.

        Raises:
            SessionNotReady: nobody answered in time.
            MediaAlreadyConnected, SessionEnded, MediaNotTaken: the process refused.
            BrokerUnavailable: it can't be asked.
        """
        if self._subscription is None:
            # Before the question: the process may send as soon as it has answered.
            self._subscription = await self._broker.subscribe(
                self._out, self._from_process, max_pending=self._queue_frames
            )
        question = ConnectMedia(connection_id=uuid7(), headers=self._headers, query=self._query, packs=True)
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                reply = await self._broker.request(
                    self._connect_subject,
                    messages.encode(question),
                    timeout_s=_CONNECT_TIMEOUT_S,
                    headers=telemetry.inject(),
                )
                return self._taken(messages.decode(reply.data, cast("type[MediaAnswer]", MediaAnswer)))
            except (NoResponder, RequestTimeout) as error:
                if time.monotonic() >= deadline:
                    # It may have heard us and be late with its answer.
                    await self._tell_process(Close(code=1006))
                    raise SessionNotReady("The session's process doesn't answer.") from error
            await asyncio.sleep(_NOBODY_RETRY_S)

    def _taken(self, answer: MediaAnswer) -> MediaAccepted:
        match answer:
            case MediaAccepted():
                self._accepted = True
                return answer
            case MediaRefused(code=MediaAlreadyConnected.code):
                raise MediaAlreadyConnected
            case MediaRefused(code=SessionEnded.code):
                raise SessionEnded
            case MediaRefused():
                raise MediaNotTaken(f"The session's process says {answer.code}.")

    # ------------------------------------------------------------------------ while it lasts

    async def run(self, watch: Watch) -> End:
        """Carry frames until one of both sides, the session or `end` ends it, and close the socket.

        Args:
            watch: on the session, for the states of `WATCHED`.
        """
        self._open.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._from_client()), tasks.create_task(self._follow(watch))]
                ended = await self._ended
                for task in work:
                    task.cancel()
        finally:
            await self._release()
        await self._say_goodbye(ended)
        return ended

    def end(self, close: Close, by: Literal["client", "process", "session", "edge"]) -> None:
        """End the connection; the first who says so is heard."""
        if not self._ended.done():
            self._ended.set_result(End(close=close, by=by))

    def wanted(self) -> tuple[int, float]:
        """Return how many of the client's messages are of use at once; see `Packer.wanted`."""
        return self._packer.wanted()

    def stalled_s(self, now: float) -> float:
        """Return for how long the client has taken nothing of a frame that is being written."""
        return now - self._writing_since if self._writing_since else 0.0

    async def abandon(self) -> None:
        """Give up a connection that didn't come about."""
        await self._release()
        if self._accepted:
            await self._tell_process(Close(code=1006))

    async def _release(self) -> None:
        """Listen to the process no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def _from_client(self) -> None:
        receive, counts, opening = self._receive, self.counts, self._opening
        while True:
            event = cast("dict[str, Any]", await receive())
            if event["type"] == "websocket.disconnect":
                self.end(Close(code=event.get("code") or 1005, reason=event.get("reason") or ""), "client")
                return
            payload, kind = event.get("bytes"), frames.BINARY
            if payload is None:
                text, kind = event["text"], frames.TEXT
                if opening.waits:
                    opening.hear(text)
                payload = text.encode()
            counts.received += 1
            if self._going_over:
                counts.dropped += 1
            else:
                await self._packer.add(kind, payload)

    async def _to_process(self, kind: int, payload: bytes) -> None:
        frame = HEAD.pack(kind, self._next) + payload
        # Also of a frame that can't be sent, so that the process sees the hole.
        self._next = (self._next + 1) & _SEQUENCE_MASK
        try:
            await self._broker.publish(self._in, frame)
        except BrokerUnavailable:
            self.counts.dropped += 1

    async def _from_process(self, message: Message) -> None:
        try:
            kind, number, payload = frames.decode(message.data)
        except frames.MalformedFrame:
            return
        lost = self._numbers.lost
        if self._numbers.take(number, accepted=self._accepted) == "stale" or self._ended.done():
            return
        hole = self._numbers.lost - lost
        self.counts.lost += hole
        self.lost += hole
        if kind == frames.CLOSE:
            self.end(frames.sendable(frames.decode_close(payload)), "process")
            return
        if kind > frames.CLOSE:
            self._do(kind, payload)
            return
        if not self._open.is_set():
            await self._open.wait()
        await self._write(kind, payload, behind_hole=hole > 0)

    def _do(self, kind: int, payload: bytes) -> None:
        """Do what the process wishes of the edge itself."""
        if kind == frames.JOIN:
            with contextlib.suppress(frames.MalformedFrame):
                self._packer.agree(frames.decode_join(payload))

    async def _write(self, kind: int, payload: bytes, *, behind_hole: bool) -> None:
        if behind_hole and self._blocked:
            # The queue ran over while the client took nothing.
            self.end(closes.SLOW, "edge")
            return
        self._writing_since = began = time.monotonic()
        try:
            if kind == frames.BINARY:
                await self._send({"type": "websocket.send", "bytes": payload, "text": None})
            else:
                await self._send({"type": "websocket.send", "bytes": None, "text": payload.decode(errors="replace")})
        except OSError:
            self.end(Close(code=1006), "client")
        else:
            self.counts.sent += 1
        finally:
            self._writing_since = 0.0
            self._blocked = time.monotonic() - began > _BLOCKED_S

    async def _follow(self, watch: Watch) -> None:
        """End with the session; go over to its next process if it is put on another runner."""
        epoch, revision = self._session.epoch, 0
        while True:
            entry = await watch.newer(revision, _LOOK_EVERY_S)
            try:
                entry = entry or await self._ledger.last(self._session.tenant, self._session.id)
            except (BrokerUnavailable, LedgerCorrupt):
                continue
            if entry is None or entry.session.ended:
                await asyncio.sleep(_LAST_FRAMES_S)
                self.end(closes.of_session(entry.session) if entry else Close(code=closes.SESSION_ENDED), "session")
                return
            revision = entry.revision
            if entry.session.state is State.READY and entry.session.epoch != epoch:
                epoch = entry.session.epoch
                await self._go_over(entry)

    async def _go_over(self, entry: Entry) -> None:
        self._begin_counting()
        self._going_over = True
        try:
            await self.connect(entry.session.limits.join_timeout_s)
            for text in self._opening.messages:
                await self._to_process(frames.TEXT, text.encode())
        except GreenroomError as error:
            self.end(Close(code=closes.BOT_FAILED, reason=error.code), "edge")
        finally:
            self._going_over = False

    # ------------------------------------------------------------------------ ending

    async def _say_goodbye(self, ended: End) -> None:
        if ended.by in {"client", "edge"}:
            await self._packer.flush()
            await self._tell_process(ended.close)
        if ended.by == "client":
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._send({"type": "websocket.close", "code": ended.close.code, "reason": ended.close.reason})
        except (TimeoutError, OSError):
            return

    async def _tell_process(self, close: Close) -> None:
        """Tell the process that the client is gone. If that can't be said now, the session's own limits will end it."""
        try:
            await self._broker.publish(self._in, frames.encode_close(self._next, close))
        except BrokerUnavailable:
            _log.warning("media_close_not_sent", session_id=self._session.id)
