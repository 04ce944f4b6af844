"""What a client says once, at its beginning, and what another process would have to hear again.

A carrier opens its media socket with a few messages, the last of which (`start`) has the ids of stream and call; a
session process that hasn't heard them doesn't know whom it speaks with. If the session is put on another runner, the
socket stays where it is, at the edge, and the carrier says nothing again: the edge does.

    waiting   each text message is kept; audio isn't text of a beginning, and bounds keep the rest short
    complete  the message that begins the stream is kept, and nothing after it
    none      it wasn't among the first messages, or they are too long: nothing is kept, as of clients of other kinds
"""

from typing import Final

import msgspec

# Carriers say one or two things before audio.
MAX_MESSAGES: Final = 4
# A start has ids, numbers and what the customer has added to the call.
MAX_BYTES: Final = 16 * 1024


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    event: str = ""


class Opening:
    """The beginning of one connection.

    Args:
        kept: whether the client is one that says something once.
    """

    def __init__(self, *, kept: bool) -> None:
        self._waits = kept
        self._heard: list[str] = []

    @property
    def messages(self) -> tuple[str, ...]:
        """What another process has to hear; empty: nothing, or not all of it was heard."""
        return () if self._waits else tuple(self._heard)

    @property
    def waits(self) -> bool:
        """Whether the next message may still belong to it."""
        return self._waits

    def hear(self, text: str) -> None:
        """Take a message of the client."""
        if not self._waits:
            return
        self._heard.append(text)
        self._waits = not _begins(text)
        if len(self._heard) > MAX_MESSAGES or sum(map(len, self._heard)) > MAX_BYTES:
            self._waits = False
            self._heard.clear()


def _begins(text: str) -> bool:
    try:
        return msgspec.json.decode(text, type=_Message).event == "start"
    except (msgspec.MsgspecError, RecursionError):
        return False
