"""An event loop whose time passes as soon as everybody waits for it: a minute of timers takes a millisecond.

    async def scenario() -> None: ...

    run_virtual(scenario())

Only timers may be waited for: sockets and threads live in real time, which here stands still.
"""

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_SHORTEST_S = 1e-6


class Stuck(RuntimeError):
    """Everybody waits, and not for time: nothing would ever happen again."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer where others would sleep until it is due."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._leaping.now


class _Leaping(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Stuck
        if not ready and timeout is not None:
            self.now += max(timeout, 0.0)
        return ready


def run_virtual[T](scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario in virtual time and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario)


class LoopClock:
    """See `greenroom.common.clock.Clock`: the time of the running loop; no two readings of `now` are the same."""

    def __init__(self) -> None:
        self._readings = itertools.count(1)

    def now(self) -> datetime:
        """Return the wall time: the loop's, a microsecond later at each reading."""
        return _BEGINNING + timedelta(seconds=self.monotonic(), microseconds=next(self._readings))

    def monotonic(self) -> float:
        """Return the loop's seconds."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        # Less than this may be lost in the sum: whoever waits until a time would wait for ever, and that very time.
        await asyncio.sleep(max(delay_s, _SHORTEST_S) if delay_s > 0 else 0.0)
