"""Transcript, timeline and bundle of a session over HTTP: live, ended, purged, and of others."""

import io
import json
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from greenroom.api import ranges
from greenroom.common import subjects
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable
from greenroom.common.ledger import STREAM, Ledger
from greenroom.common.lifecycle import Session
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.spoken_calls import speak

LINES = ("How can I help?", "a table for two", "For when?")
TEXT = "[00:00:00.1]    bot: How can I help?\n[00:00:01.1] caller: a table for two\n[00:00:02.1]    bot: For when?\n"
FORMATS: list[tuple[dict[str, str], str, str]] = [
    ({}, "*/*", "application/json"),
    ({}, "text/plain", "text/plain; charset=utf-8"),
    ({}, "text/html, text/vtt;q=0.5", "text/vtt; charset=utf-8"),
    ({"format": "text"}, "text/vtt", "text/plain; charset=utf-8"),
    ({"format": "json"}, "text/vtt", "application/json"),
    ({}, "image/png", "application/json"),
]


@pytest.fixture
async def world(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[ApiWorld]:
    """A running api whose recordings are in `tmp_path`."""
    async with running_api(nats_url, database, recordings_dir=str(tmp_path), api_max_downloads=2) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


async def purge(world: ApiWorld, session: Session) -> None:
    """Have the broker forget a session, as the recorder does."""
    everything = subjects.SESSION_ALL.wildcard(tenant=session.tenant, session_id=session.id)
    await world.broker.purge(STREAM, everything, up_to=2**62)


async def kept(world: ApiWorld, *lines: str) -> Session:
    """Return a session that has ended, is stored, and which the broker has forgotten."""
    session = await speak(world, *lines)
    await world.end(session.id)
    await world.record()
    await purge(world, session)
    return session


async def record(world: ApiWorld, session: Session, folder: Path, audio: bytes = b"RIFF" * 50_000) -> bytes:
    """Keep a recording of a session."""
    (folder / "call.wav").write_bytes(audio)
    await world.execute(
        "INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,"
        " manifest) VALUES ($1, 'default', 'call.wav', 'wav', 2, 2, 16000, $2, 'x', '[]', '{\"version\": 1}')",
        session.id,
        len(audio),
    )
    return audio


async def read(client: httpx.AsyncClient, session: Session, what: str, **params: str) -> httpx.Response:
    """Return an answer that is well."""
    response = await client.get(f"/v1/sessions/{session.id}/{what}", params=params)
    assert response.status_code == 200, response.text
    return response


async def test_a_live_transcript_has_what_was_said_so_far(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Before anything is stored, and more of it with each utterance."""
    session = await speak(world, *LINES[:1])
    found = (await read(client, session, "transcript")).json()
    assert (found["complete"], [entry["text"] for entry in found["entries"]]) == (False, ["How can I help?"])
    said = b'{"source": "session", "epoch": 1, "seq": 9, "data": {"text": "hm", "start_ms": 1000, "end_ms": 1100}}'
    await world.publish(session.id, "user_spoke", said)
    found = (await read(client, session, "transcript")).json()
    assert [(entry["speaker"], entry["start_ms"]) for entry in found["entries"]] == [("bot", 100), ("user", 1000)]


async def test_a_transcript_outlives_the_stream(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Purged by the broker, it is told from what is stored, and is complete."""
    session = await kept(world, *LINES)
    found = (await read(client, session, "transcript")).json()
    assert (found["complete"], [entry["text"] for entry in found["entries"]]) == (True, list(LINES))


async def test_formats(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """As the query says, else as `Accept` does, else JSON."""
    session = await speak(world, *LINES)
    path = f"/v1/sessions/{session.id}/transcript"
    for query, accept, kind in FORMATS:
        response = await client.get(path, params=query, headers={"accept": accept})
        assert response.headers["content-type"] == kind
        if kind.startswith("text/plain"):
            assert response.text == TEXT
        if kind.startswith("text/vtt"):
            assert response.text.startswith("WEBVTT\n\n1\n00:00:00.100 --> 00:00:00.900\n<v bot>How can I help?\n")


async def test_a_timeline_tells_stages_turns_and_moments(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Live it ends in the stage that it is in; ended it has the duration of each."""
    session = await speak(world, *LINES)
    await world.publish(session.id, "crm.ticket_opened", b'{"data": {"ticket": 7}}')
    live = (await read(client, session, "timeline")).json()
    assert [stage["state"] for stage in live["stages"]] == ["requested", "leased", "started", "ready"]
    assert live["stages"][-1]["until"] is None
    assert [(turn["response_ms"], turn["bot"]["text"]) for turn in live["turns"]] == [
        (None, "How can I help?"),
        (200, "For when?"),
    ]
    assert [moment["type"] for moment in live["moments"]] == ["call_connected", "crm.ticket_opened"]
    await world.end(session.id)
    ended = (await read(client, session, "timeline")).json()
    assert [stage["state"] for stage in ended["stages"]][-1] == "ended"
    assert all(stage["duration_ms"] is not None for stage in ended["stages"])


async def test_a_bundle_has_everything(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Session, events, transcript in three forms, timeline, recording and its manifest, and what is what."""
    session = await kept(world, *LINES)
    audio = await record(world, session, tmp_path)
    response = await read(client, session, "bundle")
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == f'attachment; filename="{session.id}.zip"'
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.testzip() is None
    files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {
        "README.txt",
        "session.json",
        "events.jsonl",
        "transcript.json",
        "transcript.txt",
        "transcript.vtt",
        "timeline.json",
        "recording.wav",
        "recording.json",
    }
    assert all(name in files["README.txt"].decode() for name in set(files) - {"README.txt"})
    assert files["recording.wav"] == audio
    assert json.loads(files["recording.json"]) == {"version": 1}
    assert files["transcript.txt"].decode() == TEXT
    assert json.loads(files["session.json"])["id"] == session.id
    for name in ("transcript", "timeline"):
        assert json.loads(files[f"{name}.json"]) == (await read(client, session, name)).json()
    events = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    listed = (await client.get(f"/v1/sessions/{session.id}/events")).json()["events"]
    assert events == listed
    assert [event["type"] for event in events][-1] == "session.ended"


async def test_a_bundle_of_a_live_session_says_that_it_is_one(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """There is no recording yet, and the rest is what there was so far."""
    session = await speak(world, *LINES)
    archive = zipfile.ZipFile(io.BytesIO((await read(client, session, "bundle")).content))
    assert "recording.wav" not in archive.namelist()
    assert "hasn't ended" in archive.read("README.txt").decode()
    assert archive.read("transcript.txt").decode() == TEXT


async def test_a_recording_that_is_gone_is_no_end_of_the_bundle(
    world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """The manifest is there, and the README says what is missing; nothing outside the folder is ever packed."""
    session = await kept(world, *LINES)
    await record(world, session, tmp_path)
    for path in ("gone.wav", "../outside.wav"):
        await world.execute("UPDATE recordings SET path = $1", path)
        archive = zipfile.ZipFile(io.BytesIO((await read(client, session, "bundle")).content))
        assert "isn't where it was kept" in archive.read("README.txt").decode()
        assert "recording.json" in archive.namelist()
        assert "recording.wav" not in archive.namelist()


async def test_a_bundle_that_breaks_is_seen_to_be_broken(
    world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails in the middle cuts the answer off, and the place is free again."""
    session = await kept(world, *LINES)
    await record(world, session, tmp_path)

    async def broken(*_: object) -> AsyncGenerator[bytes]:
        yield b"RIFF" * 100_000
        raise OSError("the disk is gone")

    monkeypatch.setattr(ranges, "read", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"/v1/sessions/{session.id}/bundle")
    assert world.counted("api_downloads") == 0


async def test_only_so_many_bundles_are_made_at_a_time(
    world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """One too many is told to come again; when one is done, or its client is gone, there is a place."""
    session = await kept(world, *LINES)
    await record(world, session, tmp_path, audio=bytes(32 * 1024 * 1024))
    path = f"/v1/sessions/{session.id}/bundle"
    async with client.stream("GET", path) as first, client.stream("GET", path) as second:
        # Both are held up by clients that don't read.
        assert (first.status_code, second.status_code) == (200, 200)
        problem = problem_of(await client.get(path))
        assert (problem["status"], problem["code"]) == (503, "too-many-downloads")

    async def taken() -> float:
        return world.counted("api_downloads")

    assert await eventually(taken, lambda count: count == 0) == 0
    assert (await client.get(path)).status_code == 200


async def test_while_the_broker_is_away_what_is_stored_is_read(
    world: ApiWorld, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that ended is whole in PostgreSQL, whether the broker is there or not."""
    session = await speak(world, *LINES)
    await world.end(session.id)
    await world.record()

    async def away(*_: object) -> Any:
        raise BrokerUnavailable

    monkeypatch.setattr(Ledger, "last", away)
    assert len((await read(client, session, "transcript")).json()["entries"]) == 3


async def test_what_can_not_be_read_now_is_said(
    world: ApiWorld, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is away, and the broker has forgotten the session: 503, and never half a transcript."""
    session = await kept(world, *LINES)
    store = type(world.parts.streams.store)

    async def away(*_: object, **__: object) -> Any:
        raise DatabaseUnavailable

    monkeypatch.setattr(store, "events", away)
    for what in ("transcript", "timeline"):
        assert problem_of(await client.get(f"/v1/sessions/{session.id}/{what}"))["code"] == "database-unavailable"
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"/v1/sessions/{session.id}/bundle")


async def test_sessions_of_others_are_not_found(world: ApiWorld) -> None:
    """What was said belongs to the tenant of the session, and needs a key that may read."""
    session = await speak(world, *LINES)
    async with world.client(tenant="other") as other, world.client("sessions:write") as writer:
        for what in ("transcript", "timeline", "bundle"):
            assert problem_of(await other.get(f"/v1/sessions/{session.id}/{what}"))["code"] == "session-not-found"
            assert problem_of(await writer.get(f"/v1/sessions/{session.id}/{what}"))["code"] == "forbidden"
            assert problem_of(await other.get(f"/v1/sessions/no-id/{what}"))["code"] == "session-not-found"


async def test_a_bundle_is_made_in_constant_memory(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The first bytes come before anything large is read, and the rest in pieces."""
    session = await kept(world, *LINES)
    await record(world, session, tmp_path, audio=bytes(64 * 1024 * 1024))
    largest = 0
    async with client.stream("GET", f"/v1/sessions/{session.id}/bundle") as response:
        async for chunk in response.aiter_raw():
            largest = max(largest, len(chunk))
    assert largest <= 1024 * 1024


async def test_events_of_any_kind_are_packed(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """More events than a page, with data of any form."""
    session = await speak(world)
    connection = await asyncpg.connect(world.dsn)
    await world.end(session.id)
    await world.record()
    await purge(world, session)
    await connection.execute(
        "INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)"
        " SELECT $1, 1000000 + n, 'default', n::text, 0, 0, 'x', 'x.y', now(), '{\"big\": 1e400, \"text\": [1]}'"
        " FROM generate_series(1, 1200) AS n",
        session.id,
    )
    await connection.close()
    archive = zipfile.ZipFile(io.BytesIO((await read(client, session, "bundle")).content))
    assert len(archive.read("events.jsonl").splitlines()) > 1200
