"""The routes of pins on real servers: what an operator may pin, how it reaches the schedulers, who sees it."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from greenroom.api.policy import STREAM, SUBJECT
from greenroom.common import messages
from greenroom.common.lifecycle import Limits, OnLoss
from greenroom.common.messages import BotOffer
from greenroom.common.pins import Pin, PinSlotState, PinState, Relaunch
from greenroom.common.policy import Policy
from tests.support.api_scheduler import LeadingScheduler
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api

LOBBY: dict[str, Any] = {"agent": "echo", "count": 3, "room": "Lobby-{slot}", "body": {"a": 1}, "metadata": {"b": "c"}}


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`."""
    async with running_api(nats_url, database) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


async def published(world: ApiWorld, response: httpx.Response) -> tuple[Pin, ...]:
    """Return the pins that the schedulers have, once those of an answer are published."""
    revision = int(response.headers["etag"].strip('"'))

    async def look() -> Policy:
        message = await world.broker.last(STREAM, SUBJECT)
        return messages.decode(message.data, Policy) if message else Policy()

    return (await eventually(look, lambda found: found.revision >= revision)).pins


async def test_a_pin_is_made_replaced_and_deleted(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The schedulers have it as sessions would have it; under one id it stays the same pin, and isn't the next one."""
    made = await client.put("/v1/pins/lobby", json=LOBBY | {"limits": {"start_timeout_s": 9}, "on_loss": "never"})
    assert made.status_code == 200
    (first,) = await published(world, made)
    assert (first.id, first.tenant, first.agent, first.bot, first.pool) == (
        "lobby",
        "default",
        "echo",
        "echo",
        "default",
    )
    assert (first.count, first.room, first.body, first.metadata) == (3, "Lobby-{slot}", {"a": 1}, {"b": "c"})
    assert (first.on_loss, first.relaunch) == (OnLoss.NEVER, Relaunch())
    assert first.limits == Limits(
        queue_timeout_s=600, start_timeout_s=9, max_duration_s=86_400, join_timeout_s=86_400, end_timeout_s=10
    )
    assert (await client.get("/v1/pins/lobby")).json() == made.json()
    changed = await client.put("/v1/pins/lobby", json={"agent": "echo", "relaunch": {"first_s": 2, "longest_s": 5}})
    (second,) = await published(world, changed)
    assert (second.uid, second.count, second.room) == (first.uid, 1, None)
    assert second.changed_at > first.changed_at
    assert (second.relaunch.first_s, second.relaunch.longest_s) == (2, 5)
    gone = await client.delete("/v1/pins/lobby")
    assert gone.status_code == 204
    assert await published(world, gone) == ()
    assert problem_of(await client.get("/v1/pins/lobby"))["code"] == "policy-not-found"
    assert problem_of(await client.delete("/v1/pins/lobby"))["code"] == "policy-not-found"
    (third,) = await published(world, await client.put("/v1/pins/lobby", json=LOBBY))
    assert third.uid != first.uid


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"room": "lobby"}, "invalid-body", "/room"),
    ({"count": 101}, "invalid-body", "/count"),
    ({"count": -1}, "invalid-body", "/count"),
    ({"transport": "fax"}, "invalid-body", "/transport"),
    ({"relaunch": {"first_s": 9, "longest_s": 8}}, "invalid-body", "/relaunch/first_s"),
    ({"relaunch": {"max_failures": -1}}, "invalid-body", "/relaunch/max_failures"),
    ({"tenant": "no tenant"}, "invalid-body", "/tenant"),
    ({"body": {"text": "x" * 9000}}, "invalid-body", "/body"),
    ({"body": {"text": "\0"}}, "invalid-body", "/body"),
    ({"forever": True}, "unknown-field", "/forever"),
]


@pytest.mark.parametrize(("change", "code", "place"), BAD)
async def test_what_can_not_be_meant_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], code: str, place: str
) -> None:
    """With the place of the fault; nothing is changed."""
    problem = problem_of(await client.put("/v1/pins/lobby", json=LOBBY | change))
    assert (problem["code"], [each["pointer"] for each in problem["errors"]]) == (code, [place])
    assert (await client.get("/v1/pins")).json()["pins"] == []


async def test_an_agent_that_is_none_can_not_be_pinned(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Nor one that doesn't take the body; one that was just announced can."""
    assert problem_of(await client.put("/v1/pins/x", json={"agent": "nobody"}))["code"] == "agent-not-found"
    await world.add_agent("desk", body_schema={"type": "object", "required": ["language"]})
    assert problem_of(await client.put("/v1/pins/x", json={"agent": "desk"}))["code"] == "invalid-body"
    await world.beat(BotOffer(name="fresh"))

    async def asked() -> int:
        return (await client.put("/v1/pins/x", json={"agent": "fresh"})).status_code

    await eventually(asked, lambda status: status == 200)


async def test_a_pin_shows_what_its_sessions_do(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """As the leading scheduler tells it; where none does, that is said, and what is decided is shown all the same."""
    made = await client.put("/v1/pins/lobby", json=LOBBY)
    (pin,) = await published(world, made)
    alone = (await client.get("/v1/pins")).json()
    assert (alone["problem"], alone["applied_revision"]) == ("scheduler-unavailable", None)
    assert (alone["pins"][0]["running"], alone["pins"][0]["slots"]) == (None, None)
    slots = (
        PinSlotState(slot=1, state="running", session_id="s1", generation=2),
        PinSlotState(slot=2, state="backing_off", text="bot-failed after 2 s; next in 4 s", failures=1),
    )
    state = PinState(id="lobby", uid=pin.uid, running=1, slots=slots)
    async with LeadingScheduler(world.broker, pins=[state]):
        seen = (await client.get("/v1/pins")).json()
        assert (seen["problem"], seen["pins"][0]["running"]) == (None, 1)
        assert [(each["slot"], each["state"], each["text"]) for each in seen["pins"][0]["slots"]] == [
            (1, "running", ""),
            (2, "backing_off", "bot-failed after 2 s; next in 4 s"),
        ]
        assert (await client.get("/v1/pins/lobby")).json() == seen["pins"][0]


async def test_a_tenant_sees_its_own_pins(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Operators see and change all; nobody else changes any."""
    for tenant in ("acme", "globex"):
        await client.put(f"/v1/pins/{tenant}-1", json={"agent": "echo", "tenant": tenant})
    assert [each["id"] for each in (await client.get("/v1/pins")).json()["pins"]] == ["acme-1", "globex-1"]
    async with world.client("sessions:read", "sessions:write", tenant="acme") as other:
        assert [each["id"] for each in (await other.get("/v1/pins")).json()["pins"]] == ["acme-1"]
        assert problem_of(await other.get("/v1/pins/globex-1"))["code"] == "policy-not-found"
        assert problem_of(await other.put("/v1/pins/acme-1", json={"agent": "echo"}))["status"] == 403


async def test_there_are_no_more_pins_than_fit_into_a_message(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is too many is refused; the others can be changed."""
    monkeypatch.setattr("greenroom.api.policy_store.MAX_PINS", 2)
    for number in range(2):
        assert (await client.put(f"/v1/pins/p{number}", json=LOBBY)).status_code == 200
    assert problem_of(await client.put("/v1/pins/p2", json=LOBBY))["code"] == "policy-full"
    assert (await client.put("/v1/pins/p1", json={"agent": "echo"})).status_code == 200
