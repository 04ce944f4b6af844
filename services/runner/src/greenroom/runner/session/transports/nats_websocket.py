"""The client's WebSocket as the bot sees it: Starlette's own class, its frames carried by NATS.

Any instance of the api may hold the client's connection. It asks this process to take the client (`cmd.connect`),
then every frame travels as one message, in order, on `media.in` and `media.out`:

    kind (1 byte) · sequence (4 bytes, big-endian, from 0 in each direction) · payload

The edge puts several frames of the client into one message if it is asked to (`pack`).

The bot gets a socket that is accepted, but whose client isn't there yet: nothing is sent until somebody connects.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import structlog
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnected, WebSocketState

from greenroom.common import media_frames, subjects
from greenroom.common.broker import Broker, Message, NoResponder, RequestTimeout, Subscription
from greenroom.common.errors import BrokerUnavailable, MediaAlreadyConnected, SessionEnded
from greenroom.common.lifecycle import Session
from greenroom.common.media_frames import Close, Join, MalformedFrame, Sequence
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaAnswer, MediaKind, MediaRefused
from greenroom.common.messages import decode, encode
from greenroom.runner.session.transports.joined import JoinedAudio, Layout, lull_of

_log = structlog.get_logger()

CLOSE_NORMAL: Final = 1000
CLOSE_ABNORMAL: Final = 1006
# An edge that is killed says nothing. While no frames come, it is looked whether anybody still listens there.
LOOK_EVERY_S: Final = 3.0
# Twice in a row: after an outage of the broker, our subscription may be back before the edge's.
_MISSED_LOOKS: Final = 2
_LOOK_TIMEOUT_S: Final = 0.5
# Five seconds of 20 ms frames: a bot that is further behind won't catch up, and old audio is worth nothing.
MAX_INBOX_FRAMES: Final = 250
MAX_INBOX_BYTES: Final = 2 * 1024 * 1024
# NATS takes 1 MiB; no audio frame comes near.
MAX_FRAME_BYTES: Final = 512 * 1024


class MediaCounts(msgspec.Struct, kw_only=True):
    """What happened to frames, for the call's last event."""

    received: int = 0
    sent: int = 0
    # Sequence numbers that never came.
    lost: int = 0
    # Came, but were thrown away because the bot was behind.
    dropped_in: int = 0
    # Came, but the bot's serializer couldn't read them.
    unreadable: int = 0
    # Couldn't be sent: the broker was away.
    dropped_out: int = 0


class NatsWebSocket(WebSocket):
    """A WebSocket that is accepted from the beginning, and connected once somebody is there.

    `application_state` is CONNECTED as after `accept()`, which Pipecat leaves to the server; `client_state` stays
    CONNECTING until a client comes, so that transports send nothing before.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.application_state = WebSocketState.CONNECTED
        self._over = False

    async def receive(self) -> AsgiMessage:
        """Return the next message, waiting for the client to come if need be; the last is `websocket.disconnect`.

        Raises:
            WebSocketDisconnected: the disconnect has been received already.
        """
        if self._over:
            raise WebSocketDisconnected('Cannot call "receive" once a disconnect message has been received.')
        message = await self._receive()
        self._over = message["type"] == "websocket.disconnect"
        return message

    def client_came(self, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        """Make the handshake visible, and let frames out."""
        self.scope["headers"] = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]
        self.scope["query_string"] = urlencode(query).encode()
        for cached in ("_headers", "_query_params"):
            vars(self).pop(cached, None)
        self.client_state = WebSocketState.CONNECTED

    def client_left(self) -> None:
        """Let nothing more out; what came in before is still received."""
        self.client_state = WebSocketState.DISCONNECTED


class MediaLink:
    """The way between the client, wherever it is connected, and the bot's WebSocket.

    Args:
        broker: carries the frames.
        session: whose media it is.
        on_connected: called once, when somebody is there, with the id of the connection.
        on_disconnected: called once, with who closed (`client` or `bot`), code and reason.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str, int, str], None],
    ) -> None:
        self.counts = MediaCounts()
        self.websocket = NatsWebSocket(
            {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": []},
            self._receive,
            self._send,
        )
        self._broker = broker
        self._tenant, self._session_id = session.tenant, session.id
        self._out = self._media_subject("out")
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._connection: str | None = None
        # Whether several of the client's frames have come in one message.
        self.packing = False
        # How the client's audio messages are laid out, once that is known.
        self.layout: Layout | None = None
        # What the edge was asked for last; and whether it has ended a lull since, by itself.
        self._join: Join | None = None
        self._lull_ended = False
        # Whether whoever holds the client's connection can do that.
        self._edge_packs = False
        self._farewell: tuple[int, str] | None = None
        self._ended = False
        self._numbers = Sequence()
        self._sequence = 0
        self._inbox: deque[AsgiMessage] = deque()
        self._inbox_bytes = self._inbox_frames = 0
        self._arrived = asyncio.Event()
        self._subscriptions: list[Subscription] = []

    @property
    def connected(self) -> bool:
        """Whether a client is there now."""
        return self._connection is not None and not self._ended

    @property
    def listening(self) -> bool:
        """Whether a client that comes would be heard."""
        return bool(self._subscriptions)

    async def open(self) -> None:
        """Begin to listen for the client and its frames."""
        connect = subjects.SESSION_CMD.format(tenant=self._tenant, session_id=self._session_id, name="connect")
        self._subscriptions = [
            await self._broker.subscribe(self._media_subject("in"), self._on_frame),
            await self._broker.serve(connect, self._on_connect),
        ]

    def prepare_to_close(self, code: int, reason: str) -> None:
        """Take no client from now on; tell the one that is there `code` and `reason` when the bot closes."""
        self._farewell = (code, reason)

    async def pack(self, messages: int, hold_ms: int) -> None:
        """Ask the edge to put so many frames of the client into one message, and hold none longer than that."""
        if self.connected and self._edge_packs:
            self._join = Join(messages=messages, hold_ms=hold_ms)
            await self._ask(self._join)

    async def rest(self, quiet_below: float | None) -> None:
        """Have the edge put more frames into one message while the client is silent; see `SessionTransport.rest`."""
        if self._join is None or not self.connected:
            return
        lull = lull_of(self.layout, quiet_below, self._join.messages)
        if lull != self._join.lull or (lull is not None and self._lull_ended):
            self._join = msgspec.structs.replace(self._join, lull=lull)
            self._lull_ended = False
            await self._ask(self._join)

    async def _ask(self, join: Join) -> None:
        await self._publish_frame(media_frames.encode_join(self._sequence, join), counted=False)

    def let_go(self) -> None:
        """Have the client's connection left as it is: whatever the bot does from now on, nothing of it goes out."""
        if not self._ended:
            self._ended = True
            self.websocket.client_left()
            self._arrived.set()

    async def close(self) -> None:
        """Close the client's connection, if there is one, and listen no more."""
        if self.connected:
            await self._send_close(*(self._farewell or (CLOSE_NORMAL, "")))
        self._ended = True
        self._arrived.set()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    async def watch_edge(self) -> None:
        """Find out, until canceled, when whoever held the client's connection is gone without a word."""
        received = missed = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self.connected and self.counts.received == received and await self._nobody_listens():
                missed += 1
                if missed >= _MISSED_LOOKS:
                    self._disconnected("client", CLOSE_ABNORMAL, "")
            else:
                received, missed = self.counts.received, 0

    async def _nobody_listens(self) -> bool:
        try:
            # An empty message is no frame: an edge that is there ignores it.
            await self._broker.request(self._out, b"", timeout_s=_LOOK_TIMEOUT_S)
        except NoResponder:
            return True
        except (RequestTimeout, BrokerUnavailable):
            return False
        return False

    # ------------------------------------------------------------------------ from the client

    async def _on_connect(self, message: Message) -> bytes:
        return encode(self._connect(decode(message.data, ConnectMedia)))

    def _connect(self, request: ConnectMedia) -> MediaAnswer:
        if self._ended or (self._farewell and not self.connected):
            return MediaRefused(code=SessionEnded.code)
        if self._connection is None:
            self._connection = request.connection_id
            self._edge_packs = request.packs
            self.websocket.client_came(request.headers, request.query)
            self._on_connected(request.connection_id)
        elif self._connection != request.connection_id:
            return MediaRefused(code=MediaAlreadyConnected.code)
        return MediaAccepted(connection_id=request.connection_id)

    async def _on_frame(self, message: Message) -> None:
        if not self.connected:
            return
        try:
            kind, number, payload = media_frames.decode(message.data)
            frames = media_frames.unpack(payload) if kind == MediaKind.PACKED else [(kind, payload)]
        except MalformedFrame:
            return
        if self._numbers.take(number, accepted=True) == "stale":
            return
        self.counts.lost = self._numbers.lost
        self.counts.received += len(frames)
        self.packing |= kind == MediaKind.PACKED
        if self._join is not None and self._join.lull is not None:
            # So few come of an edge that is in no lull; one whose bounds are narrower than ours sends more.
            self._lull_ended |= len(frames) <= self._join.messages
        if len(frames) > 1 and (joined := self._joined(frames)) is not None:
            self._take({"type": "websocket.receive", "bytes": joined})
            return
        for kind, payload in frames:
            self._take_frame(kind, payload)

    def _joined(self, frames: list[tuple[int, bytes]]) -> JoinedAudio | None:
        """Return the audio of frames that are alike; None: they are to be read one by one."""
        if self.layout is None or any(kind != MediaKind.BINARY for kind, _ in frames):
            return None
        return self.layout.joined([payload for _, payload in frames])

    def _take_frame(self, kind: int, payload: bytes) -> None:
        if kind == MediaKind.BINARY:
            self._take({"type": "websocket.receive", "bytes": payload})
        elif kind == MediaKind.TEXT:
            self._take({"type": "websocket.receive", "text": payload.decode(errors="replace")})
        elif kind == MediaKind.CLOSE:
            close = media_frames.decode_close(payload)
            self._disconnected("client", close.code, close.reason)

    def _take(self, message: AsgiMessage) -> None:
        self._inbox.append(message)
        self._count(message, 1)
        while self._inbox_frames > MAX_INBOX_FRAMES or self._inbox_bytes > MAX_INBOX_BYTES:
            self._drop_oldest()
        self._arrived.set()

    def _drop_oldest(self) -> None:
        # Text is control more often than audio: binary frames go first.
        oldest = next((index for index, message in enumerate(self._inbox) if "bytes" in message), 0)
        self._count(self._inbox[oldest], -1)
        self.counts.dropped_in += _frames_in(self._inbox[oldest])
        del self._inbox[oldest]

    def _count(self, message: AsgiMessage, sign: int) -> None:
        self._inbox_bytes += sign * _size(message)
        self._inbox_frames += sign * _frames_in(message)

    async def _receive(self) -> AsgiMessage:
        while True:
            if self._inbox:
                message = self._inbox.popleft()
                self._count(message, -1)
                return message
            if self._ended:
                return {"type": "websocket.disconnect", "code": CLOSE_NORMAL, "reason": ""}
            self._arrived.clear()
            await self._arrived.wait()

    # ------------------------------------------------------------------------ to the client

    async def _send(self, message: AsgiMessage) -> None:
        if not self.connected:
            return
        if message["type"] == "websocket.close":
            code, reason = message.get("code", CLOSE_NORMAL), message.get("reason") or ""
            if self._farewell and (code, reason) == (CLOSE_NORMAL, ""):
                # The bot doesn't say why; the session knows.
                code, reason = self._farewell
            await self._send_close(code, reason)
        elif (text := message.get("text")) is not None:
            await self._publish(MediaKind.TEXT, text.encode())
        elif (payload := message.get("bytes")) is not None:
            await self._publish(MediaKind.BINARY, payload)

    async def _send_close(self, code: int, reason: str) -> None:
        close = Close(code=code, reason=reason)
        await self._publish_frame(media_frames.encode_close(self._sequence, close))
        self._disconnected("bot", code, reason)

    async def _publish(self, kind: MediaKind, payload: bytes) -> None:
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame has {len(payload)} bytes, {MAX_FRAME_BYTES} are allowed")
        await self._publish_frame(media_frames.encode(kind, self._sequence, payload))

    async def _publish_frame(self, frame: bytes, *, counted: bool = True) -> None:
        self._sequence += 1
        try:
            await self._broker.publish(self._out, frame)
            self.counts.sent += counted
        except BrokerUnavailable:
            # Live audio is better dropped than late; the receiver sees the hole by the sequence.
            self.counts.dropped_out += 1

    # ------------------------------------------------------------------------ both

    def _disconnected(self, by: str, code: int, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self.websocket.client_left()
        message = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._inbox.append(message)
        self._count(message, 1)
        self._arrived.set()
        self._on_disconnected(by, code, reason)

    def _media_subject(self, direction: str) -> str:
        return subjects.SESSION_MEDIA.format(tenant=self._tenant, session_id=self._session_id, direction=direction)


def _frames_in(message: AsgiMessage) -> int:
    payload = message.get("bytes")
    return payload.messages if isinstance(payload, JoinedAudio) else 1


def _size(message: AsgiMessage) -> int:
    payload: Any = message.get("bytes") or message.get("text") or b""
    return len(payload)
