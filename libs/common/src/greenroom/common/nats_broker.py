"""The broker as it really is: NATS with JetStream, through nats-py."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final, Self, cast

import msgspec
import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js import errors as js_errors

from greenroom.common.broker import (
    APPEND_TIMEOUT_S,
    Handler,
    Message,
    NoResponder,
    RequestTimeout,
    Responder,
)
from greenroom.common.clock import to_ns
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.nats_client import NatsClient
from greenroom.common.nats_errors import check_size, publish_error
from greenroom.common.nats_message import received
from greenroom.common.nats_pipeline import Pipeline
from greenroom.common.nats_pull import NatsPull
from greenroom.common.nats_reader import OrderedReader

_log = structlog.get_logger()

# JetStream API calls that aren't appends answer in a millisecond; a killed leader takes its successor seconds.
_API_TIMEOUT_S: Final = 5.0
# nats-py's own.
INBOX: Final = "_INBOX"
_NOT_FOUND: Final = 404
# What JetStream says to whoever deletes a message that isn't there.
_NO_MESSAGE: Final = 10043
# What a direct read adds to the headers that the message was stored with.
_DIRECT_HEADERS: Final = frozenset({"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"})
# Over TLS nats-py may wait for ever for the other side's goodbye.
_CLOSE_TIMEOUT_S: Final = 2.0


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    code: int = 0


class _State(msgspec.Struct, frozen=True, kw_only=True):
    num_subjects: int = 0
    subjects: dict[str, int] | None = None


class _StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What we want to know of a stream; the server says much more."""

    error: _Error | None = None
    state: _State | None = None
    # How many subjects match the filter, also where only some of them are told.
    total: int = 0


_STREAM_INFO: Final = msgspec.json.Decoder(_StreamInfo)


class NatsBroker:
    """A connection to NATS that never gives up.

    While the server is away every call raises `BrokerUnavailable` at once: what must not be lost waits in
    the ledger's retry or in the spool, and what is live (media) is better dropped than late.
    """

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=_API_TIMEOUT_S)
        self._pipeline = Pipeline(client)

    @classmethod
    async def connect(cls, url: str, *, name: str, timeout_s: float = 30.0, inbox: str = INBOX) -> Self:
        """Connect to one of the comma-separated servers of `url`.

        Args:
            url: for example `nats://127.0.0.1:4222`; credentials may be in it.
            name: how the connection is called in the server's own reports.
            timeout_s: how long the first connection may take; later ones are tried for ever.
            inbox: below which subject replies come in.

        Raises:
            BrokerUnavailable: no server could be reached in time.
        """
        client = NatsClient()
        broker = cls(client)

        async def closed() -> None:
            _log.debug("broker_connection_closed", connection=name)

        async def lost() -> None:
            broker._pipeline.connection_lost()
            if not client.is_closed:
                _log.warning("broker_connection_lost", connection=name)

        async def found() -> None:
            _log.info("broker_connection_restored", connection=name)

        async def failed(error: Exception) -> None:
            _log.debug("broker_connection_error", connection=name, error=type(error).__name__, detail=str(error))

        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(
                    url.split(","),
                    name=name,
                    connect_timeout=2,
                    reconnect_time_wait=0.1,  # pyright: ignore[reportArgumentType] - it is slept on, so a float is fine
                    max_reconnect_attempts=-1,
                    ping_interval=5,
                    inbox_prefix=inbox,
                    max_outstanding_pings=2,
                    error_cb=failed,
                    disconnected_cb=lost,
                    reconnected_cb=found,
                    closed_cb=closed,
                )
        except (TimeoutError, OSError, nats.errors.Error) as error:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await client.close()
            client.abort()
            raise BrokerUnavailable(f"no NATS server at {_without_password(url)}") from error
        return broker

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._client.is_connected

    @property
    def client(self) -> Client:
        """The connection itself, for the administration of streams."""
        return self._client

    async def close(self) -> None:
        """Send what is buffered (for 2 s at most) and close."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            if self._client.is_connected:
                await self._client.flush(2)
        if not self._client.is_connected:
            # nats-py would write what is still buffered to the connection that is gone, and stop half-closed.
            self._client._pending, self._client._pending_data_size = [], 0  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._client.close()
        self._client.abort()

    async def flush(self, timeout_s: float) -> None:
        """Return when the server knows of everything that was said so far, subscriptions too.

        Raises:
            TimeoutError: it doesn't answer in time.
            OSError: the connection is gone.
        """
        async with asyncio.timeout(timeout_s):
            # nats-py writes a ping ahead of what it has buffered; the second one comes behind that.
            for _ in range(2):
                await self._client.flush()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Broker.publish`."""
        self._require_connection()
        check_size(self._client, subject, data, headers)
        try:
            await self._client.publish(subject, data, headers=dict(headers) if headers else None)
        except nats.errors.Error as error:
            raise publish_error(error, subject) from error

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """See `Broker.request`."""
        self._require_connection()
        check_size(self._client, subject, data, headers)
        try:
            reply = await self._client.request(
                subject, data, timeout=timeout_s, headers=dict(headers) if headers else None
            )
        except nats.errors.NoRespondersError as error:
            raise NoResponder(f"nobody listens on {subject}") from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise RequestTimeout(f"no answer on {subject} in {timeout_s:g} s") from error
        except nats.errors.Error as error:
            raise publish_error(error, subject) from error
        return received(reply)

    async def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", max_pending: int = 65_536
    ) -> "NatsSubscription":
        """See `Broker.subscribe`."""

        async def call(msg: Msg) -> None:
            try:
                await handler(received(msg))
            except Exception:  # noqa: BLE001 - nats-py would end the subscription
                _log.exception("message_handler_failed", subject=msg.subject)

        return NatsSubscription(
            await self._client.subscribe(subject, queue=queue, cb=call, pending_msgs_limit=max_pending)
        )

    async def serve(self, subject: str, responder: Responder, *, queue: str = "") -> "NatsSubscription":
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
        self._require_connection()
        try:
            async with asyncio.timeout(timeout_s):
                return await (
                    await self._pipeline.append(subject, data, _append_headers(headers, msg_id, expected_last))
                )
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, js_errors.NoStreamResponseError) and await self._stream_is_missing(subject):
                raise TopologyMissing(f"no stream takes {subject}: run `greenroom topology apply`") from error
            raise
        except TimeoutError as error:
            raise BrokerUnavailable(f"{subject} wasn't acknowledged in {timeout_s:g} s") from error

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`; waits while 512 are under way."""
        self._require_connection()
        return await self._pipeline.append(subject, data, _append_headers(headers, msg_id, None))

    async def last(self, stream: str, subject: str) -> Message | None:
        """See `Broker.last`."""
        self._require_connection()
        try:
            raw = await self._js.get_msg(stream, subject=subject, direct=True)
        except js_errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(f"{stream} can't be read now") from error
        return Message(
            subject=raw.subject or subject,
            data=raw.data or b"",
            headers={
                name: value
                for name, value in cast("dict[str, str]", raw.headers or {}).items()
                if name not in _DIRECT_HEADERS
            },
            stream_seq=raw.seq or 0,
            at_ns=to_ns(raw.time) if raw.time else 0,
        )

    async def read(
        self, stream: str, subjects: Sequence[str], *, after: int | None = None, last_per_subject: bool = False
    ) -> OrderedReader:
        """See `Broker.read`."""
        self._require_connection()
        reader = OrderedReader(self._client, stream, subjects, after=after, last_per_subject=last_per_subject)
        await reader.open()
        return reader

    async def pull(self, stream: str, consumer: str) -> NatsPull:
        """See `Broker.pull`."""
        self._require_connection()
        try:
            await self._js.consumer_info(stream, consumer)
        except js_errors.NotFoundError as error:
            raise TopologyMissing(
                f"stream {stream} has no consumer {consumer}: run `greenroom topology apply`"
            ) from error
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(f"{stream} can't be read now") from error
        return await NatsPull.open(self._client, stream, consumer)

    async def purge(self, stream: str, subject: str, *, up_to: int | None = None) -> None:
        """See `Broker.purge`."""
        self._require_connection()
        try:
            await self._js.purge_stream(stream, subject=subject, seq=up_to + 1 if up_to is not None else None)
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable(f"{stream} can't be purged now") from error

    async def delete(self, stream: str, seq: int) -> None:
        """See `Broker.delete`."""
        self._require_connection()
        try:
            await self._js.delete_msg(stream, seq)
        except (nats.errors.Error, TimeoutError) as error:
            if getattr(error, "err_code", None) != _NO_MESSAGE:
                raise BrokerUnavailable(f"{stream} can't be changed now") from error

    async def count(self, stream: str, subject: str) -> int:
        """See `Broker.count`."""
        _, state = await self._state(stream, {"subjects_filter": subject})
        return sum((state.subjects or {}).values())

    async def count_by_subject(self, stream: str, subject: str, *, most: int) -> dict[str, int] | None:
        """See `Broker.count_by_subject`."""
        _, state = await self._state(stream, {})
        if state.num_subjects > most:
            return None
        matching, state = await self._state(stream, {"subjects_filter": subject})
        found = state.subjects or {}
        # What doesn't fit into one answer isn't of one moment.
        return found if matching == len(found) else None

    async def _state(self, stream: str, wish: dict[str, str]) -> tuple[int, _State]:
        """Return what the server says of a stream: how many subjects match, and its state."""
        self._require_connection()
        # nats-py makes objects of all that the server says of a stream; a recorder asks twice for each session.
        try:
            reply = await self._client.request(
                f"$JS.API.STREAM.INFO.{stream}", msgspec.json.encode(wish), timeout=_API_TIMEOUT_S
            )
            info = _STREAM_INFO.decode(reply.data)
        except (nats.errors.Error, TimeoutError, msgspec.MsgspecError) as error:
            raise BrokerUnavailable(f"{stream} can't be read now") from error
        if info.error is not None and info.error.code == _NOT_FOUND:
            raise TopologyMissing(f"there is no stream {stream}: run `greenroom topology apply`")
        if info.error is not None or info.state is None:
            raise BrokerUnavailable(f"{stream} can't be read now")
        return info.total, info.state

    async def _stream_is_missing(self, subject: str) -> bool:
        """Tell whether there is no stream for `subject`, or only nobody who answers for it.

        A stream whose leader has just died has no listener either, for the seconds until it has another one.
        """
        try:
            await self._js.find_stream_name_by_subject(subject)
        except js_errors.NotFoundError:
            return True
        except (nats.errors.Error, TimeoutError):
            return False
        return False

    def _require_connection(self) -> None:
        if not self._client.is_connected:
            raise BrokerUnavailable("the connection to NATS is down")


class NatsSubscription:
    """See `broker.Subscription`."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        """See `Subscription.unsubscribe`. One that has ended already, by itself or with its connection, is done."""
        with contextlib.suppress(nats.errors.Error):
            await self._subscription.unsubscribe()


def _append_headers(
    headers: Mapping[str, str] | None, msg_id: str | None, expected_last: int | None
) -> dict[str, str] | None:
    merged = dict(headers or {})
    if msg_id is not None:
        merged["Nats-Msg-Id"] = msg_id
    if expected_last is not None:
        merged["Nats-Expected-Last-Subject-Sequence"] = str(expected_last)
    return merged or None


def _without_password(url: str) -> str:
    return ",".join(part.split("@")[-1] for part in url.split(","))
