"""One zygote as the runner sees it: started, warmed, asked to fork, and seen to its end."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, Self

import msgspec
import structlog

from greenroom.common.messages import BotOffer
from greenroom.runner import control, forkwire
from greenroom.runner.control import ToSession
from greenroom.runner.discovery import BotSpec
from greenroom.runner.forkwire import (
    Bots,
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
from greenroom.runner.processes import SessionProcess
from greenroom.runner.verdicts import Exit

_log = structlog.get_logger()

_EXIT_TIMEOUT_S: Final = 2.0
# What must be set before the interpreter starts, so that a session process is small. No threads but ours. malloc with
# one arena, which gives everything large back to the kernel. (onnxruntime would also report to its maker, in a thread.)
_ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "LOGURU_LEVEL": "WARNING",
}


class ForkRefused(Exception):
    """The kernel, or a zygote that doesn't read, made no process."""


class NotWarm(Exception):
    """The zygote ended, hung or spoiled itself before it was warm.

    Attributes:
        stage: what it was doing.
        bot: with which bot; empty if with none.
        detail: what happened.
    """

    def __init__(self, doing: Loading, detail: str) -> None:
        super().__init__(detail)
        self.stage = doing.stage
        self.bot = doing.bot
        self.detail = detail


class _Pending:
    """A process that was asked for: its socket, and how many messages are in there."""

    def __init__(self, process: asyncio.Future[SessionProcess], channel: socket.socket, *, sent: int) -> None:
        self.process = process
        self.channel = channel
        self.sent = sent

    def fail(self, error: Exception) -> None:
        if not self.process.done():
            self.process.set_exception(error)


class ZygoteProcess:
    """Must be made on the event loop.

    Attributes:
        pid: its process id.
        offers: the bots it has loaded, and failed to load, so far.
        stages_ms: how long warming took, once it is warm.
        gone: set once the kernel has said that it has exited.
    """

    def __init__(self, popen: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.pid: Final = popen.pid
        self.offers: list[BotOffer] = []
        self.stages_ms: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        self._popen = popen
        self._channel = channel
        self._pidfd = os.pidfd_open(popen.pid)
        self._doing = Loading(stage="start")
        self._spoiled: Spoiled | None = None
        self._warm = False
        self._heard = asyncio.Event()
        self._requests = 0
        self._forks: dict[int, _Pending] = {}
        self._processes: dict[int, SessionProcess] = {}
        self._loop.add_reader(channel, self._readable)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    def start(cls, order: Prepare, environment: Mapping[str, str]) -> Self:
        """Start one and tell it what to load.

        Must be called in a thread that lasts: the kernel ends the zygote together with the thread that started it.
        """
        ours, theirs = forkwire.pair()
        inherited = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-m", "greenroom.runner.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**inherited, **_ENVIRONMENT},
                start_new_session=True,
            )
        ours.setblocking(False)  # noqa: FBT003 the standard library's own signature
        zygote = cls(popen, ours)
        with contextlib.suppress(PeerGone):  # it has ended already, which is seen by its pidfd
            forkwire.send(ours, order)
        return zygote

    def supply(self, bots: tuple[BotSpec, ...]) -> None:
        """Tell it which bots to import, if its order left that open."""
        with contextlib.suppress(PeerGone):  # it has ended; the next one is told from the start
            forkwire.send(self._channel, Bots(bots=bots))

    async def warm(self, timeout_s: float) -> None:
        """Wait until it is warm.

        Args:
            timeout_s: for each stage, and so for each bot.

        Raises:
            NotWarm: it won't be; `bury` it.
        """
        while not self._warm:
            self._heard.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._heard.wait()
            except TimeoutError as error:
                raise NotWarm(self._doing, f"it wasn't loaded in {timeout_s:g} s") from error
            if self._spoiled is not None:
                raise NotWarm(Loading(stage=self._doing.stage, bot=self._spoiled.bot), self._spoiled.detail)
            if self.gone.is_set():
                raise NotWarm(self._doing, f"the process ended while it was being loaded ({self._status()})")

    async def fork(self, first: ToSession | None = None) -> SessionProcess:
        """Fork a session process. The caller sets the deadline.

        Args:
            first: what it is told first; it finds that when it begins, and needn't prepare for waiting.

        Raises:
            PeerGone: the zygote is dead.
            ForkRefused: the kernel made no process.
        """
        self._requests += 1
        request = self._requests
        ours, theirs = forkwire.pair()
        pending = self._forks[request] = _Pending(self._loop.create_future(), ours, sent=0 if first is None else 1)
        with theirs:
            try:
                if first is not None:
                    ours.send(control.encode(first))
                forkwire.send(self._channel, Fork(request=request), theirs.fileno())
            except PeerGone:
                self._give_up(request)
                raise
            except OSError as error:
                self._give_up(request)
                raise (ForkRefused("the zygote doesn't read") if self._channel.fileno() >= 0 else PeerGone()) from error
        try:
            return await pending.process
        except asyncio.CancelledError:
            self._give_up(request)
            if pending.process.done() and not pending.process.cancelled():
                pending.process.result().hang_up()  # it came to be at the last moment, and belongs to nobody
            raise

    async def bury(self) -> str:
        """See it to its end, whatever state it is in; return how it ended."""
        self._loop.remove_reader(self._channel)
        self._channel.close()
        if not self.gone.is_set():
            self._popen.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_TIMEOUT_S):
                    await self.gone.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for request, pending in list(self._forks.items()):
            self._give_up(request)
            pending.fail(PeerGone())
        for process in list(self._processes.values()):
            process.orphaned()
        return self._status()

    def _status(self) -> str:
        code = self._popen.poll()
        return "still there" if code is None else Exit(code=code).in_words

    def _give_up(self, request: int) -> None:
        """Stop waiting for a fork; a process that still comes of it finds its control socket closed, and leaves."""
        pending = self._forks.pop(request, None)
        if pending is not None:
            pending.channel.close()

    # ------------------------------------------------------------------------ what it says

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._readable()  # what it said last is still in the socket
        self.gone.set()
        self._heard.set()

    def _readable(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                message, fd = forkwire.receive_in_runner(self._channel)
            except BlockingIOError:
                return
            except PeerGone:
                self._loop.remove_reader(self._channel)
                return
            except msgspec.MsgspecError:
                _log.exception("zygote_message_malformed")
                continue
            self._hear(message, fd)
            self._heard.set()

    def _hear(self, message: FromZygote, fd: int | None) -> None:
        match message:
            case Loading():
                self._doing = message
            case Loaded():
                self.offers.append(message.offer)
            case Spoiled():
                self._spoiled = message
            case Warm():
                self.stages_ms, self._warm = message.stages_ms, True
            case Forked():
                self._adopt(message, fd)
            case ForkFailed():
                self._refuse(message)
            case Exited():
                process = self._processes.get(message.pid)
                if process is not None:
                    process.report(Exit(code=message.code, max_rss_bytes=message.max_rss_bytes, cpu_s=message.cpu_s))

    def _adopt(self, message: Forked, pidfd: int | None) -> None:
        pending = self._forks.get(message.request)
        if pidfd is None:
            _log.error("zygote_sent_no_pidfd", pid=message.pid)
        elif pending is None or pending.process.done():
            os.close(pidfd)  # nobody waits for it any more
        else:
            del self._forks[message.request]
            process = SessionProcess(message.pid, pidfd, pending.channel, sent=pending.sent)
            self._processes[message.pid] = process
            process.on_exit(lambda _: self._forget(process))
            pending.process.set_result(process)

    def _refuse(self, message: ForkFailed) -> None:
        pending = self._forks.get(message.request)
        if pending is not None:
            self._give_up(message.request)
            pending.fail(ForkRefused(message.detail))

    def _forget(self, process: SessionProcess) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]
