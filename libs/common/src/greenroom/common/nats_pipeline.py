"""Appends to JetStream that are under way at once.

nats-py has the like, but there the future of an append that the stream rejects, or whose acknowledgement gets lost,
stays pending for ever.
"""

import asyncio
import functools
import itertools
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import errors as js_errors

from greenroom.common.broker import APPEND_TIMEOUT_S
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.nats_errors import append_error, check_size, rejection

# 70,000 messages a second go through with 250 to 500 under way; more only makes the server's buffers larger.
_DEPTH: Final = 512


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    err_code: int = 0
    description: str = ""


class _Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    seq: int = 0
    error: _Problem | None = None


_DECODER: Final = msgspec.json.Decoder(_Acknowledgement)


class Pipeline:
    """Sends appends and matches the acknowledgements, which all come to one inbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._opening = asyncio.Lock()
        self._room = asyncio.Semaphore(_DEPTH)
        self._tokens = itertools.count(1)
        self._waiting: dict[str, tuple[str, asyncio.Future[int]]] = {}

    async def append(self, subject: str, data: bytes, headers: dict[str, str] | None) -> asyncio.Future[int]:
        """Send a message and return a future for its sequence; waits while 512 are under way.

        Raises:
            BrokerUnavailable: it can't be sent now.
            MessageTooLarge: the server doesn't take as much.
        """
        check_size(self._client, subject, data, headers)
        await self._open()
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        stored: asyncio.Future[int] = loop.create_future()
        self._waiting[token] = (subject, stored)
        timer = loop.call_later(APPEND_TIMEOUT_S, self._give_up, token)
        stored.add_done_callback(functools.partial(self._done, token, timer))
        try:
            await self._client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=headers)
        except BaseException as error:
            stored.cancel()
            if isinstance(error, nats.errors.Error):
                raise append_error(error, subject) from error
            raise
        return stored

    def connection_lost(self) -> None:
        """Fail what is under way: acknowledgements don't find the way to the next connection."""
        for subject, stored in list(self._waiting.values()):
            if not stored.done():
                stored.set_exception(BrokerUnavailable(f"{subject} wasn't acknowledged before the connection was lost"))

    async def _open(self) -> None:
        async with self._opening:
            if self._subscription is None:
                self._inbox = self._client.new_inbox()  # with the prefix that it was connected with
                self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)

    async def _acknowledged(self, msg: Msg) -> None:
        subject, stored = self._waiting.get(msg.subject.rpartition(".")[2], ("", None))
        if stored is None or stored.done():
            return
        if not msg.data:  # "503": nobody listens there, neither a stream nor anybody else
            stored.set_exception(append_error(js_errors.NoStreamResponseError(), subject))
            return
        try:
            answer = _DECODER.decode(msg.data)
        except msgspec.MsgspecError:
            return  # somebody else answers on the stream's subjects; the stream's own answer is still to come
        if answer.error is not None:
            stored.set_exception(rejection(answer.error.err_code, answer.error.description, subject))
        else:
            stored.set_result(answer.seq)

    def _give_up(self, token: str) -> None:
        subject, stored = self._waiting[token]
        if not stored.done():
            stored.set_exception(BrokerUnavailable(f"{subject} wasn't acknowledged in {APPEND_TIMEOUT_S:g} s"))

    def _done(self, token: str, timer: asyncio.TimerHandle, stored: asyncio.Future[int]) -> None:
        if not stored.cancelled():
            stored.exception()  # whoever sent it may be gone: then nobody needs to hear of it
        timer.cancel()
        del self._waiting[token]
        self._room.release()
