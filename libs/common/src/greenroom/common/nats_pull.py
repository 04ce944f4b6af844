"""The pull side of a durable consumer, asked for a number of messages and a number of bytes.

(nats-py's own fetch knows no bound in bytes, and makes a task of every message.) A fetch asks twice at most: first for
what is there, which the server ends with a status, then for whatever comes, which it ends with the first message. Each
request has a reply subject of its own, so that the end of an earlier one isn't taken for the end of this one; messages
that came to an earlier one are as good as any, and are taken first.

Messages are taken raw, and a batch is acknowledged in one piece: see `nats_parser`.
"""

import asyncio
import collections
import contextlib
from collections.abc import Sequence
from typing import Any, Final, Self

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from greenroom.common.broker import Delivery, Message
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.nats_client import NatsClient
from greenroom.common.nats_message import FROM_A_STREAM, delivered, status_of
from greenroom.common.nats_parser import RawMessage

_NOTHING_THERE: Final = "404"
_TIME_IS_UP: Final = "408"
_CONFLICT: Final = "409"
# Of the statuses with that number the one that is about our own bound, in the server's words.
_TOO_LARGE: Final = "message size exceeds maxbytes"
# An answer to "what is there" takes a millisecond; whoever doesn't answer for so long is away.
_ANSWER_S: Final = 2.0


class _Refused(Exception):
    """The server ended a request with something else than "nothing there"."""


class NatsPull:
    """See `broker.Pull`. Made by `open`."""

    def __init__(self, client: NatsClient, stream: str, consumer: str) -> None:
        self._client = client
        self._subject: Final = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox: Final = client.new_inbox()
        self._requests = 0
        self._came: collections.deque[RawMessage] = collections.deque()
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None

    @classmethod
    async def open(cls, client: NatsClient, stream: str, consumer: str) -> Self:
        """Return the pull side of a consumer that is there."""
        pull = cls(client, stream, consumer)
        # What may come is bounded by what is asked for.
        pull._subscription = await client.subscribe_raw(f"{pull._inbox}.*", pull._receive)
        return pull

    async def fetch(self, max_messages: int, wait_s: float, *, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See `Pull.fetch`."""
        self._require_connection()
        deadline = asyncio.get_running_loop().time() + wait_s
        try:
            if taken := self._take(max_messages):
                return taken
            wish: dict[str, Any] = {"batch": max_messages, "max_bytes": max_bytes or 0}
            if taken := await self._ask(wish | {"no_wait": True}, max_messages, _ANSWER_S):
                return taken
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s > 0:
                wish["expires"] = int(left_s * 1e9)
                taken = await self._ask(wish, max_messages, left_s, first_is_enough=True)
        except nats.errors.Error as error:
            raise BrokerUnavailable(str(error)) from error
        except _Refused as error:
            raise BrokerUnavailable(f"the server refuses to hand over messages: {error}") from error
        self._require_connection()
        return taken or ()

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Pull.acknowledge`."""
        with contextlib.suppress(nats.errors.Error):
            await self._client.publish_empty([each.raw.reply for each in deliveries if isinstance(each, NatsDelivery)])

    async def close(self) -> None:
        """See `Pull.close`."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    async def _ask(
        self, wish: dict[str, Any], max_messages: int, within_s: float, *, first_is_enough: bool = False
    ) -> Sequence[Delivery]:
        """Send a request and return what came until it was ended, filled, or not answered in time."""
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        await self._client.publish(self._subject, msgspec.json.encode(wish), reply)
        taken: list[Delivery] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while len(taken) < max_messages and not (taken and first_is_enough and not self._came):
                    while not self._came:
                        self._news.clear()
                        await self._news.wait()
                    raw = self._came.popleft()
                    if raw.data or (status := status_of(raw)) is None:
                        taken.append(NatsDelivery(self._client, raw))
                    elif raw.subject == reply.encode():
                        if not taken and _too_large(*status):
                            # One message alone is more than the bound: it comes alone.
                            return await self._ask({"batch": 1, "no_wait": True}, 1, _ANSWER_S)
                        break
        return taken

    def _take(self, max_messages: int) -> Sequence[Delivery]:
        """Return what came to earlier requests."""
        taken: list[Delivery] = []
        while self._came and len(taken) < max_messages:
            raw = self._came.popleft()
            if status_of(raw) is None:
                taken.append(NatsDelivery(self._client, raw))
        return taken

    def _receive(self, raw: RawMessage) -> None:
        # Whoever knows the inbox can write to it; what is neither from a stream nor a status is none of ours.
        if raw.reply.startswith(FROM_A_STREAM) or status_of(raw) is not None:
            self._came.append(raw)
            self._news.set()

    def _require_connection(self) -> None:
        # Without one a fetch would time out as if nothing had come.
        if not self._client.is_connected:
            raise BrokerUnavailable("the connection to NATS is down")


def _too_large(code: str, text: str) -> bool:
    """Return whether a request without any message was ended by its bound in bytes.

    Raises:
        _Refused: it was ended by something that isn't in the order of things.
    """
    if code in {_NOTHING_THERE, _TIME_IS_UP}:
        return False
    if code == _CONFLICT and text.lower() == _TOO_LARGE:
        return True
    raise _Refused(f"{code} {text}")


class NatsDelivery(msgspec.Struct, frozen=True, gc=False):
    """See `broker.Delivery`. The message is made when it is asked for: by whoever decodes it, and seldom again."""

    client: NatsClient
    raw: RawMessage

    @property
    def message(self) -> Message:
        """See `Delivery.message`."""
        return delivered(self.raw)

    async def ack(self) -> None:
        """See `Delivery.ack`. An acknowledgement that is lost brings the message again: handlers are idempotent."""
        with contextlib.suppress(nats.errors.Error):
            await self.client.publish_empty([self.raw.reply])

    async def nak(self, delay_s: float) -> None:
        """See `Delivery.nak`."""
        wish = b"-NAK" + (b' {"delay": %d}' % int(delay_s * 1e9) if delay_s else b"")
        with contextlib.suppress(nats.errors.Error):
            await self.client.publish(self.raw.reply.decode(), wish)
