"""nats-py's client, less the sockets that it forgets.

A connection that stands but whose server says nothing (it is being started, or stopped) is given up after the
connect time-out. nats-py then opens the next one and drops the former without closing it: a file descriptor, and
for the server a client, until the collector comes by, which in our services is seldom.
"""

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport


class NatsClient(Client):
    """A client with one connection at a time."""

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
