"""nats-py's client, less the sockets that it forgets."""

import asyncio
import contextlib
from typing import Self

import nats.errors

from greenroom.common.nats_client import NatsClient


class _MuteServer:
    """Accepts whoever connects and never says a word, as a server that is being started does."""

    def __init__(self) -> None:
        self.port = 0
        self.connected = 0
        self.open = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected, self.open = self.connected + 1, self.open + 1
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self.open -= 1
        writer.close()


async def _until_closed(server: _MuteServer, most: int) -> None:
    async with asyncio.timeout(5):
        while server.open > most:
            await asyncio.sleep(0.005)


async def _ignore(_: Exception) -> None:
    """The failures are what is wanted."""


async def test_a_connection_that_is_given_up_is_closed() -> None:
    """A server that stays silent sees an attempt end when the next one begins, not when garbage is collected."""
    async with _MuteServer() as server:
        client = NatsClient()
        attempts = asyncio.create_task(
            client.connect(
                f"nats://127.0.0.1:{server.port}",
                connect_timeout=0.1,  # pyright: ignore[reportArgumentType] - a float is fine
                reconnect_time_wait=0.01,  # pyright: ignore[reportArgumentType] - a float is fine
                max_reconnect_attempts=-1,
                error_cb=_ignore,
            )
        )
        async with asyncio.timeout(10):
            while server.connected < 4:
                await asyncio.sleep(0.005)
        await _until_closed(server, 1)
        attempts.cancel()
        with contextlib.suppress(asyncio.CancelledError, nats.errors.Error):
            await attempts
        client.abort()
        await _until_closed(server, 0)


async def test_there_may_be_no_connection_yet() -> None:
    """A client that never connected has nothing to abort."""
    NatsClient().abort()
