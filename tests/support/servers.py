"""The real nats-server and PostgreSQL of a test run: one of each, made clean for every test that uses them."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import asyncpg
import nats

from greenroom.common.ids import uuid7
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.migrate import migrate

_TEMPLATE: Final = "greenroom_template"
_CONNECT_TIMEOUT_S: Final = 5
_REQUEST_TIMEOUT_S: Final = 5.0


class Databases:
    """One PostgreSQL server that gives every test a database of its own, with the current schema in it.

    Args:
        server: a started server.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server: Final = server

    async def make_template(self) -> None:
        """Make the database that the others are copied from, and bring its schema up to date."""
        await self._execute(f"CREATE DATABASE {_TEMPLATE}")
        await migrate(self.server.dsn_of(_TEMPLATE))

    @contextlib.asynccontextmanager
    async def database(self, template: str = _TEMPLATE) -> AsyncGenerator[str]:
        """Give a database for the time of the block, whoever is still connected at its end; yields its DSN."""
        name = f"test_{uuid7().replace('-', '')}"
        # Copying files takes 10 ms; the default writes every page to the log as well.
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield self.server.dsn_of(name)
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.server.dsn_of("postgres"), timeout=_CONNECT_TIMEOUT_S)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def running_databases(folder: Path) -> AsyncGenerator[Databases]:
    """Run a PostgreSQL server for tests: fast, and without any care for a power cut."""
    async with EmbeddedPostgres(folder, durable=False) as server:
        databases = Databases(server)
        await databases.make_template()
        yield databases


async def wipe(server: EmbeddedNats) -> None:
    """Delete all streams of a server, and with them their messages and consumers."""
    client = await nats.connect(server.url, connect_timeout=_CONNECT_TIMEOUT_S)
    try:
        jetstream = client.jetstream(timeout=_REQUEST_TIMEOUT_S)
        for stream in await jetstream.streams_info():
            await jetstream.delete_stream(str(stream.config.name))
    finally:
        await client.close()
