"""An ordered reader of a stream that survives whatever happens to the server.

It is a push consumer without acknowledgements, watched by its reader: a hole in the consumer's own sequence, or
silence where heartbeats should be, and a new consumer is made behind the last message that was read. (nats-py has
an ordered consumer, but it doesn't come back after the server has been restarted.)
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from greenroom.common.broker import Message
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.ids import uuid7
from greenroom.common.nats_message import consumer_sequence, received

_HEARTBEAT_S: Final = 1.0
_SILENCE_S: Final = 2.5 * _HEARTBEAT_S
# How soon a connection that was restored is noticed: the server forgets consumers like this one when it restarts.
_LOOK_S: Final = 0.5
_RETRY_S: Final = 0.25
_STREAM_NOT_FOUND: Final = 10059


class _ConsumerGone(Exception):
    """The consumer has a hole or is silent: make another."""


class OrderedReader:
    """See `broker.Reader`."""

    def __init__(
        self, client: Client, stream: str, subjects: Sequence[str], *, after: int | None, last_per_subject: bool
    ) -> None:
        self.caught_up = asyncio.Event()
        self._client = client
        self._stream = stream
        self._subjects = list(subjects)
        self._last_per_subject = last_per_subject
        self._position = after
        self._subscription: Subscription | None = None
        self._expected = 1
        self._reconnects = 0
        self._closed = False

    async def open(self) -> None:
        """Make the consumer.

        Raises:
            BrokerUnavailable: no answer in time.
            TopologyMissing: there is no such stream.
        """
        await self._drop()
        self._reconnects = self._client.stats["reconnects"]
        inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(inbox)
        config: dict[str, Any] = {
            "name": f"reader-{uuid7()}",
            "deliver_subject": inbox,
            "filter_subjects": self._subjects,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            # The server forgets the consumer this long after its reader has gone.
            "inactive_threshold": int(30e9),
        }
        if self._position is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._position + 1}
        else:
            config["deliver_policy"] = "last_per_subject" if self._last_per_subject else "new"
        body = msgspec.json.encode({"stream_name": self._stream, "config": config, "action": "create"})
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{config['name']}"
        try:
            reply = await self._client.request(subject, body, timeout=5)
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(f"{self._stream} can't be read now") from error
        answer = msgspec.json.decode(reply.data)
        if problem := answer.get("error"):
            if problem.get("err_code") == _STREAM_NOT_FOUND:
                raise TopologyMissing(f"there is no stream {self._stream}: run `greenroom topology apply`")
            raise BrokerUnavailable(f"{self._stream}: {problem.get('description')}")
        self._expected = 1
        if self._position is None and not self._last_per_subject:
            # From here on a position is known, so that a consumer made anew misses nothing that came in between.
            self._position = answer["delivered"]["stream_seq"]
        # What was delivered before the answer was made isn't pending any more, and not yet read either.
        if answer["num_pending"] + answer["delivered"]["consumer_seq"] == 0:
            self.caught_up.set()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate; see `Reader.__aiter__`."""
        while not self._closed:
            try:
                message = await self._next()
            except _ConsumerGone:
                await self._reopen()
                continue
            if message is None:
                return
            yield message

    async def close(self) -> None:
        """See `Reader.close`."""
        self._closed = True
        await self._drop()

    async def _next(self) -> Message | None:
        silence_s = 0.0
        while True:
            if self._closed or self._subscription is None:
                return None
            try:
                msg = await self._subscription.next_msg(timeout=_LOOK_S)
            except (nats.errors.TimeoutError, TimeoutError) as error:
                silence_s += _LOOK_S
                if silence_s >= _SILENCE_S or self._client.stats["reconnects"] != self._reconnects:
                    raise _ConsumerGone from error
                continue
            except nats.errors.Error as error:
                if self._closed or self._client.is_closed:
                    return None
                raise _ConsumerGone from error
            if not msg.data and msg.headers and "Status" in msg.headers:
                self._check_heartbeat(msg)
                silence_s = 0.0
                continue
            if consumer_sequence(msg) != self._expected:
                raise _ConsumerGone
            self._expected += 1
            message = received(msg)
            self._position = message.stream_seq
            if message.pending == 0:
                self.caught_up.set()
            return message

    def _check_heartbeat(self, msg: Msg) -> None:
        last = (msg.headers or {}).get("Nats-Last-Consumer")
        if last is not None and int(last) != self._expected - 1:
            raise _ConsumerGone

    async def _reopen(self) -> None:
        while not self._closed:
            if self._client.is_connected:
                with contextlib.suppress(BrokerUnavailable, TopologyMissing, nats.errors.Error):
                    await self.open()
                    return
            await asyncio.sleep(_RETRY_S)

    async def _drop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
