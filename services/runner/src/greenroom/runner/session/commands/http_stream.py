"""The body of an answer on its way out of the process, part by part, as it is asked for.

    the bot's route ── put ──▶ HttpPipe (256 KiB) ── take ──▶ the api, which asks for the next part
                                                              when its client has taken the last one

So a client that reads slowly holds the route back, wherever both are. What nobody asks for any more is given up.
"""

import asyncio
from typing import Final

from greenroom.common.commands import MAX_HTTP_PART_BYTES, HttpPart

# What may wait to be asked for, of one answer and in all.
MAX_PIPE_BYTES: Final = 256 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
# The api asks each 10 s, and gives a client up that takes nothing for 20 s.
IDLE_S: Final = 30.0


class ClientGone(OSError):
    """Nobody takes what the route says any more."""


class HttpPipe:
    """One body.

    Args:
        idle_s: for how long nobody may ask for a part.
        max_bytes: how much the body may be in all.
    """

    def __init__(self, *, idle_s: float = IDLE_S, max_bytes: int = MAX_STREAM_BYTES) -> None:
        self._idle_s = idle_s
        self._left = max_bytes
        self._parts = bytearray()
        self._changed = asyncio.Condition()
        self._ended = False
        self._broken = False
        self._asking = 0
        self._asked_at = asyncio.get_running_loop().time()
        # Set once nothing more will be asked for, or asked for in vain.
        self.over: Final = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Take what the route says; returns when all of it has found room.

        Raises:
            ClientGone: nobody will ask for it, or it is too much.
        """
        view = memoryview(data)
        while view:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._parts) < MAX_PIPE_BYTES or self.over.is_set())
                if self.over.is_set() or self._ended:
                    raise ClientGone
                piece = view[: min(MAX_PIPE_BYTES - len(self._parts), self._left)]
                self._parts += piece
                self._left -= len(piece)
                view = view[len(piece) :]
                self._changed.notify_all()
            if view and self._left == 0:
                await self.end(broken=True)

    async def end(self, *, broken: bool = False) -> None:
        """Say that nothing more comes; the first who says so is heard."""
        async with self._changed:
            if not self._ended:
                self._ended, self._broken = True, broken
            self._changed.notify_all()

    async def drop(self) -> None:
        """Give up what hasn't been taken: nobody will ask for it."""
        async with self._changed:
            self.over.set()
            self._changed.notify_all()

    async def take(self, wait_s: float) -> HttpPart:
        """Return the next part; an empty one if there is none within `wait_s`."""
        self._asking += 1
        try:
            async with self._changed:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait_for(lambda: self._parts or self._ended or self.over.is_set())
                except TimeoutError:
                    return HttpPart(more=True)
                body = bytes(self._parts[:MAX_HTTP_PART_BYTES])
                del self._parts[: len(body)]
                more = bool(self._parts) or not self._ended
                self._changed.notify_all()
                if self.over.is_set():
                    return HttpPart(broken=True)
                if not more:
                    self.over.set()
                return HttpPart(body=body, more=more, broken=self._broken and not more)
        finally:
            self._asking -= 1
            self._asked_at = asyncio.get_running_loop().time()

    async def abandoned(self) -> None:
        """Return once nobody will ask any more: all was taken, it was given up, or nobody has asked for too long."""
        loop = asyncio.get_running_loop()
        while not self.over.is_set():
            left = self._idle_s if self._asking else self._asked_at + self._idle_s - loop.time()
            if left <= 0:
                await self.drop()
                return
            try:
                async with asyncio.timeout(left):
                    await self.over.wait()
            except TimeoutError:
                continue
