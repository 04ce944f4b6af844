"""Agents that go to rooms by themselves: the whole api on a real broker and database, before stubs of Daily."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from greenroom.common import messages, subjects
from greenroom.common.call_messages import RoomStarts
from greenroom.common.lifecycle import Ended, Moved, Moving, Outcome, Session, State
from greenroom.common.reasons import Reason
from greenroom.recorder.retention import sweep
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.daily_stub import DailyStub
from tests.support.daily_webhooks import SECRET, DailyWebhooks, ended, joined, started
from tests.support.provider_stub import Fault, Said

TENANT = "acme"


@pytest.fixture
async def world(nats_url: str, database: str, daily: DailyStub) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`, which goes to no room yet."""
    settings: dict[str, Any] = {
        "daily_api_key": daily.key,
        "daily_api_url": daily.url,
        "daily_bring_rooms": ("{tenant}-*", "sales-*"),
        "daily_webhook_secrets": (SECRET,),
    }
    async with running_api(nats_url, database, first=False, **settings) as running:
        await running.add_agent(transports=["websocket", "daily"])
        yield running


@pytest.fixture
async def hook(world: ApiWorld) -> DailyWebhooks:
    """The webhook, as it was made at Daily."""
    webhook = DailyWebhooks(world.url)
    assert await webhook.make(), "Daily wants a 200 from the address, before its secret is known"
    return webhook


@pytest.fixture
async def operator(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


async def _goes(operator: httpx.AsyncClient, *rooms: str, tenant: str = TENANT, **more: Any) -> None:
    answer = await operator.put(f"/v1/daily-rooms/{tenant}/echo", json={"rooms": rooms, **more})
    assert answer.status_code == 200, answer.text


async def _told(hook: DailyWebhooks, event: dict[str, Any]) -> dict[str, Any]:
    answer = await hook.send(event)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _sessions(world: ApiWorld) -> list[Session]:
    found = await world.broker.count_by_subject("SESSIONS", subjects.SESSION_LIFECYCLE.wildcard(), most=100)
    sessions: list[Session] = []
    for subject in found or {}:
        tokens = subjects.SESSION_LIFECYCLE.parse(subject)
        assert tokens is not None
        entry = await world.ledger.last(tokens["tenant"], tokens["session_id"])
        assert entry is not None
        sessions.append(entry.session)
    return sessions


async def _session(world: ApiWorld, session_id: str) -> Session:
    entry = await world.ledger.last(TENANT, session_id)
    assert entry is not None
    return entry.session


async def _remembered(world: ApiWorld) -> list[str]:
    """Return the sessions that stand in what is remembered of agents."""
    found: list[str] = []
    reader = await world.broker.read("CALLS", [subjects.ROOMS.wildcard()], after=0)
    try:
        async for message in reader:
            found += [one.session_id for one in messages.decode(message.data, RoomStarts).rooms]
            if reader.caught_up.is_set():
                return found
    finally:
        await reader.close()
    return found


async def _over(world: ApiWorld, session_id: str) -> None:
    over = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason=Reason.CLIENT_LEFT)
    await world.make_ready(session_id, TENANT)
    await world.advance(session_id, over, tenant=TENANT)


async def test_who_comes_into_a_room_meets_the_agent(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """The session is the tenant's, in the room as it is, with a token that owns it; the bot gets what was said."""
    url = daily.add_room("sales-1")
    await _goes(operator, "sales-*", body={"greet": True})
    told = await _told(hook, joined("sales-1"))
    assert told["result"] == "begun"
    session = await _session(world, told["session_id"])
    assert (session.tenant, session.agent, session.transport, session.room) == (TENANT, "echo", "daily", url)
    assert (session.body, session.transport_info["room_url"]) == ({"greet": True}, url)
    (token,) = daily.tokens
    assert (token["room_name"], token["is_owner"]) == ("sales-1", True)
    assert world.counted("daily_events_total", result="begun", reason="") == 1


async def test_a_room_has_one_session_however_often_it_is_told(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Events that are sent again, and others who come, all at once."""
    daily.add_room("sales-1")
    await _goes(operator, "sales-*")
    event = joined("sales-1")
    events = [event, event, *(joined("sales-1") for _ in range(4)), event]
    told = await asyncio.gather(*(_told(hook, one) for one in events))
    (session,) = await _sessions(world)
    assert {one["session_id"] for one in told} == {session.id}
    assert (await _told(hook, event))["result"] == "there"
    await _over(world, session.id)
    assert (await _told(hook, event))["reason"] == "late"
    assert len(await _sessions(world)) == 1
    assert (await _told(hook, joined("sales-1")))["result"] == "begun"


async def test_a_bot_that_comes_begins_nothing(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Told by its own token, also after its session."""
    daily.add_room("sales-1")
    await _goes(operator, "sales-*")
    session_id = (await _told(hook, joined("sales-1")))["session_id"]
    (token,) = daily.tokens
    await _over(world, session_id)
    assert (await _told(hook, joined("sales-1", token)))["reason"] == "own-bot"
    assert len(await _sessions(world)) == 1


async def test_nobody_goes_where_nobody_said_so(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Not before anything was said, not to other rooms, not to a session's own, and not where two would go."""
    daily.add_room("sales-1")
    assert (await _told(hook, joined("sales-1")))["reason"] == "nobody-goes-there"
    await _goes(operator, "sales-*")
    assert (await _told(hook, joined("support-1")))["reason"] == "nobody-goes-there"
    assert (await _told(hook, joined("gr-0198")))["reason"] == "of-no-use"
    assert (await _told(hook, started("sales-1")))["reason"] == "of-no-use"
    await _goes(operator, "*-1", tenant="other")
    assert (await _told(hook, joined("sales-1")))["reason"] == "room-of-several"
    assert await _sessions(world) == []


async def test_so_many_at_once(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Five, though eight come at the same moment; when one is over there is room for another."""
    for number in range(8):
        daily.add_room(f"sales-{number}")
    await _goes(operator, "sales-*")
    told = await asyncio.gather(*(_told(hook, joined(f"sales-{number}")) for number in range(8)))
    assert sorted((one["result"], one["reason"]) for one in told) == [("begun", None)] * 5 + [("ignored", "full")] * 3
    sessions = await _sessions(world)
    assert len(sessions) == 5
    full = next(number for number, one in enumerate(told) if one["reason"] == "full")
    assert (await _told(hook, joined(f"sales-{full}")))["reason"] == "full"
    await _over(world, sessions[0].id)
    assert (await _told(hook, joined(f"sales-{full}")))["result"] == "begun"


async def test_the_session_ends_with_the_meeting(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """In order if it was ready, at once if it waited; the end of an earlier meeting ends nobody."""
    await _goes(operator, "sales-*")
    for name, ready in (("sales-1", True), ("sales-2", False)):
        daily.add_room(name)
        session_id = (await _told(hook, joined(name)))["session_id"]
        if ready:
            await world.make_ready(session_id, TENANT)
        assert (await _told(hook, ended(name, at=time.time() - 60)))["reason"] == "no-session"
        over = ended(name)
        assert await _told(hook, over) == {"result": "ended", "reason": None, "session_id": session_id}
        # Again: nothing happens to one that ends already.
        assert (await _told(hook, over))["session_id"] in {session_id, None}
        session = await _session(world, session_id)
        expected = (State.ENDING, Reason.CLIENT_LEFT) if ready else (State.ENDED, Reason.CALLER_GAVE_UP)
        assert (session.state, session.reason) == expected
    assert (await _told(hook, joined("sales-2", at=time.time() - 5)))["reason"] == "late"


async def test_a_session_that_has_gone_elsewhere_doesnt_end_with_the_meeting(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Not on its way either, when the bot's leaving may be what ends the meeting; and who comes then has a new one."""
    await _goes(operator, "sales-*")
    daily.add_room("sales-1")
    session_id = (await _told(hook, joined("sales-1")))["session_id"]
    await world.make_ready(session_id, TENANT)
    moving = Moving(epoch=1, id="m-1", transport_info={"room": "sales-2", "room_url": "https://x.daily.co/sales-2"})
    await world.advance(session_id, moving, tenant=TENANT)
    assert (await _told(hook, ended("sales-1")))["reason"] == "no-session"
    await world.advance(session_id, Moved(epoch=1, id="m-1"), tenant=TENANT)
    assert (await _told(hook, ended("sales-1", at=time.time() + 1)))["reason"] == "no-session"
    assert (await _session(world, session_id)).state is State.READY
    assert (await _told(hook, joined("sales-1", at=time.time() + 2)))["session_id"] != session_id


async def test_forged_and_caught_events_are_refused(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Whoever has no secret, or an event of ten minutes ago, gets nothing done, and Daily isn't asked."""
    daily.add_room("sales-1")
    await _goes(operator, "sales-*")
    forger = DailyWebhooks(world.url, base64.b64encode(b"a guess").decode())
    event = joined("sales-1")
    for answer in (await forger.send(event), await hook.send(event, sent_at=time.time() - 600)):
        assert (answer.status_code, problem_of(answer)["code"]) == (401, "webhook-refused")
    assert (await _sessions(world), daily.asked) == ([], [])


async def test_without_a_secret_no_event_is_taken(nats_url: str, database: str) -> None:
    """It is off unless it is set up; the address can be tested all the same."""
    async with running_api(nats_url, database) as world:
        hook = DailyWebhooks(world.url)
        assert await hook.make()
        assert problem_of(await hook.send(joined("sales-1")))["code"] == "transport-unavailable"


async def test_what_another_try_wouldnt_change_is_taken(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """Daily gives up on an address that fails: no such room, one that may not be brought, a suspended tenant."""
    await _goes(operator, "sales-*", "other-*", max_sessions=2)
    refused = await _told(hook, joined("sales-1"))
    assert (refused["result"], refused["reason"]) == ("refused", "room-not-found")
    daily.add_room("other-1")
    assert (await _told(hook, joined("other-1")))["reason"] == "forbidden"
    # None of them takes a place.
    daily.add_room("sales-1")
    assert (await _told(hook, joined("sales-1")))["result"] == "begun"
    await operator.put(f"/v1/tenants/{TENANT}", json={"state": "suspended"})
    async with asyncio.timeout(30):
        daily.add_room("sales-2")
        while TENANT not in world.parts.policy.current.suspended:
            await asyncio.sleep(0.05)
    assert (await _told(hook, joined("sales-2")))["reason"] == "tenant-suspended"
    assert len(await _sessions(world)) == 1


async def test_what_may_go_better_soon_is_told_again(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """While Daily's API fails the answer is 503; the same event then begins the session."""
    daily.add_room("sales-1")
    await _goes(operator, "sales-*")
    event = joined("sales-1")
    daily.faults += [Fault(said=Said(status=500))] * 4
    assert (await hook.send(event)).status_code == 503
    assert await _sessions(world) == []
    (session_id,) = await _remembered(world)
    assert await _told(hook, event) == {"result": "begun", "reason": None, "session_id": session_id}
    assert [session.id for session in await _sessions(world)] == [session_id]


async def test_a_room_that_has_a_session_gets_no_other(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """One that was asked for is there already: nothing is begun that would be refused at once."""
    url = daily.add_room("sales-1")
    await _goes(operator, "sales-*")
    async with world.client(tenant=TENANT) as client:
        wish = {"agent": "echo", "transport": "daily", "transport_options": {"room_url": url}}
        asked = (await client.post("/v1/sessions", json=wish)).json()["id"]
    await world.record()
    assert (await _told(hook, joined("sales-1")))["reason"] == "room-busy"
    assert [session.id for session in await _sessions(world)] == [asked]


async def test_an_erased_session_is_named_nowhere(
    world: ApiWorld, daily: DailyStub, hook: DailyWebhooks, operator: httpx.AsyncClient
) -> None:
    """It is left out of what is remembered of its agent; the agent's other sessions stay."""
    for name in ("sales-1", "sales-2"):
        daily.add_room(name)
    await _goes(operator, "sales-*")
    erased, stays = [(await _told(hook, joined(name)))["session_id"] for name in ("sales-1", "sales-2")]
    await sweep.forget(world.broker, [(TENANT, erased)])
    assert await _remembered(world) == [stays]
    assert (await _told(hook, joined("sales-2")))["session_id"] == stays


async def test_where_an_agent_goes_is_said_by_operators(world: ApiWorld, operator: httpx.AsyncClient) -> None:
    """Tenants see their own; an agent that takes no rooms goes to none."""
    path = "/v1/daily-rooms"
    await _goes(operator, "sales-*", max_sessions=2)
    await _goes(operator, "b-*", tenant="other")
    found = (await operator.get(path)).json()["agents"]
    assert [(one["tenant"], one["rooms"], one["max_sessions"]) for one in found] == [
        (TENANT, ["sales-*"], 2),
        ("other", ["b-*"], 5),
    ]
    async with world.client("sessions:read", "sessions:write", tenant=TENANT) as tenant:
        assert [one["tenant"] for one in (await tenant.get(path)).json()["agents"]] == [TENANT]
        assert problem_of(await tenant.put(f"{path}/{TENANT}/echo", json={"rooms": ["*"]}))["code"] == "forbidden"
    for agent, body, code in (
        ("nobody", {"rooms": ["*"]}, "agent-not-found"),
        ("echo", {"rooms": ["("]}, "invalid-body"),
        ("echo", {"rooms": ["*"], "regex": ".*"}, "unknown-field"),
        ("deaf", {"rooms": ["*"]}, "invalid-body"),
    ):
        await world.add_agent("deaf")
        assert problem_of(await operator.put(f"{path}/{TENANT}/{agent}", json=body))["code"] == code
    assert (await operator.delete(f"{path}/{TENANT}/echo")).status_code == 204
    assert problem_of(await operator.delete(f"{path}/{TENANT}/echo"))["code"] == "daily-rooms-not-found"
