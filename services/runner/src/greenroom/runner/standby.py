"""Warm processes that wait for a session, each already connected to the broker.

They are made when nothing else is going on: a fork costs the processor some milliseconds, and those belong to a start
that is under way. One at a time, and later and later while they fail.
"""

import asyncio
import contextlib
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


class StandbyPool:
    """See the module.

    Args:
        fork: makes a process; raises `NoProcess`.
        wanted: how many should wait now.
        clock: time.
        on_change: called when `ready` has changed.
    """

    def __init__(
        self,
        fork: Callable[[], Awaitable[SessionProcess]],
        wanted: Callable[[], int],
        *,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._fork = fork
        self._wanted = wanted
        self._clock = clock
        self._on_change = on_change
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
        while self._ready:
            process = self._ready.pop(0)
            self._on_change()
            if process.alive:
                return process
        warming, self._warming = self._warming, None
        return warming if warming is not None and warming.alive else None

    def wake(self) -> None:
        """Look again whether more are wanted."""
        self._wake.set()

    def close(self) -> None:
        """Let all that wait go, and make no more."""
        self._closed = True
        for process in (*self._ready, *([self._warming] if self._warming else [])):
            process.hang_up()
        self._ready.clear()
        self._warming = None
        self._on_change()

    async def run(self) -> None:
        """Keep as many as are wanted, until canceled or closed."""
        failures = 0
        while not self._closed:
            if not await self._until_wanted():
                continue
            await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            if self._closed or self._noise_s() > 0:
                continue
            failures = 0 if await self._add_one() else failures + 1

    async def _until_wanted(self) -> bool:
        """Wait for a calm moment in which one more is wanted; return whether it has come."""
        self._wake.clear()
        if self.ready >= self._wanted():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            return False
        noise_s = self._noise_s()
        if noise_s > 0:
            await self._clock.sleep(min(noise_s, QUIET_S))
        return noise_s <= 0

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


async def _until_standby(process: SessionProcess) -> None:
    """Wait until it stands by or is gone."""
    standby = asyncio.create_task(process.standby.wait())
    gone = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({standby, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        standby.cancel()
        gone.cancel()
