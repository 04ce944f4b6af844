"""`greenroom transcript`, `bundle` and `search`, against a running api."""

import json
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from greenroom.common.errors import SessionNotFound
from greenroom.common.lifecycle import Outcome
from greenroom.common.metrics import Metrics
from greenroom.devtools.client import ApiProblem, ApiUnreachable
from greenroom.devtools.reading import marked
from greenroom.recorder import database
from greenroom.recorder.transcripts import Transcriber
from tests.support.api_world import ApiWorld, running_api
from tests.support.shell import command
from tests.support.spoken_calls import speak


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """An api that the commands talk to."""
    async with running_api(nats_url, database) as running:
        monkeypatch.setenv("GREENROOM_API_URL", running.url)
        monkeypatch.setenv("GREENROOM_API_KEY", await running.key())
        yield running


async def test_transcript(world: ApiWorld) -> None:
    """As text, as subtitles, as JSON; of the newest session where none is named."""
    session = await speak(world, "How can I help?", "a table")
    text = "[00:00:00.1]    bot: How can I help?\n[00:00:01.1] caller: a table\n"
    assert (await command("transcript", session.id)).stdout == text
    assert (await command("transcript", session.id, "--format", "vtt")).stdout.startswith("WEBVTT\n")
    assert len(json.loads((await command("transcript", session.id, "--format", "json")).stdout)["entries"]) == 2
    with pytest.raises(SessionNotFound):
        await command("transcript")
    await world.record()
    assert (await command("transcript")).stdout == text


async def test_bundle(world: ApiWorld, tmp_path: Path) -> None:
    """A file that is whole; of a session that doesn't exist there is none."""
    session = await speak(world, "How can I help?")
    file = tmp_path / "call.zip"
    assert str(file) in (await command("bundle", session.id, "-o", str(file))).stdout.replace("\n", "")
    assert zipfile.ZipFile(file).testzip() is None
    with pytest.raises(ApiProblem):
        await command("bundle", "nobody", "-o", str(tmp_path / "other.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["call.zip"]


async def test_a_bundle_that_breaks_off_is_no_file(
    world: ApiWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before stays as it is."""
    session = await speak(world, "How can I help?")
    file = tmp_path / "call.zip"
    file.write_text("before")

    def broken(*_: object, **__: object) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(zipfile.ZipFile, "open", broken)
    with pytest.raises(ApiUnreachable):
        await command("bundle", session.id, "-o", str(file))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("call.zip", "before")]


async def test_search(world: ApiWorld) -> None:
    """Session, time and what was said around it; nothing found is said."""
    session = await speak(world, "How can I help?", "a table for two")
    await world.end(session.id, Outcome.COMPLETED)
    await world.record()
    await world.execute("UPDATE sessions SET sealed_at = now()")
    pool = await database.open_pool(world.dsn, size=1)
    try:
        await Transcriber(pool, Metrics()).round()
    finally:
        await database.close_pool(pool, timeout_s=2)
    found = (await command("search", "table", "two", "--agent", "echo")).stdout
    assert session.id in found
    assert "at 0:01" in found
    assert "How can I help? / a table for two" in found
    assert "nobody" in (await command("search", "table", "three")).stdout


def test_what_was_found_stands_out() -> None:
    """Marks of the API become style, and what it has escaped is text again."""
    text = marked("a &amp; <mark>table</mark> for [red]two[/]")
    assert text.plain == "a & table for [red]two[/]"
    assert [(span.start, span.end) for span in text.spans if span.style] == [(4, 9)]
