"""Tells the bot that its client has connected when it really has.

Pipecat's WebSocket transport is made for a socket that is connected already, so it says `on_client_connected` as
soon as the pipeline starts. Here the pipeline starts first, to be ready when the client comes: the transport is
asked to wait with the event (and the frame that goes with it), and with nothing else.
"""

from collections.abc import Awaitable, Callable

from pipecat.frames.frames import ClientConnectedFrame, Frame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.websocket.fastapi import FastAPIWebsocketInputTransport


class DeferredConnect:
    """The `on_client_connected` of one transport, held back until `release`.

    Works on the instance, through `_client.trigger_client_connected` and `push_frame`; a conformance test pins both.

    Args:
        transport: the input side of the bot's transport, before its pipeline starts.
        connected: whether the client is there already.
    """

    def __init__(self, transport: FastAPIWebsocketInputTransport, *, connected: bool) -> None:
        self._transport = transport
        self._connected = connected
        self._asked = False
        self._frame: Frame | None = None
        client = transport._client  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._trigger: Callable[[], Awaitable[None]] = client.trigger_client_connected
        self._push = transport.push_frame
        if not connected:
            client.trigger_client_connected = self._hold_event
            transport.push_frame = self._hold_frame

    async def release(self) -> None:
        """Say it now, or as soon as the pipeline starts."""
        self._connected = True
        if self._asked:
            self._asked = False
            await self._trigger()
        # The class's own method again: from here on there is nothing to hold.
        vars(self._transport).pop("push_frame", None)
        if self._frame is not None:
            frame, self._frame = self._frame, None
            await self._push(frame)

    async def _hold_event(self) -> None:
        if self._connected:
            await self._trigger()
        else:
            self._asked = True

    async def _hold_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        if isinstance(frame, ClientConnectedFrame) and not self._connected:
            self._frame = frame
        else:
            await self._push(frame, direction)
