"""Where a session process writes its stacks when it is asked to, whatever its event loop does.

When it begins (`offer`), it opens a file in memory, has `faulthandler` write the stacks of all its threads into it upon
SIGUSR2, in the signal handler itself, and hands the file to the runner over its control socket. The runner asks
(`StackFile.ask`) and reads (`answer`): files, lines and functions, never what variables hold.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
from typing import Final

from greenroom.runner import control
from greenroom.runner.control import Stacks

SIGNAL: Final = signal.SIGUSR2
# What is kept of a dump.
MAX_BYTES: Final = 8 * 1024
# The handler writes in microseconds; a process that is stopped, or that the kernel holds, doesn't write at all.
_WRITTEN_WITHIN_S: Final = 1.0
_LOOK_S: Final = 0.02


def offer(control_fd: int) -> None:
    """Begin to write stacks on demand, and give the runner the file. Called in a fresh fork."""
    try:
        fd = os.memfd_create("stacks")
    except OSError:  # no memory, no descriptors: a session without stacks is better than none
        return
    faulthandler.register(SIGNAL, file=fd, all_threads=True, chain=False)
    sock = socket.socket(fileno=control_fd)
    try:
        with contextlib.suppress(OSError):  # the runner is gone, which whoever reads from it will notice
            socket.send_fds(sock, [control.encode(Stacks())], [fd])
    finally:
        sock.detach()


class StackFile:
    """The runner's side: the file of one process. Without a file there is nothing to read."""

    def __init__(self) -> None:
        self._fd: int | None = None
        # What was read already, and what of it nobody has had yet.
        self._offset = 0
        self._text = ""

    def take(self, fd: int) -> None:
        """Take the file; the first one counts."""
        if self._fd is None:
            self._fd = fd
        else:
            os.close(fd)

    def ask(self, pidfd: int) -> None:
        """Have a process write its stacks, as soon as the kernel lets it run.

        Args:
            pidfd: of the process.
        """
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, SIGNAL)

    async def answer(self) -> str:
        """Return what the process has written since the last time; empty when it doesn't, or didn't before it ended."""
        loop = asyncio.get_running_loop()
        deadline, size = loop.time() + _WRITTEN_WITHIN_S, -1
        while loop.time() < deadline and self._fd is not None:
            await asyncio.sleep(_LOOK_S)
            before, size = size, self._size()
            if size == before and size > self._offset:
                break
        self._read()
        text, self._text = self._text, ""
        return text

    def close(self) -> None:
        """Read what there is, and forget the file."""
        self._read()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _size(self) -> int:
        return 0 if self._fd is None else os.fstat(self._fd).st_size

    def _read(self) -> None:
        size = self._size()
        if self._fd is None or size <= self._offset:
            return
        text = os.pread(self._fd, MAX_BYTES, self._offset).decode(errors="replace")
        left = size - self._offset - MAX_BYTES
        self._offset = size
        self._text = f"{text}\n… {left} more bytes" if left > 0 else text
