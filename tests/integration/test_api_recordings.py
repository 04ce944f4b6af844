"""Recordings over HTTP: whole, in parts, not there yet, not there at all."""

import hashlib
import io
import json
import random
import wave
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import httpx
import obstore
import pytest

from greenroom.api.ranges import Span
from greenroom.api.shelf import BucketShelf
from greenroom.common.errors import RecordingNotFound
from greenroom.common.objects import open_bucket
from greenroom.common.recordings import RecordingChoice
from tests.support.api_world import ApiWorld, problem_of, running_api

PATH = "default/2026/03/02/call.wav"


@pytest.fixture
async def world(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[ApiWorld]:
    """A running api whose recordings are in `tmp_path`."""
    async with running_api(nats_url, database, recordings_dir=str(tmp_path / "recordings")) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


def tone() -> bytes:
    """Return a WAV file of two seconds."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(range(256)) * 500)
    return file.getvalue()


async def ended(world: ApiWorld) -> str:
    """Return the id of a session that has ended and is stored."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await world.record()
    return session_id


async def recorded(world: ApiWorld, folder: Path, path: str = PATH) -> tuple[str, bytes]:
    """Return a session and its recording."""
    session_id, content = await ended(world), tone()
    file = folder / "recordings" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    await world.execute(
        "INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,"
        " manifest) VALUES ($1, 'default', $2, 'wav', 2.0, 2, 16000, $3, $4, '[]', '{\"gaps\": []}')",
        session_id,
        path,
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    return session_id, content


async def test_a_recording_is_sent_whole(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The file comes as it is, with a validator, and isn't sent again to whoever has it."""
    session_id, content = await recorded(world, tmp_path)
    response = await client.get(f"/v1/sessions/{session_id}/recording")
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["content-disposition"] == f'attachment; filename="{session_id}.wav"'
    etag = response.headers["etag"]
    again = await client.get(f"/v1/sessions/{session_id}/recording", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    manifest = await client.get(f"/v1/sessions/{session_id}/recording/manifest")
    assert manifest.json() == {"gaps": []}


async def test_a_part_of_a_recording_is_sent(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Players seek: one range of bytes is answered by just that."""
    session_id, content = await recorded(world, tmp_path)
    size = len(content)
    for asked, start, stop in (
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, size),
        ("bytes=-44", size - 44, size),
        (f"bytes=0-{size * 2}", 0, size),
        (f"bytes=-{size * 2}", 0, size),
    ):
        response = await client.get(f"/v1/sessions/{session_id}/recording", headers={"range": asked})
        assert (response.status_code, response.content) == (206, content[start:stop])
        assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"


async def test_what_is_no_range_asks_for_all(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Other units, several ranges, nonsense, and a range of another version of the file."""
    session_id, content = await recorded(world, tmp_path)
    for headers in (
        {"range": "seconds=0-1"},
        {"range": "bytes=0-1,5-6"},
        {"range": "bytes=-"},
        {"range": "bytes=5-2"},
        {"range": "bytes=0-1", "if-range": '"another"'},
    ):
        response = await client.get(f"/v1/sessions/{session_id}/recording", headers=headers)
        assert (response.status_code, len(response.content)) == (200, len(content))


async def test_a_range_behind_the_end_is_refused(world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """There is nothing there; the answer says how much there is."""
    session_id, content = await recorded(world, tmp_path)
    for asked in (f"bytes={len(content)}-", "bytes=-0"):
        response = await client.get(f"/v1/sessions/{session_id}/recording", headers={"range": asked})
        assert problem_of(response)["code"] == "range-not-satisfiable"
        assert response.headers["content-range"] == f"bytes */{len(content)}"


async def test_a_recording_that_is_not_sealed_yet_may_be_asked_for_again(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """Live, ended, and ended but not stored yet: the answer is `not ready`, not `not found`."""
    live = (await world.make_ready((await world.request()).session.id)).session.id
    for session_id in (live, await ended(world)):
        response = await client.get(f"/v1/sessions/{session_id}/recording")
        problem = problem_of(response)
        assert (problem["status"], problem["code"], problem["retryable"]) == (409, "recording-not-ready", True)
        assert response.headers["retry-after"] == "1"


async def test_a_session_without_a_recording_has_none(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Sealed without audio is final."""
    session_id = await ended(world)
    await world.execute("UPDATE sessions SET sealed_at = now()")
    for path in ("recording", "recording/manifest"):
        problem = problem_of(await client.get(f"/v1/sessions/{session_id}/{path}"))
        assert (problem["status"], problem["code"]) == (404, "recording-not-found")


async def test_nothing_outside_the_folder_is_ever_sent(
    world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Whatever path a row names, it must be inside; a file that is gone is not found."""
    session_id, _ = await recorded(world, tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "recordings" / "link.wav").symlink_to(tmp_path / "secret")
    for path in ("../secret", str(tmp_path / "secret"), "link.wav", "gone.wav"):
        await world.execute("UPDATE recordings SET path = $1", path)
        problem = problem_of(await client.get(f"/v1/sessions/{session_id}/recording"))
        assert problem["code"] == "recording-not-found"


async def test_recordings_of_others_are_not_found(world: ApiWorld, tmp_path: Path) -> None:
    """A recording belongs to the tenant of its session."""
    session_id, _ = await recorded(world, tmp_path)
    async with world.client(tenant="other") as other:
        for path in ("recording", "recording/manifest"):
            assert (await other.get(f"/v1/sessions/{session_id}/{path}")).status_code == 404


async def kept(world: ApiWorld, files: dict[str, str], form: str) -> str:
    """Return a session whose recording has these files: paths by track, or by "" for one with both."""
    session_id = await ended(world)
    described = [
        {
            "path": path,
            "channels": [[track]] if track else [["user"], ["bot"]],
            "bytes": 3,
            "sha256": hashlib.sha256(path.encode()).hexdigest(),
        }
        for track, path in files.items()
    ]
    await world.execute(
        "INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,"
        " manifest) VALUES ($1, 'default', $2, $3, 2.0, 2, 16000, 3, $4, '[]', $5)",
        session_id,
        described[0]["path"],
        form,
        described[0]["sha256"],
        json.dumps({"gaps": [], "files": described}),
    )
    return session_id


@pytest.mark.parametrize(
    ("form", "media_type"), [("flac", "audio/flac"), ("opus", "audio/ogg; codecs=opus"), ("wav", "audio/wav")]
)
async def test_each_side_may_have_a_file_of_its_own(
    world: ApiWorld, client: httpx.AsyncClient, tmp_path: Path, form: str, media_type: str
) -> None:
    """`track` names the side; without it the first file comes; a recording without such files says so."""
    (tmp_path / "recordings").mkdir(exist_ok=True)
    for name in ("one", "two"):
        (tmp_path / "recordings" / f"{name}.{form}").write_bytes(name.encode())
    session_id = await kept(world, {"user": f"one.{form}", "bot": f"two.{form}"}, form)
    path = f"/v1/sessions/{session_id}/recording"
    for query, text in (("", b"one"), ("?track=user", b"one"), ("?track=bot", b"two")):
        response = await client.get(f"{path}{query}")
        assert (response.status_code, response.content) == (200, text)
        assert response.headers["content-type"] == media_type
    assert response.headers["content-disposition"] == f'attachment; filename="{session_id}.bot.{form}"'
    assert problem_of(await client.get(f"{path}?track=else"))["status"] == 400
    together = await kept(world, {"": f"both.{form}"}, form)
    problem = problem_of(await client.get(f"/v1/sessions/{together}/recording?track=bot"))
    assert problem["code"] == "recording-not-found"


async def test_what_is_in_a_bucket_is_fetched_from_there(nats_url: str, database: str, bucket_url: str) -> None:
    """The answer is a redirect that nobody keeps, to a link that works without credentials, with ranges."""
    bucket = open_bucket(bucket_url)
    await obstore.put_async(bucket, "t/s.flac", b"0123456789", attributes={"Content-Type": "audio/flac"})
    async with running_api(nats_url, database, recordings_url=bucket_url, recording_link_s=7.0) as world:
        session_id = await kept(world, {"": "t/s.flac"}, "flac")
        async with world.client() as client:
            response = await client.get(f"/v1/sessions/{session_id}/recording")
            assert (response.status_code, response.headers["cache-control"]) == (307, "no-store")
            known = f'"{hashlib.sha256(b"t/s.flac").hexdigest()}"'
            cached = await client.get(f"/v1/sessions/{session_id}/recording", headers={"if-none-match": known})
            assert cached.status_code == 304
        async with world.client(tenant="other") as other:
            assert (await other.get(f"/v1/sessions/{session_id}/recording")).status_code == 404
    link = response.headers["location"]
    assert "X-Amz-Expires=7&" in link
    async with httpx.AsyncClient() as anybody:
        whole = await anybody.get(link)
        assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "audio/flac")
        part = await anybody.get(link, headers={"range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")


async def test_a_bucket_can_be_read_here_too(bucket_url: str) -> None:
    """Whoever needs the bytes in this process gets any part of them, of any length, and is told what is missing."""
    bucket = open_bucket(bucket_url)
    text = random.Random(1).randbytes(2 * 1024 * 1024 + 17)
    await obstore.put_async(bucket, "t/s.wav", text)
    shelf = BucketShelf(bucket, link_s=1)
    assert await shelf.size("t/s.wav") == len(text)
    for start, stop in ((0, len(text)), (5, 9), (1024 * 1024 - 1, 1024 * 1024 + 1), (len(text) - 1, len(text))):
        assert (
            b"".join([piece async for piece in shelf.read("t/s.wav", Span(start=start, stop=stop))]) == text[start:stop]
        )
    with pytest.raises(RecordingNotFound):
        await shelf.size("t/none.wav")


async def test_an_agents_choice_goes_into_its_sessions(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """How an agent is recorded is in the document of each session, as it was asked for, and in the list."""
    await world.add_agent("discreet", recording={"layout": "tracks", "off": True})
    response = await client.post("/v1/sessions", json={"agent": "discreet"})
    entry = await world.ledger.last("default", response.json()["id"])
    assert entry is not None
    assert entry.session.recording == RecordingChoice(layout="tracks", off=True)
    agents = {agent["name"]: agent["recording"] for agent in (await client.get("/v1/agents")).json()["agents"]}
    assert agents == {"discreet": {"layout": "tracks", "off": True}, "echo": {}}


@pytest.mark.parametrize("choice", [{"format": "mp3"}, {"layout": "left"}, {"off": "yes"}, ["wav"]], ids=str)
async def test_what_is_no_choice_is_refused_by_the_database(world: ApiWorld, choice: object) -> None:
    """An agent's row takes formats and layouts that there are, and nothing else."""
    with pytest.raises(asyncpg.CheckViolationError):
        await world.add_agent("odd", recording=choice)
