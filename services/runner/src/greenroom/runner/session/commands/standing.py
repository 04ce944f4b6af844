"""How a session stands, gathered from its own events as they are published."""

from collections import deque
from typing import Any, Final

from greenroom.common.commands import Line, Side
from greenroom.common.messages import EventType

MAX_LINES: Final = 20
_MAX_LINE: Final = 1_000
_SPEAKERS: Final[dict[EventType, Side]] = {EventType.USER_SPOKE: "user", EventType.AGENT_SPOKE: "bot"}


class Standing:
    """What a `snapshot` tells of the conversation. A turn is what the user said until the bot spoke again."""

    def __init__(self) -> None:
        self.node: str | None = None
        self.turns = 0
        self.lines: deque[Line] = deque(maxlen=MAX_LINES)

    def see(self, kind: EventType, data: dict[str, Any]) -> None:
        """Take an event."""
        if kind is EventType.NODE_ENTERED:
            self.node = str(data.get("node"))
        elif (who := _SPEAKERS.get(kind)) is not None:
            if who == "user" and (not self.lines or self.lines[-1].who == "bot"):
                self.turns += 1
            self.lines.append(Line(who=who, text=str(data["text"])[:_MAX_LINE], start_ms=int(data["start_ms"])))
