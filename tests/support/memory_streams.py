"""The streams and durable consumers of the memory broker."""

import asyncio
import collections
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from greenroom.common import topology
from greenroom.common.broker import Message, MessageTooLarge, WrongLastSequence


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject is one of a pattern with `*` (one token) and `>` (one or more, at the end)."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)


class Signal:
    """Wakes everybody who waits, each time it is given."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wake them."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the next one, or until the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return


class MemoryStream:
    """One stream: its messages, what it knows of ids, and who follows it."""

    def __init__(self, config: topology.Stream) -> None:
        self.config = config
        self.messages: dict[int, Message] = {}
        self.last_seq = 0
        self.by_subject: dict[str, list[int]] = {}
        self.followers: list[Backlog] = []
        self._ids: dict[str, tuple[int, float]] = {}

    def takes(self, subject: str) -> bool:
        """Tell whether the stream stores messages of a subject."""
        return any(matches(pattern, subject) for pattern in self.config.subjects)

    def store(
        self, subject: str, data: bytes, headers: Mapping[str, str], msg_id: str | None, expected_last: int | None
    ) -> int:
        """Store a message, or recognise it as one that is stored, and return its sequence; see `Broker.append`."""
        if 0 < self.config.max_msg_size < len(data):
            raise MessageTooLarge(f"{len(data)} bytes on {subject}")
        sequences = self.by_subject.get(subject, [])
        if expected_last is not None and expected_last != (sequences[-1] if sequences else 0):
            raise WrongLastSequence(f"the last message on {subject} is another one")
        now = asyncio.get_running_loop().time()
        known = self._ids.get(msg_id) if msg_id else None
        if known is not None and now - known[1] < self.config.duplicate_window_s:
            return known[0]
        self.last_seq += 1
        if msg_id:
            self._ids[msg_id] = (self.last_seq, now)
        self.messages[self.last_seq] = Message(
            subject=subject, data=data, headers=headers, stream_seq=self.last_seq, at_ns=time.time_ns()
        )
        self.by_subject.setdefault(subject, []).append(self.last_seq)
        limit = self.config.max_msgs_per_subject
        if limit > 0:
            self.remove(self.by_subject[subject][:-limit])
        for follower in self.followers:
            follower.offer(self.messages[self.last_seq])
        return self.last_seq

    def republished(self, subject: str) -> str | None:
        """Return where a stored message is published again, if anywhere."""
        if self.config.republish is None or not matches(self.config.republish[0], subject):
            return None
        source, destination = self.config.republish
        tokens = (given for wanted, given in zip(source.split("."), subject.split("."), strict=True) if wanted == "*")
        for number, token in enumerate(tokens, 1):
            destination = destination.replace(f"{{{{wildcard({number})}}}}", token)
        return destination

    def remove(self, sequences: Iterable[int]) -> None:
        """Forget messages."""
        for seq in list(sequences):
            message = self.messages.pop(seq, None)
            if message is None:
                continue
            left = self.by_subject[message.subject]
            left.remove(seq)
            if not left:
                del self.by_subject[message.subject]

    def on(self, pattern: str) -> Iterator[Message]:
        """Iterate over the messages of a subject, which may have wildcards."""
        return (message for message in self.messages.values() if matches(pattern, message.subject))


class Backlog:
    """The messages of a stream that one reader or consumer hasn't been given yet, in order."""

    def __init__(self, stream: MemoryStream, patterns: Sequence[str]) -> None:
        self.stream = stream
        self.patterns = patterns
        self.waiting: collections.deque[int] = collections.deque()
        self.signal = Signal()
        stream.followers.append(self)

    def wants(self, subject: str) -> bool:
        """Tell whether messages of a subject belong to it."""
        return any(matches(pattern, subject) for pattern in self.patterns)

    def offer(self, message: Message) -> None:
        """Take note of a message that was just stored."""
        if self.wants(message.subject):
            self.waiting.append(message.stream_seq)
            self.signal.give()

    def take(self) -> Message | None:
        """Return the next message that is still there, or None."""
        while self.waiting:
            message = self.stream.messages.get(self.waiting.popleft())
            if message is not None:
                return message
        return None


class MemoryConsumer:
    """A durable consumer: what is delivered and waits for its verdict."""

    def __init__(self, stream: MemoryStream, config: topology.Consumer) -> None:
        self.config = config
        self.backlog = Backlog(stream, config.filters)
        self._deliveries: collections.Counter[int] = collections.Counter()
        # When each undecided message is delivered again: its acknowledgement deadline, or what `nak` asked for.
        self._again_at: dict[int, float] = {}

    def next(self, now: float, max_bytes: int | None = None) -> Message | None:
        """Return what is to be delivered next, or None: first what is due again, then what is new.

        What is larger than `max_bytes` stays where it is, and so does what is behind it.
        """
        stored = self.backlog.stream.messages
        if not self._again_at.keys() <= stored.keys():  # some were purged
            self._again_at = {seq: at for seq, at in self._again_at.items() if seq in stored}
        due = min((seq for seq, at in self._again_at.items() if at <= now), default=None)
        message = stored[due] if due is not None else None
        if message is None and len(self._again_at) < self.config.max_ack_pending:
            message = self.backlog.take()
        if message is None:
            return None
        seq = message.stream_seq
        if max_bytes is not None and len(message.data) > max_bytes:
            if seq != due:
                self.backlog.waiting.appendleft(seq)
            return None
        self._deliveries[seq] += 1
        self._again_at[seq] = now + self.config.ack_wait_s
        return redelivered(message, deliveries=self._deliveries[seq], pending=len(self.backlog.waiting))

    def wait_s(self, now: float) -> float:
        """Return how long until something is due again."""
        return max(min(self._again_at.values(), default=now + 60.0) - now, 0.0)

    def ack(self, seq: int) -> None:
        """Be done with a message."""
        if self._again_at.pop(seq, None) is not None:
            del self._deliveries[seq]
        if self.backlog.stream.config.retention == "workqueue":
            self.backlog.stream.remove([seq])

    def nak(self, seq: int, at: float) -> None:
        """Deliver a message again at the loop time `at`."""
        if seq in self._again_at:
            self._again_at[seq] = at
            self.backlog.signal.give()


def redelivered(message: Message, *, pending: int, deliveries: int = 1) -> Message:
    """Return a stored message as it is handed to a reader."""
    return Message(
        subject=message.subject,
        data=message.data,
        headers=message.headers,
        stream_seq=message.stream_seq,
        at_ns=message.at_ns,
        deliveries=deliveries,
        pending=pending,
    )
