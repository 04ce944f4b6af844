"""Sessions over Daily: the whole api on a real broker and database, before a stub of Daily's API on the network."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx
import msgspec
import pytest

from greenroom.common import subjects
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Outcome, Session, State
from greenroom.common.secrets import SecretBox
from tests.support.api_world import LEASED, ApiWorld, eventually, problem_of, running_api
from tests.support.daily_stub import KEY, DailyStub
from tests.support.provider_stub import Fault

SECRET: Final = base64.b64encode(b"the secret of the webhook").decode()
PATH: Final = "/v1/webhooks/daily/dialin"
CALL: Final = {"To": "+15550100", "From": "+15550101", "callId": "call-1", "callDomain": "domain-1"}


@pytest.fixture
async def world(nats_url: str, database: str, daily: DailyStub) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`, which takes calls."""
    settings: dict[str, Any] = {
        "daily_api_key": daily.key,
        "daily_api_url": daily.url,
        "daily_numbers": ("*=acme/echo",),
        "daily_dialin_secrets": (SECRET,),
    }
    async with running_api(nats_url, database, first=False, **settings) as running:
        await running.add_agent(transports=["websocket", "daily"])
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


async def _ask(client: httpx.AsyncClient, key: str | None = None, **options: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    wish = {"agent": "echo", "transport": "daily", "transport_options": options}
    return await client.post("/v1/sessions", json=wish, headers=headers)


async def _webhook(world: ApiWorld, body: dict[str, Any], *, secret: str = SECRET) -> httpx.Response:
    raw, timestamp = msgspec.json.encode(body), str(int(time.time()))
    digest = hmac.new(base64.b64decode(secret), f"{timestamp}.".encode() + raw, hashlib.sha256).digest()
    headers = {
        "content-type": "application/json",
        "x-pinless-signature": base64.b64encode(digest).decode(),
        "x-pinless-timestamp": timestamp,
    }
    async with httpx.AsyncClient(base_url=world.url, timeout=15) as anybody:
        return await anybody.post(PATH, content=raw, headers=headers)


async def _session(world: ApiWorld, session_id: str, tenant: str = "default") -> Session:
    entry = await world.ledger.last(tenant, session_id)
    assert entry is not None
    return entry.session


async def _only_session(world: ApiWorld) -> Session:
    found = await world.broker.count_by_subject("SESSIONS", subjects.SESSION_LIFECYCLE.wildcard(), most=10)
    (tokens,) = [subjects.SESSION_LIFECYCLE.parse(subject) for subject in found or {}]
    assert tokens is not None
    return await _session(world, tokens["session_id"])


async def _all_gone(daily: DailyStub) -> None:
    # A look at the ledger every ten seconds, and the machine may be busy.
    async with asyncio.timeout(60):
        while daily.rooms:
            await asyncio.sleep(0.1)


async def _count(world: ApiWorld) -> int:
    return await world.broker.count("SESSIONS", subjects.SESSION_LIFECYCLE.wildcard())


async def test_a_session_has_a_room_and_its_caller_a_token(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """The answer has both; the session, for whoever looks at it later, has the room alone."""
    answer = await _ask(client)
    assert answer.status_code == 201, answer.text
    transport = answer.json()["transport"]
    name = f"gr-{answer.json()['id']}"
    assert daily.has(name)
    assert transport["url"] == daily.rooms[name]["url"]
    assert transport["token"].count(".") == 2
    looked = (await client.get(f"/v1/sessions/{answer.json()['id']}")).json()["transport"]
    assert looked["info"] == {"room": name, "room_url": transport["url"]}
    assert (looked["token"], looked["url"]) == (None, None)
    session = await _session(world, answer.json()["id"])
    secrets = await SecretBox(world.broker).take("default", session.id, keep=True)
    assert list(secrets) == ["room_token"]
    assert secrets["room_token"] != transport["token"]


async def test_a_request_that_is_repeated_has_its_room_and_a_new_token(
    client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """One session, one room; the token is made anew, for none is stored."""
    first, second = await _ask(client, "key-1"), await _ask(client, "key-1")
    assert second.headers["idempotent-replayed"] == "true"
    one, two = first.json()["transport"], second.json()["transport"]
    assert one["token"] != two["token"]
    assert {**one, "token": ""} == {**two, "token": ""}
    assert len(daily.rooms) == 1


async def test_the_room_goes_with_the_session(client: httpx.AsyncClient, daily: DailyStub) -> None:
    """Once it has ended, some instance of the api deletes it, however many others stay."""
    session_ids = [(await _ask(client)).json()["id"] for _ in range(40)]
    # All have been looked at by then, and wait to be looked at again.
    await asyncio.sleep(2)
    await client.post(f"/v1/sessions/{session_ids[20]}/stop")
    # A look at the ledger every ten seconds, and the machine may be busy.
    async with asyncio.timeout(60):
        while daily.has(f"gr-{session_ids[20]}"):
            await asyncio.sleep(0.1)
    assert len(daily.rooms) == 39


async def test_a_room_that_is_brought_counts_as_the_sessions_room(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """So the scheduler lets one bot into it at a time; one that doesn't exist is told at once."""
    url = daily.add_room("standup")
    answer = await _ask(client, room_url=url + "/")
    assert (await _session(world, answer.json()["id"])).room == url
    problem = problem_of(await _ask(client, room_url=url + "-2"))
    assert (problem["status"], problem["code"]) == (422, "room-not-found")
    assert problem["errors"][0]["pointer"] == "/transport_options/room_url"


async def test_nothing_exists_where_daily_is_away(world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub) -> None:
    """The caller is told when to come again, and no session waits for a room that isn't there."""
    daily.fail_from(1, Fault("lost"))
    answer = await _ask(client)
    problem = problem_of(answer)
    assert (problem["status"], problem["code"], problem["retryable"]) == (503, "provider-unavailable", True)
    assert int(answer.headers["retry-after"]) >= 1
    assert await _count(world) == 0
    assert KEY not in answer.text


@pytest.mark.parametrize("options", [{}, {"room": {"sip": {}}}])
async def test_a_session_that_nobody_is_told_of_ends(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub, options: dict[str, Any]
) -> None:
    """Where Daily is lost once the session exists, it ends and its room goes: the 503 is true, and may be repeated."""
    # The room and the bot's token are made; the user's token, or the room's SIP address, can't be had.
    daily.fail_from(4 if options else 3, Fault("lost"))
    problem = problem_of(await _ask(client, **options))
    assert (problem["status"], problem["code"], problem["retryable"]) == (503, "provider-unavailable", True)
    session = await _only_session(world)
    assert (session.state, session.outcome, session.reason) == (State.ENDED, Outcome.FAILED, "transport-failed")
    assert (session.ended_by, session.detail) == ("api", problem["detail"])
    assert daily.calls("POST", "/rooms") == 1
    daily.fail_from(None)
    await _all_gone(daily)


async def test_it_ends_although_the_broker_is_away_just_then(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears what was wrong with Daily, and the session ends once the broker is back."""
    daily.fail_from(3, Fault("lost"))
    move, away = Ledger.move, 2

    async def moves(ledger: Ledger, *what: Any) -> Any:
        nonlocal away
        away -= 1
        if away >= 0:
            raise BrokerUnavailable
        return await move(ledger, *what)

    monkeypatch.setattr(Ledger, "move", moves)
    assert problem_of(await _ask(client))["code"] == "provider-unavailable"
    session = await eventually(lambda: _only_session(world), lambda session: session.ended)
    assert (session.outcome, session.reason) == (Outcome.FAILED, "transport-failed")


async def test_one_that_waited_for_a_runner_ends_in_order(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """A session that runs by then is ended by its runner, which sees that in the ledger."""
    daily.fail_from(3, Fault("lost"))
    ledger = await world.ledger.watch()
    wish = {"agent": "echo", "transport": "daily", "wait": "leased", "wait_timeout_s": 20}
    asking = asyncio.create_task(client.post("/v1/sessions", json=wish))
    async with asyncio.timeout(20):
        entry = await anext(aiter(ledger))
    await ledger.close()
    await world.advance(entry.session.id, LEASED)
    assert problem_of(await asking)["code"] == "provider-unavailable"
    session = await _session(world, entry.session.id)
    assert (session.state, session.reason) == (State.ENDING, "transport-failed")


async def test_with_a_key_the_session_stays_and_answers_the_next_try(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """The same request finds its session and its room, and gets the token that it lacked; there is no second one."""
    daily.fail_from(3, Fault("lost"))
    assert problem_of(await _ask(client, "key-1"))["code"] == "provider-unavailable"
    session = await _only_session(world)
    assert session.state is State.REQUESTED
    daily.fail_from(None)
    answer = await _ask(client, "key-1")
    assert (answer.status_code, answer.json()["id"]) == (201, session.id)
    assert answer.json()["transport"]["token"].count(".") == 2
    assert await _only_session(world) == session
    assert set(daily.rooms) == {f"gr-{session.id}"}


async def test_options_that_arent_known_are_refused_before_daily_is_asked(
    client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """With a pointer to each."""
    problem = problem_of(await _ask(client, room={"privacy": "public"}))
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid-body", "/transport_options/room")
    assert daily.asked == []


@pytest.mark.parametrize("path", ["/v1/sessions", "/start"])
async def test_for_a_body_that_nobody_takes_no_room_is_made(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub, path: str
) -> None:
    """It is refused before Daily is asked for anything, and nothing is kept of it."""
    wish = {"agent": "echo", "transport": "daily", "body": {"text": "x" * 1_000_000}}
    problem = problem_of(await client.post(path, json=wish))
    assert (problem["status"], problem["code"]) == (413, "body-too-large")
    assert (await _count(world), daily.asked) == (0, [])
    assert await world.broker.count("BODIES", subjects.BODY.wildcard()) == 0


async def test_without_a_key_there_are_no_rooms(nats_url: str, database: str) -> None:
    """The transport isn't offered by an installation that has no account."""
    async with running_api(nats_url, database, first=False) as world, world.client() as client:
        await world.add_agent(transports=["daily"])
        problem = problem_of(await _ask(client))
        assert (problem["status"], problem["code"]) == (409, "transport-unavailable")


async def test_a_call_has_one_session_however_often_daily_tells(world: ApiWorld, daily: DailyStub) -> None:
    """It belongs to the tenant who answers the number; its room has a SIP address, and nobody gets a token."""
    answers = [await _webhook(world, CALL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    assert len({answer.content for answer in answers}) == 1
    session = await _session(world, answers[0].json()["session_id"], tenant="acme")
    assert (session.carrier, session.number) == ("daily", "+15550100")
    assert session.transport_info["call_id"] == "call-1"
    # Who calls is among the secrets of the session, and nowhere else.
    known = {"carrier": "daily", "direction": "inbound", "call_id": "call-1", "to": "+15550100"}
    assert msgspec.to_builtins(session.call) == {**known, "from": None, "stream_id": None, "body": {}}
    assert "sip_uri" in daily.rooms[f"gr-{session.id}"]["config"]
    assert len(daily.tokens) == 1, "the bot's"
    assert CALL["From"] not in msgspec.json.encode(session).decode()
    secrets = await SecretBox(world.broker).take("acme", session.id, keep=True)
    assert msgspec.json.decode(secrets["dialin_settings"])["From"] == CALL["From"]
    assert secrets["daily_api_url"] == daily.url


async def test_who_is_called_is_known_to_the_sessions_process_alone(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """The room may call out; nobody's number is in the ledger or an answer, and the call counts as one of Daily's."""
    number = {"phoneNumber": "+15550177", "callerId": "id-1"}
    answer = await _ask(client, dialout_settings=[number], ring_timeout_s=20)
    assert answer.status_code == 201, answer.text
    session = await _session(world, answer.json()["id"])
    assert daily.rooms[f"gr-{session.id}"]["config"]["enable_dialout"] is True
    assert (session.carrier, session.transport_info["ring_timeout_s"]) == ("daily", "20")
    assert "5550177" not in msgspec.json.encode(session).decode() + answer.text
    secrets = await SecretBox(world.broker).take("default", session.id, keep=True)
    assert msgspec.json.decode(secrets["dialout_settings"]) == [number]


async def test_a_bot_that_calls_isnt_called_for(client: httpx.AsyncClient, daily: DailyStub) -> None:
    """Numbers in the body are the bot's own matter; with some in the options as well, two would call."""
    number = {"phoneNumber": "+15550177"}
    wish = {"agent": "echo", "transport": "daily", "body": {"dialout_settings": [number]}}
    both = {**wish, "transport_options": {"dialout_settings": [number]}}
    problem = problem_of(await client.post("/v1/sessions", json=both))
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid-body", "/transport_options/dialout_settings")
    assert not daily.rooms
    own = {**wish, "transport_options": {"room": {"enable_dialout": True}}}
    assert (await client.post("/v1/sessions", json=own)).status_code == 201


async def test_who_was_handed_over_keeps_the_room(world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub) -> None:
    """The session is over and the bot gone, but not the call: nobody is put out while somebody is there."""
    session_id = (await _ask(client)).json()["id"]
    name = f"gr-{session_id}"
    daily.present[name] = ["caller", "operator"]

    def over(now: Session) -> Ended:
        return Ended(by="session", epoch=now.epoch, outcome=Outcome.COMPLETED, reason="transferred")

    await world.ledger.move("default", session_id, over)
    async with asyncio.timeout(60):
        while not daily.calls("GET", f"/rooms/{name}/presence"):
            await asyncio.sleep(0.1)
    # What would be done upon the answer has been done by then.
    await asyncio.sleep(1)
    assert daily.has(name)
    assert daily.calls("DELETE") == 0


async def test_a_forgery_is_nobody(world: ApiWorld, daily: DailyStub) -> None:
    """Without Daily's signature there is no session, and nothing is asked of Daily."""
    forged = await _webhook(world, CALL, secret=base64.b64encode(b"a guess").decode())
    assert problem_of(forged)["code"] == "webhook-refused"
    async with httpx.AsyncClient(base_url=world.url) as anybody:
        assert problem_of(await anybody.post(PATH, json=CALL))["code"] == "webhook-refused"
    assert (await _count(world), daily.asked) == (0, [])


async def test_daily_may_look_whether_somebody_answers(world: ApiWorld) -> None:
    """When a number is set up, its secret isn't known yet."""
    async with httpx.AsyncClient(base_url=world.url) as anybody:
        answer = await anybody.post(PATH, json={"Test": "test"})
    assert (answer.status_code, answer.json()["session_id"]) == (200, None)
    assert await _count(world) == 0
