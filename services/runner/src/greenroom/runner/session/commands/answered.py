"""Which commands a session has had, and what was answered: an id is carried out once, and answered the same after.

Answers are kept while there is room; ids for as long as the session lasts. So what was carried out long ago is never
carried out again, even if nobody knows the answer any more.
"""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Final

from greenroom.common import messages
from greenroom.common.command_errors import CommandIdReused, CommandNotDone, TooManyCommands
from greenroom.common.commands import Command, CommandAnswer

# An agent console sends some commands a minute; these hold for hours of one every second.
MAX_IDS: Final = 20_000
MAX_ANSWERS_BYTES: Final = 1024 * 1024
_DIGEST_BYTES: Final = 16


class Answered:
    """The memory of one session process.

    Args:
        max_ids: how many commands a session may have.
        max_bytes: how many bytes of answers are kept; the last one always is.
    """

    def __init__(self, *, max_ids: int = MAX_IDS, max_bytes: int = MAX_ANSWERS_BYTES) -> None:
        self._max_ids = max_ids
        self._max_bytes = max_bytes
        self._digests: dict[str, bytes] = {}
        self._running: dict[str, asyncio.Future[bytes]] = {}
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    @property
    def running(self) -> int:
        """How many are being carried out."""
        return len(self._running)

    def begin(self, command_id: str, command: Command) -> asyncio.Future[bytes] | bytes | None:
        """Say what to do with a command.

        Returns:
            None: carry it out, then `finish` or `forget` it. Bytes: this was answered. A future: that will be answered,
            to whoever asked first and to everybody who asks meanwhile.

        Raises:
            CommandIdReused: the id belongs to another command.
            CommandNotDone: it was carried out, and the answer isn't kept any more.
            TooManyCommands: the session has had as many as it may.
        """
        digest = _digest(command)
        known = self._digests.get(command_id)
        if known is None:
            if len(self._digests) >= self._max_ids:
                raise TooManyCommands(f"A session takes {self._max_ids} commands.")
            self._digests[command_id] = digest
            self._running[command_id] = asyncio.get_running_loop().create_future()
            return None
        if known != digest:
            raise CommandIdReused
        if command_id in self._running:
            return self._running[command_id]
        if command_id in self._answers:
            return self._answers[command_id]
        raise CommandNotDone("It was carried out, and its answer isn't kept any more.")

    def finish(self, command_id: str, answer: CommandAnswer) -> bytes:
        """Keep the answer, give it to all who wait for it, and return it as it is sent."""
        encoded = messages.encode(answer)
        self._answers[command_id] = encoded
        self._bytes += len(encoded)
        while self._bytes > self._max_bytes and len(self._answers) > 1:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= len(oldest)
        self._running.pop(command_id).set_result(encoded)
        return encoded

    def forget(self, command_id: str, answer: CommandAnswer) -> bytes:
        """Nothing was done: give `answer` to all who wait, and let the id be used again."""
        encoded = messages.encode(answer)
        del self._digests[command_id]
        self._running.pop(command_id).set_result(encoded)
        return encoded


def _digest(command: Command) -> bytes:
    return hashlib.sha256(messages.encode(command)).digest()[:_DIGEST_BYTES]
