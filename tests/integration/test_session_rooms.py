"""Sessions in rooms, in session processes as they are: what becomes of those whose bot can't get in."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from greenroom.common.commands import Say, Snapshot, Stop, Transfer
from greenroom.common.lifecycle import Outcome
from greenroom.common.secrets import SecretBox
from greenroom.runner.control import Finished, MediaConnected
from tests.support import daily_room
from tests.support.api_world import eventually
from tests.support.commanding import done, refused, until_events
from tests.support.deployed_nats import quiet_port
from tests.support.openai_stub import KEY, running_openai_stub
from tests.support.session_bots import WORD_S
from tests.support.session_rig import HostProcess, SessionRun, Sessions, new_session

TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.e30.the-token-of-the-bot"


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


DESK: Final = "+15550111"


async def _desk(sessions: Sessions, told: Path, room: dict[str, object], **secrets: str) -> SessionRun:
    """Return a session of a bot that speaks when it is told to, in a room that isn't Daily's."""
    run = await sessions.standby()
    info = {"room": "gr-1", "room_url": "https://greenroom.daily.co/gr-1", "ring_timeout_s": "2"}
    body = {"told": str(told), "room": room}
    session = new_session("daily_desk", transport="daily", transport_info=info, body=body)
    await SecretBox(sessions.broker).put(session.tenant, session.id, {"room_token": TOKEN, **secrets})
    run.assign_this(session)
    return run


async def test_a_caller_goes_on_with_an_operator_who_knows_what_it_is_about(
    host: HostProcess, nats_url: str, tmp_path: Path
) -> None:
    """The operator alone hears the summary; then the bot leaves, and both stay. The event keeps the summary."""
    told = tmp_path / "room.jsonl"
    async with Sessions(host, nats_url) as sessions:
        run = await _desk(sessions, told, {"patient": True, "phones": {DESK: "answers"}})
        await run.expect(MediaConnected)
        summary = "Ada has lost her keys, and wants a new lock."
        transfer = Transfer(target=DESK, mode="warm", summary=summary, store_summary=True)
        assert await done(run, transfer) == {"by": "operator"}
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.COMPLETED, "transferred")
        assert await run.exit_status() == 0
        events = await run.events()
        [requested] = [event.data for event in events if event.type == "transfer_requested"]
        assert requested == {"target": DESK, "by": "operator", "mode": "warm", "summary": summary}
        assert [event.data["by"] for event in events if event.type == "call_disconnected"] == ["bot"]
    room = daily_room.read(told)
    deaf = [each["deaf"] for each in room if "deaf" in each]
    assert deaf == [{"ada": ["call-1", daily_room.BOT_ID], "call-1": ["ada"]}, {"ada": [], "call-1": []}]
    [stay] = [each["stay"] for each in room if "stay" in each]
    assert stay["ada"] == 0
    assert stay["call-1"] >= len(summary.split()) * WORD_S * 0.9
    assert [each["left"] for each in room if "left" in each] == [daily_room.BOT_ID]


@pytest.mark.parametrize("does", ["busy", "silent", "hangs up"])
async def test_an_operator_who_isnt_there_leaves_the_call_to_the_bot(
    host: HostProcess, nats_url: str, tmp_path: Path, does: str
) -> None:
    """The command fails with Daily's words, nobody's phone rings on, and the caller hears the bot as before."""
    told = tmp_path / "room.jsonl"
    async with Sessions(host, nats_url) as sessions:
        run = await _desk(sessions, told, {"patient": True, "phones": {DESK: does}})
        await run.expect(MediaConnected)
        transfer = Transfer(target=DESK, mode="warm", summary="Ada has lost her keys.", answer_timeout_s=2)
        refusal = await refused(run, transfer)
        assert refusal.code == "transfer-failed"
        words = {"busy": "486 Busy Here", "silent": "Nobody picked up in 2 s.", "hangs up": "hung up before"}
        assert words[does] in refusal.detail
        assert (await done(run, Snapshot()))["muted"] == []
        await done(run, Say(text="One more time."))
        await until_events(run, "agent_spoke", 2 if does == "hangs up" else 1)
        await done(run, Stop())
        assert (await run.expect(Finished)).reason == "client-stop"
        assert not [event for event in await run.events() if event.type == "transfer_requested"]
    room = daily_room.read(told)
    assert [each["hung_up"] for each in room if "hung_up" in each] == (["call-1"] if does == "silent" else [])
    assert [each["deaf"]["ada"] for each in room if "deaf" in each][-1:] == ([[]] if does == "hangs up" else [])
    [stay] = [each["stay"] for each in room if "stay" in each]
    assert list(stay) == ["ada"]
    assert stay["ada"] > 2 * WORD_S


@pytest.mark.parametrize("does", ["silent", "answers"])
async def test_an_operator_is_hung_up_on_when_the_session_ends(
    host: HostProcess, nats_url: str, tmp_path: Path, does: str
) -> None:
    """While his phone rings or he is told what it is about; the command says that it wasn't done."""
    told = tmp_path / "room.jsonl"

    async def under_way() -> bool:
        return any(("dialled" if does == "silent" else "deaf") in each for each in daily_room.read(told))

    async with Sessions(host, nats_url) as sessions:
        run = await _desk(sessions, told, {"patient": True, "phones": {DESK: does}})
        await run.expect(MediaConnected)
        transfer = Transfer(target=DESK, mode="warm", summary="word " * 400, answer_timeout_s=60)
        asking = asyncio.create_task(refused(run, transfer))
        await eventually(under_way, bool)
        await done(run, Stop())
        assert (await asking).code == "command-refused"
        assert (await run.expect(Finished)).reason == "client-stop"
    room = daily_room.read(told)
    assert [each["hung_up"] for each in room if "hung_up" in each] == ["call-1"]


async def test_a_session_calls_whom_it_is_for(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """One number is busy, the next answers: that is the call, and over when he has hung up."""
    told = tmp_path / "room.jsonl"
    numbers = '[{"phoneNumber":"+15550100","callerId":"id-1"},{"sipUri":"sip:ada@example.org"}]'
    phones = {"+15550100": "busy", "sip:ada@example.org": "answers"}
    async with Sessions(host, nats_url) as sessions:
        run = await _desk(sessions, told, {"guest": False, "phones": phones}, dialout_settings=numbers)
        await run.expect(MediaConnected)
        await done(run, Say(text="Good morning, is this Ada?"))
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.COMPLETED, "client-left")
        connected = [event.data for event in await run.events() if event.type == "call_connected"]
        assert connected == [{"connection_id": "call-2"}]
        kinds = [event.data["kind"] for event in await run.events() if event.type == "transport"]
        assert [kind for kind in kinds if kind.startswith("dialout_")] == [
            *("dialout_connected", "dialout_error", "dialout_stopped"),
            *("dialout_connected", "dialout_answered", "dialout_stopped"),
        ]
    assert [each["userId"] for each in _dialled(told)] == ["greenroom-callee"] * 2


@pytest.mark.parametrize(
    ("does", "outcome", "reason"),
    [("silent", Outcome.EXPIRED, "call-not-answered"), ("busy", Outcome.EXPIRED, "call-busy")],
)
async def test_a_session_that_reaches_nobody_is_over(  # noqa: PLR0917
    host: HostProcess, nats_url: str, tmp_path: Path, does: str, outcome: Outcome, reason: str
) -> None:
    """As a phone call of a carrier's is, and for the same reasons."""
    told = tmp_path / "room.jsonl"
    room: dict[str, object] = {"guest": False, "phones": {"+15550100": does}}
    async with Sessions(host, nats_url) as sessions:
        run = await _desk(sessions, told, room, dialout_settings='[{"phoneNumber":"+15550100"}]')
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (outcome, reason)
        assert await run.exit_status() == 0


def _dialled(told: Path) -> list[dict[str, str]]:
    return [each["dialled"] for each in daily_room.read(told) if "dialled" in each]
