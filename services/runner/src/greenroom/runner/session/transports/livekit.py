"""Rooms at LiveKit (`greenroom-runner[livekit]`).

Pipecat's transport raises where it can't connect, which ends the bot; `on_disconnected` says that it was put out, or
that it left. Participants' `id` is their identity.
"""

from typing import Any, ClassVar, override

from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import LiveKitRunnerArguments
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.livekit.transport import LiveKitInputTransport, LiveKitOutputTransport

from greenroom.runner.session.transports.base import NotRunnable
from greenroom.runner.session.transports.rooms import TOKEN, RoomTransport


class LiveKitRoom(RoomTransport):
    """A room at LiveKit. See `rooms.RoomTransport`."""

    ends: ClassVar[tuple[type[FrameProcessor], ...]] = (LiveKitInputTransport, LiveKitOutputTransport)

    @override
    def arguments(self, body: dict[str, Any]) -> LiveKitRunnerArguments:
        room, url = self.info.get("room"), self.info.get("url")
        if room is None or url is None:
            raise NotRunnable("the session has no room")
        return LiveKitRunnerArguments(
            room_name=room, url=url, token=self.secrets[TOKEN], body=body, session_id=self.session.id
        )

    @override
    def hook(self, transport: BaseTransport) -> None:
        super().hook(transport)
        transport.add_event_handler("on_disconnected", self._on_put_out)

    def _on_put_out(self, _transport: BaseTransport) -> None:
        self.lost("the bot was put out of the room")
