"""A door before a server: while it is shut, nobody gets in and whoever was inside is cut off."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final, Self

_ADDRESS: Final = "127.0.0.1"
_BLOCK: Final = 64 * 1024


class Gate:
    """Hands what comes to its own port on to a server's.

    Attributes:
        port: its own; the same each time it is opened.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._inside: set[asyncio.StreamWriter] = set()

    async def open(self) -> Self:
        """Let people in."""
        self._server = await asyncio.start_server(self._enter, _ADDRESS, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def shut(self) -> None:
        """Cut off whoever is inside, and let nobody in."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._inside):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(_ADDRESS, self._server_port)
            self._inside |= {writer, back}
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
            self._inside -= {writer, back}


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await source.read(_BLOCK):
            target.write(block)
            await target.drain()
    target.close()


@contextlib.asynccontextmanager
async def gate_to(server_port: int) -> AsyncGenerator[Gate]:
    """Give an open gate for the time of the block."""
    gate = await Gate(server_port).open()
    try:
        yield gate
    finally:
        await gate.shut()
