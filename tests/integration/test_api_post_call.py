"""`GET /v1/sessions/{id}/post-call` on real servers."""

from collections.abc import AsyncGenerator

import pytest

from greenroom.common.ids import uuid7
from tests.support.api_world import ApiWorld, problem_of, running_api


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api."""
    async with running_api(nats_url, database) as running:
        yield running


async def test_what_steps_gave_is_read(world: ApiWorld) -> None:
    """By the session's tenant alone; a session without steps has none, and one that isn't there is no session."""
    session = (await world.request()).session
    path = f"/v1/sessions/{session.id}/post-call"
    async with world.client("sessions:read") as client:
        assert (await client.get(path)).json() == {"steps": []}
        await world.record()
        query = """INSERT INTO post_call_steps (session_id, step, tenant, state, attempts, result, error)
                   VALUES ($1, $2, 'default', $3, $4, $5, $6)"""
        await world.execute(query, session.id, "crm", "failed", 12, None, "timeout")
        await world.execute(query, session.id, "summary", "done", 1, '{"summary": "All well."}', None)
        found = {step["step"]: step for step in (await client.get(path)).json()["steps"]}
        assert problem_of(await client.get(f"/v1/sessions/{uuid7()}/post-call"))["code"] == "session-not-found"
    assert found["summary"]["result"] == {"summary": "All well."}
    assert (found["crm"]["state"], found["crm"]["attempts"], found["crm"]["error"]) == ("failed", 12, "timeout")
    async with world.client(tenant="other") as stranger:
        assert problem_of(await stranger.get(path))["code"] == "session-not-found"


async def test_steps_are_chosen_by_tenant_and_agent(world: ApiWorld) -> None:
    """An operator chooses, replaces and takes back; a tenant sees its own and changes none."""
    path = "/v1/post-call"
    async with world.client() as operator, world.client("sessions:read", tenant="acme") as acme:
        made = await operator.put(f"{path}/acme/*", json={"steps": ["summary", "crm", "summary"]})
        assert (made.status_code, made.json()["steps"]) == (200, ["summary", "crm"])
        await operator.put(f"{path}/acme/desk", json={"steps": []})
        await operator.put(f"{path}/other/*", json={"steps": ["crm"]})
        seen = (await acme.get(path)).json()["choices"]
        assert [(each["agent"], each["steps"]) for each in seen] == [("*", ["summary", "crm"]), ("desk", [])]
        assert len((await operator.get(path)).json()["choices"]) == 3
        assert (await acme.put(f"{path}/acme/*", json={"steps": []})).status_code == 403
        assert (await operator.delete(f"{path}/acme/desk")).status_code == 204
        assert problem_of(await operator.delete(f"{path}/acme/desk"))["code"] == "post-call-choice-not-found"
        for wrong in ({"steps": ["two words"]}, {"steps": "crm"}, {"steps": ["x"] * 17}):
            assert problem_of(await operator.put(f"{path}/acme/*", json=wrong))["code"] == "invalid-body"
        assert problem_of(await operator.put(f"{path}/*/*", json={"steps": []}))["code"] == "invalid-body"
