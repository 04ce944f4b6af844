"""Several messages of a client in one, on their way to its session's process, where that has asked for it.

The process knows how long the client's frames are and how much audio its pipeline takes at once; here it is only
counted. A message waits for the others of its pack, and for no longer than the process has said. In a lull (the process
says what that is) packs are larger, and wait for as long as messages come; the first that isn't quiet ends the lull,
and goes at once with what is held.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from greenroom.common import media_frames as frames
from greenroom.common.media_frames import Join, Lull

# Whatever is asked for: so many messages, of so many bytes together, for so long.
_MAX_MESSAGES: Final = 20
_MAX_BYTES: Final = 128 * 1024
_MAX_HOLD_MS: Final = 200
# In a lull, whose audio isn't waited for.
_MAX_LULL_MESSAGES: Final = 40
_MAX_LULL_S: Final = 0.5
# What a timer is good for.
_TIMER_S: Final = 0.002

# Takes the kind and the payload of a message to the process.
type Send = Callable[[int, bytes], Awaitable[None]]


class Packer:
    """Joins the messages of one client; until `agree` was called each goes by itself.

    Args:
        send: sends a message; calls to it are in order.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages = 1
        self._hold_s = 0.0
        self._lull: Lull | None = None
        self._held: list[tuple[int, bytes]] = []
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # Since when something is held, and when that goes at the latest.
        self._since = self._due = 0.0
        self._late: set[asyncio.Task[None]] = set()

    def agree(self, join: Join) -> None:
        """Do as the process asks, within bounds."""
        self._messages = min(max(join.messages, 1), _MAX_MESSAGES)
        self._hold_s = _held_for(join.hold_ms)
        self._lull = join.lull

    def forget(self) -> int:
        """Send each message by itself again, and none of those that are held; return how many there were."""
        self._messages, self._lull = 1, None
        return len(self._take())

    async def add(self, kind: int, payload: bytes) -> None:
        """Send a message of the client, or hold it for its pack."""
        if self._messages == 1 and not self._held:
            await self._send(kind, payload)
            return
        if self._held_bytes + len(payload) > _MAX_BYTES:
            await self.flush()
        self._held.append((kind, payload))
        self._held_bytes += len(payload)
        messages, hold_s = self._bounds(kind, payload)
        if len(self._held) >= messages:
            await self.flush()
        else:
            self._wait(hold_s)

    def wanted(self) -> tuple[int, float]:
        """Return how many more messages are of use at once, and for how long the first of them may wait for the others.

        In a lull no more than outside of it: the first that isn't quiet goes at once.
        """
        missing = self._messages - len(self._held)
        if self._lull is not None:
            missing = min(self._messages, self._lull.messages - len(self._held))
        return max(missing, 1), self._hold_s

    async def flush(self) -> None:
        """Send what is held."""
        match self._take():
            case []:
                return
            case [(kind, payload)]:
                await self._send(kind, payload)
            case held:
                await self._send(frames.PACKED, frames.pack(held))

    def _bounds(self, kind: int, payload: bytes) -> tuple[int, float]:
        """Return how many messages go with this one, and how long it may be held."""
        lull = self._lull
        if lull is None:
            return self._messages, self._hold_s
        if kind == frames.BINARY and lull.covers(payload):
            return min(lull.messages, _MAX_LULL_MESSAGES), _held_for(lull.hold_ms)
        if kind == frames.BINARY:
            self._lull = None
        return 1, 0.0

    def _wait(self, hold_s: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._since, self._due = now, now + hold_s
            self._timer = loop.call_later(hold_s, self._expire)
        elif self._lull is not None:
            # From the last message on: then all of a client's that stops comes as late as that, however much it is.
            self._due = min(now + hold_s, self._since + _MAX_LULL_S)

    def _take(self) -> list[tuple[int, bytes]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._due - loop.time()
        if left_s > _TIMER_S:
            self._timer = loop.call_later(left_s, self._expire)
            return
        self._timer = None
        task = loop.create_task(self.flush())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def _held_for(hold_ms: int) -> float:
    return min(hold_ms, _MAX_HOLD_MS) / 1000
