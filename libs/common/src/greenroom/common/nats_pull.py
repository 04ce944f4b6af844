"""The pull side of a durable consumer, asked for a number of messages and a number of bytes.

(nats-py's own fetch knows no bound in bytes, and makes a task of every message.) A fetch asks twice at most: first for
what is there, which the server ends with a status, then for whatever comes, which it ends with the first message. Each
request has a reply subject of its own, so that the end of an earlier one isn't taken for the end of this one; messages
that came to an earlier one are as good as any, and are taken first.
"""

import asyncio
import collections
import contextlib
from collections.abc import Sequence
from typing import Any, Final, Self

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from greenroom.common.broker import Delivery, Message
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.nats_message import received

_STATUS: Final = "Status"
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

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._subject: Final = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox: Final = client.new_inbox()
        self._requests = 0
        self._came: collections.deque[Msg] = collections.deque()
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None

    @classmethod
    async def open(cls, client: Client, stream: str, consumer: str) -> Self:
        """Return the pull side of a consumer that is there."""
        pull = cls(client, stream, consumer)
        # What may come is bounded by what is asked for: the client mustn't drop any of it.
        pull._subscription = await client.subscribe(
            f"{pull._inbox}.*", cb=pull._receive, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
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
                    msg = self._came.popleft()
                    if not _is_status(msg):
                        taken.append(NatsDelivery(msg))
                    elif msg.subject == reply:
                        if not taken and _too_large(msg):
                            # One message alone is more than the bound: it comes alone.
                            return await self._ask({"batch": 1, "no_wait": True}, 1, _ANSWER_S)
                        break
        return taken

    def _take(self, max_messages: int) -> Sequence[Delivery]:
        """Return what came to earlier requests."""
        taken: list[Delivery] = []
        while self._came and len(taken) < max_messages:
            msg = self._came.popleft()
            if not _is_status(msg):
                taken.append(NatsDelivery(msg))
        return taken

    async def _receive(self, msg: Msg) -> None:
        self._came.append(msg)
        self._news.set()

    def _require_connection(self) -> None:
        # Without one a fetch would time out as if nothing had come.
        if not self._client.is_connected:
            raise BrokerUnavailable("the connection to NATS is down")


def _is_status(msg: Msg) -> bool:
    return not msg.data and msg.headers is not None and _STATUS in msg.headers and not msg.reply.startswith("$JS.ACK.")


def _too_large(status: Msg) -> bool:
    """Return whether a request without any message was ended by its bound in bytes.

    Raises:
        _Refused: it was ended by something that isn't in the order of things.
    """
    headers = status.headers or {}
    code, text = headers.get(_STATUS, ""), headers.get("Description", "")
    if code in {_NOTHING_THERE, _TIME_IS_UP}:
        return False
    if code == _CONFLICT and text.lower() == _TOO_LARGE:
        return True
    raise _Refused(f"{code} {text}")


class NatsDelivery:
    """See `broker.Delivery`."""

    __slots__ = ("_message", "_msg")

    def __init__(self, msg: Msg) -> None:
        self._msg = msg
        self._message = received(msg)

    @property
    def message(self) -> Message:
        """What was delivered."""
        return self._message

    async def ack(self) -> None:
        """See `Delivery.ack`. An acknowledgement that is lost brings the message again: handlers are idempotent."""
        with contextlib.suppress(nats.errors.Error):
            await self._msg.ack()

    async def nak(self, delay_s: float) -> None:
        """See `Delivery.nak`."""
        with contextlib.suppress(nats.errors.Error):
            await self._msg.nak(delay=delay_s)
