"""The one consume loop: what a handler does with a batch decides what becomes of its messages.

- it returns: all are acknowledged;
- it raises `Retry`: all come again after a while, without being counted as failures; or those that it names, and the
  others are acknowledged; if it says so, fewer at once until something is handled again;
- it raises `Drop`: the message is parked with the reason; a batch of several is tried in halves first, down to single
  messages, so that one poisonous message takes nobody with it;
- it raises anything else: all come again with growing delays, and a counter counts; a batch that goes on failing
  is tried in halves too, so that one that can't be handled doesn't hold up the others.
"""

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Delivery, Message, Pull
from greenroom.common.clock import utcnow
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.ids import derived_id
from greenroom.common.messages import Parked

_log = structlog.get_logger()

_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 30.0
# Once a message has come this often, what fails together with it is tried apart.
_ALONE_FROM: Final = 3
# That many failures in a row are taken for an outage: the rest waits for this long. It is less than what failed has to
# wait by then, so the rest comes back without it, and if it was no outage, is handled.
_OUTAGE: Final = 3
_OUTAGE_PAUSE_S: Final = 1.0
_BROKER_RETRY_S: Final = 0.25
# What has come meanwhile is there at once; where nothing has, this is how long that takes to find out.
_GATHER_S: Final = 0.05
_TOPOLOGY_RETRY_S: Final = 0.5
# Decoding so many takes a millisecond at most: nobody else on the loop has to wait for longer.
_DECODED_AT_ONCE: Final = 100
# Of a full batch; so one that took too long is tried again after fifty that didn't.
_MORE: Final = 0.02
# What a stream takes, and its headers on the way.
_LARGEST_MESSAGE: Final = 576 * 1024
# What one batch may hold in memory: 2,000 messages of the largest size would be 1 GB, usual ones are 400 bytes each.
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024


class Retry(Exception):
    """Not now: deliver the batch again after `after_s`, since something it needs is away.

    Args:
        after_s: how long it waits.
        only: those of the batch that wait, where the others were handled; None: all.
        fewer: half as many at once from now on, as it may be that so many take too long. With each batch that is
            handled it may be some more again.
    """

    def __init__(self, after_s: float = 1.0, *, only: Sequence[object] | None = None, fewer: bool = False) -> None:
        super().__init__(f"again in {after_s:g} s")
        self.after_s = after_s
        self.only = only
        self.fewer = fewer


class Drop(Exception):
    """Never: this message can't be processed; park it with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Counts:
    """What a consumer did since it began, for its metrics."""

    def __init__(self) -> None:
        self.handled = 0
        self.batches = 0
        self.parked = 0
        self.retried = 0
        self.failed = 0


# What was delivered, and what it decodes to. (There are 50,000 a second, and a tuple is made in a tenth of the time.)
type _Item[T] = tuple[Delivery, T]


class _Taken[T]:
    """Messages in hand: those that decode, and those that don't, with what was raised."""

    __slots__ = ("bad", "deliveries", "items")

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries = deliveries
        self.items: list[_Item[T]] = []
        self.bad: list[tuple[Delivery, Exception]] = []


class Consumer[T]:
    """Feeds a durable consumer's messages to a handler, in batches.

    Args:
        broker: where from.
        stream: the stream's name.
        name: the durable consumer's name.
        decode: makes of a message what the handler takes; raises `Drop` for what is malformed.
        handle: see the module.
        max_batch: messages in one batch at most.
        max_batch_bytes: bytes in one batch at most; what is beyond stays with the broker.
        max_wait_s: how long to wait for the first message of a batch before looking again.
        linger_s: how long the first message of a batch waits for others, so that a trickle is handled in a few
            batches and not message by message. The broker hands over what there is as soon as there is anything.
        ahead: while more is waiting than a batch holds, take the next one while one is handled: two are in hand then.
        turn: held while it asks. Several that work at once share one, so that what comes seldom is waited for by one
            of them at a time, and asked for once.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        name: str,
        *,
        decode: Callable[[Message], T],
        handle: Callable[[Sequence[T]], Awaitable[None]],
        max_batch: int = 256,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        max_wait_s: float = 1.0,
        linger_s: float = 0.0,
        ahead: bool = False,
        turn: asyncio.Lock | None = None,
    ) -> None:
        self.counts: Final = Counts()
        self._broker = broker
        self._stream = stream
        self._name = name
        self._decode = decode
        self._handle = handle
        self._max_batch = max_batch
        self._at_once = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._max_wait_s = max_wait_s
        self._linger_s = linger_s
        self._ahead = ahead
        self._turn = turn or asyncio.Lock()
        self._pull: Pull | None = None
        self._failed_in_a_row = 0
        self._next: asyncio.Task[_Taken[T]] | None = None

    @property
    def at_once(self) -> int:
        """How many messages a batch has at most at present."""
        return self._at_once

    async def run_once_there(self) -> None:
        """Consume until canceled, once stream and consumer are there: made while the service waits for them."""
        while True:
            try:
                await self.run()
            except TopologyMissing:
                # The service isn't ready without its streams either, and says so.
                await asyncio.sleep(_TOPOLOGY_RETRY_S)

    async def run(self) -> None:
        """Consume until canceled; outlasts any outage of the broker.

        Raises:
            TopologyMissing: the stream or the consumer isn't there at the start.
        """
        pull = self._pull = await self._open()
        handled: list[_Item[T]] = []
        try:
            while True:
                try:
                    taken = await self._take(pull)
                except BrokerUnavailable:
                    await asyncio.sleep(_BROKER_RETRY_S)
                    continue
                if taken.deliveries:
                    if self._ahead and taken.deliveries[-1].message.pending:
                        self._next = asyncio.create_task(self._fetch_ahead(pull, handled))
                    # Let go of by whoever fetches; at once where nobody does, or nothing has come.
                    handled = []
                    await self._process(taken)
                    handled = taken.items if self._next else []
                    del taken
                    continue
                handled = []
                if not self._broker.connected:
                    await asyncio.sleep(_BROKER_RETRY_S)
        finally:
            await self._leave_next(0.0)
            await pull.close()

    async def _take(self, pull: Pull) -> _Taken[T]:
        if self._next is None:
            taken = _Taken[T](await self._fetch(pull, linger_s=self._linger_s))
            self._decode_into(taken, taken.deliveries)
            return taken
        try:
            # Who is canceled here leaves it where it is, to be put back.
            taken = await asyncio.shield(self._next)
        except BrokerUnavailable:
            self._next = None
            raise
        self._next = None
        return taken

    async def _leave_next(self, pause_s: float) -> None:
        """Put back what was taken ahead, if anything was."""
        task, self._next = self._next, None
        if task is None:
            return
        task.cancel()
        (taken,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(taken, BaseException):
            await _put_back(taken.deliveries, pause_s)

    async def _fetch_ahead(self, pull: Pull, handled: list[_Item[T]]) -> _Taken[T]:
        """Fetch and decode while the batch before is handled, with turns for others in between.

        `handled` is the batch before that, which nobody needs any more. It is let go of piece by piece: to free all of
        its objects at once takes a tenth of the time that a batch takes, and between two batches everybody waits.

        Canceled while it decodes, it returns what it has, to be put back.
        """
        taken = _Taken[T](await self._fetch(pull, linger_s=0.0))
        for some in itertools.batched(taken.deliveries, _DECODED_AT_ONCE):
            self._decode_into(taken, some)
            del handled[-_DECODED_AT_ONCE:]
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                break
        return taken

    def _decode_into(self, taken: _Taken[T], deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            try:
                taken.items.append((delivery, self._decode(delivery.message)))
            except Exception as error:  # noqa: BLE001 - a message that decode chokes on must not end the loop
                taken.bad.append((delivery, error))

    async def _fetch(self, pull: Pull, *, linger_s: float) -> Sequence[Delivery]:
        async with self._turn:
            first = await pull.fetch(self._at_once, self._max_wait_s, max_bytes=self._max_batch_bytes)
        room = self._at_once - len(first)
        if not first or not room or not linger_s:
            return first
        room_bytes = self._max_batch_bytes - sum(len(delivery.message.data) for delivery in first)
        # Where the next one mightn't fit, a batch is full: one that is larger than its bound would come all the same.
        if room_bytes <= _LARGEST_MESSAGE:
            return first
        await asyncio.sleep(linger_s)
        try:
            return [*first, *await pull.fetch(room, _GATHER_S, max_bytes=room_bytes)]
        except BrokerUnavailable:
            return first

    async def _open(self) -> Pull:
        while True:
            try:
                return await self._broker.pull(self._stream, self._name)
            except BrokerUnavailable:
                await asyncio.sleep(_BROKER_RETRY_S)

    async def _process(self, taken: _Taken[T]) -> None:
        for delivery, error in taken.bad:
            if isinstance(error, Drop):
                await self._park(delivery, error.reason)
            else:
                await self._failed([delivery], error)
        if not taken.items:
            return
        self.counts.batches += 1
        if pause_s := await self._try(taken.items):
            # What would come next needs the same thing that is away: leave it with the broker for as long, which
            # also keeps the order of what was put back.
            await self._leave_next(pause_s)
            await asyncio.sleep(pause_s)

    async def _try(self, batch: list[_Item[T]], *, apart: bool = False) -> float:
        """Have a batch handled and settle it; return for how long nothing else is worth trying.

        Args:
            batch: what is tried.
            apart: it is a part of one that can't be handled as a whole; whatever goes wrong, find out by whose fault.
        """
        deliveries = [delivery for delivery, _ in batch]
        if not apart:
            self._failed_in_a_row = 0
        try:
            await self._handle([value for _, value in batch])
        except Retry as retry:
            if pause_s := await self._later(batch, retry):
                return pause_s
        except Drop as drop:
            if len(batch) > 1:
                return await self._try_apart(batch)
            await self._park(deliveries[0], drop.reason)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the loop goes on and counts it
            often = max(delivery.message.deliveries for delivery in deliveries) >= _ALONE_FROM
            if len(batch) > 1 and (often or apart):
                return await self._try_apart(batch)
            delay_s = await self._failed(deliveries, error)
            if apart:
                self._failed_in_a_row += 1
                return _OUTAGE_PAUSE_S if self._failed_in_a_row >= _OUTAGE else 0.0
            # By now it is known whether it is this message: then others needn't wait for it.
            return 0.0 if often else delay_s
        else:
            self._at_once = min(self._at_once + math.ceil(self._max_batch * _MORE), self._max_batch)
            await self._acknowledge(deliveries)
        self._failed_in_a_row = 0
        return 0.0

    async def _later(self, batch: list[_Item[T]], retry: Retry) -> float:
        """Put back what a handler wants again, and acknowledge the rest; return as `_try`."""
        if retry.fewer:
            self._at_once = max(len(batch) // 2, 1)
        if retry.only is None:
            self.counts.retried += len(batch)
            await _put_back([delivery for delivery, _ in batch], retry.after_s)
            return retry.after_s
        waits = {id(value) for value in retry.only}
        back = [delivery for delivery, value in batch if id(value) in waits]
        await _put_back(back, retry.after_s)
        self.counts.retried += len(back)
        await self._acknowledge([delivery for delivery, value in batch if id(value) not in waits])
        return 0.0

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.counts.handled += len(deliveries)
        if self._pull is not None:
            await self._pull.acknowledge(deliveries)

    async def _try_apart(self, batch: list[_Item[T]]) -> float:
        """Have a batch handled in halves, and those in halves, until what it needs turns out to be away.

        So one message among 2,000 is found in 22 tries, and what is beside it is still handled together.
        """
        middle = len(batch) // 2
        if pause_s := await self._try(batch[:middle], apart=True):
            await _put_back([delivery for delivery, _ in batch[middle:]], pause_s)
            return pause_s
        return await self._try(batch[middle:], apart=True)

    async def _failed(self, deliveries: Sequence[Delivery], error: Exception) -> float:
        """Count and put back what raised something unforeseen."""
        self.counts.failed += len(deliveries)
        tries = max(delivery.message.deliveries for delivery in deliveries)
        # The exponent is bounded too: a float ends at 2 ** 1024, and there are that many tries in a night.
        delay_s = min(_FIRST_BACKOFF_S * 2 ** min(tries - 1, 16), _MAX_BACKOFF_S)
        _log.error("consumer_failed", consumer=self._name, messages=len(deliveries), again_in_s=delay_s, exc_info=error)
        await _put_back(deliveries, delay_s)
        return delay_s

    async def _park(self, delivery: Delivery, reason: str) -> None:
        message = delivery.message
        parked = Parked(
            stream=self._stream,
            subject=message.subject,
            stream_seq=message.stream_seq,
            consumer=self._name,
            reason=reason,
            at=utcnow(),
            headers=dict(message.headers),
            payload=message.data,
        )
        try:
            await self._broker.append(
                subjects.PARKED.format(stream=self._stream),
                messages.encode(parked),
                msg_id=derived_id("parked", self._stream, str(message.stream_seq), self._name),
            )
        except (BrokerUnavailable, TopologyMissing) as error:
            _log.warning("message_not_parked", consumer=self._name, subject=message.subject, error=str(error))
            await delivery.nak(_FIRST_BACKOFF_S)
            return
        self.counts.parked += 1
        _log.warning(
            "message_parked",
            consumer=self._name,
            subject=message.subject,
            stream_seq=message.stream_seq,
            reason=reason,
        )
        await delivery.ack()


async def _put_back(deliveries: Sequence[Delivery], delay_s: float) -> None:
    for delivery in deliveries:
        await delivery.nak(delay_s)


def malformed(error: msgspec.MsgspecError) -> Drop:
    """Return the verdict on a message that doesn't decode."""
    return Drop(f"malformed: {error}")
