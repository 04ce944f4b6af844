"""The real nats-server and PostgreSQL of a test run: one of each, made clean for every test that uses them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Final

import asyncpg
import nats
import pytest

from greenroom.common.ids import uuid7
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.migrate import migrate

_TEMPLATE: Final = "greenroom_template"
_CONNECT_TIMEOUT_S: Final = 5
_REQUEST_TIMEOUT_S: Final = 5.0
# Files in memory: to copy a database takes a tenth of what it takes on a disk, to make the streams half.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - folders in it get names that nobody guesses
# What has to be free there: a server keeps less than a tenth of it, and a container may have 64 MB in all.
_ROOM_BYTES: Final = 4 * 2**30


@contextlib.contextmanager
def quick_folder(factory: pytest.TempPathFactory, name: str) -> Generator[Path]:
    """Give a server of the run a folder: in memory if there is room, and gone afterwards; else on disk."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK) or shutil.disk_usage(_MEMORY).free < _ROOM_BYTES:
        yield factory.mktemp(name)
        return
    with tempfile.TemporaryDirectory(prefix=f"greenroom-tests-{name}-", dir=_MEMORY) as folder:
        yield Path(folder)


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
