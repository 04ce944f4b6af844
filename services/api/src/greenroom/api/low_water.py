"""How much has to have come of a client before this process is woken for it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

# Where an app finds how to say what it wants, in the scope of a WebSocket.
_EXTENSION: Final = "greenroom.wanted"
# Whatever is wanted: a fraction of what the kernel takes of a client that isn't read.
_MOST_BYTES: Final = 16 * 1024
# For clients whose clocks and networks aren't ours: who sends in time isn't looked for before.
SLACK_S: Final = 0.02

# Returns how many messages are of use at once, and for how many seconds the first of them may wait for the others.
type Wanted = Callable[[], tuple[int, float]]


def wake_for(scope: Any, wanted: Wanted) -> None:
    """Let a WebSocket be read when as much has come as its app wants; by a server that can't, it is read at once.

    Args:
        scope: of the WebSocket.
        wanted: is asked before each wait for the client.
    """
    extensions: dict[str, Any] = scope.get("extensions") or {}
    said = extensions.get(_EXTENSION)
    if said is not None:
        said["by"] = wanted


class LowWater:
    """The low-water mark of a client's socket (SO_RCVLOWAT), below which the kernel wakes nobody.

    Ends and errors of the connection wake at any mark.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, own: socket.socket | None) -> None:
        self._loop = loop
        self._socket = own
        self._mark = 1
        self._timer: asyncio.TimerHandle | None = None
        self._said: dict[str, Wanted] = {}

    def offer(self, scope: Any) -> None:
        """Offer `wake_for` to the app of a WebSocket."""
        scope["extensions"][_EXTENSION] = self._said

    def await_next(self, message_bytes: int, have_bytes: int) -> None:
        """Wait for as much as the app wants, but not for longer than it says.

        Args:
            message_bytes: how long the last message was, on the wire; others are taken to be as long.
            have_bytes: what of the next one is there.
        """
        wanted = self._said.get("by")
        if wanted is None:
            return
        messages, hold_s = wanted()
        # The first byte of the last of them: it may be shorter, and on a network the rest is there with it.
        mark = min(max((messages - 1) * message_bytes + 1 - have_bytes, 1), _MOST_BYTES)
        self.stop()
        self._set(mark)
        if mark > 1:
            # Then whatever there is; and at once until it is heard again: who says nothing costs nothing.
            self._timer = self._loop.call_later(hold_s + SLACK_S, self._set, 1)

    def stop(self) -> None:
        """Wake nobody any more for what has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, mark: int) -> None:
        if mark != self._mark and self._socket is not None:
            self._mark = mark
            # A connection that has just ended has no socket.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
