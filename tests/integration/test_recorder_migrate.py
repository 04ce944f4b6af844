"""Migrations, on a real PostgreSQL."""

import asyncio
import hashlib
import sys
from pathlib import Path

import asyncpg
import pytest

from greenroom.common.errors import DatabaseUnavailable
from greenroom.recorder import migrate as module
from greenroom.recorder.migrate import Migration, MigrationLocked, MigrationRefused, main, migrate, migrations, status


def migration(name: str, sql: str) -> Migration:
    """Return a migration as if it were a file."""
    return Migration(name=name, sha256=hashlib.sha256(sql.encode()).hexdigest(), sql=sql)


FIRST = migration("0001_first", "CREATE TABLE first (id int)")
SECOND = migration("0002_second", "CREATE TABLE second (id int)")
BROKEN = migration("0002_broken", "CREATE TABLE half (id int); SELECT nonsense")


async def tables(dsn: str) -> set[str]:
    """Return the tables there are."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows}


async def test_all_in_order(empty_database: str) -> None:
    """Everything is applied once, in order, and `status` tells when."""
    assert [file.applied_at for file in await status(empty_database)] == [None] * len(migrations())
    assert await migrate(empty_database) == [file.name for file in migrations()]
    assert await migrate(empty_database) == []
    assert all(file.applied_at is not None for file in await status(empty_database))
    assert {"sessions", "session_events", "recordings", "api_keys", "agents"} <= await tables(empty_database)


async def test_starters_at_once(empty_database: str) -> None:
    """Of several starters at once one does the work, and all return when it is done."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(8)))
    assert sorted(applied, key=len) == [*([[]] * 7), [file.name for file in migrations()]]


async def test_later_file(empty_database: str) -> None:
    """A file that is new is applied alone."""
    await migrate(empty_database, files=[FIRST])
    assert await migrate(empty_database, files=[FIRST, SECOND]) == ["0002_second"]


async def test_changed_file(empty_database: str) -> None:
    """A file that was changed after it had been applied is refused, and nothing is done."""
    await migrate(empty_database, files=[FIRST])
    changed = migration(FIRST.name, FIRST.sql + " -- changed")
    with pytest.raises(MigrationRefused, match="0001_first was changed"):
        await migrate(empty_database, files=[changed, SECOND])
    assert "second" not in await tables(empty_database)


async def test_unknown_file(empty_database: str) -> None:
    """A database with a migration between ours that we don't know is refused; one that is ahead of us is fine."""
    await migrate(empty_database, files=[FIRST, SECOND])
    assert await migrate(empty_database, files=[FIRST]) == []
    with pytest.raises(MigrationRefused, match="has 0002_second"):
        await migrate(empty_database, files=[FIRST, migration("0003_third", "SELECT 1")])


async def test_failing_file(empty_database: str) -> None:
    """A file that fails leaves nothing of itself; the ones before it stay, and the next try goes on behind them."""
    with pytest.raises(asyncpg.UndefinedColumnError):
        await migrate(empty_database, files=[FIRST, BROKEN])
    assert await tables(empty_database) == {"first", "schema_migrations"}
    assert await migrate(empty_database, files=[FIRST, SECOND]) == ["0002_second"]


async def test_lock_has_a_deadline(empty_database: str) -> None:
    """Who waits for another starter gives up in time and says so."""
    holder = await asyncpg.connect(empty_database)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", module.LOCK)
        with pytest.raises(MigrationLocked):
            await migrate(empty_database, timeout_s=0.2)
    finally:
        await holder.close()
    assert await migrate(empty_database)


async def test_server_away() -> None:
    """A server that isn't there is told in time."""
    with pytest.raises(DatabaseUnavailable):
        await migrate("postgresql://nobody@127.0.0.1:1/none", timeout_s=0.2)


async def test_command(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says what it applied, what there is, and what is wrong with the settings."""
    monkeypatch.setenv("DATABASE_URL", empty_database)
    monkeypatch.setattr(sys, "argv", ["greenroom-migrate"])
    await asyncio.to_thread(main)
    assert "applied 0001_sessions, " in capsys.readouterr().out
    await asyncio.to_thread(main)
    assert capsys.readouterr().out == "the database is up to date\n"
    monkeypatch.setattr(sys, "argv", ["greenroom-migrate", "--status"])
    await asyncio.to_thread(main)
    assert capsys.readouterr().out.startswith("0001_sessions")
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(SystemExit, match="settings-invalid: DATABASE_URL"):
        await asyncio.to_thread(main)


def test_files_are_numbered() -> None:
    """Each file has a number of its own, so that two branches can't both take the next one unseen."""
    folder = Path(module.__file__).parent / "migrations"
    numbers = [int(path.name[:4]) for path in sorted(folder.glob("*.sql"))]
    assert len(set(numbers)) == len(numbers) == len(migrations())
    assert min(numbers) == 1
