"""Calls through rooms of a real LiveKit server, where LIVEKIT_URL names one: what no stub has is their audio.

The quickstart as an agent of a whole Greenroom is in `tests/e2e/test_quickstart_bots.py`.
"""

import os
from pathlib import Path

import httpx

from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Outcome
from greenroom.common.secrets import SecretBox
from greenroom.devtools import call
from greenroom.runner.control import Finished, MediaConnected, PipelineReady
from tests.support.dev_runner import development_runner
from tests.support.livekit_caller import LiveKitCaller, delete_room, needs_livekit, token
from tests.support.openai_stub import KEY, SPEECH, running_openai_stub
from tests.support.session_bots import tone
from tests.support.session_rig import RATE, HostProcess, SessionRun, Sessions, new_session
from tests.support.workspace import ROOT

pytestmark = needs_livekit

URL = os.environ.get("LIVEKIT_URL", "")
BOTS = ROOT / "tests/support/quickstart_bots"


async def in_room(sessions: Sessions, room: str) -> SessionRun:
    """Start a session whose bot is in a room, and sends back what it hears there."""
    run = await sessions.standby()
    session = new_session("guest", transport="livekit", transport_info={"room": room, "url": URL})
    await SecretBox(sessions.broker).put(session.tenant, session.id, {"room_token": token(room, "bot")})
    run.assign_this(session)
    await run.expect(PipelineReady)
    return run


async def test_the_quickstart_runs_under_the_development_runner(tmp_path: Path) -> None:
    """Who joins with the token that it answers with is greeted, and may speak."""
    async with running_openai_stub() as stub:
        keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}
        async with development_runner(BOTS / "livekit_bot.py", "livekit", tmp_path, **keys) as address:
            async with httpx.AsyncClient() as client:
                started = await client.post(f"http://{address}/start", json={})
            assert started.status_code == httpx.codes.OK, started.text
            async with LiveKitCaller(started.json()["url"], started.json()["token"]) as caller:
                [line] = call.spoken(["hello"])
                await caller.until_heard(0.1)
                await caller.say(line.pcm)
        assert [request.body["input"] for request in stub.asked(SPEECH)] == ["Hello there!"]


async def test_both_hear_each_other(host: HostProcess, nats_url: str) -> None:
    """What the user says reaches the bot, and comes back; both are recorded; who leaves ends the session in order."""
    room = f"gr-{uuid7()}"
    async with Sessions(host, nats_url) as sessions:
        run = await in_room(sessions, room)
        async with LiveKitCaller(URL, token(room, "user")) as caller:
            await run.expect(MediaConnected)
            assert caller.loud_s == 0
            await caller.say(tone(RATE))
            await caller.until_heard(0.5)
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.COMPLETED, "client-left")
        assert await run.exit_status() == 0
        stored = await run.stored_chunks()
        assert stored["user"] > 0
        assert stored["bot"] > 0


async def test_a_bot_that_is_put_out_has_lost_its_way(host: HostProcess, nats_url: str) -> None:
    """Its room is deleted while somebody is there: the session ends, and says why."""
    room = f"gr-{uuid7()}"
    async with Sessions(host, nats_url) as sessions:
        run = await in_room(sessions, room)
        async with LiveKitCaller(URL, token(room, "user")):
            await run.expect(MediaConnected)
            await delete_room(room)
            last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.FAILED, "transport-failed")
        assert last.detail == "the bot was put out of the room"
        assert await run.exit_status() == 0
