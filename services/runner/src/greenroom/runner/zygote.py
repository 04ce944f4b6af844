"""The zygote: imports and warms everything once, then forks a session process whenever the runner asks.

`python -m greenroom.runner.zygote FD`, FD being its end of the socket pair. It runs no event loop and has one thread,
because nothing else survives a fork. It holds nothing that matters: when it dies the runner starts another, and the
sessions it has forked live on.
"""

import dataclasses
import os
import select
import signal
import socket
import sys
from collections.abc import Collection, Sequence
from typing import Final, NoReturn

import structlog

from greenroom.common.log import configure_logging
from greenroom.runner import childlife, forkwire, stackfile
from greenroom.runner.discovery import BotSpec
from greenroom.runner.forkwire import Bots, Exited, Fork, Forked, ForkFailed, PeerGone, Prepare, Spoiled
from greenroom.runner.isolation.confinement import Sealed, confine, seal
from greenroom.runner.preload import CannotFork, Preloaded, preload
from greenroom.runner.turn_detector import TurnDetectors

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
        keep: files that libraries hold open: theirs in the forks too.
        detectors: started; each fork gets a connection to one of them.
    """

    def __init__(
        self,
        runner: socket.socket,
        preloaded: Preloaded,
        sealed: Sealed,
        keep: Collection[int],
        detectors: TurnDetectors,
    ) -> None:
        self._runner = runner
        self._preloaded = preloaded
        self._sealed = sealed
        self._keep = keep
        self._detectors = detectors
        self._children: dict[int, int] = {}  # pid by pidfd

    def serve(self, detectors: Collection[int]) -> None:
        """Fork whenever asked, and report exits.

        Args:
            detectors: file descriptors that are readable when one of the turn detectors has ended.

        Raises:
            PeerGone: the runner is gone.
        """
        poll = select.poll()
        for fd in (self._runner.fileno(), *detectors):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _events in poll.poll():
                if fd == self._runner.fileno():
                    pidfd = self._obey()
                else:
                    poll.unregister(fd)
                    pidfd = self._reap(fd) if fd in self._children else self._detectors.replace(fd)
                if pidfd is not None:
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
        detector = self._detectors.connect()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(control_fd)
            forkwire.send(self._runner, ForkFailed(request=request, detail=error.strerror or ""))
            return None
        else:
            if pid == 0:
                self._live(control_fd, detector)
        finally:
            if detector is not None:
                detector.close()
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

    def _live(self, control_fd: int, detector: socket.socket | None) -> NoReturn:
        """Be a session process: from here on nothing of the zygote's own code runs in this process."""
        code, lifeline = EXIT_FAILED, None
        try:
            files = () if detector is None else (detector.fileno(),)
            childlife.become_session(control_fd, {*self._keep, *files}, self._sealed)
            stackfile.offer(control_fd)
            lifeline = childlife.watch_runner(control_fd)
            context = dataclasses.replace(self._preloaded.context, turn_detector=detector)
            code = self._preloaded.run(control_fd, context)
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
        # Files that libraries hold open are theirs in the forks too; all that come later are ours, and are closed.
        keep = childlife.open_files() - {runner.fileno()}
        detectors = TurnDetectors(settings.bounds, keep, settings.turn_detectors)
        # Now, while there may be a capability by which they come first.
        started = detectors.start()
        sealed, sealed_force = seal(settings.bounds)
        _log.info("session_isolation", **force, **sealed_force)
        Zygote(runner, preloaded, sealed, keep, detectors).serve(started)
    except PeerGone:
        return 0
    return 0


if __name__ == "__main__":
    # No exit handlers of libraries, and no waiting for what they may have left.
    os._exit(main(sys.argv[1:]))
