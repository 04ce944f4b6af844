"""What somebody who speaks with a session may see of its events: what both sides said, and how the call stands.

Everything else is the tenant's: metadata and configuration, functions and their arguments, metrics.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "user_spoke": ("text", "start_ms", "end_ms"),
    "agent_spoke": ("text", "start_ms", "end_ms", "interrupted"),
    "call_connected": (),
    "call_disconnected": (),
    "call_ending_soon": (),
    "session.ended": ("outcome",),
}
_ID: Final = b"id: "


class _Event(msgspec.Struct):
    type: str
    data: dict[str, Any]


async def shown(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield of a stream of server-sent events what may be seen; others only by their ids, from which one goes on."""
    async for chunk in stream:
        yield narrowed(chunk) if chunk.startswith(_ID) else chunk


def narrowed(chunk: bytes) -> bytes:
    """Return what may be seen of one event."""
    number, _, rest = chunk.partition(b"\n")
    _, _, data = rest.partition(b"\ndata: ")
    event = msgspec.json.decode(data.strip(), type=_Event)
    names = SHOWN.get(event.type)
    if names is None:
        return number + b"\n\n"
    seen = {name: event.data[name] for name in names if name in event.data}
    told = msgspec.json.encode({"type": event.type, "data": seen})
    return b"%s\nevent: %s\ndata: %s\n\n" % (number, event.type.encode(), told)
