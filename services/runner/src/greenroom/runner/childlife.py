"""What a session process owes to the runner: it is on its own, and it doesn't outlive it.

Called between the fork and the session's own code, in the only thread there is.
"""

import contextlib
import errno
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, NoReturn

import structlog

from greenroom.runner import control
from greenroom.runner.control import Begun
from greenroom.runner.isolation import kernel, usage
from greenroom.runner.isolation.confinement import Sealed

# A lost runner leaves no second voice in a room: its session processes are gone within a second.
ORPHAN_GRACE_S: Final = 0.7
# The kernel, when it runs out of memory, shall take a session before the runner (0) or the broker.
_OOM_SCORE_ADJ: Final = "300"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_STDIO: Final = 3

_log = structlog.get_logger()


def become_session(control_fd: int, keep: Collection[int], sealed: Sealed) -> None:
    """Turn a fresh fork into a process of its own.

    It leads a session and process group (so that it can be killed with all its children), adopts the orphans among
    its descendants, has no file but standard output, standard error, its control socket and those in `keep`, takes
    signals as any new program does, collects garbage again, and is shut in (`isolation.confinement`).
    """
    detach({control_fd, *keep, *(() if sealed.ruleset is None else (sealed.ruleset,))})
    kernel.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _make_expendable()
    usage.hand_over(control_fd, control.encode(Begun()))
    sealed.enter()
    _reseed()
    gc.enable()


def detach(keep: Collection[int]) -> None:
    """Have a fresh fork lead a session and process group, without files but those in `keep`, standard output and error.

    It takes signals as any new program does.
    """
    os.setsid()
    _close_files({*keep})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def watch_runner(control_fd: int) -> int:
    """Start a thread that ends this process and its group within a second of the runner's death.

    The session ends in order if its event loop sees the closed socket and is quick; this is for a loop that hangs.
    Returns a file descriptor to `leave` by: the control socket itself is closed by whoever uses it.
    """
    lifeline = os.dup(control_fd)
    threading.Thread(target=_end_with_runner, args=(lifeline,), name="runner-watch", daemon=True).start()
    return lifeline


def leave(lifeline: int | None, code: int) -> NoReturn:
    """End this process with `code`, without exit handlers: those were registered for the zygote."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if lifeline is not None and hung_up(lifeline):
            # The runner is gone: nobody is left to kill what this process has started.
            os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(code)


def kill_group(pid: int) -> None:
    """Kill what is left of the group of a process that has exited but isn't reaped yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is alone, or died before it led a group
        os.killpg(pid, signal.SIGKILL)


def open_files() -> frozenset[int]:
    """Return the file descriptors of this process."""
    found: set[int] = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one the directory was read through is closed by now
            os.fstat(int(entry.name))
            found.add(int(entry.name))
    return frozenset(found)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of descendants that lose theirs, so that their exits are seen."""
    kernel.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _end_with_runner(lifeline: int) -> None:
    hung_up(lifeline, timeout_ms=None)
    time.sleep(ORPHAN_GRACE_S)
    os.killpg(0, signal.SIGKILL)


def hung_up(lifeline: int, *, timeout_ms: int | None = 0) -> bool:
    """Tell whether the runner's end of a control socket is closed; wait for it, with None for ever."""
    poll = select.poll()
    poll.register(lifeline, 0)  # only hang-up and error: whoever reads messages is somebody else
    return bool(poll.poll(timeout_ms))


def _close_files(keep: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    # What was begun to be written before the fork belongs to the parent.
    kept = sorted({*keep, *range(_STDIO)})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _make_expendable() -> None:
    try:
        _write_oom_score()
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS}:
            raise
        _log.debug("oom_score_unchanged", error=error.strerror)


def _write_oom_score() -> None:
    file = Path("/proc/self/oom_score_adj")
    try:
        file.write_text(_OOM_SCORE_ADJ)
    except PermissionError:
        # The files of a process that isn't dumpable are root's. It has nothing to hide yet.
        if kernel.dumpable():
            raise
        kernel.set_dumpable(True)
        try:
            file.write_text(_OOM_SCORE_ADJ)
        finally:
            kernel.set_dumpable(False)


def _reseed() -> None:
    # `random` reseeds itself after a fork; NumPy doesn't, and all sessions would draw the same numbers.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4)))
