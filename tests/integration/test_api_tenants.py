"""Tenants on real servers: who there is, who may decide about them, and what becomes of a suspended one's sessions."""

from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import httpx
import pytest

from greenroom.common.ids import uuid7
from greenroom.common.policy import Policy
from greenroom.devtools.client import ApiProblem
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api, until
from tests.support.shell import command, commanded_api

WISH = {"agent": "echo"}


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """A running api that the commands talk to."""
    async with commanded_api(nats_url, database, monkeypatch) as running:
        yield running


@pytest.fixture
async def admin(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may administer."""
    async with world.client("admin") as given:
        yield given


async def refused(client: httpx.AsyncClient) -> bool:
    """Tell whether a session is refused now, with the problem that says why."""
    response = await client.post("/v1/sessions", json=WISH)
    if response.status_code == 403:
        assert problem_of(response)["code"] == "tenant-suspended"
    else:
        assert response.status_code == 201
    return response.status_code == 403


async def names(admin: httpx.AsyncClient, **params: Any) -> list[str]:
    """Return the names on a page of tenants."""
    response = await admin.get("/v1/tenants", params=params)
    assert response.status_code == 200
    return [tenant["name"] for tenant in response.json()["tenants"]]


async def test_is_there_with_its_first_key_and_with_its_first_session(
    world: ApiWorld, admin: httpx.AsyncClient
) -> None:
    """A tenant has a row from its first key on, or from its first session, whoever asked for that."""
    await world.key(tenant="acme")
    await world.key(tenant="acme")
    await world.request(tenant="globex")
    await world.record()
    assert await names(admin) == ["acme", "default", "globex"]


async def test_a_known_tenant_is_looked_at_made_and_changed(admin: httpx.AsyncClient) -> None:
    """PUT says all there is to say, PATCH what is named, and neither changes a state that isn't named."""
    assert problem_of(await admin.get("/v1/tenants/acme"))["code"] == "tenant-not-found"
    assert problem_of(await admin.patch("/v1/tenants/acme", json={}))["code"] == "tenant-not-found"
    made = await admin.put("/v1/tenants/acme", json={"display_name": "Acme", "metadata": {"contract": "C-1"}})
    assert made.status_code == 200
    assert made.json()["state"] == "active"
    noted = await admin.patch("/v1/tenants/acme", json={"state": "suspended", "note": "unpaid"})
    expected = {"display_name": "Acme", "metadata": {"contract": "C-1"}, "state": "suspended", "note": "unpaid"}
    assert noted.json().items() >= expected.items()
    assert noted.json()["state_since"] > made.json()["state_since"]
    replaced = await admin.put("/v1/tenants/acme", json={"display_name": "Acme Inc."})
    expected = {"display_name": "Acme Inc.", "metadata": {}, "state": "suspended", "note": ""}
    assert replaced.json().items() >= expected.items()
    assert replaced.json()["state_since"] == noted.json()["state_since"]
    assert (await admin.get("/v1/tenants/acme")).json() == replaced.json()


async def test_lists_page_by_page_and_by_state(admin: httpx.AsyncClient) -> None:
    """A listing goes on behind its cursor, in the order of names, and shows one state if asked to."""
    for name in ("b", "a", "c"):
        await admin.put(f"/v1/tenants/{name}", json={"state": "suspended" if name == "b" else "active"})
    first = (await admin.get("/v1/tenants", params={"limit": 2})).json()
    assert [tenant["name"] for tenant in first["tenants"]] == ["a", "b"]
    assert await names(admin, limit=2, cursor=first["next"]) == ["c", "default"]
    assert await names(admin, state="suspended") == ["b"]
    assert problem_of(await admin.get("/v1/tenants", params={"cursor": "x"}))["code"] == "invalid-query"


async def test_a_suspended_tenant_gets_no_new_session_on_any_instance(
    world: ApiWorld, admin: httpx.AsyncClient, nats_url: str
) -> None:
    """Each refuses once it has the policy, and takes sessions again after; what is live goes on, and so do others."""
    async with (
        running_api(nats_url, world.dsn, first=False) as other,
        world.client(tenant="acme") as here,
        world.client(tenant="globex") as neighbour,
    ):
        there = httpx.AsyncClient(base_url=other.url, headers=here.headers, timeout=30.0)
        live = (await here.post("/v1/sessions", json=WISH)).json()["id"]
        await world.make_ready(live, tenant="acme")
        for state in ("suspended", "active"):
            await admin.patch("/v1/tenants/acme", json={"state": state})
            for instance in (world, other):
                await until(lambda at=instance, wanted=state: _knows(at, wanted))
            assert [await refused(client) for client in (here, there, neighbour)] == [
                state == "suspended",
                state == "suspended",
                False,
            ]
            assert (await here.get(f"/v1/sessions/{live}")).json()["state"] == "ready"
        assert (await here.post(f"/v1/sessions/{live}/stop")).status_code == 202
        await there.aclose()


def _knows(world: ApiWorld, state: str) -> bool:
    return ("acme" in world.parts.policy.current.suspended) == (state == "suspended")


async def test_what_was_answered_is_answered_again_although_it_is_suspended(
    world: ApiWorld, admin: httpx.AsyncClient
) -> None:
    """A request that is sent again under its key gets its session; it is no new one."""
    async with world.client(tenant="acme") as here:
        headers = {"idempotency-key": uuid7()}
        first = await here.post("/v1/sessions", json=WISH, headers=headers)
        await admin.patch("/v1/tenants/acme", json={"state": "suspended"})
        await until(lambda: _knows(world, "suspended"))
        again = await here.post("/v1/sessions", json=WISH, headers=headers)
        assert again.status_code == 201
        assert again.json()["id"] == first.json()["id"]
        assert await refused(here)


async def test_a_change_by_hand_counts_and_a_new_row_changes_no_policy(world: ApiWorld) -> None:
    """SQL suspends as the API does; a tenant that only appears leaves the policy's revision as it is."""
    async with world.client(tenant="acme") as here:
        before: Policy = world.parts.policy.current
        await world.execute("UPDATE tenants SET state = 'suspended' WHERE name = 'acme'")

        async def look() -> bool:
            return await refused(here)

        await eventually(look)
        suspended = world.parts.policy.current
        assert suspended.revision > before.revision
        await world.key(tenant="globex")
        async with world.client() as any_key:
            assert (await any_key.get("/v1/limits")).json()["revision"] == suspended.revision
        await world.execute("DELETE FROM tenants WHERE name = 'acme'")
        await until(lambda: "acme" not in world.parts.policy.current.suspended)
        assert not await refused(here)


async def test_administrators_only(world: ApiWorld) -> None:
    """A tenant's own keys neither see tenants nor change them, whatever else they may do."""
    async with world.client("policy:write", "sessions:write", tenant="acme") as client:
        for method, path in (("GET", "/v1/tenants"), ("GET", "/v1/tenants/acme"), ("PUT", "/v1/tenants/acme")):
            assert problem_of(await client.request(method, path, json={}))["code"] == "forbidden"
        resumed = await client.patch("/v1/tenants/acme", json={"state": "active"})
        assert problem_of(resumed)["code"] == "forbidden"


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/tenants/acme", {"state": "gone"}, "/state"),
        ("/v1/tenants/acme", {"note": "a\0b"}, "/note"),
        ("/v1/tenants/acme", {"metadata": {"a": "\0"}}, "/metadata"),
        ("/v1/tenants/*", {}, "/tenant"),
        ("/v1/tenants/a.b", {}, "/tenant"),
    ],
)
async def test_says_what_is_wrong_with_it(
    admin: httpx.AsyncClient, path: str, body: dict[str, Any], pointer: str
) -> None:
    """What can't be kept, or can't be a tenant, is refused with a pointer to it."""
    problem = problem_of(await admin.put(path, json=body))
    assert problem["code"] == "invalid-body"
    assert [each["pointer"] for each in problem["errors"]] == [pointer]


async def test_what_is_decided_is_in_the_audit(world: ApiWorld, admin: httpx.AsyncClient) -> None:
    """Suspending, resuming and other changes are each a line of the audit, with the key that did it."""
    await admin.put("/v1/tenants/acme", json={})
    for state in ("suspended", "suspended", "active"):
        await admin.patch("/v1/tenants/acme", json={"state": state})
    connection = await asyncpg.connect(world.dsn)
    try:
        rows = await connection.fetch("SELECT actor, action FROM audit WHERE subject = 'acme' ORDER BY id")
    finally:
        await connection.close()
    assert [row["action"] for row in rows] == [
        "tenant.changed",
        "tenant.suspended",
        "tenant.changed",
        "tenant.resumed",
    ]
    assert all(row["actor"].startswith("key:") for row in rows)


async def test_by_the_command(world: ApiWorld) -> None:
    """`greenroom tenants` lists, suspends and resumes; a name that isn't there is an error, not a new tenant."""
    await world.key(tenant="acme")
    assert "acme" in (await command("tenants")).output
    assert "acme is suspended" in (await command("tenants", "suspend", "acme", "--note", "unpaid")).output
    listed = (await command("tenants", "list", "--suspended")).output
    assert "unpaid" in listed
    assert "default" not in listed
    assert "acme is active" in (await command("tenants", "resume", "acme")).output
    assert "no tenant is suspended" in (await command("tenants", "list", "--suspended")).output
    with pytest.raises(ApiProblem) as caught:
        await command("tenants", "suspend", "acmee")
    assert caught.value.api_code == "tenant-not-found"
