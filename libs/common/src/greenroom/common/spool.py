"""What a session publishes, kept in order until the broker has it.

Putting never blocks the pipeline. Messages go out pipelined; while the broker is away they wait here, bounded in
bytes. Each has an id, so that what is sent again after an outage is stored once. (After one that is longer than the
stream's duplicate window, the few that were stored but not acknowledged when it began are stored twice: readers know
them by their ids.)
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from greenroom.common import errors
from greenroom.common.broker import Broker

_log = structlog.get_logger()

# Two tracks at 16 kHz are 64 kB/s: this holds an outage of over eight minutes.
DEFAULT_MAX_BYTES: Final = 32 * 1024 * 1024
_WINDOW: Final = 256
_RETRY_S: Final = 0.25
# What a message costs beside its body, so that a flood of empty ones is bounded too.
_OVERHEAD_BYTES: Final = 256


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A message that waits; what is `droppable` makes room for others."""

    subject: str
    data: bytes
    msg_id: str
    headers: Mapping[str, str]
    droppable: bool

    @property
    def size(self) -> int:
        """How much of the bound it takes."""
        return len(self.data) + _OVERHEAD_BYTES


class Spool:
    """An ordered, bounded outbox.

    When it is full, the oldest droppable messages (audio) make room; if there are none, the new message is refused.
    Both are counted in `dropped`.

    Args:
        broker: where to.
        max_bytes: what may wait.
        linger_s: how long a message waits for others to go with it; for what is in no hurry, and whose readers would
            otherwise be busy with it while something else is.
    """

    def __init__(self, broker: Broker, *, max_bytes: int = DEFAULT_MAX_BYTES, linger_s: float = 0.0) -> None:
        self.published = 0
        self.dropped = 0
        self._broker = broker
        self._max_bytes = max_bytes
        self._linger_s = linger_s
        self._bytes = 0
        self._droppable_bytes = 0
        self._items: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many messages the broker hasn't acknowledged yet."""
        return len(self._items)

    def put(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str,
        headers: Mapping[str, str] | None = None,
        droppable: bool = False,
    ) -> bool:
        """Hand over a message; returns False when it was refused because the spool is full."""
        item = Waiting(subject=subject, data=data, msg_id=msg_id, headers=headers or {}, droppable=droppable)
        missing = self._bytes + item.size - self._max_bytes
        if missing > self._droppable_bytes:
            self.dropped += 1
            return False
        if missing > 0:
            self._make_room(missing)
        self._items.append(item)
        self._count(item, 1)
        self._empty.clear()
        self._wake.set()
        return True

    async def run(self) -> None:
        """Publish until canceled."""
        while True:
            await self._wake.wait()
            if self._linger_s:
                await asyncio.sleep(self._linger_s)
            self._wake.clear()
            while self._items:
                if not await self._publish_window():
                    await asyncio.sleep(_RETRY_S)
            self._empty.set()

    async def flush(self, deadline_s: float) -> int:
        """Wait until everything is published, `deadline_s` at most; return how many messages are left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
        return len(self._items)

    def take(self) -> tuple[Waiting, ...]:
        """Give up what waits, in its order, for somebody else to publish. Some of it may be stored already."""
        waiting = tuple(self._items)
        self._items.clear()
        self._bytes = self._droppable_bytes = 0
        return waiting

    async def _publish_window(self) -> bool:
        """Publish the oldest messages; keep those from the first failure on. Returns whether all went out."""
        window = list(itertools.islice(self._items, _WINDOW))
        pending: list[asyncio.Future[int]] = []
        for item in window:
            try:
                future = await self._broker.append_soon(
                    item.subject, item.data, msg_id=item.msg_id, headers=item.headers
                )
            except errors.BrokerUnavailable:
                break
            except errors.GreenroomError as error:
                future = asyncio.get_running_loop().create_future()
                future.set_exception(error)
            pending.append(future)
            if future.done() and isinstance(future.exception(), errors.BrokerUnavailable):
                break  # the connection was lost and maybe found again: what comes next would overtake this one
        results = await asyncio.gather(*pending, return_exceptions=True)
        for item, result in zip(window, results, strict=False):
            if isinstance(result, errors.BrokerUnavailable):
                return False
            if isinstance(result, BaseException):
                # It can never be stored (it is too large): don't block what is behind it.
                self.dropped += 1
                _log.error("message_not_storable", subject=item.subject, error=str(result))
            else:
                self.published += 1
            self._remove_first(item)
        return len(results) == len(window)

    def _remove_first(self, item: Waiting) -> None:
        # While the window was under way, droppable messages may have been dropped from the front.
        if self._items and self._items[0] is item:
            self._count(self._items.popleft(), -1)

    def _make_room(self, missing: int) -> None:
        """Drop the oldest droppable messages, `missing` bytes or a little more."""
        enough = self._bytes - missing
        kept: deque[Waiting] = deque()
        for item in self._items:
            if item.droppable and self._bytes > enough:
                self._count(item, -1)
                self.dropped += 1
            else:
                kept.append(item)
        self._items = kept

    def _count(self, item: Waiting, sign: int) -> None:
        self._bytes += sign * item.size
        if item.droppable:
            self._droppable_bytes += sign * item.size
