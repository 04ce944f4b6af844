"""Where a recorder is measured: servers of its own, as durable as they are by default, and the service as a process."""

import asyncio
import contextlib
import os
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import psutil

from greenroom.common import topology_admin
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import STREAM as SESSIONS
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder import ingest
from greenroom.recorder.app import PARTS_DIR
from greenroom.recorder.backlog import backlog
from greenroom.recorder.migrate import migrate

TENANT: Final = "default"
_POLL_S: Final = 0.1
_DEADLINE_S: Final = 240.0


class Place:
    """Servers with our topology and schema. Made by `prepared`."""

    def __init__(self, folder: Path, nats: EmbeddedNats, postgres: EmbeddedPostgres, broker: NatsBroker) -> None:
        self.folder = folder
        self.nats = nats
        self.postgres = postgres
        self.broker = broker
        self.ledger = Ledger(broker)

    @classmethod
    @contextlib.asynccontextmanager
    async def prepared(cls) -> AsyncGenerator[Self]:
        """Run the servers for the time of the block."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # PostgreSQL may have to run as somebody else than we are.
            folder.chmod(0o755)
            async with EmbeddedNats(folder / "nats") as nats, EmbeddedPostgres(folder / "postgres") as postgres:
                await migrate(postgres.dsn)
                broker = await NatsBroker.connect(nats.url, name="bench")
                try:
                    await topology_admin.apply(broker)
                    yield cls(folder, nats, postgres, broker)
                finally:
                    await broker.close()

    @property
    def recordings(self) -> Path:
        """The recorder's folder."""
        return self.folder / "recordings"

    @property
    def parts(self) -> Path:
        """Where live audio is."""
        return self.recordings / PARTS_DIR

    @contextlib.asynccontextmanager
    async def recorder(self, *, cores: set[int] | None = None) -> AsyncGenerator[psutil.Process]:
        """Run a recorder for the time of the block, on some cores only if they are given."""
        env = {
            "DATABASE_URL": self.postgres.dsn,
            "GREENROOM_RECORDINGS_DIR": str(self.recordings),
            # Nothing but what is measured.
            "GREENROOM_RECORDER_WORK": "keep",
        }
        process = await self.spawn("greenroom.recorder", env=env)
        try:
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)
            yield psutil.Process(process.pid)
            if process.returncode is not None:
                raise RuntimeError(f"the recorder has ended by itself: {process.returncode}")
        finally:
            await _end(process)

    async def call(self, **fields: Any) -> Entry:
        """Return a session whose bot is ready."""
        now = utcnow()
        values: dict[str, Any] = {"agent": "echo", "bot": "echo", **fields}
        session = Session(id=uuid7(), tenant=TENANT, requested_at=now, queue_deadline_at=now, **values)
        entry = await self.ledger.create(Requested(session=session))
        leased = Leased(runner_id="r1", epoch=1, expires_at=now + timedelta(hours=1))
        for step in (leased, Started(runner_id="r1", epoch=1), Ready(epoch=1)):
            entry = await self.ledger.advance(entry, step)
        return entry

    async def hang_up(self, entry: Entry) -> None:
        """End a session."""
        ended = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")
        await self.ledger.advance(entry, ended)

    async def spawn(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> Process:
        """Start a module as a process that finds the broker."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            env={
                **os.environ,
                "NATS_URL": self.nats.url,
                "GREENROOM_LOG_LEVEL": "warning",
                "GREENROOM_HEALTH_PORT": "0",
                **(env or {}),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def settled(self) -> None:
        """Return once everything in SESSIONS is stored."""
        async with asyncio.timeout(_DEADLINE_S):
            while (left := await backlog(self.broker, SESSIONS, ingest.CONSUMER)).waiting or left.in_hand:
                await asyncio.sleep(_POLL_S)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def cpu_s(process: psutil.Process) -> float:
    """Return for how long a process has been on a core."""
    times = process.cpu_times()
    return times.user + times.system


def rss_mb(process: psutil.Process) -> float:
    """Return how much of it is in memory, in MB (10⁶ bytes)."""
    return process.memory_info().rss / 1e6
