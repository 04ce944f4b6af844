"""The clock of a run: it stands still while somebody comes up, so that a busy machine plays the same plan, slower."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Final

_LONGEST_NAP_S: Final = 0.05
_SHORTEST_NAP_S: Final = 0.001


class StageClock:
    """Seconds of a run since it began.

    Args:
        monotonic: the clock on the wall.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._passed = 0.0
        self._since = monotonic()
        self._holds = 0

    def now(self) -> float:
        """Return how much of the run has passed."""
        return self._passed + (0.0 if self._holds else self._monotonic() - self._since)

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Stand still during the block."""
        self._passed = self.now()
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._since = self._monotonic()

    async def until(self, moment_s: float) -> None:
        """Sleep until a moment of the run."""
        while (left_s := moment_s - self.now()) > 0:
            await asyncio.sleep(min(max(left_s, _SHORTEST_NAP_S), _LONGEST_NAP_S))
