"""The session process's end of the control socket."""

import asyncio
import contextlib
import socket
from typing import Final

import msgspec
import structlog

from greenroom.runner import control
from greenroom.runner.control import FromSession, Pong, ToSession

_log = structlog.get_logger()

# The runner reads all the time; a socket that stays full this long has nobody behind it.
_SEND_DEADLINE_S: Final = 1.0
# The runner says four things at most to one session; more is a fault of its own.
_MAX_UNREAD: Final = 64


class Channel:
    """Messages from and to the runner, on the running event loop.

    `closed` is set when the runner's end is gone.
    """

    def __init__(self, fd: int) -> None:
        self.closed = asyncio.Event()
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)  # noqa: FBT003 the standard library's own signature
        # One place is kept for None, which stands for the end.
        self._unread: asyncio.Queue[ToSession | None] = asyncio.Queue(_MAX_UNREAD + 1)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    async def receive(self) -> ToSession | None:
        """Return the next message, or None once when the runner is gone."""
        return await self._unread.get()

    async def send(self, message: FromSession) -> bool:
        """Send to the runner; return whether it could be: one that is gone or doesn't read gets nothing."""
        packet = control.encode(message)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SEND_DEADLINE_S):
                while not self._try_send(packet):
                    if isinstance(message, Pong):
                        return False
                    await asyncio.sleep(0.01)  # uvloop has no sendall for packets, and this never lasts
            return True
        return False

    def say(self, message: FromSession) -> bool:
        """Send to the runner now; returns whether it could be."""
        with contextlib.suppress(OSError):
            return self._try_send(control.encode(message))
        return False

    def close(self) -> None:
        """Close our end."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _try_send(self, packet: bytes) -> bool:
        try:
            self._socket.send(packet, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def _readable(self) -> None:
        try:
            packet = self._socket.recv(control.MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._loop.remove_reader(self._socket)
            self.closed.set()
            self._unread.put_nowait(None)
            return
        try:
            message = control.decode_to_session(packet)
        except msgspec.MsgspecError as error:
            _log.error("control_message_malformed", error=type(error).__name__)
            return
        if self._unread.qsize() < _MAX_UNREAD:
            self._unread.put_nowait(message)
        else:
            _log.error("control_message_dropped", message=type(message).__name__)
