"""Media messages between edge and session process: five bytes of head, then the payload.

The head is the kind (1 byte) and a sequence number (4 bytes, big-endian) that counts the messages of one
connection in one direction from 0. What core NATS loses (it may, while it reconnects) shows as a hole.

A client sends 50 frames a second, and each message costs the edge, the broker and the process as much as a long one.
So a process that hears audio in longer pieces than that asks the edge to put several messages into one (`Join`), if
the edge has said that it can (`ConnectMedia.packs`). While its user is silent, more of them, as long as there is
nothing to hear in them (`Lull`): the edge knows no format of audio, so it is told where the samples lie.
"""

import functools
import math
import struct
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from greenroom.common.media_messages import MediaKind

HEAD: Final = struct.Struct(">BI")
_CODE: Final = struct.Struct(">H")
_ENTRY: Final = struct.Struct(">BI")
_JOIN: Final = struct.Struct(">BH")
_LULL: Final = struct.Struct(">IIIQBH")
# To look at all samples takes an edge longer than a whole frame takes it otherwise.
_STEP: Final = 4
_SEQUENCES: Final = 1 << 32
# A hole of more than half the number space is a message that comes late, not four billion lost ones.
_HALF: Final = _SEQUENCES >> 1
# RFC 6455: a close frame has 125 bytes, two of them the code.
MAX_REASON_BYTES: Final = 123

TEXT: Final = int(MediaKind.TEXT)
BINARY: Final = int(MediaKind.BINARY)
CLOSE: Final = int(MediaKind.CLOSE)
PACKED: Final = int(MediaKind.PACKED)
JOIN: Final = int(MediaKind.JOIN)
_LAST: Final = max(MediaKind)


class MalformedFrame(ValueError):
    """A media message is too short, or of an unknown kind."""


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a connection: the WebSocket close code, and a reason for people."""

    code: int
    reason: str = ""


class Lull(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to get more messages in one, until one comes that isn't quiet.

    A message of audio has `size` bytes, `samples` of 16 bit (little-endian) in it from byte `start` on. It is quiet if
    the sum of their squares is below `loud`, told by one sample of four: of a voice, or of noise, that is true to 1 dB.
    """

    size: int
    start: int
    samples: int
    loud: int
    messages: int
    hold_ms: int

    def covers(self, payload: bytes) -> bool:
        """Tell whether a message is audio, and quiet."""
        if len(payload) != self.size:
            return False
        heard = _some(self.samples).unpack_from(payload, self.start)
        return math.sumprod(heard, heard) * _STEP < self.loud


# Bounded: how many samples there are is said by a session process.
@functools.lru_cache(maxsize=64)
def _some(samples: int) -> struct.Struct:
    return struct.Struct("<" + f"h{(_STEP - 1) * 2}x" * (samples // _STEP))


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to get so many messages of the client in one, none of them held longer than that."""

    messages: int
    hold_ms: int
    lull: Lull | None = None


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
    if kind > _LAST:
        raise MalformedFrame(f"kind {kind} is unknown")
    return kind, sequence, message[HEAD.size :]


def pack(messages: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the payload of several messages in one, each a kind and a payload."""
    return b"".join([part for kind, payload in messages for part in (_ENTRY.pack(kind, len(payload)), payload)])


def unpack(payload: bytes) -> list[tuple[int, bytes]]:
    """Return kinds and payloads of the messages that were put into one.

    Raises:
        MalformedFrame: it breaks off, or something else than text and binary messages is in it.
    """
    messages: list[tuple[int, bytes]] = []
    at = 0
    while at < len(payload):
        start = at + _ENTRY.size
        if start > len(payload):
            raise MalformedFrame("a message that was packed breaks off")
        kind, length = _ENTRY.unpack_from(payload, at)
        at = start + length
        if at > len(payload) or kind > BINARY:
            raise MalformedFrame("a message that was packed breaks off, or is of a kind that isn't packed")
        messages.append((kind, payload[start:at]))
    return messages


def encode_join(sequence: int, join: Join) -> bytes:
    """Return the message that asks for several messages in one."""
    wish, lull = _JOIN.pack(join.messages, join.hold_ms), join.lull
    if lull is not None:
        wish += _LULL.pack(lull.size, lull.start, lull.samples, lull.loud, lull.messages, lull.hold_ms)
    return encode(JOIN, sequence, wish)


def decode_join(payload: bytes) -> Join:
    """Return what the process wishes.

    Raises:
        MalformedFrame: too short, or samples would lie outside of their message.
    """
    if len(payload) < _JOIN.size:
        raise MalformedFrame(f"{len(payload)} bytes are no wish")
    messages, hold_ms = _JOIN.unpack_from(payload)
    return Join(messages=messages, hold_ms=hold_ms, lull=_lull(payload[_JOIN.size :]))


def _lull(payload: bytes) -> Lull | None:
    if len(payload) < _LULL.size:
        return None
    size, start, samples, loud, messages, hold_ms = _LULL.unpack_from(payload)
    if start + samples * 2 > size:
        raise MalformedFrame(f"{samples} samples from byte {start} on don't fit in {size} bytes")
    return Lull(size=size, start=start, samples=samples, loud=loud, messages=messages, hold_ms=hold_ms)


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
