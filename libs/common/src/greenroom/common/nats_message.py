"""nats-py's messages as ours."""

from collections.abc import Iterator, Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from greenroom.common.broker import Message
from greenroom.common.nats_parser import RawMessage

# $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>; newer servers put domain and
# account hash in front of the stream, and may add a token at the end.
_SHORT_LAYOUT: Final = 9
_NUMBERS: Final = 5
FROM_A_STREAM: Final = b"$JS.ACK."
# What a block of headers begins with; a status stands in the same line.
_FIRST_LINE: Final = b"NATS/1.0"
_STATUS_DIGITS: Final = 3


class Headers(Mapping[str, str]):
    """Headers that are taken apart when somebody looks, which for most messages nobody does."""

    __slots__ = ("_block", "_parsed")

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            _, _, lines = self._block.partition(b"\r\n")
            self._parsed = Client._parse_header_lines(lines)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def received(msg: Msg) -> Message:
    """Return a nats-py message as ours; stream fields are set where its reply subject carries them."""
    if not msg.reply.startswith("$JS.ACK."):
        return Message(subject=msg.subject, data=msg.data, headers=msg.headers or {}, reply=msg.reply)
    deliveries, stream_seq, _, ns, pending = _ack_tokens(msg.reply)
    return Message(
        subject=msg.subject,
        data=msg.data,
        headers=msg.headers or {},
        stream_seq=int(stream_seq),
        at_ns=int(ns),
        deliveries=int(deliveries),
        pending=int(pending),
    )


def delivered(raw: RawMessage) -> Message:
    """Return a message that a consumer has handed over as ours: the same as `received` makes of nats-py's."""
    reply = raw.reply
    if reply.count(b".") == _SHORT_LAYOUT - 1:
        _, deliveries, stream_seq, _, ns, pending = reply.rsplit(b".", _NUMBERS)
    else:
        deliveries, stream_seq, _, ns, pending = reply.split(b".")[6 : 6 + _NUMBERS]
    return Message(
        subject=raw.subject.decode(),
        data=raw.data,
        headers=Headers(raw.headers) if raw.headers else {},
        stream_seq=int(stream_seq),
        at_ns=int(ns),
        deliveries=int(deliveries),
        pending=int(pending),
    )


def status_of(raw: RawMessage) -> tuple[str, str] | None:
    """Return number and text of the status that a message is; None: it is a message of the stream."""
    if raw.data or raw.reply.startswith(FROM_A_STREAM):
        return None
    code, _, text = raw.headers.partition(b"\r\n")[0].removeprefix(_FIRST_LINE).strip().partition(b" ")
    if len(code) != _STATUS_DIGITS or not code.isdigit():
        return None
    return code.decode(), text.strip().decode("utf-8", "replace")


def consumer_sequence(msg: Msg) -> int:
    """Return the consumer's own sequence number of a message from a stream, counted from 1."""
    return int(_ack_tokens(msg.reply)[2])


def _ack_tokens(reply: str) -> list[str]:
    parts = reply.split(".")
    first = 4 if len(parts) == _SHORT_LAYOUT else 6
    return parts[first : first + _NUMBERS]
