"""Several recorders on one nats-server and one PostgreSQL, and what happens when parts of that are killed."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from greenroom.common import subjects, topology
from greenroom.common.ledger import Entry
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.migrate import migrate
from tests.support.recorder_world import RATE, World, eventually, quick_topology, samples, world
from tests.support.service_log import logged

# The service as it is, but for the time after which what was in dead hands is delivered again.
PROGRAM = """
from greenroom.common import topology
from greenroom.recorder.__main__ import main
from tests.support.recorder_world import quick_topology
topology.CONSUMERS = quick_topology()
main()
"""
# Batches are small, so that each recorder has many of them in its hands.
SMALL = {"GREENROOM_EVENT_BATCH": "7"}


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


class Told:
    """What was published of some sessions, by session: stream sequence and type, in order."""

    def __init__(self, here: World) -> None:
        self.here = here
        self.entries: dict[str, Entry] = {}
        self.rows: dict[str, list[tuple[int, str]]] = {}

    async def begin(self) -> Entry:
        """Publish a session that becomes ready."""
        entry = await self.here.begin()
        history = await self.here.ledger.history("t", entry.session.id)
        kinds = ["requested", "leased", "started", "ready"]
        self.rows[entry.session.id] = [
            (each.revision, f"session.{kind}") for each, kind in zip(history, kinds, strict=True)
        ]
        self.entries[entry.session.id] = entry
        return entry

    async def say(self, session_id: str, number: int) -> None:
        """Publish an event of a session."""
        entry = self.entries[session_id]
        seq = await self.here.publish(entry.session, "user_spoke", id=f"e{number}", seq=number, data={"n": number})
        self.rows[session_id].append((seq, "user_spoke"))

    async def end(self, session_id: str) -> None:
        """Publish the end of a session."""
        ended = await self.here.end(self.entries[session_id])
        self.rows[session_id].append((ended.revision, "session.ended"))

    async def stored(self) -> dict[str, list[tuple[int, str]]]:
        """Return what is stored of them, in order; what the recorder adds by itself left out."""
        rows = await self.here.rows(
            "SELECT session_id, stream_seq, type FROM session_events "
            "WHERE session_id = ANY($1) AND source <> 'recorder' ORDER BY session_id, stream_seq",
            list(self.rows),
        )
        found: dict[str, list[tuple[int, str]]] = {}
        for row in rows:
            found.setdefault(row["session_id"], []).append((row["stream_seq"], row["type"]))
        return found


@asynccontextmanager
async def a_process(here: World, name: str, **settings: str) -> AsyncGenerator[tuple[Process, Path]]:
    """Run a recorder as a process of its own; gives it and its log."""
    log = here.folder.parent / f"{here.folder.name}-{name}.log"
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GREENROOM_", "OTEL_"))},
        "NATS_URL": await here.nats_url(),
        "DATABASE_URL": here.dsn,
        "GREENROOM_RECORDINGS_DIR": str(here.folder),
        "GREENROOM_INSTANCE_ID": name,
        **settings,
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, env=env, stdout=output, stderr=output
        )
    try:
        yield process, log
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def sessions_by(log: Path) -> int:
    """Return of how many sessions a recorder has stored the end."""
    return len(logged(log, "session_stored"))


@pytest.mark.parametrize("victim", ["the leader", "the other one"])
async def test_one_of_two_is_killed(nats_url: str, database: str, tmp_path: Path, victim: str) -> None:
    """Two processes share the work; one is killed with -9 in mid-stream: each event is stored once, and in order.

    Each session's messages are in the hands of both, batch by batch; what the killed one held comes to the other.
    """
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(world(nats_url, database, tmp_path / "recordings"))
        first, first_log = await stack.enter_async_context(a_process(here, "first", **SMALL))
        await eventually(lambda: _ready(first_log, "leadership_taken"), bool, within_s=60)
        second, second_log = await stack.enter_async_context(a_process(here, "second", **SMALL))
        told = Told(here)
        # Until both have had a part in it: the second takes its time to start.
        async with asyncio.timeout(90):
            while not (await sessions_by(first_log) and await sessions_by(second_log)):
                await told.end((await told.begin()).session.id)
                await asyncio.sleep(0.02)
        living = [(await told.begin()).session.id for _ in range(8)]
        for number in range(1, 61):
            for session_id in living:
                await told.say(session_id, number)
            if number == 30:
                (first if victim == "the leader" else second).send_signal(signal.SIGKILL)
        for session_id in living:
            await told.end(session_id)
        await eventually(told.stored, lambda stored: stored == told.rows, within_s=60)
        await eventually(lambda: unsettled(here), lambda left: left == 0)
        assert await told.stored() == told.rows
        assert await here.parked() == []
        rows = await here.rows("SELECT state, ledger_revision FROM sessions WHERE id = ANY($1)", living)
        assert sorted(row["ledger_revision"] for row in rows) == sorted(told.rows[each][-1][0] for each in living)
        assert {row["state"] for row in rows} == {"ended"}
        survivor = second if victim == "the leader" else first
        for session_id in living:
            await here.sealed(told.entries[session_id].session)
        survivor.terminate()
        assert await survivor.wait() == 0


async def _ready(log: Path, event: str) -> bool:
    return bool(logged(log, event))


async def unsettled(here: World) -> int:
    """Return how many messages of the ledger's consumer aren't dealt with."""
    info = await here.broker.client.jetstream().consumer_info("SESSIONS", "recorder-sessions")
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def test_the_end_that_another_stored_is_sealed(nats_url: str, database: str, tmp_path: Path) -> None:
    """The one that seals isn't always the one that stored the end; it comes to know of it all the same."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(world(nats_url, database, tmp_path))
        for _ in range(2):
            await stack.enter_async_context(here.recorder(event_batch=1))
        for _ in range(6):
            entry = await here.begin()
            await here.speak(entry.session, "user", 1, samples(5, RATE))
            await here.end(entry)
            await eventually(lambda of=entry.session: here.stored(of), lambda row: row.get("sealed_at"))


async def test_postgres_and_broker_away_in_turn(
    own_nats: EmbeddedNats, own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """Two recorders, a call with events and audio; PostgreSQL goes, then the broker goes: nothing is lost or twice.

    Audio doesn't wait for PostgreSQL.
    """
    await migrate(own_postgres.dsn)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(world(own_nats.url, own_postgres.dsn, tmp_path / "recordings"))
        for _ in range(2):
            await stack.enter_async_context(here.recorder(event_batch=5))
        told = Told(here)
        ids = [(await told.begin()).session.id for _ in range(3)]
        numbers = iter(range(1, 1000))

        async def talk(seconds: int) -> None:
            for _ in range(seconds):
                number = next(numbers)
                for session_id in ids:
                    await told.say(session_id, number)
                await here.speak(told.entries[ids[0]].session, "user", number, samples(number, RATE))

        await talk(10)
        await eventually(told.stored, lambda stored: stored == told.rows)
        await own_postgres.kill()
        await talk(10)
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        await own_postgres.start()
        await talk(10)
        await own_nats.kill()
        await asyncio.sleep(0.5)
        await own_nats.start()
        await eventually(lambda: _connected(here), bool)
        await talk(10)
        for session_id in ids:
            await told.end(session_id)
        await eventually(told.stored, lambda stored: stored == told.rows, within_s=60)
        await here.sealed(told.entries[ids[0]].session)
        (recording,) = await here.recordings(told.entries[ids[0]].session)
        assert (recording["duration_s"], json.loads(recording["gaps"])) == (40.0, [])
        assert await here.parked() == []


async def audio_left(here: World) -> int:
    """Return how many chunks aren't stored."""
    return await here.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())


async def _connected(here: World) -> bool:
    return here.broker.connected
