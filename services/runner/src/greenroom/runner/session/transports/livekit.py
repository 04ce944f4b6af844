"""Rooms at LiveKit (`greenroom-runner[livekit]`).

Pipecat's transport raises where it can't connect, which ends the bot; `on_disconnected` says that it was put out, or
that it left. Participants' `id` is their identity.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, override

from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import LiveKitRunnerArguments
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.livekit.transport import LiveKitInputTransport, LiveKitOutputTransport

from greenroom.runner.session.transports import room_events
from greenroom.runner.session.transports.rooms import RoomTransport


class LiveKitRoom(RoomTransport):
    """A room at LiveKit. See `rooms.RoomTransport`."""

    ends: ClassVar[tuple[type[FrameProcessor], ...]] = (LiveKitInputTransport, LiveKitOutputTransport)
    needs: ClassVar[tuple[str, ...]] = ("room", "url")
    news: ClassVar[Mapping[str, Callable[..., dict[str, Any]]]] = room_events.LIVEKIT

    @override
    def arguments(self, body: dict[str, Any]) -> LiveKitRunnerArguments:
        token = self.token
        return LiveKitRunnerArguments(
            room_name=self.info["room"], url=self.info["url"], token=token, body=body, session_id=self.session.id
        )

    @override
    def hook(self, transport: BaseTransport) -> None:
        super().hook(transport)
        transport.add_event_handler("on_disconnected", self._on_put_out)

    def _on_put_out(self, _transport: BaseTransport) -> None:
        self.lost("the bot was put out of the room")
