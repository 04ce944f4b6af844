"""Clients that speak with the api over a WebSocket: the bot gets one too, carried by NATS."""

from typing import Any, Final, override

from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.transports.websocket.fastapi import FastAPIWebsocketInputTransport

from greenroom.common.broker import Broker
from greenroom.common.lifecycle import Session
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.deferral import DeferredConnect
from greenroom.runner.session.tolerance import Tolerance
from greenroom.runner.session.transports.base import (
    NOT_OPEN,
    NotRunnable,
    OnConnected,
    OnDisconnected,
    SessionTransport,
)
from greenroom.runner.session.transports.joined import JoinedReading, reads_alike
from greenroom.runner.session.transports.nats_websocket import MediaCounts, MediaLink

# What Pipecat calls the transport.
_PIPECAT_TYPE: Final = "websocket"


class WebSocketTransport(SessionTransport):
    """The media WebSocket; also the base of what else comes over one.

    Args:
        session: whose it is.
        broker: carries the frames.
        on_connected: see `base`.
        on_disconnected: see `base`.
        link: carries the frames, where it isn't the plain one.
    """

    # What Pipecat calls the transport; None has it look at the first messages (telephony).
    pipecat_type: str | None = _PIPECAT_TYPE

    def __init__(
        self,
        session: Session,
        broker: Broker,
        on_connected: OnConnected,
        on_disconnected: OnDisconnected,
        *,
        link: MediaLink | None = None,
    ) -> None:
        self._session = session
        self._deferred: list[DeferredConnect] = []
        self._link = link or MediaLink(broker, session, on_connected=on_connected, on_disconnected=on_disconnected)

    @property
    @override
    def connected(self) -> bool:
        return self._link.connected

    @property
    @override
    def counts(self) -> MediaCounts:
        return self._link.counts

    @property
    @override
    def packing(self) -> bool:
        return self._link.packing

    @override
    async def pack(self, messages: int, hold_ms: int) -> None:
        await self._link.pack(messages, hold_ms)

    @override
    async def rest(self, quiet_below: float | None) -> None:
        await self._link.rest(quiet_below)

    @override
    async def open(self) -> None:
        await self._link.open()

    @override
    def arguments(self, body: dict[str, Any]) -> WebSocketRunnerArguments:
        if not self._link.listening:
            raise NotRunnable(NOT_OPEN)
        return WebSocketRunnerArguments(
            websocket=self._link.websocket, transport_type=self.pipecat_type, body=body, session_id=self._session.id
        )

    @override
    def attach(self, attachment: Attachment) -> None:
        for transport in attachment.inputs:
            if isinstance(transport, FastAPIWebsocketInputTransport):
                self._deferred.append(DeferredConnect(transport, connected=self.connected))
                if (serializer := transport._params.serializer) is not None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                    alike = type(transport) is FastAPIWebsocketInputTransport and reads_alike(serializer)
                    Tolerance(serializer, self._on_unreadable)
                    if alike:
                        JoinedReading(serializer, self._link)

    def _on_unreadable(self) -> None:
        self.counts.unreadable += 1

    @override
    async def welcome(self) -> None:
        for deferred in self._deferred:
            await deferred.release()

    @override
    def prepare_to_close(self, code: int, reason: str) -> None:
        self._link.prepare_to_close(code, reason)

    @override
    def let_go(self) -> None:
        self._link.let_go()

    @override
    async def close(self) -> None:
        await self._link.close()

    @override
    async def watch(self) -> None:
        await self._link.watch_edge()
