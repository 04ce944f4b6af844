"""Warm processes that wait for a session, each already connected to the broker.

They are made when nothing else is going on: a fork costs the processor some milliseconds, and those belong to a start
that is under way. One at a time, and later and later while they fail.

One that hangs is never handed out: each says every second that it waits, so nothing need be asked when a start comes.
One that has waited for long is replaced, by its successor and not before: connections go stale, and what a process has
read of the world (certificates, addresses, time zones) grows old.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import Final

import structlog

from greenroom.common.clock import Clock
from greenroom.runner.processes import SessionProcess
from greenroom.runner.supervisor import NoProcess

_log = structlog.get_logger()

# How long no start must have been under way before a process is forked for later.
QUIET_S: Final = 0.05
# A start that takes longer than this waits for something (a model, a provider), and no longer for the processor.
HURRY_S: Final = 1.0
# To connect to the broker and say so; then it counts as failed.
READY_TIMEOUT_S: Final = 15.0
_BACKOFF_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOOK_S: Final = 1.0
# Each that waits says so once a second: one that hasn't for this long is handed no session.
FRESH_S: Final = 4.0
# One that hasn't for this long hangs; sooner, an overloaded host would be made to fork on top of it.
HUNG_S: Final = 12.0


class StandbyPool:
    """See the module.

    Args:
        fork: makes a process; raises `NoProcess`.
        wanted: how many should wait now.
        clock: time.
        on_change: called when `ready` has changed.
        most: more than this are let go, at once; those that are more than `wanted` wait for slots to become free.
        max_age_s: how long one waits before it is replaced; 0: for ever.
    """

    def __init__(
        self,
        fork: Callable[[], Awaitable[SessionProcess]],
        wanted: Callable[[], int],
        *,
        clock: Clock,
        on_change: Callable[[], None],
        most: Callable[[], int] = lambda: sys.maxsize,
        max_age_s: float = 0.0,
    ) -> None:
        self._fork = fork
        self._wanted = wanted
        self._clock = clock
        self._on_change = on_change
        self._most = most
        self._max_age_s = max_age_s
        self._ready: list[SessionProcess] = []
        self._warming: SessionProcess | None = None
        self._starts: dict[object, float] = {}
        self._calm_since = 0.0
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._ready)

    @property
    def in_a_hurry(self) -> bool:
        """Whether a start is under way that hasn't taken long yet."""
        now = self._clock.monotonic()
        return any(now - began < HURRY_S for began in self._starts.values())

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """Say that a start is under way: nothing is forked meanwhile but for it."""
        start = object()
        self._starts[start] = self._clock.monotonic()
        try:
            yield
        finally:
            del self._starts[start]
            self._calm_since = self._clock.monotonic()
            self._wake.set()

    def take_ready(self) -> SessionProcess | None:
        """Return a process that waits and is alive, or the one that is about to; None: there is none, fork one."""
        for process in tuple(self._ready):
            if process.alive and not process.answers(FRESH_S):
                continue
            self._ready.remove(process)
            self._on_change()
            if process.alive:
                return process
        warming, self._warming = self._warming, None
        return warming if warming is not None and warming.alive else None

    def release(self) -> None:
        """Let all that wait go; more are made when more are wanted."""
        for process in (*self._ready, *([self._warming] if self._warming else [])):
            process.hang_up()
        self._ready.clear()
        self._warming = None
        self._on_change()

    def wake(self) -> None:
        """Look again whether more are wanted."""
        self._wake.set()

    def close(self) -> None:
        """Let all that wait go, and make no more."""
        self._closed = True
        self.release()

    async def run(self) -> None:
        """Keep as many as are wanted, until canceled or closed; none is left then."""
        failures = 0
        try:
            while not self._closed:
                if not await self._until_wanted():
                    continue
                await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                if self._closed or self._noise_s() > 0:
                    continue
                failures = 0 if await self._add_one() else failures + 1
        finally:
            # One that came to be after the pool was closed waits for nobody.
            self.release()

    async def _until_wanted(self) -> bool:
        """Wait for a calm moment in which one more is wanted; return whether it has come."""
        self._wake.clear()
        self._tidy()
        wanted = self._wanted()
        if self.ready >= wanted and not (0 < self.ready == wanted and self._is_old(self._ready[0])):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            return False
        noise_s = self._noise_s()
        if noise_s > 0:
            await self._clock.sleep(min(noise_s, QUIET_S))
        return noise_s <= 0

    def _tidy(self) -> None:
        """Let those go that hang, that are more than may wait, or whose successor is there."""
        for process in tuple(self._ready):
            if not process.answers(HUNG_S):
                self._ready.remove(process)
                _give_up_on(process)
                self._on_change()
        while self._ready and (
            self.ready > self._most() or (self.ready > self._wanted() and self._is_old(self._ready[0]))
        ):
            process = self._ready.pop(0)
            _log.debug("standby_recycled", pid=process.pid)
            process.hang_up()
            self._on_change()

    def _is_old(self, process: SessionProcess) -> bool:
        return 0 < self._max_age_s <= self._clock.monotonic() - process.forked_at

    def _noise_s(self) -> float:
        """Return how long it will at most be until no start is in a hurry, or has just been; 0 or less: none is."""
        now = self._clock.monotonic()
        hurry_s = max((began + HURRY_S - now for began in self._starts.values()), default=0.0)
        return max(hurry_s, self._calm_since + QUIET_S - now)

    async def _add_one(self) -> bool:
        try:
            process = self._warming = await self._fork()
        except NoProcess as error:
            _log.warning("standby_not_forked", detail=str(error))
            return False
        process.on_exit(lambda _: self._lose(process))
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await _until_standby(process)
        except TimeoutError:
            _log.warning("standby_not_ready", pid=process.pid, timeout_s=READY_TIMEOUT_S)
            if self._warming is process:
                process.kill()
        if self._warming is not process:
            # A start was in a hurry and has taken it as it was, or it is gone.
            return process.standby.is_set()
        self._warming = None
        if not process.alive or self._closed:
            process.hang_up()
            return False
        self._ready.append(process)
        self._on_change()
        return True

    def _lose(self, process: SessionProcess) -> None:
        """Take notice that a process has ended; whoever has taken it sees for himself."""
        if process in self._ready:
            self._ready.remove(process)
            _log.warning("standby_lost", pid=process.pid)
            self._on_change()
            self._wake.set()
        if self._warming is process:
            self._warming = None


def _give_up_on(process: SessionProcess) -> None:
    if process.alive:
        _log.warning("standby_hangs", pid=process.pid, for_s=HUNG_S)
        process.kill()


async def _until_standby(process: SessionProcess) -> None:
    """Wait until it stands by or is gone."""
    standby = asyncio.create_task(process.standby.wait())
    gone = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({standby, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        standby.cancel()
        gone.cancel()
