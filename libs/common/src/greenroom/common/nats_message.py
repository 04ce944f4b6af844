"""nats-py's messages as ours."""

from datetime import UTC, datetime
from typing import Final

from nats.aio.msg import Msg

from greenroom.common.broker import Message

# $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>; newer servers put domain and
# account hash in front of the stream, and may add a token at the end.
_SHORT_LAYOUT: Final = 9


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
        at=datetime.fromtimestamp(int(ns) / 1e9, UTC),
        deliveries=int(deliveries),
        pending=int(pending),
    )


def consumer_sequence(msg: Msg) -> int:
    """Return the consumer's own sequence number of a message from a stream, counted from 1."""
    return int(_ack_tokens(msg.reply)[2])


def _ack_tokens(reply: str) -> list[str]:
    parts = reply.split(".")
    first = 4 if len(parts) == _SHORT_LAYOUT else 6
    return parts[first : first + 5]
