"""The embedded PostgreSQL."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from greenroom.devtools.embedded import identity
from greenroom.devtools.embedded.child import EmbeddedServerFailed
from greenroom.devtools.embedded.postgres import EmbeddedPostgres, find_postgres
from tests.support.processes import assert_gone
from tests.support.servers import Databases

# Starts a server and says who it is, then lives until it is killed.
ORPHAN_MAKER = """
import asyncio, pathlib, sys, time
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False)
asyncio.run(server.start())
print(server.pid, flush=True)
time.sleep(60)
"""


class SomebodyElse(identity.Identity):
    """Runs as we are, but takes the folder to be another's."""

    @property
    def owner(self) -> int:
        """Nobody who is here."""
        return os.geteuid() + 1


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect for the time of the block."""
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        yield connection
    finally:
        connection.terminate()


async def keep(server: EmbeddedPostgres, count: int) -> None:
    """Commit rows."""
    async with connected(server.dsn) as connection:
        await connection.execute(f"CREATE TABLE kept AS SELECT generate_series(1, {count}) AS number")


async def kept(server: EmbeddedPostgres) -> int:
    """Return how many rows there are."""
    async with connected(server.dsn) as connection:
        return await connection.fetchval("SELECT count(*) FROM kept")


def modes_above(path: Path) -> list[tuple[Path, int, int, int]]:
    """Return mode and owner of every folder above `path`."""
    stats = [(folder, folder.stat()) for folder in path.parents]
    return [(folder, stat.st_mode, stat.st_uid, stat.st_gid) for folder, stat in stats]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are for one user only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def test_committed_rows_survive_a_kill(own_postgres: EmbeddedPostgres) -> None:
    """What was committed is there after a kill and a restart, at the same address, even with a query in full swing."""
    await keep(own_postgres, 1000)
    dsn = own_postgres.dsn
    async with connected(dsn) as connection, asyncio.TaskGroup() as tasks:

        async def query() -> None:
            with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT count(*) FROM generate_series(1, 1000000000)")

        tasks.create_task(query())
        await asyncio.sleep(0.05)
        await own_postgres.kill()
        assert not own_postgres.running
        await own_postgres.start()
    assert own_postgres.dsn == dsn
    assert await kept(own_postgres) == 1000


async def test_a_kill_by_somebody_else_is_survived_too(own_postgres: EmbeddedPostgres) -> None:
    """When only the postmaster was killed, the restart waits until the processes it left behind have ended."""
    await keep(own_postgres, 10)
    async with connected(own_postgres.dsn) as connection:
        await connection.execute("SELECT 1")
        os.kill(own_postgres.pid, signal.SIGKILL)
        await wait_dead(own_postgres)
        await own_postgres.start()
    assert await kept(own_postgres) == 10


async def wait_dead(server: EmbeddedPostgres) -> None:
    """Wait until the server was seen to end."""
    async with asyncio.timeout(5):
        while server.running:
            await asyncio.sleep(0.005)


async def test_rows_survive_a_stop_in_order(tmp_path: Path) -> None:
    """A durable server stops while a client is connected, and one started in its folder has the data and password."""
    async with EmbeddedPostgres(tmp_path) as first:
        await keep(first, 3)
        async with connected(first.dsn) as connection:
            await connection.execute("SELECT 1")
            await first.stop()
    async with EmbeddedPostgres(tmp_path) as second:
        assert await kept(second) == 3


async def test_it_speaks_utf8_and_utc(databases: Databases) -> None:
    """Text of any language is stored and folded, times are UTC, and UUIDv7 is built in."""
    async with connected(databases.server.dsn) as connection:
        assert await connection.fetchval("SELECT upper('grün')") == "GRÜN"
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        assert await connection.fetchval("SHOW timezone") == "UTC"
        assert await connection.fetchval("SELECT uuid_extract_version(uuidv7())") == 7


async def test_only_whoever_knows_the_password_gets_in(databases: Databases) -> None:
    """A client without the password is refused, and the file that holds it is for its owner only."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(databases.server.dsn, password="guess", timeout=5)
    assert (databases.server.folder / "password").stat().st_mode & 0o077 == 0


async def test_it_listens_on_loopback_only(databases: Databases) -> None:
    """It has one port, on loopback, and no socket file."""
    connections = psutil.Process(databases.server.pid).net_connections("all")
    listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", databases.server.port)]
    assert not list(databases.server.folder.rglob(".s.PGSQL*"))


async def test_it_is_not_root_and_changes_nothing_above_its_folder(tmp_path: Path) -> None:
    """Below folders that only their owner may enter it runs all the same, and leaves their modes and owners alone."""
    deep = tmp_path / ("deep" * 30) / "with space"
    deep.mkdir(parents=True)
    tmp_path.chmod(0o700)
    before = modes_above(deep / "x")
    async with EmbeddedPostgres(deep / "x", durable=False) as server, connected(server.dsn) as connection:
        assert await connection.fetchval("SELECT 1") == 1
        # Its processes have no capability left (Linux: CapEff), whoever we are.
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
    assert modes_above(deep / "x") == before


async def test_where_user_namespaces_are_refused_it_runs_as_nobody(open_folder: Path) -> None:
    """Without user namespaces root's server is `nobody` for real, where `nobody` can reach programs and folder."""
    who = identity.AS_NOBODY if os.geteuid() == 0 else identity.Identity()
    server = EmbeddedPostgres(open_folder / "postgres", durable=False, identity=who)
    if closed := who.obstacle(find_postgres() / "postgres", open_folder / "postgres"):
        with pytest.raises(EmbeddedServerFailed, match=re.escape(f"may not enter {closed}")):
            await server.start()
        return
    async with server:
        await keep(server, 5)
        await server.kill()
        await server.start()
        assert await kept(server) == 5
        assert psutil.Process(server.pid).uids().effective == who.owner


async def test_a_folder_out_of_reach_is_named(tmp_path: Path) -> None:
    """Without user namespaces, a folder on the way that only its owner may enter is named in the error."""
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path / "postgres", identity=identity.AS_NOBODY)
    with pytest.raises(EmbeddedServerFailed, match="may not enter"):
        await server.start()


async def test_a_folder_of_another_user_is_named(tmp_path: Path) -> None:
    """Data that another user has made is left alone, and the error says whose it is."""
    (tmp_path / "data").mkdir()
    server = EmbeddedPostgres(tmp_path, identity=SomebodyElse())
    with pytest.raises(EmbeddedServerFailed, match=f"belongs to user {os.geteuid()}"):
        await server.start()


async def test_a_taken_port_is_named(own_postgres: EmbeddedPostgres) -> None:
    """When the wanted port is taken, the error has the server's own words for it and nothing is left running."""
    await own_postgres.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = EmbeddedPostgres(own_postgres.folder, other.getsockname()[1], durable=False)
        with pytest.raises(EmbeddedServerFailed, match="Address already in use"):
            await server.start()
    assert not server.running


async def test_a_second_server_on_the_same_data_is_refused(databases: Databases) -> None:
    """Two servers never share a folder: the second is refused, the first doesn't notice."""
    second = EmbeddedPostgres(databases.server.folder, durable=False)
    with pytest.raises(EmbeddedServerFailed, match="lock file"):
        await second.start()
    async with connected(databases.server.dsn) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path) -> None:
    """Remains of an initialisation that was cut off don't get in the way."""
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(tmp_path, durable=False) as server:
        await keep(server, 1)


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """When whoever started it is killed, the server shuts down within a second, in order."""
    with subprocess.Popen([sys.executable, "-c", ORPHAN_MAKER, str(tmp_path)], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        server = psutil.Process(int(maker.stdout.readline()))
        maker.kill()
    assert_gone(server)
    assert "database system is shut down" in (tmp_path / "postgres.log").read_text()


async def test_every_test_has_a_database_of_its_own(databases: Databases, database: str, empty_database: str) -> None:
    """A test's database has the schema, nobody else sees what is in it, and it is gone afterwards."""
    async with connected(database) as mine, connected(empty_database) as empty:
        assert await mine.fetchval("SELECT count(*) FROM sessions") == 0
        await mine.execute("CREATE TABLE only_here ()")
        assert await empty.fetchval("SELECT to_regclass('sessions') IS NULL")
        async with databases.database() as another, connected(another) as theirs:
            assert await theirs.fetchval("SELECT to_regclass('only_here') IS NULL")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(another, timeout=5)
