"""`greenroom say`, `cmd` and `listen`, against a running api and a real session process."""

import asyncio
import json
import wave
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from greenroom.common.errors import MalformedJson
from greenroom.common.lifecycle import Ended, Outcome
from greenroom.devtools.client import ApiProblem
from greenroom.runner.control import Finished, MediaConnected, PipelineReady
from tests.support.api_world import ApiWorld, running_api
from tests.support.commanding import until_events
from tests.support.session_bots import RATE, tone
from tests.support.session_rig import HostProcess, SessionRun, Sessions
from tests.support.shell import command


@pytest.fixture
async def stage(
    host: HostProcess, nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[ApiWorld, Sessions]]:
    """An api that the commands talk to, and session processes."""
    async with Sessions(host, nats_url) as sessions, running_api(nats_url, database) as world:
        monkeypatch.setenv("GREENROOM_API_URL", world.url)
        monkeypatch.setenv("GREENROOM_API_KEY", await world.key())
        yield world, sessions


async def run_of(stage: tuple[ApiWorld, Sessions], bot: str) -> SessionRun:
    """Return a session of a bot, which the ledger knows."""
    world, sessions = stage
    run = await sessions.assign(bot)
    await run.expect(PipelineReady)
    await world.request(id=run.session.id)
    await world.make_ready(run.session.id)
    return run


async def test_say_and_cmd_print_what_came_of_it(stage: tuple[ApiWorld, Sessions]) -> None:
    """The result is JSON; what the session refuses is the command's error."""
    run = await run_of(stage, "minded")
    said = await command("say", run.session.id, "Hello there.", "--interrupt")
    assert json.loads(said.output) == {"queued": True}
    muted = await command("cmd", run.session.id, "mute", '{"side": "user"}')
    assert json.loads(muted.output) == {"muted": ["user"]}
    state = json.loads((await command("cmd", run.session.id, "snapshot")).output)
    assert state["muted"] == ["user"]
    with pytest.raises(MalformedJson):
        await command("cmd", run.session.id, "mute", "side=user")
    with pytest.raises(ApiProblem) as refused:
        await command("cmd", run.session.id, "call", '{"function": "nothing"}')
    assert refused.value.api_code == "function-unknown"


async def test_listen_writes_what_is_heard(stage: tuple[ApiWorld, Sessions], tmp_path: Path) -> None:
    """The file has both sides, and ends with the session."""
    run = await run_of(stage, "echo")
    caller = await run.call()
    await run.expect(MediaConnected)
    file = tmp_path / "heard.wav"
    listening = asyncio.create_task(command("listen", run.session.id, "--wav", str(file), "--both"))
    await until_events(run, "listener_joined")
    await caller.speak(tone(2 * RATE))
    run.stop()
    await run.expect(Finished)
    await stage[0].advance(run.session.id, Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop"))
    assert "closed: client-stop" in (await listening).output
    with wave.open(str(file)) as heard:
        assert (heard.getnchannels(), heard.getframerate()) == (2, RATE)
        assert heard.getnframes() > RATE
        assert any(heard.readframes(heard.getnframes()))
