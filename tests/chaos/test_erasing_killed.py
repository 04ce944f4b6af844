"""What does this test do? It kills recorders that erase sessions, by SIGKILL, each at another point of the work.

How does it accomplish this? Calls are recorded and asked to be erased, all at once. Recorders run as processes of their
own; each is killed as soon as something can be seen from outside: the point of no return in PostgreSQL, the first
session that is erased. After each kill the invariant is checked: whatever is left of a session,
its wish is there, and so is its row as long as it has files. The last recorder is left alone and finishes everything.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from greenroom.common import topology
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from tests.support.evidence import found_in_files, found_in_streams, found_in_tables
from tests.support.recorder_world import RATE, World, eventually, quick_topology, samples, world

CALLS = 24
PATIENCE_S = 60.0
PROGRAM = """
from greenroom.common import topology
from greenroom.recorder.__main__ import main
from tests.support.recorder_world import quick_topology
topology.CONSUMERS = quick_topology()
main()
"""


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path / "recordings") as made:
        yield made


async def recorded(here: World) -> list[Session]:
    """Return calls that are over and sealed; the broker still has them."""
    async with here.recorder():
        sessions: list[Session] = []
        for _ in range(CALLS):
            entry = await here.begin()
            await here.publish(entry.session, "user_transcript", id=uuid7(), data={"text": "hello"})
            await here.speak(entry.session, "user", 1, samples(5, RATE))
            sessions.append((await here.end(entry)).session)
        for session in sessions:
            await here.sealed(session)
    return sessions


async def start(here: World, log: Path) -> asyncio.subprocess.Process:
    """Start a recorder as a process of its own."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "OTEL_"))},
        "NATS_URL": await here.nats_url(),
        "DATABASE_URL": here.dsn,
        "GREENROOM_RECORDINGS_DIR": str(here.folder),
    }
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, env=env, stdout=output, stderr=output
        )


async def check(here: World, sessions: list[Session]) -> None:
    """Make sure that nothing that is left is unreachable."""
    wished = {row["session_id"] for row in await here.rows("SELECT session_id FROM erasures")}
    stored = {row["id"] for row in await here.rows("SELECT id FROM sessions")}
    for session in sessions:
        words = [session.id.encode()]
        files = found_in_files(here.folder, words)
        assert not files or session.id in stored, (session.id, files)
        left = {*files, *await found_in_tables(here.dsn, words)} - {"audit", "tombstones"}
        assert not left or session.id in wished, (session.id, left)


@pytest.mark.timeout(240)
async def test_killed_while_erasing(here: World, tmp_path: Path) -> None:
    """However often a recorder is killed while it erases, nothing is left unreachable, and at last nothing is left."""
    sessions = await recorded(here)
    assert len(list(here.folder.rglob("*.wav"))) == CALLS
    connection = await asyncpg.connect(here.dsn)
    await connection.execute(
        "INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by)"
        " SELECT id, 'session', tenant, agent, (requested_at AT TIME ZONE 'UTC')::date, 'key:test' FROM sessions"
    )
    await connection.close()

    async def begun() -> bool:
        return bool(await here.rows("SELECT 1 FROM erasures WHERE begun_at IS NOT NULL LIMIT 1"))

    async def one_is_erased() -> bool:
        return bool(await here.rows("SELECT 1 FROM audit WHERE action = 'session.erased' LIMIT 1"))

    moments: list[Callable[[], Awaitable[bool]]] = [begun, one_is_erased]
    for moment in moments:
        process = await start(here, tmp_path / "recorder.log")
        try:
            await eventually(moment, bool, within_s=PATIENCE_S)
        finally:
            process.kill()
            await process.wait()
        await check(here, sessions)

    process = await start(here, tmp_path / "recorder.log")
    try:
        await eventually(lambda: here.rows("SELECT 1 FROM erasures"), lambda rows: not rows, within_s=PATIENCE_S)
    finally:
        process.terminate()
        await process.wait()
    words = [session.id.encode() for session in sessions]
    assert await found_in_tables(here.dsn, words) == {"audit": CALLS, "tombstones": CALLS}
    assert await found_in_streams(here.broker, words) == {}
    assert found_in_files(here.folder, words) == {}
