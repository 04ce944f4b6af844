"""Phone calls: the carrier's media stream comes in by the api's socket, and the bot is one of Pipecat's telephony bots.

The bot is called before the carrier's stream is there, and finds the first messages that it waits for: what is known of
the call, and names in place of the ids that aren't (`telephony_wire`). So its pipeline runs when the phone is answered.
When the carrier begins (`start`), the names are replaced by the ids: in the bot's serializer, in its call data, and in
whatever it sends. Only then is the caller there (`on_client_connected`).

What the bot needs to hang up through the carrier's API are environment variables of this process, by the names that
Pipecat reads. Where its serializer would ask another server than the one that this installation is set up with, it is
told not to: the api hangs up when the session is over. If the runner is lost and the session goes on elsewhere, the
phone stays as it is: this process sends nothing more and doesn't hang up, the edge tells the next one how the stream
began.
"""

import os
from collections.abc import Callable
from typing import Any, Final, override

from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import TransportParams
from starlette.types import Message as AsgiMessage

from greenroom.common.broker import Broker
from greenroom.common.call_data import CallData
from greenroom.common.lifecycle import Session
from greenroom.common.media_messages import MediaKind
from greenroom.common.secrets import SecretBox
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports import carrier_api
from greenroom.runner.session.transports import telephony_wire as wire
from greenroom.runner.session.transports.base import OnConnected, OnDisconnected
from greenroom.runner.session.transports.nats_websocket import MediaLink
from greenroom.runner.session.transports.telephony_wire import Start
from greenroom.runner.session.transports.websocket import WebSocketTransport

# Secrets with this in front of their name become environment variables.
ENVIRONMENT: Final = "env."
# Where the carrier's API is, if the bot's serializer can be told; empty: the bot shall not hang up by itself.
API_URL: Final = "api_url"
# Where Pipecat keeps what it has read of a carrier's first messages.
_PARSED: Final = "_pipecat_parsed_telephony"


class CarrierLink(MediaLink):
    """The way to a carrier: nothing goes out before its stream has begun, and then under the stream's own ids.

    Args:
        broker: carries the frames.
        session: whose media it is.
        carrier: who is at the other end.
        names: what the bot has in place of ids.
        on_opened: called when the carrier's socket is there.
        on_start: called when its stream begins, before anything else of it reaches the bot.
        on_disconnected: as of `MediaLink`.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        carrier: str,
        names: Start,
        on_opened: Callable[[str], None],
        on_start: Callable[[Start], None],
        on_disconnected: Callable[[str, int, str], None],
    ) -> None:
        super().__init__(broker, session, on_connected=on_opened, on_disconnected=on_disconnected)
        self.start: Start | None = None
        self._carrier = carrier
        self._names = names
        self._on_start = on_start
        self._renamed: tuple[tuple[bytes, bytes], ...] = ()
        for text in wire.opening(carrier, names, session.transport_info):
            super()._take({"type": "websocket.receive", "text": text})

    @override
    def _take(self, message: AsgiMessage) -> None:
        if self.start is not None:
            super()._take(message)
            return
        text = message.get("text")
        start = wire.start_of(self._carrier, text) if text is not None else None
        # Whatever comes before is what the bot has read already. A call that begins while the session ends never does.
        if start is not None and self._farewell is None:
            self.start = start
            pairs = ((self._names.stream_id, start.stream_id), (self._names.call_id, start.call_id))
            self._renamed = tuple((name.encode(), known.encode()) for name, known in pairs if name != known)
            self._on_start(start)

    @override
    async def _send(self, message: AsgiMessage) -> None:
        if self.start is not None or message["type"] == "websocket.close":
            await super()._send(message)

    @override
    async def _publish(self, kind: MediaKind, payload: bytes) -> None:
        for name, known in self._renamed:
            payload = payload.replace(name, known)
        await super()._publish(kind, payload)


class TelephonyTransport(WebSocketTransport):
    """A phone call.

    Args:
        session: whose it is; its `transport_info` says what is known of the call.
        broker: carries the frames, and has the secrets.
        on_connected: see `base`.
        on_disconnected: see `base`.
    """

    # Pipecat finds out from the first messages.
    pipecat_type = None

    def __init__(
        self, session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
    ) -> None:
        self._names = Start(
            stream_id=f"greenroom-stream-{session.id}",
            call_id=session.transport_info.get("call_id") or f"greenroom-call-{session.id}",
            parameters=wire.parameters_of(session.body),
        )
        self._carrier = CarrierLink(
            broker,
            session,
            carrier=session.transport,
            names=self._names,
            on_opened=self._opened,
            on_start=self._started,
            on_disconnected=on_disconnected,
        )
        super().__init__(session, broker, on_connected, on_disconnected, link=self._carrier)
        self._broker = broker
        self._secrets = SecretBox(broker)
        self._on_connected = on_connected
        self._connection = ""
        self._api_url = ""
        self._serializers: list[FrameSerializer] = []

    @property
    @override
    def connected(self) -> bool:
        return self._carrier.connected and self._carrier.start is not None

    @override
    async def open(self) -> None:
        # Kept for another process, in case this one is lost; the api forgets them with the session.
        secrets = await self._secrets.take(self._session.tenant, self._session.id, keep=True)
        self._api_url = secrets.get(API_URL, "")
        for name, value in secrets.items():
            if name.startswith(ENVIRONMENT):
                os.environ[name.removeprefix(ENVIRONMENT)] = value
        await super().open()

    @override
    def attach(self, attachment: Attachment) -> None:
        super().attach(attachment)
        for transport in (*attachment.inputs, *attachment.outputs):
            serializer = _serializer(transport._params)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            if serializer is not None and serializer not in self._serializers:
                self._serializers.append(serializer)
                self._settle_hang_up(serializer)
                if self._carrier.start is not None:
                    _rename(serializer, self._names, self._carrier.start)

    @override
    def let_go(self) -> None:
        super().let_go()
        for serializer in self._serializers:
            _never_hang_up(serializer)

    async def transfer(self, target: str) -> None:
        """Have the carrier take the call away from here. See `carrier_api.transfer`."""
        # What the bot does when its caller is gone must not end his call. If he stays, the api hangs up in its place.
        for serializer in self._serializers:
            _never_hang_up(serializer)
        await carrier_api.transfer(self._broker, self._session, target)

    def _opened(self, connection_id: str) -> None:
        self._connection = connection_id

    def _started(self, start: Start) -> None:
        known = self._session.call or CallData(carrier=self._session.transport, direction="inbound")
        self.call = known.streaming(call_id=start.call_id, stream_id=start.stream_id, parameters=start.parameters)
        for serializer in self._serializers:
            _rename(serializer, self._names, start)
        parsed: Any = getattr(self._carrier.websocket, _PARSED, None)
        if parsed is not None:
            _, call_data = parsed
            call_data.stream_id, call_data.call_id = start.stream_id, start.call_id
            if (name := wire.WIRES[self._session.transport].parameters_in) is not None:
                setattr(call_data, name, {**(getattr(call_data, name) or {}), **start.parameters})
        self._on_connected(self._connection)

    def _settle_hang_up(self, serializer: FrameSerializer) -> None:
        """Have the bot hang up where this installation's calls are, or not at all."""
        if self._api_url and hasattr(serializer, "_base_url"):
            vars(serializer)["_base_url"] = self._api_url
        elif not self._api_url:
            _never_hang_up(serializer)


def _serializer(params: TransportParams) -> FrameSerializer | None:
    found = getattr(params, "serializer", None)
    return found if isinstance(found, FrameSerializer) else None


def _never_hang_up(serializer: FrameSerializer) -> None:
    params: Any = serializer._params  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if hasattr(params, "auto_hang_up"):
        params.auto_hang_up = False


def _rename(serializer: FrameSerializer, names: Start, start: Start) -> None:
    """Put the carrier's ids where a serializer has names in place of them, and tell it how the audio is encoded."""
    known = {names.stream_id: start.stream_id, names.call_id: start.call_id}
    for attribute, value in vars(serializer).items():
        if isinstance(value, str) and value in known:
            vars(serializer)[attribute] = known[value]
    params: Any = serializer._params  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if start.encoding is not None and hasattr(params, "outbound_encoding"):
        params.outbound_encoding = start.encoding
