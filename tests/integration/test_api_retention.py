"""The routes and commands of retention on real servers: who may decide what, and what is written down of it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import httpx
import pytest

from greenroom.common.ids import uuid7
from greenroom.devtools.client import ApiProblem
from tests.support.api_world import READY, ApiWorld, eventually, problem_of
from tests.support.shell import command, commanded_api

RULE = {"recordings_days": 30, "events_days": 90, "sessions_days": 365}


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """A running api that the commands talk to."""
    async with commanded_api(nats_url, database, monkeypatch) as running:
        yield running


@pytest.fixture
async def admin(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client("admin") as given:
        yield given


async def rows(world: ApiWorld, query: str) -> list[tuple[Any, ...]]:
    """Return what the database answers."""
    connection = await asyncpg.connect(world.dsn)
    try:
        return [tuple(row.values()) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def ended(world: ApiWorld, tenant: str = "default") -> str:
    """Return the id of a session that is over."""
    entry = await world.request(tenant=tenant)
    if tenant == "default":
        await world.advance(entry.session.id, *READY)
        await world.end(entry.session.id)
    return entry.session.id


async def test_rules_are_made_replaced_listed_and_deleted(admin: httpx.AsyncClient) -> None:
    """A rule is replaced as a whole, listed with the others, and deleted once."""
    made = await admin.put("/v1/retention/acme/*", json=RULE)
    assert made.status_code == 200
    assert {name: made.json()[name] for name in RULE} == RULE
    again = (await admin.put("/v1/retention/acme/*", json={"events_days": 0})).json()
    assert (again["recordings_days"], again["events_days"], again["sessions_days"]) == (None, 0, None)
    await admin.put("/v1/retention/*/front%20desk", json=RULE)
    listed = (await admin.get("/v1/retention")).json()
    assert [(rule["tenant"], rule["agent"]) for rule in listed["rules"]] == [("*", "front desk"), ("acme", "*")]
    assert (await admin.delete("/v1/retention/acme/*")).status_code == 204
    assert problem_of(await admin.delete("/v1/retention/acme/*"))["code"] == "retention-rule-not-found"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("acme/*", {"recordings_days": -1}, "invalid-body"),
        ("acme/*", {"recordings_days": 36_526}, "invalid-body"),
        ("acme/*", {"recording_days": 1}, "unknown-field"),
        ("ac.me/*", {}, "invalid-body"),
        ("acme/a%00b", {}, "not-found"),
    ],
)
async def test_rules_that_mean_nothing(admin: httpx.AsyncClient, path: str, body: Any, code: str) -> None:
    """What is no rule is refused with what is wrong with it, and changes nothing."""
    assert problem_of(await admin.put(f"/v1/retention/{path}", json=body))["code"] == code
    assert (await admin.get("/v1/retention")).json()["rules"] == []


async def test_holds(admin: httpx.AsyncClient, world: ApiWorld) -> None:
    """Tenants, agents and sessions are held for a reason, listed or counted, and let go once."""
    session_id = await ended(world)
    for path in ("/v1/retention/acme/frontdesk", f"/v1/sessions/{session_id}"):
        made = await admin.put(f"{path}/hold", json={"reason": "case 1"})
        assert (made.status_code, made.json()["reason"]) == (200, "case 1")
        listed = (await admin.get("/v1/retention")).json()
        assert len(listed["holds"]) + listed["sessions_held"] >= 1
        assert (await admin.delete(f"{path}/hold")).status_code == 204
        assert problem_of(await admin.delete(f"{path}/hold"))["code"] == "hold-not-found"
    missing = await admin.put(f"/v1/sessions/{uuid7()}/hold", json={})
    assert problem_of(missing)["code"] == "session-not-found"


async def test_a_hold_comes_too_late(admin: httpx.AsyncClient, world: ApiWorld) -> None:
    """A session that is being deleted can't be held any more, and whoever tries is told."""
    session_id = await ended(world)
    assert (await admin.delete(f"/v1/sessions/{session_id}")).status_code == 202
    await world.execute("UPDATE erasures SET begun_at = now()")
    refused = await admin.put(f"/v1/sessions/{session_id}/hold", json={})
    assert (refused.status_code, problem_of(refused)["code"]) == (409, "session-being-erased")


async def test_what_somebody_asks_for_is_no_longer_a_matter_of_rules(admin: httpx.AsyncClient, world: ApiWorld) -> None:
    """A session that is due by a rule and then asked for is erased for whoever asked, and asked for once."""
    session_id = await ended(world)
    await world.execute(
        "INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by)"
        " VALUES ($1, 'session', 'default', 'echo', now(), 'retention')",
        session_id,
    )
    for _ in range(2):
        assert (await admin.delete(f"/v1/sessions/{session_id}")).status_code == 202
    [(by, open_wishes)] = await rows(world, "SELECT min(requested_by), count(*) FROM erasures")
    assert by.startswith("key:")
    assert open_wishes == 1
    assert await rows(world, "SELECT count(*) FROM audit WHERE action = 'session.erasure_requested'") == [(1,)]


async def test_who_may(world: ApiWorld) -> None:
    """Rules and holds take an admin's key, erasing a scope of its own, and nobody touches another tenant's sessions."""
    own, others = await ended(world), await ended(world, tenant="other")
    everything_else = ("sessions:read", "sessions:write", "sessions:control", "policy:write", "sessions:erase")
    async with world.client(*everything_else) as client:
        for method, path in (
            ("GET", "/v1/retention"),
            ("PUT", "/v1/retention/*/*"),
            ("DELETE", "/v1/retention/*/*"),
            ("PUT", "/v1/retention/*/*/hold"),
            ("DELETE", "/v1/retention/*/*/hold"),
            ("PUT", f"/v1/sessions/{own}/hold"),
            ("DELETE", f"/v1/sessions/{own}/hold"),
        ):
            refused = await client.request(method, path, json={} if method == "PUT" else None)
            assert problem_of(refused)["code"] == "forbidden", path
        assert problem_of(await client.delete(f"/v1/sessions/{others}"))["code"] == "session-not-found"
        assert (await client.delete(f"/v1/sessions/{own}")).status_code == 202
    async with world.client("sessions:write") as client:
        assert problem_of(await client.delete(f"/v1/sessions/{own}"))["code"] == "forbidden"
    async with world.client("admin") as client:
        assert problem_of(await client.put(f"/v1/sessions/{others}/hold", json={}))["code"] == "session-not-found"


async def test_every_change_is_audited(admin: httpx.AsyncClient, world: ApiWorld) -> None:
    """Who changed a rule or a hold is written down, with what and for whom."""
    session_id = await ended(world)
    await admin.put("/v1/retention/acme/*", json=RULE)
    await admin.put("/v1/retention/acme/*/hold", json={"reason": "case 1"})
    await admin.delete("/v1/retention/acme/*/hold")
    await admin.delete("/v1/retention/acme/*")
    await admin.put(f"/v1/sessions/{session_id}/hold", json={})
    await admin.delete(f"/v1/sessions/{session_id}/hold")
    await admin.delete(f"/v1/sessions/{session_id}")
    audited = await rows(world, "SELECT action, tenant, subject FROM audit ORDER BY id")
    assert audited == [
        ("retention.rule_set", "acme", "acme/*"),
        ("retention.hold_set", "acme", "acme/*"),
        ("retention.hold_lifted", "acme", "acme/*"),
        ("retention.rule_deleted", "acme", "acme/*"),
        ("session.held", "default", session_id),
        ("session.hold_lifted", "default", session_id),
        ("session.erasure_requested", "default", session_id),
    ]
    assert await rows(world, "SELECT count(*) FROM audit WHERE actor !~ '^key:.+'") == [(0,)]


async def test_commands(world: ApiWorld) -> None:
    """Rules, holds and erasures by command say what they did, and show it."""
    session_id = await ended(world)
    assert "no rules" in (await command("retention")).output
    shown = await command("retention", "set", "--tenant", "acme", "--recordings", "30")
    assert "acme" in shown.output
    assert "30 days" in shown.output
    assert "held" in (await command("retention", "hold", "--agent", "echo", "--reason", "case 1")).output
    with pytest.raises(ApiProblem) as refused:
        await command("erase", session_id)
    assert refused.value.api_code == "session-held"
    listed = (await command("retention")).output
    assert "case 1" in listed
    assert "for ever" in listed
    assert "lifted" in (await command("retention", "lift", "--agent", "echo")).output
    assert "deleted" in (await command("retention", "delete", "--tenant", "acme")).output
    assert "held" in (await command("retention", "hold", session_id)).output
    assert "lifted" in (await command("retention", "lift", session_id)).output
    assert (await command("retention", "hold", session_id, "--agent", "echo")).exit_code == 2
    assert "will be erased" in (await command("erase", session_id)).output


async def test_erase_waits(world: ApiWorld) -> None:
    """`greenroom erase --wait` comes back once the session is gone."""
    session_id = await ended(world)
    waiting = asyncio.create_task(command("erase", session_id, "--wait"))

    async def asked() -> list[tuple[Any, ...]]:
        return await rows(world, "SELECT session_id FROM erasures")

    await eventually(asked)
    assert not waiting.done()
    await world.broker.purge("SESSIONS", f"gr.v1.session.default.{session_id}.>")
    assert f"{session_id} is erased" in (await waiting).output
