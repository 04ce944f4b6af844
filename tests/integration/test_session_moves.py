"""Sessions that go to another room, in session processes as they are; of Daily's library there is a fake."""

from pathlib import Path
from typing import Any, Final

from greenroom.common.lifecycle import Outcome
from greenroom.common.messages import Event
from greenroom.common.secrets import ROOM_TOKEN, SecretBox
from greenroom.runner.control import ChangeRoom, Finished, MediaConnected, PipelineReady, RoomChanged
from tests.support import daily_room
from tests.support.openai_stub import KEY, OpenAIStub, running_openai_stub
from tests.support.session_rig import HostProcess, SessionRun, Sessions, new_session

_DOMAIN: Final = "https://greenroom.daily.co"


def _info(room: str) -> dict[str, str]:
    return {"room": room, "room_url": f"{_DOMAIN}/{room}"}


async def _call(sessions: Sessions, stub: OpenAIStub, told: Path, *rooms: str) -> SessionRun:
    """Return a session with a guest in the first of some rooms; there are tokens for all of them."""
    run = await sessions.standby()
    body = {"told": str(told), "env": {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}}
    session = new_session("daily_quickstart", transport="daily", transport_info=_info(rooms[0]), body=body)
    tokens = {ROOM_TOKEN: f"for-{rooms[0]}"} | {f"{ROOM_TOKEN}.{room}": f"for-{room}" for room in rooms[1:]}
    await SecretBox(sessions.broker).put(session.tenant, session.id, tokens)
    run.assign_this(session)
    await run.expect(MediaConnected)
    return run


def _heard(events: list[Event]) -> list[Any]:
    """Return what of a call's events says where it is, and with whom."""
    kinds = {"call_connected", "call_disconnected"}
    return [
        "moved" if event.type == "transport" else event.type
        for event in events
        if event.type in kinds or (event.type == "transport" and event.data["kind"] == "moved")
    ]


def _went(told: Path) -> list[tuple[str, str]]:
    """Return where the bot went, with which token."""
    said = daily_room.read(told)
    return [(each.get("joined") or each["refused"], each["token"]) for each in said if "token" in each]


async def test_a_call_goes_on_in_another_room(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """The same process and pipeline: it leaves, joins with the other token, greets who is there, and ends with him."""
    told = tmp_path / "room.jsonl"
    async with running_openai_stub() as stub, Sessions(host, nats_url) as sessions:
        run = await _call(sessions, stub, told, "patient-1", "other-2")
        run.tell(ChangeRoom(id="m-1", transport_info=_info("other-2")))
        changed = await run.expect(RoomChanged)
        assert (changed.id, changed.failed) == ("m-1", None)
        # The guest of the other room hears the bot, and leaves: nothing of the room that was left is taken for that.
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.COMPLETED, "client-left")
        assert await run.exit_status() == 0
        events = await run.events()
    assert _heard(events) == ["call_connected", "moved", "call_connected", "call_disconnected"]
    assert _went(told) == [(f"{_DOMAIN}/patient-1", "for-patient-1"), (f"{_DOMAIN}/other-2", "for-other-2")]
    (moved,) = [event.data for event in events if event.type == "transport" and event.data["kind"] == "moved"]
    assert (moved["from"], moved["to"]) == ("patient-1", "other-2")
    # What the bot has to say is heard there.
    assert [each["left"] for each in daily_room.read(told) if "heard_s" in each] == ["ada"]
    assert any(event.type == "agent_spoke" for event in events)


async def test_a_bot_that_isnt_let_in_is_where_it_was(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """It goes back with its own token, to whoever is there still, and may be asked to go elsewhere then."""
    told = tmp_path / "room.jsonl"
    async with running_openai_stub() as stub, Sessions(host, nats_url) as sessions:
        run = await _call(sessions, stub, told, "patient-1", "closed-2", "empty-3")
        run.tell(ChangeRoom(id="m-1", transport_info=_info("closed-2")))
        changed = await run.expect(RoomChanged)
        assert (changed.id, changed.failed) == ("m-1", "the bot couldn't join the room")
        await run.expect(MediaConnected)
        run.tell(ChangeRoom(id="m-2", transport_info=_info("empty-3")))
        changed = await run.expect(RoomChanged)
        assert (changed.id, changed.failed, changed.connected) == ("m-2", None, False)
        run.stop()
        last = await run.expect(Finished)
        assert last.reason == "client-stop"
        assert await run.exit_status() == 0
        events = await run.events()
    assert [room.rpartition("/")[2] for room, _ in _went(told)] == ["patient-1", "closed-2", "patient-1", "empty-3"]
    assert [token for _, token in _went(told)] == ["for-patient-1", "for-closed-2", "for-patient-1", "for-empty-3"]
    assert _heard(events) == ["call_connected", "call_connected", "moved"]


async def test_without_a_token_the_bot_stays(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """It doesn't leave the room it is in for one that it can't get into; who is with it is with it still."""
    told = tmp_path / "room.jsonl"
    async with running_openai_stub() as stub, Sessions(host, nats_url) as sessions:
        run = await _call(sessions, stub, told, "patient-1")
        run.tell(ChangeRoom(id="m-1", transport_info=_info("other-2")))
        changed = await run.expect(RoomChanged)
        assert (changed.failed, changed.connected) == ("the token for the room isn't there", True)
        run.stop()
        assert (await run.expect(Finished)).reason == "client-stop"
    assert [room for room, _ in _went(told)] == [f"{_DOMAIN}/patient-1"]


async def test_a_bot_that_cant_get_back_has_lost_its_way(host: HostProcess, nats_url: str, tmp_path: Path) -> None:
    """In neither room there is anybody to speak with: the session ends, and says why."""
    told = tmp_path / "room.jsonl"
    async with running_openai_stub() as stub, Sessions(host, nats_url) as sessions:
        run = await _call(sessions, stub, told, "once-1", "closed-2")
        run.tell(ChangeRoom(id="m-1", transport_info=_info("closed-2")))
        last = await run.expect(Finished)
        assert (last.outcome, last.reason) == (Outcome.FAILED, "transport-failed")
        assert last.detail == "the bot couldn't go back to its room"


async def test_a_session_without_rooms_says_so(host: HostProcess, nats_url: str) -> None:
    """And goes on."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        run.tell(ChangeRoom(id="m-1", transport_info=_info("other-2")))
        changed = await run.expect(RoomChanged)
        assert (changed.failed, changed.connected) == ("the session's transport has no rooms", True)
        await caller.hang_up()
        assert (await run.expect(Finished)).reason == "client-left"
