"""What a tenant sets of agents: who it holds for, what it goes over, and what is refused."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from greenroom.common.messages import BotOffer
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api with one agent that is shared with all tenants."""
    async with running_api(nats_url, database) as world:
        yield world


async def session_of(client: httpx.AsyncClient, **wish: Any) -> dict[str, Any]:
    """Ask for a session, and return it as the ledger has it."""
    created = await client.post("/v1/sessions", json={"agent": "echo", **wish})
    assert created.status_code == 201, created.text
    return created.json()


async def test_what_is_set_holds_for_the_tenants_next_sessions(world: ApiWorld) -> None:
    """It goes over what the agent says and under what a request says; other tenants have the agent as it is."""
    async with world.client() as client, world.client(tenant="other") as other:
        assert (await session_of(client))["on_loss"] == "before_media"
        changed = await client.patch("/v1/agents/echo", json={"on_loss": "always", "recording": {"format": "flac"}})
        assert changed.status_code == 200, changed.text
        assert (changed.json()["on_loss"], changed.json()["recording"]) == ("always", {"format": "flac"})
        made = await session_of(client)
        assert made["on_loss"] == "always"
        entry = await world.ledger.last("default", made["id"])
        assert entry is not None
        assert entry.session.recording.format == "flac"
        assert (await session_of(client, on_loss="never"))["on_loss"] == "never"
        assert (await session_of(other))["on_loss"] == "before_media"
        listed = (await other.get("/v1/agents")).json()["agents"]
        assert [(agent["name"], agent["on_loss"]) for agent in listed] == [("echo", "before_media")]


async def test_what_is_left_out_stays_and_null_takes_it_back(world: ApiWorld) -> None:
    """Each setting is changed by itself."""
    async with world.client() as client:
        await client.patch("/v1/agents/echo", json={"on_loss": "never", "recording": {"off": True}})
        changed = (await client.patch("/v1/agents/echo", json={"on_loss": None})).json()
        assert (changed["on_loss"], changed["recording"]) == ("before_media", {"off": True})
        changed = (await client.patch("/v1/agents/echo", json={"recording": None})).json()
        assert changed["recording"] == {}
        assert (await client.get("/v1/agents/echo")).json() == changed


async def test_a_runner_that_announces_the_agent_anew_leaves_it_set(world: ApiWorld) -> None:
    """What a bot says of itself changes, what the tenant has set doesn't."""
    async with world.client() as client:
        await client.patch("/v1/agents/echo", json={"on_loss": "always"})
        await world.beat(BotOffer(name="echo", description="anew"), pool="gpu")

        async def look() -> dict[str, Any]:
            return (await client.get("/v1/agents/echo")).json()

        agent = await eventually(look, lambda found: found["description"] == "anew")
        assert (agent["on_loss"], agent["pool"]) == ("always", "gpu")


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("nobody", {"on_loss": "always"}, "agent-not-found"),
        ("echo", {"on_loss": "sometimes"}, "invalid-body"),
        ("echo", {"recording": {"format": "mp3"}}, "invalid-body"),
        ("echo", {"onloss": "always"}, "unknown-field"),
        ("echo", {"recording": {"of": True}}, "unknown-field"),
    ],
)
async def test_what_makes_no_sense_is_refused(world: ApiWorld, name: str, body: dict[str, Any], code: str) -> None:
    """The problem says what is at fault, and nothing is changed."""
    async with world.client() as client:
        assert problem_of(await client.patch(f"/v1/agents/{name}", json=body))["code"] == code
        assert (await client.get("/v1/agents/echo")).json()["on_loss"] == "before_media"


async def test_setting_needs_its_scope(world: ApiWorld) -> None:
    """Who may ask for sessions may look at agents, and not say how their sessions are handled."""
    async with world.client("sessions:read", "sessions:write") as client:
        assert (await client.get("/v1/agents/echo")).status_code == 200
        assert problem_of(await client.patch("/v1/agents/echo", json={"on_loss": "always"}))["code"] == "forbidden"
    async with world.client("agents:write") as client:
        assert (await client.patch("/v1/agents/echo", json={"on_loss": "always"})).status_code == 200
