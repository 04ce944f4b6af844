"""Sessions that go to another room: api, scheduler, runner and session process as they are, with Pipecat's transport.

Of Daily there is a stub of its API on the network, and a fake of its library in the process.
"""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from greenroom.common.lifecycle import Moved, Moving, OnLoss, Session, State, Stayed
from greenroom.common.secrets import SecretBox
from tests.support import daily_room
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.daily_stub import BASE, DailyStub
from tests.support.openai_stub import KEY, running_openai_stub
from tests.support.runner_process import process_of_runner
from tests.support.scheduler_field import field_on

_BOT: Final = "tests.support.room_bots:bot"


class World:
    """All of it.

    Attributes:
        api: the api, with a client that may do everything.
        daily: whose rooms.
        told: what happened in the room of each session, by a name of the test's.
    """

    def __init__(self, api: ApiWorld, client: httpx.AsyncClient, daily: DailyStub, folder: Path, openai: str) -> None:
        self.api = api
        self.client = client
        self.daily = daily
        self._folder = folder
        self._env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": openai}

    async def start(self, name: str, **options: Any) -> dict[str, Any]:
        """Start a session with somebody in its room, if that is one where somebody is."""
        body = {"told": str(self._folder / name), "env": self._env}
        wish = {"agent": "room", "transport": "daily", "transport_options": options, "body": body, "user": name}
        limits = {"join_timeout_s": 60}
        answer = await self.client.post(
            "/v1/sessions", json={**wish, "wait": "ready", "wait_timeout_s": 50, "limits": limits, "on_loss": "always"}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def move(self, session_id: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Ask for a move."""
        headers = {"idempotency-key": key} if key else {}
        wish = {"transport_options": options}
        return await self.client.post(f"/v1/sessions/{session_id}/move", json=wish, headers=headers, timeout=60)

    async def session(self, session_id: str) -> Session:
        """Return a session as it is now."""
        entry = await self.api.ledger.last("default", session_id)
        assert entry is not None
        return entry.session

    async def steps(self, session_id: str) -> list[str]:
        """Return what of a session's history is of moves."""
        entries = await self.api.ledger.history("default", session_id)
        kinds = [type(entry.transition) for entry in entries]
        return [kind.__name__ for kind in kinds if kind in {Moving, Moved, Stayed}]

    def went(self, name: str) -> list[str]:
        """Return which rooms the bot of a session went to."""
        said = daily_room.read(self._folder / name)
        return [(each.get("joined") or each["refused"]).rpartition("/")[2] for each in said if "token" in each]


@pytest.fixture
async def world(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """Run all of it."""
    async with contextlib.AsyncExitStack() as stack:
        daily = DailyStub()
        await stack.enter_async_context(daily.listening(BASE))
        openai = await stack.enter_async_context(running_openai_stub())
        settings: dict[str, Any] = {"daily_api_key": daily.key, "daily_api_url": daily.url}
        api = await stack.enter_async_context(running_api(nats_url, database, first=False, **settings))
        field = await stack.enter_async_context(field_on(nats_url, tmp_path))
        await field.scheduler("one")
        await stack.enter_async_context(process_of_runner(nats_url, GREENROOM_BOTS=f"room={_BOT}"))
        await api.add_agent("room", transports=["daily"])
        client = await stack.enter_async_context(api.client())
        yield World(api, client, daily, tmp_path, openai.url)


async def test_a_live_session_goes_to_another_room_and_its_user_is_told_the_way(world: World) -> None:
    """The same session and process; the ledger has it in the other room, its claim on the first one is gone."""
    urls = {name: world.daily.add_room(name) for name in ("patient-1", "patient-2")}
    started = await world.start("ada", room_url=urls["patient-1"])
    session_id, before = started["id"], await world.session(started["id"])
    answer = await world.move(session_id, room_url=urls["patient-2"])
    assert answer.status_code == 200, answer.text
    moved = answer.json()
    assert (moved["id"], moved["state"], moved["room"]) == (session_id, "ready", urls["patient-2"])
    assert moved["transport"]["url"] == urls["patient-2"]
    assert moved["transport"]["token"].count(".") == 2
    assert moved["transport"]["token"] != started["transport"]["token"]
    after = await world.session(session_id)
    assert (after.runner_id, after.epoch, after.claim) == (before.runner_id, before.epoch, before.claim)
    assert (after.room, after.transport_info["room"], after.moving) == (urls["patient-2"], "patient-2", None)
    assert world.went("ada") == ["patient-1", "patient-2"]
    # Another one may begin where it was, and can't go where it is.
    other = await world.start("bob", room_url=urls["patient-1"])
    problem = problem_of(await world.move(other["id"], room_url=urls["patient-2"]))
    assert (problem["status"], problem["code"], problem["retryable"]) == (409, "room-busy", True)
    assert await world.steps(other["id"]) == []
    # It is there: nothing happens, and the way is told again.
    again = await world.move(session_id, room_url=urls["patient-2"] + "/")
    assert (again.status_code, again.json()["transport"]["url"]) == (200, urls["patient-2"])
    assert await world.steps(session_id) == ["Moving", "Moved"]
    assert world.went("ada") == ["patient-1", "patient-2"]
    # Which session has this user now?
    await world.api.record()
    (found,) = (await world.client.get("/v1/sessions", params={"user": "ada", "state": "ready"})).json()["sessions"]
    assert (found["id"], found["user"], found["room"]) == (session_id, "ada", urls["patient-2"])


async def test_a_bot_that_doesnt_get_in_leaves_everything_as_it_was(world: World) -> None:
    """It goes back; its claim, its room and its token are what they were, and the other room is free."""
    urls = {name: world.daily.add_room(name) for name in ("patient-1", "closed-2")}
    started = await world.start("ada", room_url=urls["patient-1"])
    before = await world.session(started["id"])
    answer = await world.move(started["id"], "key-1", room_url=urls["closed-2"])
    problem = problem_of(answer)
    assert (problem["status"], problem["code"]) == (502, "move-failed")
    assert problem["detail"] == "the bot couldn't join the room"
    after = await world.session(started["id"])
    assert msgspec.structs.replace(after, media_connected=before.media_connected) == before
    assert await world.steps(started["id"]) == ["Moving", "Stayed"]
    assert world.went("ada") == ["patient-1", "closed-2", "patient-1"]
    # What was answered once is answered again.
    again = await world.move(started["id"], "key-1", room_url=urls["closed-2"])
    assert (again.status_code, again.headers["idempotent-replayed"]) == (502, "true")
    assert len(world.went("ada")) == 3


async def test_a_room_is_made_for_a_move_once_and_the_call_goes_on_there(world: World) -> None:
    """A key makes one move of many requests; in the new room the user hears the bot, and ends the call by leaving."""
    started = await world.start("ada", room_url=world.daily.add_room("patient-1"))
    one = await world.move(started["id"], "key-1", user={"user_name": "Ada"})
    two = await world.move(started["id"], "key-1", user={"user_name": "Ada"})
    assert (one.status_code, two.status_code) == (200, 200), one.text
    assert two.headers["idempotent-replayed"] == "true"
    made = one.json()["transport"]["info"]["room"]
    assert made.startswith(f"gr-{started['id']}-")
    assert two.json()["transport"]["info"]["room"] == made
    assert one.json()["transport"]["token"] != two.json()["transport"]["token"]
    assert set(world.daily.rooms) == {"patient-1", made}
    assert await world.steps(started["id"]) == ["Moving", "Moved"]

    async def ended() -> Session:
        return await world.session(started["id"])

    last = await eventually(ended, lambda session: session.state is State.ENDED)
    assert (last.reason, last.transport_info["room"]) == ("client-left", made)
    # The bot's tokens for both rooms lie side by side until then, and the one that was made goes with the session.
    await eventually(lambda: _rooms(world), lambda rooms: rooms == {"patient-1"})
    box = SecretBox(world.api.broker)
    await eventually(lambda: box.take("default", started["id"], keep=True), lambda secrets: secrets == {})


async def _rooms(world: World) -> set[str]:
    return set(world.daily.rooms)


async def test_what_cant_be_moved_says_so(world: World) -> None:
    """Another transport, a session that isn't live, one that isn't there; and nothing is made at Daily for it."""
    waiting = await world.api.request(transport="websocket", on_loss=OnLoss.NEVER, pool="nowhere")
    session_id = waiting.session.id
    assert problem_of(await world.move(session_id))["code"] == "session-not-live"
    await world.api.make_ready(session_id)
    problem = problem_of(await world.move(session_id))
    assert (problem["status"], problem["code"]) == (422, "move-unsupported")
    assert problem_of(await world.move("0192f0c1-7d3a-7bd1-8a52-0c5a3b1e7f42"))["code"] == "session-not-found"
    assert world.daily.asked == []
