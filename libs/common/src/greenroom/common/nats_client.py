"""nats-py's client, less the sockets that it forgets, and with a way for messages that come by the thousand.

A connection that stands but whose server says nothing (it is being started, or stopped) is given up after the
connect time-out. nats-py then opens the next one and drops the former without closing it: a file descriptor, and
for the server a client, until the collector comes by, which in our services is seldom.

What is pulled is taken raw (see `nats_parser`), and acknowledged together.
"""

from collections.abc import Iterable

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from greenroom.common.nats_parser import RawMessage, RawParser, TakeRaw


class NatsClient(Client):
    """A client with one connection at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, TakeRaw] = {}
        self._ps = RawParser(self, self._takers)

    async def subscribe_raw(self, subject: str, take: TakeRaw) -> Subscription:
        """Have `take` called with each message, as soon as it comes: none is queued, and none is dropped.

        What comes before this returns may be lost, so whoever asks for messages to this subject does so afterwards.
        """
        subscription = await self.subscribe(subject)
        self._takers[subscription._id] = take  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return subscription

    async def publish_empty(self, subjects: Iterable[bytes]) -> None:
        """Send a message without a body to each of `subjects`, which come from the server, in one piece.

        Raises:
            nats.errors.Error: they can't be sent.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        commands = b"".join([b"PUB %b 0\r\n\r\n" % subject for subject in subjects])
        if not self.is_connected and len(commands) + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        await self._send_command(commands)
        await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # pyright: ignore[reportArgumentType] - None where there are none
            return
        take(RawMessage(subject, reply, headers or b"", data))

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._takers.pop(sid, None)

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()
        await super()._connect_to_server(s)

    def abort(self) -> None:
        """Drop the connection at once, with whatever is still buffered in it; nothing if there is none."""
        transport = self._transport
        if not isinstance(transport, TcpTransport):
            return
        # With TLS there are two: the connection's own, and the one that encrypts what goes through it.
        for writer in (transport._io_writer, transport._bare_io_writer):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            if writer is not None:
                writer.transport.abort()
