"""A message that the bot's serializer can't read is left out, and isn't the end of the call.

Pipecat's WebSocket transport reads in one loop, and leaves it at the first exception: whatever the serializer raises
(Protobuf's does at every text message, also an empty one, and at bytes that are no frame), nothing that the client says
after it is heard, and the bot is told that its client has left, although the client is still there.
"""

from collections.abc import Callable
from typing import Final

import structlog
from pipecat.frames.frames import Frame
from pipecat.serializers.base_serializer import FrameSerializer

from greenroom.runner.session.ending import where_raised

_log = structlog.get_logger()

# A client that speaks another language says so with every message.
_MAX_COMPLAINTS: Final = 3


class Tolerance:
    """Put around the `deserialize` of one serializer, on the instance.

    Args:
        serializer: of the bot's transport.
        on_unreadable: called for each message that was left out.
    """

    def __init__(self, serializer: FrameSerializer, on_unreadable: Callable[[], None]) -> None:
        self._deserialize = serializer.deserialize
        self._on_unreadable = on_unreadable
        self._complaints = 0
        serializer.deserialize = self._read

    async def _read(self, data: str | bytes) -> Frame | None:
        try:
            return await self._deserialize(data)
        except Exception as error:  # noqa: BLE001 what it raises is up to the serializer, and to whoever sends
            self._on_unreadable()
            if self._complaints < _MAX_COMPLAINTS:
                self._complaints += 1
                kind = "text" if isinstance(data, str) else "binary"
                _log.warning("message_unreadable", kind=kind, length=len(data), error=where_raised(error))
            return None
