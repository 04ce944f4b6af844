"""How the sessions of a runner that stops come to their end: by themselves, then told to, then killed."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Final

from greenroom.common.clock import Clock
from greenroom.common.reasons import Reason
from greenroom.runner.slots import Slots, Verdict

# What is left at the end for killing what must be killed and for writing it down.
_KILL_AND_WRITE_S: Final = 2.0


class ClosingTime:
    """See the module.

    Args:
        slots: hold the sessions.
        empty: set while no session is left, and the ends of all are written down.
        clock: time.
        changed: must be called after anything in `slots` has changed.
    """

    def __init__(self, slots: Slots, empty: asyncio.Event, *, clock: Clock, changed: Callable[[], None]) -> None:
        self._slots = slots
        self._empty = empty
        self._clock = clock
        self._changed = changed

    async def drain(self, timeout_s: float) -> None:
        """Return when every session is over and written down, after `timeout_s` at most.

        What is still up when the time begins to run out is ended in order, and what is up after that is killed.
        """
        deadline = self._clock.monotonic() + timeout_s
        kill_at = deadline - min(_KILL_AND_WRITE_S, timeout_s / 4)
        ladder_s = max((held.limits.end_timeout_s for held in self._slots), default=0.0)
        if await self._empties_by(kill_at - ladder_s):
            return
        self.end_all(kill_at - self._clock.monotonic())
        if await self._empties_by(kill_at):
            return
        for held in self._slots:
            verdict = held.verdict or Verdict.of(Reason.DRAIN_DEADLINE)
            self._slots.kill(held.key, verdict, now=self._clock.monotonic())
        self._changed()
        await self._empties_by(deadline)

    def end_all(self, within_s: float = math.inf) -> None:
        """End all sessions now, in order."""
        verdict, now, at = Verdict.of(Reason.DRAIN_DEADLINE), self._clock.monotonic(), self._clock.now()
        for held in self._slots:
            self._slots.end(held.key, verdict, now=now, at=at, within_s=within_s)
        self._changed()

    async def _empties_by(self, deadline: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.0)):
                await self._empty.wait()
        return self._empty.is_set()
