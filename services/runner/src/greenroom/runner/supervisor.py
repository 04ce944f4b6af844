"""Keeps a zygote alive, has it fork, and knows every process that came of it.

A zygote that dies is replaced while the sessions it has forked live on: the runner adopts them (it is the subreaper)
and sees their exits as before. A bot that breaks its zygote while it is imported or warmed is left out of the next.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog

from greenroom.common.clock import Clock
from greenroom.common.messages import BotOffer
from greenroom.runner import childlife, discovery, forkwire
from greenroom.runner.forkwire import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromZygote,
    Loaded,
    Loading,
    PeerGone,
    Prepare,
    Spoiled,
    Warm,
)
from greenroom.runner.processes import Exit, SessionProcess
from greenroom.runner.settings import RunnerSettings

_log = structlog.get_logger()

DEFAULT_RUN: Final = "greenroom.runner.session.process:run"
# A fork takes some milliseconds; on a host that swaps, tens.
FORK_TIMEOUT_S: Final = 5.0
_BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A zygote that was warm for this long didn't die of what it had imported.
_STABLE_S: Final = 60.0
_EXIT_TIMEOUT_S: Final = 2.0
# What must be set before the interpreter starts, so that a session process is small. Threads: none but ours. malloc:
# one arena, and everything large goes back to the kernel when it is freed. onnxruntime reports to its maker otherwise.
_ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "LOGURU_LEVEL": "WARNING",
}


class ZygoteGone(Exception):
    """The zygote died, or hasn't done what was asked of it in time."""


class _Generation:
    """One zygote process, from its start to its end."""

    def __init__(self, popen: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.popen = popen
        self.channel = channel
        self.pidfd = os.pidfd_open(popen.pid)
        loop = asyncio.get_running_loop()
        self.warm: asyncio.Future[dict[str, float]] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.forks: dict[int, asyncio.Future[SessionProcess]] = {}
        self.ours: dict[int, socket.socket] = {}
        self.doing = Loading(stage="start")
        self.heard = asyncio.Event()


class Supervisor:
    """See the module.

    Args:
        settings: of the runner; the zygote gets them too.
        clock: time.
        environment: of the zygote, beside what the recipe sets.
        on_change: called when `offers` or `available` has changed.
        run: `module:function` that each fork calls.
        rehearse: whether the zygote rehearses a turn.

    Attributes:
        offers: the bots that can run, and those that can't with the reason.
        restarts: how many zygotes were started after the first.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        clock: Clock,
        environment: Mapping[str, str],
        on_change: Callable[[], None] = lambda: None,
        run: str = DEFAULT_RUN,
        rehearse: bool = True,
    ) -> None:
        self.offers: tuple[BotOffer, ...] = ()
        self.restarts = -1
        self._settings = settings
        self._clock = clock
        self._environment = environment
        self._on_change = on_change
        self._run_target = run
        self._rehearse = rehearse
        self._spoiled: dict[str, str] = {}
        self._loading: list[BotOffer] = []
        self._generation: _Generation | None = None
        self._available = asyncio.Event()
        self._requests = 0
        self._processes: dict[int, SessionProcess] = {}

    @property
    def available(self) -> bool:
        """Whether there is a warm zygote now."""
        return self._available.is_set()

    @property
    def zygote_pid(self) -> int | None:
        """The process id of the zygote, if there is one."""
        return self._generation.popen.pid if self._generation else None

    @property
    def pids(self) -> frozenset[int]:
        """The processes that were forked and haven't been seen to exit."""
        return frozenset(self._processes)

    # ------------------------------------------------------------------------ keeping one alive

    async def run(self) -> None:
        """Keep a zygote alive until canceled."""
        childlife.adopt_orphans()
        failures = 0
        while True:
            await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            self.restarts += 1
            stable = await self._live_once()
            failures = 1 if stable else failures + 1

    async def fork(self, timeout_s: float = FORK_TIMEOUT_S) -> SessionProcess:
        """Fork a session process; wait for a zygote if there is none, `timeout_s` in all.

        Raises:
            ZygoteGone: there was none in time, or the kernel refused.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._available.wait()
                    if self._generation is not None:
                        try:
                            return await self._fork_from(self._generation)
                        except PeerGone:
                            self._available.clear()
        except TimeoutError as error:
            raise ZygoteGone(f"no process could be forked in {timeout_s:g} s") from error

    async def _live_once(self) -> bool:
        """Start a zygote and wait for its end; return whether it was of use for long."""
        generation = self._spawn()
        began = self._clock.monotonic()
        try:
            if await self._warm(generation):
                warm_at = self._clock.monotonic()
                self._available.set()
                self._on_change()
                _log.info(
                    "zygote_warm",
                    pid=generation.popen.pid,
                    took_s=round(warm_at - began, 3),
                    stages_ms=generation.warm.result(),
                    bots=[offer.name for offer in self.offers if offer.error is None],
                )
                await generation.gone
                return self._clock.monotonic() - warm_at > _STABLE_S
            return False
        finally:
            await self._bury(generation)

    def _spawn(self) -> _Generation:
        ours, theirs = forkwire.pair()
        environment = {key: value for key, value in self._environment.items() if key != "PYTHONDONTWRITEBYTECODE"}
        # Not in a thread: the kernel ends the zygote together with the thread that started it.
        popen = subprocess.Popen(
            [sys.executable, "-m", "greenroom.runner.zygote", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**environment, **_ENVIRONMENT},
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)  # noqa: FBT003 the standard library's own signature
        generation = self._generation = _Generation(popen, ours)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._readable, generation)
        loop.add_reader(generation.pidfd, self._on_exit, generation)
        bots = discovery.discover(self._settings.bots)
        self._loading = []
        order = Prepare(
            settings=self._settings, run=self._run_target, bots=bots, spoiled=self._spoiled, rehearse=self._rehearse
        )
        with contextlib.suppress(PeerGone):
            forkwire.send(ours, order)
        return generation

    async def _warm(self, generation: _Generation) -> bool:
        """Wait until it is warm; each stage, and so each bot, has a deadline of its own."""
        while not generation.warm.done():
            generation.heard.clear()
            heard = asyncio.create_task(generation.heard.wait())
            try:
                await asyncio.wait(
                    {heard, generation.warm, generation.gone},
                    timeout=self._settings.warmup_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                heard.cancel()
            if generation.gone.done():
                status = generation.popen.wait(_EXIT_TIMEOUT_S)
                self._blame(generation, f"the process ended while it was being loaded: {_in_words(status)}")
                return False
            if not generation.warm.done() and not generation.heard.is_set():
                detail = f"it wasn't loaded in {self._settings.warmup_timeout_s:g} s"
                self._blame(generation, detail)
                return False
        return True

    def _blame(self, generation: _Generation, detail: str) -> None:
        bot = generation.doing.bot
        _log.error("zygote_not_warm", stage=generation.doing.stage, bot=bot, detail=detail)
        if bot:
            self._spoiled.setdefault(bot, detail)

    async def _bury(self, generation: _Generation) -> None:
        """See the zygote to its end, whatever state it is in."""
        self._available.clear()
        loop = asyncio.get_running_loop()
        loop.remove_reader(generation.channel)
        generation.channel.close()
        if generation.popen.poll() is None:
            generation.popen.kill()
        if not generation.gone.done():
            await asyncio.wait({generation.gone}, timeout=_EXIT_TIMEOUT_S)
        loop.remove_reader(generation.pidfd)
        os.close(generation.pidfd)
        status = generation.popen.poll()
        for request, future in generation.forks.items():
            generation.ours[request].close()
            if not future.done():
                future.set_exception(PeerGone())
        self._generation = None
        for process in list(self._processes.values()):
            process.orphaned()
        _log.warning("zygote_ended", pid=generation.popen.pid, how=_in_words(status), live_processes=len(self._processes))
        self._on_change()

    def _on_exit(self, generation: _Generation) -> None:
        asyncio.get_running_loop().remove_reader(generation.pidfd)
        # What it said last is still in the socket.
        self._readable(generation)
        if not generation.gone.done():
            generation.gone.set_result(None)

    # ------------------------------------------------------------------------ talking to it

    async def _fork_from(self, generation: _Generation) -> SessionProcess:
        self._requests += 1
        request = self._requests
        ours, theirs = forkwire.pair()
        future: asyncio.Future[SessionProcess] = asyncio.get_running_loop().create_future()
        generation.forks[request], generation.ours[request] = future, ours
        try:
            forkwire.send(generation.channel, Fork(request=request), theirs.fileno())
            return await future
        except (PeerGone, BlockingIOError, asyncio.CancelledError):
            # If the process came to be after all, it finds its control socket closed, and leaves.
            generation.ours.pop(request, None)
            ours.close()
            raise
        finally:
            theirs.close()
            generation.forks.pop(request, None)

    def _readable(self, generation: _Generation) -> None:
        while generation.channel.fileno() >= 0:
            try:
                message, fd = forkwire.receive_in_runner(generation.channel)
            except BlockingIOError:
                return
            except PeerGone:
                asyncio.get_running_loop().remove_reader(generation.channel)
                return
            except msgspec.MsgspecError:
                _log.exception("zygote_message_malformed")
                continue
            generation.heard.set()
            self._hear(generation, message, fd)

    def _hear(self, generation: _Generation, message: FromZygote, fd: int | None) -> None:
        match message:
            case Loading():
                generation.doing = message
            case Loaded():
                self._loading.append(message.offer)
            case Spoiled():
                self._blame(generation, message.detail)
            case Warm():
                self.offers = tuple(self._loading)
                generation.warm.set_result(message.stages_ms)
            case Forked() if fd is not None:
                self._adopt(generation, message, fd)
            case ForkFailed():
                future = generation.forks.get(message.request)
                if future is not None and not future.done():
                    generation.ours.pop(message.request).close()
                    future.set_exception(ZygoteGone(f"the kernel refused to fork: {message.detail}"))
            case Exited():
                process = self._processes.get(message.pid)
                if process is not None:
                    status = Exit(code=message.code, max_rss_bytes=message.max_rss_bytes, cpu_s=message.cpu_s)
                    process.report(status)
            case _:
                _log.error("zygote_message_incomplete", message=type(message).__name__)

    def _adopt(self, generation: _Generation, message: Forked, pidfd: int) -> None:
        ours = generation.ours.pop(message.request, None)
        future = generation.forks.get(message.request)
        if ours is None or future is None or future.done():
            # Nobody waits for it any more; its control socket is closed already, so it leaves by itself.
            os.close(pidfd)
            return
        process = SessionProcess(message.pid, pidfd, ours)
        self._processes[message.pid] = process
        process.exited.add_done_callback(lambda _: self._forget(process))
        future.set_result(process)

    def _forget(self, process: SessionProcess) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]


def _in_words(status: int | None) -> str:
    if status is None:
        return "still there"
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


type ForkFunction = Callable[[], Awaitable[SessionProcess]]
