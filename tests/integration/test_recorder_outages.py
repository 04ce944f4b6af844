"""Real outages of seconds: PostgreSQL or the storage goes away in mid-call, and everything else goes on."""

import asyncio
import hashlib
import os
import wave
from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest

from greenroom.common import objects, subjects, topology
from greenroom.common.lifecycle import Session
from greenroom.common.objects import open_bucket
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder import missing, reconcile, seal, storage
from greenroom.recorder.migrate import migrate
from greenroom.recorder.troubles import LIVE_AUDIO, SEALING
from tests.support.gate import Gate, gate_to
from tests.support.recorder_world import RATE, World, eventually, quick_topology, world

AWAY_S = 2.5


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that looks once in a while looks several times in an outage of seconds."""
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())
    monkeypatch.setattr(seal, "SCAN_S", 0.5)
    monkeypatch.setattr(reconcile, "ROUND_S", 0.5)
    monkeypatch.setattr(missing, "ROUND_S", 0.5)
    monkeypatch.setattr("greenroom.recorder.partitions.ROUND_S", 0.5)
    monkeypatch.setattr("greenroom.recorder.partitions.AWAY_RETRY_S", 0.5)
    monkeypatch.setattr("greenroom.recorder.retention.daily.LOOK_S", 0.5)
    monkeypatch.setattr(objects, "_RETRIES", 1)


@pytest.fixture
async def gate(s3_server: str, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Gate]:
    """The way to a bucket; the environment leads through it, and files go through it in parts."""
    assert bucket_url
    monkeypatch.setattr(storage, "ONE_PIECE_BYTES", 0)
    async with gate_to(urlsplit(s3_server).port or 0) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
        yield made


async def audio_left(here: World) -> int:
    """Return how many chunks aren't stored."""
    return await here.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())


async def talk(here: World, session: Session, spoken: bytes) -> None:
    """Say some seconds of audio, with an event each."""
    for number, place in enumerate(range(0, len(spoken), 2 * RATE), 1):
        await here.speak(session, "user", number, spoken[place : place + 2 * RATE])
        await here.publish(session, "user_spoke", id=f"{session.id}-{number}", data={})


def left_of(file: bytes) -> bytes:
    """Return the caller's side of a recording."""
    with wave.open(BytesIO(file)) as opened:
        frames = opened.readframes(opened.getnframes())
    return b"".join(frames[place : place + 2] for place in range(0, len(frames), 4))


async def test_postgres_is_away(nats_url: str, own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Audio is stored as it comes, all the parts of a recorder live on, and then everything is in PostgreSQL once."""
    await migrate(own_postgres.dsn)
    async with world(nats_url, own_postgres.dsn, tmp_path) as here, here.recorder(budget_interval_s=0.5) as recorder:
        before, spoken = await here.begin(), os.urandom(2 * RATE * 5)
        await talk(here, before.session, spoken)
        await eventually(lambda: here.event_types(before.session), lambda types: types.count("user_spoke") == 5)
        await own_postgres.kill()
        meanwhile = await here.begin()
        await talk(here, meanwhile.session, spoken)
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        for entry in (before, meanwhile):
            await here.end(entry)
        await asyncio.sleep(AWAY_S)
        assert recorder.leading
        await own_postgres.start()
        for entry in (before, meanwhile):
            await here.sealed(entry.session)
            (row,) = await here.recordings(entry.session)
            assert left_of((here.folder / row["path"]).read_bytes()) == spoken
            types = await eventually(
                lambda of=entry.session: here.event_types(of), lambda types: types[-1] == "recording_saved"
            )
            assert types == [
                *("session.requested", "session.leased", "session.started", "session.ready"),
                *["user_spoke"] * 5,
                *("session.ended", "recording_saved"),
            ]
        assert await here.parked() == []


async def test_the_storage_is_away(gate: Gate, bucket_url: str, nats_url: str, database: str, tmp_path: Path) -> None:
    """Calls go on being recorded, transitions and events being stored; then what waited is sealed, bit for bit."""
    settings = {"recordings_url": bucket_url, "purge_grace_s": 0.0}
    async with world(nats_url, database, tmp_path) as here, here.recorder(**settings) as recorder:
        first, spoken = await here.begin(), os.urandom(2 * RATE * 5)
        await talk(here, first.session, spoken)
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        await gate.shut()
        await here.end(first)
        told = await eventually(lambda: _trouble(recorder.troubles.of(SEALING)), bool)
        assert told == (
            "storage-unavailable: The storage of recordings can't be used; recordings wait unsealed and nothing is lost"
        )
        second = await here.begin()
        await talk(here, second.session, spoken)
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        await here.end(second)
        for entry in (first, second):
            await eventually(lambda of=entry.session: here.event_types(of), lambda types: "session.ended" in types)
        await asyncio.sleep(AWAY_S)
        assert recorder.leading
        assert recorder.troubles.of(LIVE_AUDIO) is None
        assert [bool((await here.stored(each.session))["sealed_at"]) for each in (first, second)] == [False, False]
        await gate.open()
        store = open_bucket(bucket_url)
        for entry in (first, second):
            await here.sealed(entry.session)
            (row,) = await here.recordings(entry.session)
            # In a thread: the gate is in this one.
            file = await asyncio.to_thread(lambda of=row["path"]: bytes(obstore.get(store, of).bytes()))
            # S3's sign that it was put together: it went up in a way that can be taken up again.
            assert str((await obstore.head_async(store, row["path"]))["e_tag"]).strip('"').endswith("-1")
            assert (left_of(file), hashlib.sha256(file).hexdigest()) == (spoken, row["sha256"])
        assert recorder.troubles.of(SEALING) is None
        assert await here.parked() == []
        await eventually(lambda: _folders(here.parts), lambda left: left == [])


async def _trouble(told: str | None) -> str | None:
    return told


async def _folders(parts: Path) -> list[Path]:
    return list(parts.iterdir())
