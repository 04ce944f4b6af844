"""Sessions in rooms, in session processes as they are: what becomes of those whose bot can't get in."""

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from greenroom.common.lifecycle import Outcome
from greenroom.common.secrets import SecretBox
from greenroom.runner.control import Finished
from tests.support import daily_room
from tests.support.deployed_nats import quiet_port
from tests.support.openai_stub import KEY, running_openai_stub
from tests.support.session_rig import HostProcess, Sessions, new_session

TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.e30.the-token-of-the-bot"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[HostProcess]:
    """What forks session processes."""
    host = HostProcess(tmp_path_factory.mktemp("session-host"))
    yield host
    host.close()


async def test_a_bot_that_cant_reach_its_room_has_no_way_to_its_user(host: HostProcess, nats_url: str) -> None:
    """Pipecat's own transport gives up and leaves the bot to itself; the session ends and says why, its token aside."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.standby()
        info = {"room": "gr-1", "url": f"ws://127.0.0.1:{quiet_port()}"}
        session = new_session("guest", transport="livekit", transport_info=info)
        await SecretBox(sessions.broker).put(session.tenant, session.id, {"room_token": TOKEN})
        run.assign_this(session)
        last = await run.expect(Finished, timeout_s=40)
        assert (last.outcome, last.reason) == (Outcome.FAILED, "transport-failed")
        assert last.detail == "the bot's transport can no longer do its job"
        assert "gr-1" in host.log.read_text()
        assert TOKEN not in host.log.read_text()
        assert await run.exit_status() == 0


@pytest.mark.parametrize("transport", ["daily", "livekit"])
async def test_a_room_whose_token_is_gone_isnt_tried(host: HostProcess, nats_url: str, transport: str) -> None:
    """The bot isn't even called: there is nothing that it could get in with."""
    async with Sessions(host, nats_url) as sessions:
        info = {"room": "gr-1", "room_url": "https://greenroom.daily.co/gr-1", "url": "wss://livekit.example"}
        run = await sessions.assign("guest", transport=transport, transport_info=info)
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.FAILED, "transport-failed")
        assert last.detail is not None
        assert "token for the room" in last.detail
        assert await run.exit_status() == 0


async def test_dailys_quickstart_holds_a_call(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """It joins with the session's arguments, greets who comes, and ends when he leaves; Daily's library is a fake."""
    told = tmp_path / "room.jsonl"
    async with running_openai_stub() as stub, Sessions(host, nats_url) as sessions:
        run = await sessions.standby()
        body = {"told": str(told), "env": {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}}
        info = {"room": "gr-1", "room_url": "https://greenroom.daily.co/gr-1"}
        session = new_session("daily_quickstart", transport="daily", transport_info=info, body=body)
        await SecretBox(sessions.broker).put(session.tenant, session.id, {"room_token": TOKEN})
        run.assign_this(session)
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.COMPLETED, "client-left")
        assert await run.exit_status() == 0
        events = await run.events()
        assert [event.data["text"] for event in events if event.type == "agent_spoke"] == ["Hello there!"]
        assert [event.data["by"] for event in events if event.type == "call_disconnected"] == ["client"]
        assert (await run.stored_chunks())["bot"] > 0
    room = daily_room.read(told)
    [joined] = [each for each in room if "joined" in each]
    assert (joined["joined"], joined["token"]) == (info["room_url"], TOKEN)
    assert joined["inputs"]["microphone"]["isEnabled"]
    assert [each["left"] for each in room if "left" in each] == ["ada", daily_room.BOT_ID]
