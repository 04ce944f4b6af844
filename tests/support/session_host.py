"""Stands in for the zygote: imports, warms, forks session processes on request, and says how they ended.

    python -m tests.support.session_host FD    (FD: a SOCK_SEQPACKET socket)

A packet with one file descriptor is a request to fork: the descriptor is the new process's control socket, the packet
is JSON with environment variables for its settings. Answers: `pid <pid>` after a fork, `exit <pid> <status>` after an
exit.
"""

import asyncio
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Final

from loguru import logger

from greenroom.common.settings import load
from greenroom.runner import warmup
from greenroom.runner.bots import echo as built_in_echo
from greenroom.runner.rehearsal import rehearse
from greenroom.runner.session import process
from greenroom.runner.session.context import SessionContext
from greenroom.runner.settings import RunnerSettings
from tests.support import telephony_bots
from tests.support.session_bots import BOTS
from tests.support.watched_bots import WATCHED_BOTS

# What comes with us, by a name of its own where a test has one of that name.
_BOTS: Final = {**BOTS, "line": built_in_echo.bot, "phone": telephony_bots.bot}
_REHEARSAL_S: Final = 20.0
_JOIN_S: Final = 5.0


def main(fd: int) -> None:
    """Serve until the other end is closed."""
    _warm_up()
    bots = {**BOTS, **WATCHED_BOTS, "cloud": importlib.import_module("tests.support.cloud_bot").bot}
    host = socket.socket(fileno=fd)
    host.send(b"ready")
    while True:
        readable, _, _ = select.select([host], [], [], 0.01)
        if readable:
            packet, fds, _, _ = socket.recv_fds(host, 4096, 1)
            if not packet:
                return
            settings = load(RunnerSettings, {**os.environ, **json.loads(packet)})
            context = SessionContext(
                runner_id="test-runner",
                settings=settings,
                bots={(name, 1): bot for name, bot in {**_BOTS, **bots}.items()},
            )
            host.send(f"pid {_fork(host, fds[0], context)}".encode())
        _reap(host)


def _warm_up() -> None:
    warmup.share_models()
    process.warm()
    logger.remove()
    asyncio.run(rehearse(_REHEARSAL_S))
    if names := warmup.join_threads(_JOIN_S):
        raise SystemExit(f"threads are left: {names}")
    warmup.settle()


def _fork(host: socket.socket, control: int, context: SessionContext) -> int:
    pid = os.fork()
    if pid == 0:
        host.close()
        code = 99
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.enable()
            code = process.run(control, context)
        except BaseException:  # noqa: BLE001 it must not get back into the host's own loop
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(control)
    return pid


def _reap(host: socket.socket) -> None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    if pid:
        host.send(f"exit {pid} {os.waitstatus_to_exitcode(status)}".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
