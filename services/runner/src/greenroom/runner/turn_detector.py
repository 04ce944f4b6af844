"""One process in which Smart Turn judges the turns of all sessions of a zygote, with a warm model.

A judgement takes 40 ms of a processor where the model's weights and memory are warm. In session processes, each of
which makes one now and then, it takes half as much again, and is stretched by all that the machine does meanwhile: it
was most of what an answer takes on a full machine. Here judgements are made one after the other, and before what
sessions do if the kernel allows it (CAP_SYS_NICE or RLIMIT_NICE).

The zygote forks the process before it forks sessions, and gives each of these a connection of its own
(`SOCK_SEQPACKET`): a packet with a number and a file of samples for each question, a packet with that number and a
probability for the answer. Nothing of one session reaches another. A session that isn't answered in time, or is hung
up on, judges for itself, as it would without all this: see `session.shared_turns`. The kernel ends the process together
with its zygote.
"""

import contextlib
import ctypes
import functools
import importlib
import math
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import structlog
from numpy.typing import NDArray

from greenroom.runner import childlife, warmup
from greenroom.runner.host import Host
from greenroom.runner.isolation import kernel
from greenroom.runner.isolation.confinement import Bounds, seal

_log = structlog.get_logger()

NAME: Final = "turn-detector"
RATE: Final = 16_000
# What the model takes, from the end of a turn.
MAX_SAMPLES: Final = 8 * RATE
# Number of the question; number and probability.
QUESTION: Final = struct.Struct("<I")
ANSWER: Final = struct.Struct("<Id")
# Pipecat's module of the analyzer; a bot that uses it has it imported.
_ANALYZER: Final = "pipecat.audio.turn.smart_turn.local_smart_turn_v3"
# As many processors' sessions have 0.1 judgements a second each, 24 a processor: 40 % of its time.
_PROCESSORS_EACH: Final = 4
# Six times the share of others; with three times, answers of a full machine take a tenth longer (ADR 22).
_NICE: Final = -8
# Who ended sooner will again.
_MIN_LIFE_S: Final = 10.0
# Of malloc: memory of up to this size is kept when it is free.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_BYTES: Final = 32 << 20
_ITEM_BYTES: Final = 4

type Judge = Callable[[NDArray[np.float32]], float]


class TurnDetectors:
    """All of a zygote, which has one thread.

    Args:
        bounds: how they are confined, like sessions.
        keep: files that stay open in them.
        wanted: how many; None: one for four processors. There is none where no model was loaded.
    """

    def __init__(self, bounds: Bounds, keep: Collection[int], wanted: int | None) -> None:
        self._bounds = bounds
        self._keep = keep
        count = math.ceil(Host().processors() / _PROCESSORS_EACH) if wanted is None else wanted
        self._count = count if model.cache_info().currsize else 0
        self._running: dict[int, _Running] = {}  # by pidfd
        self._next = 0

    def start(self) -> list[int]:
        """Fork them; return a file descriptor for each, readable when it has ended."""
        return [pidfd for _ in range(self._count) if (pidfd := self._fork()) is not None]

    def connect(self) -> socket.socket | None:
        """Return a session's end of a connection to one of them; None: there is none that takes it."""
        if not self._running:
            return None
        self._next += 1
        running = [*self._running.values()][self._next % len(self._running)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(running.control, [b"+"], [theirs.fileno()], socket.MSG_DONTWAIT)
            except OSError:  # it has ended, or hangs
                ours.close()
                return None
        return ours

    def replace(self, pidfd: int) -> int | None:
        """Bury one that has ended; return the file descriptor of another, None if it wouldn't live long either."""
        running = self._running.pop(pidfd)
        childlife.kill_group(running.pid)
        _, status = os.waitpid(running.pid, 0)
        os.close(pidfd)
        running.control.close()
        lived_s = time.monotonic() - running.since
        code = os.waitstatus_to_exitcode(status)
        _log.warning("turn_detector_ended", pid=running.pid, code=code, lived_s=round(lived_s, 1))
        return None if lived_s < _MIN_LIFE_S else self._fork()

    def _fork(self) -> int | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        zygote = os.getpid()
        with theirs:
            try:
                pid = os.fork()
            except OSError as error:
                _log.warning("turn_detector_not_started", error=error.strerror)
                ours.close()
                return None
            if pid == 0:
                _live(theirs, zygote, self._bounds, self._keep)
        # Nobody but this thread reaps, so the process has its id still, whatever it does.
        pidfd = os.pidfd_open(pid)
        self._running[pidfd] = _Running(pid, ours)
        _log.info("turn_detector_started", pid=pid)
        return pidfd


class _Running:
    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control
        self.since = time.monotonic()


class Model:
    """Pipecat's analyzer with its own model; loaded where it isn't yet."""

    def __init__(self) -> None:
        module: Any = importlib.import_module(_ANALYZER)
        analyzer = module.LocalSmartTurnAnalyzerV3(sample_rate=RATE)
        analyzer.set_sample_rate(RATE)
        self._predict = analyzer._predict_endpoint  # noqa: SLF001
        # By this analyzers are known that use it.
        self.session: object = analyzer._session  # noqa: SLF001

    def judge(self, samples: NDArray[np.float32]) -> float:
        """Return the probability that a turn (samples, 16 kHz) is over."""
        return self._predict(samples)["probability"]


@functools.cache
def model() -> Model:
    """Return the one of this process, and of those that are forked from it."""
    return Model()


def load() -> None:
    """Load the model if a bot has Pipecat's analyzer imported; where it can't be had there will be no detectors."""
    if _ANALYZER in sys.modules:
        try:
            model()
        except Exception:  # noqa: BLE001 whatever it was, sessions see it too if they use the model
            _log.warning("turn_model_not_loaded", exc_info=True)


def serve(zygote: socket.socket, judge: Judge) -> None:
    """Answer questions, one of each connection in turn, until the zygote is gone.

    Args:
        zygote: where connections come from.
        judge: answers; may raise anything.
    """
    poll = select.poll()
    poll.register(zygote, select.POLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _events in poll.poll():
            if fd == zygote.fileno():
                packet, fds, _, _ = socket.recv_fds(zygote, 1, 1, socket.MSG_CMSG_CLOEXEC)
                if not packet:
                    for each in connections.values():
                        each.close()
                    return
                # None where this process may open no more: the kernel has hung up on that session.
                for connection in map(_connection, fds):
                    connections[connection.fileno()] = connection
                    poll.register(connection, select.POLLIN)
            elif not _answer(connections[fd], judge):
                poll.unregister(fd)
                connections.pop(fd).close()


def _connection(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def _answer(connection: socket.socket, judge: Judge) -> bool:
    """Answer a question; return False if there is no answer, or nobody who takes it: then nothing more is asked."""
    try:
        packet, fds, _, _ = socket.recv_fds(connection, QUESTION.size, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    except OSError:
        return False
    try:
        if len(packet) != QUESTION.size or len(fds) != 1:
            return False
        samples = np.frombuffer(os.pread(fds[0], MAX_SAMPLES * _ITEM_BYTES, 0), np.float32)
        probability = judge(samples)
    except Exception:  # noqa: BLE001 whoever asked judges for himself, and all others have their answers
        _log.warning("turn_not_judged", exc_info=True)
        return False
    finally:
        for fd in fds:
            os.close(fd)
    try:
        connection.send(ANSWER.pack(*QUESTION.unpack(packet), probability), socket.MSG_DONTWAIT)
    except OSError:  # it doesn't read, or is gone
        return False
    return True


def _live(zygote: socket.socket, zygote_pid: int, bounds: Bounds, keep: Collection[int]) -> NoReturn:
    """Be the process: from here on nothing of the zygote's own code runs in it."""
    code = 1
    try:
        childlife.die_with_parent()
        if os.getppid() == zygote_pid:
            childlife.detach({zygote.fileno(), *keep})
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            kernel.set_name(NAME)
            _come_first()
            sealed, _ = seal(bounds)
            sealed.enter()
            _keep_memory()
            serve(zygote, model().judge)
        code = 0
    except BaseException:  # noqa: BLE001 there is no caller: what isn't logged here is lost
        _log.exception("turn_detector_failed")
    finally:
        os._exit(code)


def _come_first() -> None:
    """Ask for the processor before sessions, as far as that is allowed."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    # Where the kernel shares the processors out by groups of processes of a session (sched_autogroup), among these.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))


def _keep_memory() -> None:
    """Keep what a judgement has taken, which session processes give back: the next one comes soon."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    warmup.keep_arenas()
