"""Virtual time: what is to happen, in order. An hour in which nothing happens takes no time at all.

Coroutines may take part (`sleep`): time stands still until each of them sleeps again.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

_MICRO: Final = 1_000_000


class Clockwork:
    """See the module. It is a `Clock` too, for parts that are given one.

    Args:
        begins: what it shows first.
    """

    def __init__(self, begins: datetime) -> None:
        self._begins = begins
        self._now_us = 0
        self._now = begins
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        # How many coroutines take part and aren't asleep.
        self._awake = 0
        self._stopped = False
        self._failure: BaseException | None = None

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_us / _MICRO

    def now(self) -> datetime:
        """Return what the clocks show, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the beginning."""
        return self.now_s

    def at(self, at_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a time, in seconds since the beginning; now if that is over."""
        self._put(round(at_s * _MICRO), what, arguments)

    def after(self, delay_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Have something done later."""
        self._put(self._now_us + round(delay_s * _MICRO), what, arguments)

    def _put(self, at_us: int, what: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        # Of what happens at the same time the first that was asked for is first.
        heapq.heappush(self._events, (max(at_us, self._now_us), next(self._numbers), what, arguments))

    # ------------------------------------------------------------------------ coroutines

    def joined(self) -> None:
        """Take in that a coroutine takes part from now on, awake."""
        self._awake += 1

    def left(self, failure: BaseException | None = None) -> None:
        """Take in that one has ended; a failure ends everything."""
        self._awake -= 1
        if failure is not None:
            self._failure = failure
            self.stop()

    async def sleep(self, delay_s: float) -> None:
        """Wait for so many virtual seconds."""
        woken = asyncio.get_running_loop().create_future()
        self.after(delay_s, _wake, woken)
        self._awake -= 1
        try:
            await woken
        finally:
            self._awake += 1

    # ------------------------------------------------------------------------ running

    def stop(self) -> None:
        """Let nothing happen any more."""
        self._stopped = True

    async def run(self) -> None:
        """Let everything happen, until `stop` or until there is nothing more to come.

        Raises:
            BaseException: whatever was raised by what happened, or by a coroutine that takes part.
        """
        events = self._events
        while not self._stopped:
            while self._awake:  # noqa: ASYNC110 - not for an event, but for the others to have had their turn
                await asyncio.sleep(0)
            if self._stopped or not events:
                break
            at_us, _, what, arguments = heapq.heappop(events)
            if at_us != self._now_us:
                self._now_us = at_us
                self._now = self._begins + timedelta(microseconds=at_us)
            what(*arguments)
            if what is _wake:
                await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)
