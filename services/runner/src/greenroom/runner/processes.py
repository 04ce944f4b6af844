"""A session process as the runner sees it: a control socket, a pidfd, and an exit that is seen exactly once."""

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from greenroom.runner import childlife, control
from greenroom.runner.control import Begun, FromSession, Pong, Stacks, Standby, ToSession
from greenroom.runner.isolation.groups import SessionGroup, SessionGroups
from greenroom.runner.isolation.usage import Meter
from greenroom.runner.stackfile import StackFile
from greenroom.runner.verdicts import Exit

_log = structlog.get_logger()

# How long after a process's exit the zygote may take to report the status before it counts as unknown.
_STATUS_TIMEOUT_S: Final = 1.0
# Messages of one process that are taken before others have their turn.
_BATCH: Final = 16
# A process that waits for its session says nothing but `Standby`.
_MAX_UNHEARD: Final = 64
# It sends one at a time; whatever else comes is closed.
_MAX_FDS: Final = 8
_INT: Final = struct.Struct("i")


class SessionProcess:
    """A process that was forked for one session.

    Must be made on the event loop. What it says before somebody listens is kept.

    Args:
        pid: its process id.
        pidfd: refers to it, whatever becomes of the id.
        channel: this end of its control socket.
        sent: how many messages it has been sent already.

    Attributes:
        pid: its process id, which is its process group's too.
        standby: set once it has said that it is warm and connected.
        meter: reads what it uses.
    """

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, *, sent: int = 0) -> None:
        self.pid: Final = pid
        self.forked_at: Final = time.monotonic()
        self.standby = asyncio.Event()
        self.meter: Final = Meter(pid)
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[Exit] = self._loop.create_future()
        self._pidfd = pidfd
        self._channel = channel
        self._reported: Exit | None = None
        self._gone = False
        self._orphaned = False
        self._timer: asyncio.TimerHandle | None = None
        self._on_message: Callable[[FromSession], None] | None = None
        self._unheard: list[FromSession] = []
        self._sent = sent
        self._reset = False
        self._heard_at = self.forked_at
        self._stack_file = StackFile()
        self._group: SessionGroup | None = None
        channel.setblocking(False)  # noqa: FBT003 the standard library's own signature
        self._loop.add_reader(channel, self._readable)
        self._loop.add_reader(pidfd, self._on_exit)

    @property
    def alive(self) -> bool:
        """Whether it runs, asked of the kernel now."""
        if self._gone:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def wait(self) -> Exit:
        """Return how it ended, once the kernel has said that it is gone."""
        return await asyncio.shield(self._exited)

    def on_exit(self, call: Callable[[Exit], None]) -> None:
        """Have `call` called once it is gone."""
        self._exited.add_done_callback(lambda exited: call(exited.result()))

    @property
    def never_read(self) -> bool:
        """Whether it has died without having read the one message it was sent, and so has done nothing about it.

        The kernel tells: closing a socket with something unread in it resets the connection instead of ending it.
        """
        return self._reset and self._sent == 1

    @property
    def unread(self) -> bool:
        """Whether something that it was sent still lies in the socket, as the kernel tells."""
        if self._channel.fileno() < 0:
            return False
        return bool(_INT.unpack(fcntl.ioctl(self._channel, termios.TIOCOUTQ, bytes(_INT.size)))[0])

    def answers(self, within_s: float) -> bool:
        """Tell whether it has said something in the last seconds; what it said may still be in the socket."""
        if time.monotonic() - self._heard_at > within_s and not self._gone and self._channel.fileno() >= 0:
            self._readable()
        return time.monotonic() - self._heard_at <= within_s

    def listen(self, on_message: Callable[[FromSession], None]) -> None:
        """Hand every message, those that were unheard so far too, to `on_message`."""
        self._on_message = on_message
        unheard, self._unheard = self._unheard, []
        for message in unheard:
            on_message(message)

    def shut_into(self, groups: SessionGroups) -> None:
        """Have it moved into a control group of its own; that takes some milliseconds, and nobody waits for it."""
        self._loop.run_in_executor(None, groups.adopt, self.pid).add_done_callback(self._on_group)

    def send(self, message: ToSession) -> bool:
        """Send a message; return False when the process doesn't take it any more."""
        try:
            self._channel.send(control.encode(message))
            self._sent += 1
        except OSError as error:
            _log.warning("session_process_deaf", pid=self.pid, message=type(message).__name__, error=error.strerror)
            return False
        return True

    def ask_for_stacks(self) -> None:
        """Have it write where its threads are."""
        if not self._gone:
            self._stack_file.ask(self._pidfd)

    async def stacks(self) -> str:
        """Return where its threads were when they were asked for; empty if it didn't say (stopped, held, gone)."""
        return await self._stack_file.answer()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process itself; its groups are killed when its exit is seen, or now with SIGKILL."""
        if not self._gone:
            if self._group is not None and number is signal.SIGKILL:
                self._group.kill()
            with contextlib.suppress(ProcessLookupError):  # its exit is about to be seen
                signal.pidfd_send_signal(self._pidfd, number)

    def hang_up(self) -> None:
        """Close the control socket: an idle process leaves, any other ends within a second."""
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()

    def report(self, status: Exit) -> None:
        """Take the zygote's report of the exit status."""
        self._reported = status
        if self._gone:
            self._finish(status)

    def orphaned(self) -> None:
        """Take notice that the zygote is dead: the exit status comes from the kernel, for the runner adopts it."""
        self._orphaned = True
        if self._gone and not self._exited.done():
            self._finish(self._reap())

    # ------------------------------------------------------------------------ events of the loop

    def _readable(self) -> bool:
        """Hear what was said; return whether there may be more."""
        for _ in range(_BATCH):
            fds: list[int] = []
            try:
                packet, fds, _, _ = socket.recv_fds(
                    self._channel, control.MAX_PACKET_BYTES, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except ConnectionResetError:
                self._reset, packet = True, b""
            except OSError:
                packet = b""
            if not packet:
                self._loop.remove_reader(self._channel)
                return False
            self._hear(packet, fds)
        return True

    def _hear(self, packet: bytes, fds: list[int]) -> None:
        try:
            message = control.decode_from_session(packet)
        except msgspec.MsgspecError as error:
            _log.error("session_message_malformed", pid=self.pid, error=str(error))
            message = None
        self._take_files(message, fds)
        if message is None:
            return
        self._heard_at = time.monotonic()
        if isinstance(message, Standby):
            self.standby.set()
        elif isinstance(message, Begun | Stacks) or (isinstance(message, Pong) and self._on_message is None):
            # That it was said is all.
            return
        elif self._on_message is not None:
            self._on_message(message)
        elif len(self._unheard) < _MAX_UNHEARD:
            self._unheard.append(message)

    def _take_files(self, message: FromSession | None, fds: list[int]) -> None:
        for fd in fds:
            if isinstance(message, Begun):
                self.meter.take(fd)
            elif isinstance(message, Stacks):
                self._stack_file.take(fd)
            else:
                os.close(fd)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # What it said last is still in the socket.
        while self._channel.fileno() >= 0 and self._readable():
            pass
        self._gone = True
        if self._reported is not None:
            self._finish(self._reported)
        elif self._orphaned:
            self._finish(self._reap())
        else:
            self._timer = self._loop.call_later(_STATUS_TIMEOUT_S, lambda: self._finish(self._reap()))

    def _reap(self) -> Exit:
        """Take the status as the process's new parent; unknown if it isn't (the zygote took it, and died or hangs)."""
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is None:
                return Exit(code=None)
            childlife.kill_group(self.pid)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return Exit(code=None)
        return Exit(code=result.si_status if result.si_code == os.CLD_EXITED else -result.si_status)

    def _finish(self, status: Exit) -> None:
        if self._exited.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self.hang_up()
        self.meter.close()
        self._stack_file.close()
        os.close(self._pidfd)
        if self._group is not None:
            self._group.kill()
            status = msgspec.structs.replace(status, group=self._group.end())
            self._leave(self._group)
        self._exited.set_result(status)

    def _on_group(self, adopted: asyncio.Future[SessionGroup]) -> None:
        if adopted.cancelled():
            return
        if (error := adopted.exception()) is not None:
            if self.alive:
                _log.error("session_without_control_group", pid=self.pid, error=str(error))
        elif self._exited.done():
            self._leave(adopted.result())
        else:
            self._group = self.meter.group = adopted.result()

    def _leave(self, group: SessionGroup) -> None:
        """Have a control group removed once it is empty."""
        self._loop.run_in_executor(None, group.remove)
