"""Brings the schema of the database up to date: the `.sql` files of `migrations/`, in order, each once.

Forward only. A file that has been applied is never changed (its SHA-256 is kept and compared); the next change is
the next file. Any number of starters may call this at once: one does the work, the others wait for it.
"""

import argparse
import asyncio
import hashlib
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import resources
from typing import Annotated, Final

import msgspec
import structlog

from greenroom.common.errors import GreenroomError, SettingsInvalid
from greenroom.common.settings import Env, Settings, load
from greenroom.recorder import database
from greenroom.recorder.database import Connection

_log = structlog.get_logger()

# Any number will do that no other program on the same database uses.
LOCK: Final = 0x6772_6E72_6D69_6772
# For the server to come up, and for another starter to finish.
TIMEOUT_S: Final = 60.0
# Polled: whoever blocks inside pg_advisory_lock holds a snapshot, for which CREATE INDEX CONCURRENTLY waits in turn.
_LOCK_POLL_S: Final = 0.05
_FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")

_CREATE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_SELECT_APPLIED: Final = "SELECT name, sha256, applied_at FROM schema_migrations ORDER BY name"
_INSERT_APPLIED: Final = "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)"
_TABLE_EXISTS: Final = "SELECT to_regclass('schema_migrations') IS NOT NULL"


class MigrationRefused(GreenroomError):
    """The database and the migrations of this version contradict each other; nothing was changed.

    A file was edited after it had been applied, or the database has one that this version doesn't know between those
    it does. Restore the file; a change of the schema is a new file with the next number.
    """

    code = "migration-refused"
    title = "The schema can't be brought up to date"


class MigrationLocked(GreenroomError):
    """Another process has been migrating this database for a minute. Look at its log, or at pg_stat_activity."""

    code = "migration-locked"
    status = 503
    title = "Another process is migrating"
    retryable = True


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file; `applied_at` is None while it isn't applied."""

    name: str
    sha256: str
    sql: str
    applied_at: datetime | None = None


def migrations() -> list[Migration]:
    """Return the files of this version, in order."""
    folder = resources.files("greenroom.recorder").joinpath("migrations")
    texts = {file.name: file.read_text("utf-8") for file in folder.iterdir() if _FILE_NAME.fullmatch(file.name)}
    return [
        Migration(name=name.removesuffix(".sql"), sha256=hashlib.sha256(sql.encode()).hexdigest(), sql=sql)
        for name, sql in sorted(texts.items())
    ]


async def migrate(dsn: str, *, timeout_s: float = TIMEOUT_S, files: Sequence[Migration] | None = None) -> list[str]:
    """Apply what isn't applied yet and return its names, in order.

    Args:
        dsn: the database, as `postgresql://…`.
        timeout_s: how long to wait for the server, and then for another starter.
        files: the migrations; default those of this version.

    Raises:
        DatabaseUnavailable: the server can't be reached in time.
        MigrationLocked: another starter isn't done in time.
        MigrationRefused: a file has changed since it was applied.
    """
    files = migrations() if files is None else files
    # No limit on statements: a migration takes what it takes.
    connection = await database.connect(dsn, timeout_s=timeout_s, statement_timeout_s=None)
    try:
        async with _locked(connection, timeout_s):
            await connection.execute(_CREATE_TABLE)
            pending = [file for file in await _compare(connection, files) if file.applied_at is None]
            for file in pending:
                await _apply(connection, file)
    finally:
        await connection.close(timeout=database.CONNECT_TIMEOUT_S)
    return [file.name for file in pending]


async def status(dsn: str, *, timeout_s: float = TIMEOUT_S) -> list[Migration]:
    """Return the files of this version with the times at which they were applied. Changes nothing.

    Raises:
        DatabaseUnavailable: the server can't be reached in time.
        MigrationRefused: a file has changed since it was applied.
    """
    connection = await database.connect(dsn, timeout_s=timeout_s)
    try:
        if not await connection.fetchval(_TABLE_EXISTS):
            return migrations()
        return await _compare(connection, migrations())
    finally:
        await connection.close(timeout=database.CONNECT_TIMEOUT_S)


@asynccontextmanager
async def _locked(connection: Connection, timeout_s: float) -> AsyncGenerator[None]:
    deadline = time.monotonic() + timeout_s
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() >= deadline:
            raise MigrationLocked(f"the lock wasn't free within {timeout_s:g} s")
        await asyncio.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        # A connection that broke has released it already.
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def _compare(connection: Connection, files: Sequence[Migration]) -> list[Migration]:
    applied = {row["name"]: row for row in await connection.fetch(_SELECT_APPLIED)}
    known = {file.name for file in files}
    newest = max(known, default="")
    # Later ones than ours are fine: during a roll-out the new version migrates while the old one still starts.
    strangers = sorted(name for name in applied if name not in known and name < newest)
    if strangers:
        raise MigrationRefused(f"the database has {', '.join(strangers)}, which this version doesn't know")
    changed = [file.name for file in files if file.name in applied and applied[file.name]["sha256"] != file.sha256]
    if changed:
        raise MigrationRefused(f"{', '.join(changed)} was changed after it had been applied")
    return [
        msgspec.structs.replace(file, applied_at=applied[file.name]["applied_at"]) if file.name in applied else file
        for file in files
    ]


async def _apply(connection: Connection, file: Migration) -> None:
    began = time.monotonic()
    async with connection.transaction():
        await connection.execute(file.sql)
        await connection.execute(_INSERT_APPLIED, file.name, file.sha256)
    _log.info("migration_applied", migration=file.name, took_s=round(time.monotonic() - began, 3))


class _MigrateSettings(Settings, frozen=True, kw_only=True):
    database_url: Annotated[str, Env("DATABASE_URL", help="PostgreSQL, as postgresql://user:password@host:port/name")]


def main() -> None:
    """Run the `greenroom-migrate` command."""
    parser = argparse.ArgumentParser(prog="greenroom-migrate", description="Bring the database up to date.")
    parser.add_argument("--status", action="store_true", help="only show what is applied and what isn't")
    wanted = parser.parse_args()
    try:
        dsn = load(_MigrateSettings, os.environ).database_url
        if wanted.status:
            for file in asyncio.run(status(dsn)):
                sys.stdout.write(f"{file.name:40} {file.applied_at or 'not applied'}\n")
            return
        applied = asyncio.run(migrate(dsn))
    except SettingsInvalid as error:
        sys.exit(f"greenroom-migrate: {error.code}: {error.detail}")
    except GreenroomError as error:
        sys.exit(f"greenroom-migrate: {error.code}: {error.detail or error.title}")
    sys.stdout.write(f"applied {', '.join(applied)}\n" if applied else "the database is up to date\n")
