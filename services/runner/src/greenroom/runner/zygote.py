"""The zygote: imports and warms everything once, then forks a session process whenever the runner asks.

`python -m greenroom.runner.zygote FD`, FD being its end of the socket pair. It runs no event loop and has one thread,
because nothing else survives a fork. It holds nothing that matters: when it dies the runner starts another, and the
sessions it has forked live on.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import structlog

from greenroom.common.log import configure_logging
from greenroom.runner import childlife, forkwire, stackfile
from greenroom.runner.discovery import BotSpec
from greenroom.runner.forkwire import Bots, Exited, Fork, Forked, ForkFailed, PeerGone, Prepare, Spoiled
from greenroom.runner.isolation.confinement import Sealed, confine, seal
from greenroom.runner.preload import CannotFork, Preloaded, preload

_log = structlog.get_logger()

# EX_USAGE and EX_SOFTWARE of sysexits.h.
EXIT_USAGE: Final = 64
EXIT_FAILED: Final = 70


class Zygote:
    """Forks and reaps.

    Args:
        runner: the socket to the runner.
        preloaded: what each fork runs.
        sealed: what shuts each fork in.
    """

    def __init__(self, runner: socket.socket, preloaded: Preloaded, sealed: Sealed) -> None:
        self._runner = runner
        self._preloaded = preloaded
        self._sealed = sealed
        self._children: dict[int, int] = {}  # pid by pidfd
        # Files that libraries hold open are theirs in the children too; all that come later are ours, and are closed.
        self._keep = childlife.open_files() - {runner.fileno(), sealed.ruleset}

    def serve(self) -> None:
        """Fork whenever asked, and report exits.

        Raises:
            PeerGone: the runner is gone.
        """
        poll = select.poll()
        poll.register(self._runner, select.POLLIN)
        while True:
            for fd, _events in poll.poll():
                if fd != self._runner.fileno():
                    poll.unregister(fd)
                    self._reap(fd)
                elif (pidfd := self._obey()) is not None:
                    poll.register(pidfd, select.POLLIN)

    def _obey(self) -> int | None:
        message, control_fd = forkwire.receive_in_zygote(self._runner)
        if isinstance(message, Fork) and control_fd is not None:
            return self._fork(message.request, control_fd)
        return None

    def _fork(self, request: int, control_fd: int) -> int | None:
        if childlife.hung_up(control_fd):
            os.close(control_fd)  # whoever asked has given up
            return None
        try:
            pid = os.fork()
        except OSError as error:
            os.close(control_fd)
            forkwire.send(self._runner, ForkFailed(request=request, detail=error.strerror or ""))
            return None
        if pid == 0:
            self._live(control_fd)
        os.close(control_fd)
        # Nobody but this thread reaps, so the process has its id still, whatever it does.
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        forkwire.send(self._runner, Forked(request=request, pid=pid), pidfd)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        # As long as it isn't reaped its id, and so its group's, belongs to nobody else.
        childlife.kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        os.close(pidfd)
        exited = Exited(
            pid=pid,
            code=os.waitstatus_to_exitcode(status),
            max_rss_bytes=usage.ru_maxrss * 1024,
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        )
        forkwire.send(self._runner, exited)

    def _live(self, control_fd: int) -> NoReturn:
        """Be a session process: from here on nothing of the zygote's own code runs in this process."""
        code, lifeline = EXIT_FAILED, None
        try:
            childlife.become_session(control_fd, self._keep, self._sealed)
            stackfile.offer(control_fd)
            lifeline = childlife.watch_runner(control_fd)
            code = self._preloaded.run(control_fd, self._preloaded.context)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else EXIT_FAILED
        except BaseException:  # noqa: BLE001 there is no caller: what isn't logged here is lost
            _log.exception("session_process_failed")
        finally:
            childlife.leave(lifeline, code)


def _await_bots(runner: socket.socket) -> tuple[BotSpec, ...]:
    """Wait for the message that says which bots to import: nothing else is said to a zygote that isn't warm."""
    while True:
        message, _ = forkwire.receive_in_zygote(runner)
        if isinstance(message, Bots):
            return message.bots


def main(arguments: Sequence[str]) -> int:
    """Be the zygote, until the runner is gone; return the exit code."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("usage: python -m greenroom.runner.zygote FD (it is started by the runner)\n")
        return EXIT_USAGE
    childlife.die_with_parent()
    # A terminal's Ctrl-C is for the runner, which ends its sessions in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runner = socket.socket(fileno=int(arguments[0]))
    try:
        order, _ = forkwire.receive_in_zygote(runner)
        if not isinstance(order, Prepare):
            return EXIT_USAGE
        settings = order.settings
        configure_logging(
            "zygote", level=settings.log_level, form=settings.log_format, instance_id=settings.instance_id
        )
        force = confine(settings.bounds)
        try:
            preloaded = preload(order, lambda message: forkwire.send(runner, message), lambda: _await_bots(runner))
        except CannotFork as error:
            _log.error("zygote_spoiled", bot=error.bot, detail=error.detail)
            forkwire.send(runner, Spoiled(bot=error.bot, detail=error.detail))
            return EXIT_FAILED
        sealed, sealed_force = seal(settings.bounds)
        _log.info("session_isolation", **force, **sealed_force)
        Zygote(runner, preloaded, sealed).serve()
    except PeerGone:
        return 0
    return 0


if __name__ == "__main__":
    # No exit handlers of libraries, and no waiting for what they may have left.
    os._exit(main(sys.argv[1:]))
