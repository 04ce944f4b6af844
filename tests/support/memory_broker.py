"""A broker in memory, for tests of what is built on one; it keeps the contract of tests/contract/test_broker.py.

    server = MemoryServer()
    broker, other = server.connect(), server.connect()
    broker.connected = False     # cut off: its calls raise, its subscriptions hear nothing, its readers stand still

Streams and durable consumers are those of the topology. Time is the event loop's, so that a loop with virtual time
makes acknowledgement deadlines and duplicate windows pass without waiting.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from greenroom.common import topology
from greenroom.common.broker import (
    APPEND_TIMEOUT_S,
    Delivery,
    Handler,
    Message,
    MessageTooLarge,
    NoResponder,
    RequestTimeout,
    Responder,
)
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from tests.support.memory_streams import Backlog, MemoryConsumer, MemoryStream, Signal, matches, redelivered

_log = structlog.get_logger()


class MemoryServer:
    """What all connections share: subscriptions, streams, durable consumers."""

    def __init__(
        self,
        streams: Sequence[topology.Stream] = topology.STREAMS,
        consumers: Sequence[topology.Consumer] = topology.CONSUMERS,
    ) -> None:
        self.streams = {stream.name: MemoryStream(stream) for stream in streams}
        self.consumers = {
            (consumer.stream, consumer.name): MemoryConsumer(self.streams[consumer.stream], consumer)
            for consumer in consumers
        }
        self.subscriptions: list[_Subscription] = []
        self.names = itertools.count(1)
        self._turns = itertools.count()

    def connect(self) -> "MemoryBroker":
        """Return a further connection."""
        return MemoryBroker(self)

    def stream_of(self, subject: str) -> "MemoryStream | None":
        """Return the stream that takes a subject, if any."""
        return next((stream for stream in self.streams.values() if stream.takes(subject)), None)

    def stream(self, name: str) -> "MemoryStream":
        """Return a stream by its name.

        Raises:
            TopologyMissing: there is none.
        """
        if name not in self.streams:
            raise TopologyMissing(f"there is no stream {name}")
        return self.streams[name]

    def route(self, message: Message) -> int:
        """Hand a message to whoever listens (one of each queue group) and return to how many."""
        listening = [each for each in self.subscriptions if each.hears(message.subject)]
        groups: dict[str, list[_Subscription]] = {}
        for subscription in listening:
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
        turn = next(self._turns)
        chosen = [members[turn % len(members)] for members in groups.values()]
        receivers = [*(each for each in listening if not each.queue), *chosen]
        for subscription in receivers:
            subscription.offer(message)
        return len(receivers)


# ---------------------------------------------------------------------------- one connection


class MemoryBroker:
    """See `greenroom.common.broker.Broker`. Setting `connected` cuts it off and brings it back.

    `lose_acks` is the number of next appends that are stored but whose acknowledgement gets lost.
    """

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self.lose_acks = 0
        self.reconnected = Signal()
        self._connected = True

    @property
    def connected(self) -> bool:
        """Whether it isn't cut off."""
        return self._connected

    @connected.setter
    def connected(self, value: bool) -> None:
        self._connected = value
        if value:
            self.reconnected.give()

    async def close(self) -> None:
        """Cut it off for good and end its subscriptions."""
        self._connected = False
        for subscription in [each for each in self.server.subscriptions if each.owner is self]:
            await subscription.unsubscribe()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Broker.publish`."""
        await self._turn()
        stream = self.server.stream_of(subject)
        if stream is not None:
            stream.store(subject, data, dict(headers or {}), (headers or {}).get("Nats-Msg-Id"), None)
        self.server.route(Message(subject=subject, data=data, headers=dict(headers or {})))

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """See `Broker.request`."""
        await self._turn()
        inbox = f"_INBOX.{next(self.server.names)}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def receive(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        subscription = await self.subscribe(inbox, receive)
        try:
            request = Message(subject=subject, data=data, headers=dict(headers or {}), reply=inbox)
            if not self.server.route(request):
                raise NoResponder(f"nobody listens on {subject}")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise RequestTimeout(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            await subscription.unsubscribe()

    async def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", max_pending: int = 65_536
    ) -> "_Subscription":
        """See `Broker.subscribe`."""
        return _Subscription(self, subject, handler, queue, max_pending)

    async def serve(self, subject: str, responder: Responder, *, queue: str = "") -> "_Subscription":
        """See `Broker.serve`."""

        async def answer(message: Message) -> None:
            reply = await responder(message)
            if message.reply:
                await self.publish(message.reply, reply)

        return await self.subscribe(subject, answer, queue=queue)

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
        """See `Broker.append`."""
        del timeout_s  # memory answers or doesn't, at once
        await self._turn()
        stream = self.server.stream_of(subject)
        if stream is None:
            raise TopologyMissing(f"no stream takes {subject}")
        sent = {**(headers or {}), **({"Nats-Msg-Id": msg_id} if msg_id else {})}
        # Whoever listens on the subject hears it whether or not the stream takes it.
        self.server.route(Message(subject=subject, data=data, headers=sent))
        sequence = stream.store(subject, data, sent, msg_id, expected_last)
        if (again := stream.republished(subject)) is not None:
            self.server.route(Message(subject=again, data=data, headers={**sent, "Nats-Sequence": str(sequence)}))
        if self.lose_acks:
            self.lose_acks -= 1
            raise BrokerUnavailable(f"{subject} wasn't acknowledged")
        return sequence

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._require_connection()
        try:
            stored.set_result(await self.append(subject, data, msg_id=msg_id, headers=headers))
        except (BrokerUnavailable, TopologyMissing, MessageTooLarge) as error:
            stored.set_exception(error)
        return stored

    async def last(self, stream: str, subject: str) -> Message | None:
        """See `Broker.last`."""
        await self._turn()
        held = self.server.stream(stream)
        sequences = held.by_subject.get(subject)
        return held.messages[sequences[-1]] if sequences else None

    async def read(
        self, stream: str, subjects: Sequence[str], *, after: int | None = None, last_per_subject: bool = False
    ) -> "_Reader":
        """See `Broker.read`."""
        await self._turn()
        return _Reader(self, self.server.stream(stream), subjects, after=after, last_per_subject=last_per_subject)

    async def pull(self, stream: str, consumer: str) -> "_Pull":
        """See `Broker.pull`."""
        await self._turn()
        if (stream, consumer) not in self.server.consumers:
            raise TopologyMissing(f"stream {stream} has no consumer {consumer}")
        return _Pull(self, self.server.consumers[stream, consumer])

    async def purge(self, stream: str, subject: str, *, up_to: int | None = None) -> None:
        """See `Broker.purge`."""
        await self._turn()
        held = self.server.stream(stream)
        held.remove([each.stream_seq for each in held.on(subject) if up_to is None or each.stream_seq <= up_to])

    async def delete(self, stream: str, seq: int) -> None:
        """See `Broker.delete`."""
        await self._turn()
        held = self.server.stream(stream)
        if seq in held.messages:
            held.remove([seq])

    async def count(self, stream: str, subject: str) -> int:
        """See `Broker.count`."""
        await self._turn()
        return sum(1 for _ in self.server.stream(stream).on(subject))

    async def count_by_subject(self, stream: str, subject: str, *, most: int) -> dict[str, int] | None:
        """See `Broker.count_by_subject`."""
        await self._turn()
        held = self.server.stream(stream)
        if len({message.subject for message in held.on(">")}) > most:
            return None
        return dict(Counter(message.subject for message in held.on(subject)))

    async def _turn(self) -> None:
        # Every call lets others run first, as one over a socket would: what relies on not being interrupted shows.
        self._require_connection()
        await asyncio.sleep(0)
        self._require_connection()

    def _require_connection(self) -> None:
        if not self._connected:
            raise BrokerUnavailable("the connection is down")


class _Subscription:
    """See `broker.Subscription`."""

    def __init__(self, owner: MemoryBroker, pattern: str, handler: Handler, queue: str, max_pending: int) -> None:
        self.owner = owner
        self.queue = queue
        self._pattern = pattern
        self._handler = handler
        self._messages: asyncio.Queue[Message] = asyncio.Queue(max_pending)
        self._open = True
        self._task = asyncio.create_task(self._run())
        owner.server.subscriptions.append(self)

    def hears(self, subject: str) -> bool:
        return self.owner.connected and matches(self._pattern, subject)

    def offer(self, message: Message) -> None:
        if not self._messages.full():  # a slow one loses what is newest, and so does NATS
            self._messages.put_nowait(message)

    async def unsubscribe(self) -> None:
        if self in self.owner.server.subscriptions:
            self.owner.server.subscriptions.remove(self)
        self._open = False
        if self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        while self._open:
            message = await self._messages.get()
            try:
                await self._handler(message)
            except Exception:  # noqa: BLE001 - what a handler raises is its own affair, as it is over NATS
                _log.exception("message_handler_failed", subject=message.subject)


class _Reader:
    """See `broker.Reader`."""

    def __init__(
        self,
        owner: MemoryBroker,
        stream: MemoryStream,
        patterns: Sequence[str],
        *,
        after: int | None,
        last_per_subject: bool,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._owner = owner
        self._backlog = Backlog(stream, patterns)
        self._closed = False
        if last_per_subject:
            last = [sequences[-1] for subject, sequences in stream.by_subject.items() if self._backlog.wants(subject)]
            self._backlog.waiting.extend(sorted(last))
        elif after is not None:
            self._backlog.waiting.extend(
                seq for seq, each in stream.messages.items() if seq > after and self._backlog.wants(each.subject)
            )
        if not self._backlog.waiting:
            self.caught_up.set()

    async def __aiter__(self) -> AsyncIterator[Message]:
        while not self._closed:
            await asyncio.sleep(0)
            if not self._owner.connected:
                await self._owner.reconnected.wait()
                continue
            message = self._backlog.take()
            pending = len(self._backlog.waiting)
            if not pending:
                self.caught_up.set()
            if message is None:
                await self._backlog.signal.wait()
                continue
            yield redelivered(message, pending=pending)

    async def close(self) -> None:
        self._closed = True
        if self._backlog in self._backlog.stream.followers:
            self._backlog.stream.followers.remove(self._backlog)
        self._backlog.signal.give()
        self._owner.reconnected.give()


class _Pull:
    """See `broker.Pull`."""

    def __init__(self, owner: MemoryBroker, consumer: MemoryConsumer) -> None:
        self._owner = owner
        self._consumer = consumer

    async def fetch(self, max_messages: int, wait_s: float, *, max_bytes: int | None = None) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            if not self._owner.connected:
                raise BrokerUnavailable("the connection is down")
            batch: list[Delivery] = []
            room = max_bytes
            while len(batch) < max_messages and (message := self._consumer.next(loop.time(), room if batch else None)):
                batch.append(_Delivery(self._owner, self._consumer, message))
                room = None if room is None else room - len(message.data)
            left_s = deadline - loop.time()
            if batch or left_s <= 0:
                return batch
            await self._consumer.backlog.signal.wait(min(left_s, self._consumer.wait_s(loop.time())))

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.ack()

    async def close(self) -> None:
        """Nothing is held for it."""


class _Delivery:
    """See `broker.Delivery`. A verdict that is given while cut off gets lost."""

    def __init__(self, owner: MemoryBroker, consumer: MemoryConsumer, message: Message) -> None:
        self._owner = owner
        self._consumer = consumer
        self._message = message

    @property
    def message(self) -> Message:
        return self._message

    async def ack(self) -> None:
        if self._owner.connected:
            self._consumer.ack(self._message.stream_seq)

    async def nak(self, delay_s: float) -> None:
        if self._owner.connected:
            self._consumer.nak(self._message.stream_seq, asyncio.get_running_loop().time() + delay_s)
