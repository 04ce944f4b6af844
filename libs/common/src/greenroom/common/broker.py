"""What the services need of a message broker, and nothing of how NATS does it.

Two implementations pass one contract suite (tests/contract/test_broker.py): `nats_broker.NatsBroker`,
which every service runs on, and a memory one for the tests of what is built on top.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from greenroom.common.clock import from_ns
from greenroom.common.errors import GreenroomError

# A JetStream leader that is killed leaves up to 8.4 s without acknowledgements; this survives it.
APPEND_TIMEOUT_S = 12.0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it was received.

    `stream_seq`, `at_ns` (when it was stored, in nanoseconds since 1970), `deliveries` and `pending` (how many more
    the reader has before it) are set where it comes from a stream.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str] = {}
    reply: str = ""
    stream_seq: int = 0
    at_ns: int = 0
    deliveries: int = 1
    pending: int = 0

    @property
    def at(self) -> datetime | None:
        """When it was stored; None: it doesn't come from a stream."""
        return from_ns(self.at_ns) if self.at_ns else None


type Handler = Callable[[Message], Awaitable[None]]
type Responder = Callable[[Message], Awaitable[bytes]]


class Subscription(Protocol):
    """A running subscription."""

    async def unsubscribe(self) -> None:
        """Stop; messages that are queued are dropped."""
        ...


class Reader(Protocol):
    """An ordered reader of a stream: no gaps, no repeats, over any number of reconnects."""

    # Set once everything that was in the stream at the start has been read.
    caught_up: asyncio.Event

    def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate over messages in stream order; ends when the reader is closed."""
        ...

    async def close(self) -> None:
        """Stop reading."""
        ...


class Delivery(Protocol):
    """A message of a durable consumer that waits for its verdict."""

    @property
    def message(self) -> Message:
        """What was delivered."""
        ...

    async def ack(self) -> None:
        """It is done and must not come again."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Deliver it again, after `delay_s`."""
        ...


class Pull(Protocol):
    """A durable consumer's pull side."""

    async def fetch(self, max_messages: int, wait_s: float, *, max_bytes: int | None = None) -> Sequence[Delivery]:
        """Return up to `max_messages`; empty when none came within `wait_s`.

        What the broker hands over stays within `max_bytes`, its own headers included; a message that is larger by
        itself comes alone.

        Raises:
            BrokerUnavailable: the broker can't be asked now.
        """
        ...

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge what this has fetched, all at once."""
        ...

    async def close(self) -> None:
        """Stop pulling."""
        ...


class Broker(Protocol):
    """Core messaging, streams with compare-and-set, ordered readers, durable consumers."""

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        ...

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send to whoever listens now; kept by nobody.

        Raises:
            BrokerUnavailable: not connected.
        """
        ...

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send and wait for one reply.

        Raises:
            NoResponder: nobody listens on `subject`.
            RequestTimeout: no reply within `timeout_s`; whether it was carried out isn't known.
            BrokerUnavailable: not connected.
        """
        ...

    async def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", max_pending: int = 65_536
    ) -> Subscription:
        """Call `handler` for each message, one at a time and in order; it outlives reconnects."""
        ...

    async def serve(self, subject: str, responder: Responder, *, queue: str = "") -> Subscription:
        """Answer requests on `subject`, one at a time; a responder that raises gives no answer."""
        ...

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str | None = None,
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = APPEND_TIMEOUT_S,
    ) -> int:
        """Store a message in the stream of `subject` and return its stream sequence.

        Within the stream's duplicate window a message with the `msg_id` of an earlier one isn't stored again: the
        sequence of the earlier one is returned. That makes a repeated try safe. With `expected_last` that is checked
        first: a repeated try then raises `WrongLastSequence`, and whoever repeats must look whose message it is.

        Args:
            subject: where to.
            data: the body.
            msg_id: names the message, for deduplication.
            expected_last: store only if the last message of this very subject has this sequence (0: there is none).
            headers: further headers.
            timeout_s: how long to wait for the acknowledgement.

        Raises:
            WrongLastSequence: the subject's last message is another one.
            MessageTooLarge: more than the stream or the server takes.
            TopologyMissing: no stream takes the subject.
            BrokerUnavailable: not connected, or no acknowledgement in time (it may have been stored).
        """
        ...

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """Like `append`, but return a future for the sequence, so that many can be under way at once.

        The future raises as `append` does, except that a stream which isn't there is only unavailable: one whose
        leader has just died looks the same, and what is published this way can wait.

        Raises:
            BrokerUnavailable: not connected.
        """
        ...

    async def last(self, stream: str, subject: str) -> Message | None:
        """Return the last message of a subject (no wildcards), or None.

        Raises:
            BrokerUnavailable: not connected, or no answer in time.
        """
        ...

    async def read(
        self, stream: str, subjects: Sequence[str], *, after: int | None = None, last_per_subject: bool = False
    ) -> Reader:
        """Read `subjects` (wildcards allowed) in stream order, and go on with what comes.

        Args:
            stream: its name.
            subjects: what to read.
            after: start behind this stream sequence; None: only what comes from now on, unless `last_per_subject`.
            last_per_subject: start with the last message of each subject.

        Raises:
            BrokerUnavailable: not connected.
            TopologyMissing: there is no such stream.
        """
        ...

    async def pull(self, stream: str, consumer: str) -> Pull:
        """Return the pull side of a durable consumer.

        Raises:
            TopologyMissing: there is no such consumer.
        """
        ...

    async def purge(self, stream: str, subject: str, *, up_to: int | None = None) -> None:
        """Delete the messages of `subject` (wildcards allowed) up to and including sequence `up_to` (None: all)."""
        ...

    async def delete(self, stream: str, seq: int) -> None:
        """Delete one message by its sequence; nothing happens if it is gone already."""
        ...

    async def count(self, stream: str, subject: str) -> int:
        """Return how many messages the stream holds on `subject` (wildcards allowed)."""
        ...

    async def count_by_subject(self, stream: str, subject: str, *, most: int) -> dict[str, int] | None:
        """Return the same for each of the subjects that match; None where the stream has more than `most` subjects."""
        ...


class WrongLastSequence(GreenroomError):
    """Somebody else wrote to the subject in between; read it again and decide anew."""

    code = "wrong-last-sequence"
    status = 409
    title = "Somebody else wrote in between"
    retryable = True


class MessageTooLarge(GreenroomError):
    """A message is larger than its stream or the server takes. Nothing was stored; pass large things by reference."""

    code = "message-too-large"
    status = 413
    title = "The message is too large"


class NoResponder(GreenroomError):
    """Nobody listens on the subject of a request: the process that it addresses is gone."""

    code = "no-responder"
    status = 503
    title = "Nobody answers there"
    retryable = True


class RequestTimeout(GreenroomError):
    """A request got no answer in time; whether it was carried out isn't known."""

    code = "request-timeout"
    status = 504
    title = "No answer in time"
    retryable = True
