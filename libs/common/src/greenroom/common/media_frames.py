"""Media messages between edge and session process: five bytes of head, then the payload.

The head is the kind (1 byte) and a sequence number (4 bytes, big-endian) that counts the messages of one
connection in one direction from 0. What core NATS loses (it may, while it reconnects) shows as a hole.
"""

import struct
from typing import Final, Literal

import msgspec

from greenroom.common.messages import MediaKind

HEAD: Final = struct.Struct(">BI")
_CODE: Final = struct.Struct(">H")
_SEQUENCES: Final = 1 << 32
# A hole of more than half the number space is a message that comes late, not four billion lost ones.
_HALF: Final = _SEQUENCES >> 1
# RFC 6455: a close frame has 125 bytes, two of them the code.
MAX_REASON_BYTES: Final = 123

TEXT: Final = int(MediaKind.TEXT)
BINARY: Final = int(MediaKind.BINARY)
CLOSE: Final = int(MediaKind.CLOSE)


class MalformedFrame(ValueError):
    """A media message is too short, or of an unknown kind."""


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a connection: the WebSocket close code, and a reason for people."""

    code: int
    reason: str = ""


def encode(kind: int, sequence: int, payload: bytes) -> bytes:
    """Return the message for `payload`; `sequence` wraps at 2³²."""
    return HEAD.pack(kind, sequence % _SEQUENCES) + payload


def encode_close(sequence: int, close: Close) -> bytes:
    """Return the message that ends a connection."""
    return encode(CLOSE, sequence, _CODE.pack(close.code) + _shortened(close.reason).encode())


def decode(message: bytes) -> tuple[int, int, bytes]:
    """Return kind, sequence and payload.

    Raises:
        MalformedFrame: too short, or of an unknown kind.
    """
    if len(message) < HEAD.size:
        raise MalformedFrame(f"{len(message)} bytes are no frame")
    kind, sequence = HEAD.unpack_from(message)
    if kind > CLOSE:
        raise MalformedFrame(f"kind {kind} is unknown")
    return kind, sequence, message[HEAD.size :]


def decode_close(payload: bytes) -> Close:
    """Return what the payload of a close message says; 1005 (none given) where it says nothing."""
    if len(payload) < _CODE.size:
        return Close(code=1005)
    return Close(code=_CODE.unpack_from(payload)[0], reason=payload[_CODE.size :].decode(errors="replace"))


def sendable(close: Close) -> Close:
    """Return the close as it may be sent to a client: codes that are reserved or unknown become 1011 (server error)."""
    allowed = close.code in {1000, 1001, 1002, 1003, *range(1007, 1015)} or 3000 <= close.code <= 4999  # noqa: PLR2004 RFC 6455, 7.4
    return Close(code=close.code if allowed else 1011, reason=_shortened(close.reason))


class Sequence:
    """Follows the sequence numbers of what comes from the session process.

    A connection begins with number 0. The subject is the session's, not the connection's, so what an earlier
    connection left in flight is told apart by this: before the first 0 nothing counts.
    """

    def __init__(self) -> None:
        """Wait for number 0."""
        self.lost = 0
        self._expected = 0
        self._synced = False

    def take(self, number: int, *, accepted: bool) -> Literal["new", "stale"]:
        """Say what to do with message `number`; holes are added to `lost`.

        Args:
            number: of the message.
            accepted: whether the session process has accepted this connection. After that, a first number other
                than 0 means that the first messages were lost.
        """
        if not self._synced:
            if number and not accepted:
                return "stale"
            self._synced = True
        missing = (number - self._expected) % _SEQUENCES
        if missing >= _HALF:
            return "stale"
        self.lost += missing
        self._expected = (number + 1) % _SEQUENCES
        return "new"


def _shortened(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
