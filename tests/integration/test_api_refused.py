"""What callers are told at once of limits and rooms, and the queue, on a real broker and a real database."""

import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session, Transition
from greenroom.common.messages import WaitingSession
from tests.support.api_scheduler import LeadingScheduler, leases, refuses
from tests.support.api_world import ApiWorld, problem_of, running_api, until

ROOM = "https://meet.example.org/room"


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


async def refuse_above(world: ApiWorld, client: httpx.AsyncClient, **limit: Any) -> None:
    """Make a limit that refuses, and wait until this api knows it."""
    body = {"scope": "tenant", "max_sessions": 20, "at_limit": "refuse", **limit}
    assert (await client.put("/v1/limits/l", json=body)).status_code == 200
    await until(lambda: world.parts.policy.current.limits)


@pytest.mark.parametrize("wait", ["requested", "leased", "ready"])
async def test_at_a_limit_that_refuses_the_answer_is_429(world: ApiWorld, client: httpx.AsyncClient, wait: str) -> None:
    """At once, however far the caller wanted to wait, and with the scheduler's own estimate of when to come again."""
    await refuse_above(world, client)
    async with LeadingScheduler(world.broker, decide=refuses("limit-reached", 13.2)):
        response = await client.post("/v1/sessions", json={"agent": "echo", "wait": wait})
    problem = problem_of(response)
    assert (problem["status"], problem["code"], problem["retryable"]) == (429, "limit-reached", True)
    assert (response.headers["retry-after"], problem["retry_after_s"]) == ("14", 13.2)
    assert (problem["outcome"], problem["detail"]) == ("rejected", "20 of 20")
    seen = (await client.get(f"/v1/sessions/{problem['session_id']}")).json()
    assert (seen["state"], seen["reason"], seen["retry_after_s"]) == ("ended", "limit-reached", 13.2)
    assert world.counted("api_problems_total", route="/v1/sessions", code="limit-reached") == 1


@pytest.mark.parametrize("wait", ["requested", "ready"])
async def test_a_busy_room_is_409(world: ApiWorld, client: httpx.AsyncClient, wait: str) -> None:
    """A room needs no limit to be waited for."""
    async with LeadingScheduler(world.broker, decide=refuses("room-busy")):
        problem = problem_of(await client.post("/v1/sessions", json={"agent": "echo", "room": ROOM, "wait": wait}))
    assert (problem["status"], problem["code"]) == (409, "room-busy")


async def test_a_session_that_is_placed_is_answered_as_soon_as_it_is(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """The wait for the first decision ends with it."""
    await refuse_above(world, client)
    async with LeadingScheduler(world.broker, decide=leases):
        began = time.monotonic()
        response = await client.post("/v1/sessions", json={"agent": "echo"})
        took_s = time.monotonic() - began
    assert (response.status_code, response.json()["state"]) == (201, "leased")
    assert took_s < 0.8


async def test_nobody_waits_for_long_for_a_decision(client: httpx.AsyncClient) -> None:
    """Where no scheduler decides, the session exists after a second; without a reason to wait, at once."""
    began = time.monotonic()
    response = await client.post("/v1/sessions", json={"agent": "echo"})
    assert (response.status_code, response.json()["state"]) == (201, "requested")
    assert time.monotonic() - began < 0.8
    began = time.monotonic()
    response = await client.post("/v1/sessions", json={"agent": "echo", "room": ROOM})
    assert (response.status_code, response.json()["state"]) == (201, "requested")
    assert 0.9 < time.monotonic() - began < 3


async def test_a_refusal_that_is_asked_for_again_is_the_same(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """With an `Idempotency-Key` the refusal is the answer, `Retry-After` included; another key is another request."""
    await refuse_above(world, client)
    headers = {"idempotency-key": "order-1042"}
    decisions: list[Transition | None] = []

    def decide(session: Session) -> Transition | None:
        decisions.append(refuses("limit-reached", 5.0)(session) if not decisions else leases(session))
        return decisions[-1]

    async with LeadingScheduler(world.broker, decide=decide):
        first = await client.post("/v1/sessions", json={"agent": "echo"}, headers=headers)
        again = await client.post("/v1/sessions", json={"agent": "echo"}, headers=headers)
        other = await client.post("/v1/sessions", json={"agent": "echo"}, headers={"idempotency-key": "order-1042-2"})
    assert problem_of(first)["code"] == "limit-reached"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert (again.headers["retry-after"], again.headers["idempotent-replayed"]) == ("5", "true")
    assert first.headers["retry-after"] == "5"
    assert other.status_code == 201


async def test_what_limits_count_by_is_kept_with_the_session(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Under its canonical name, in the ledger and in every view."""
    wish = {
        "agent": "echo",
        "requires": {"gpu": "l4"},
        "prefers": {"region": "eu"},
        "priority": "high",
        "room": "HTTPS://Meet.Example.org:443/room/",
        "carrier": "twilio",
        "number": "+49 30 123",
        "accounts": ["openai/main", "azure/1", "openai/main"],
        "sticky_key": "customer-7",
    }
    async with LeadingScheduler(world.broker, decide=leases):
        made = (await client.post("/v1/sessions", json=wish)).json()
    entry = await world.ledger.last("default", made["id"])
    assert entry is not None
    session = entry.session
    assert (session.requires, session.prefers, session.priority) == ({"gpu": "l4"}, {"region": "eu"}, "high")
    assert (session.room, session.carrier, session.number) == (ROOM, "twilio", "+4930123")
    assert (session.accounts, session.sticky_key) == (("azure/1", "openai/main"), "customer-7")
    await world.record()
    listed = (await client.get("/v1/sessions")).json()["sessions"][0]
    seen = (await client.get(f"/v1/sessions/{made['id']}")).json()
    for view in (made, listed, seen):
        assert (view["room"], view["number"], view["accounts"]) == (ROOM, "+4930123", ["azure/1", "openai/main"])
        assert (view["requires"], view["prefers"], view["priority"]) == ({"gpu": "l4"}, {"region": "eu"}, "high")
        assert (view["carrier"], view["sticky_key"], view["cold"]) == ("twilio", "customer-7", False)


# ---------------------------------------------------------------------------- the queue


def waiting(position: int, *, tenant: str = "default", pool: str = "default") -> WaitingSession:
    """Return a session in the queue."""
    now = utcnow()
    return WaitingSession(
        session_id=uuid7(),
        tenant=tenant,
        agent="echo",
        pool=pool,
        priority="normal",
        position=position,
        of=9,
        reason="tenant-limit",
        text=f"{position} of 9: tenant at 20/20",
        requested_at=now,
        deadline_at=now + timedelta(seconds=30),
        expected_s=14.0,
    )


async def test_the_queue_is_shown_page_by_page(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """In its order, each session with its position and what it waits for; of a pool if one is named."""
    queue = [waiting(i, pool="gpu" if i == 4 else "default") for i in range(1, 6)]
    async with LeadingScheduler(world.broker, waiting=queue):
        found: list[str] = []
        offset: int | None = 0
        while offset is not None:
            page = (await client.get("/v1/queue", params={"limit": 2, "offset": offset})).json()
            assert page["total"] == 5
            found += [each["session_id"] for each in page["waiting"]]
            offset = page["next"]
        assert found == [each.session_id for each in queue]
        gpu = (await client.get("/v1/queue", params={"pool": "gpu"})).json()
        beyond = (await client.get("/v1/queue", params={"offset": 100})).json()
    assert (gpu["total"], gpu["waiting"][0]["text"], gpu["next"]) == (1, "4 of 9: tenant at 20/20", None)
    assert (beyond["total"], beyond["waiting"], beyond["next"]) == (5, [], None)


async def test_a_tenant_sees_its_own_queue(world: ApiWorld) -> None:
    """Others' sessions are for administrators."""
    queue = [waiting(1, tenant="acme"), waiting(2, tenant="other"), waiting(3, tenant="acme")]
    async with LeadingScheduler(world.broker, waiting=queue):
        async with world.client("sessions:read", tenant="acme") as acme:
            assert (await acme.get("/v1/queue")).json()["total"] == 2
            assert (await acme.get("/v1/queue", params={"tenant": "acme"})).json()["total"] == 2
            for tenant in ("other", "*"):
                refused = await acme.get("/v1/queue", params={"tenant": tenant})
                assert problem_of(refused)["code"] == "forbidden"
        async with world.client("admin") as admin:
            assert (await admin.get("/v1/queue", params={"tenant": "*"})).json()["total"] == 3
            assert (await admin.get("/v1/queue", params={"tenant": "other"})).json()["total"] == 1
            assert (await admin.get("/v1/queue")).json()["total"] == 0


async def test_without_a_scheduler_nobody_knows_the_queue(client: httpx.AsyncClient) -> None:
    """Then the answer is to try again; a wrong query is told from that."""
    problem = problem_of(await client.get("/v1/queue"))
    assert (problem["status"], problem["code"], problem["retryable"]) == (503, "scheduler-unavailable", True)
    for params in ({"pool": "a.b"}, {"offset": "-1"}, {"limit": "501"}, {"state": "x"}):
        assert (params, problem_of(await client.get("/v1/queue", params=params))["code"]) == (params, "invalid-query")
