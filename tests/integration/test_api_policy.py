"""The routes of the policy on real servers: what is decided, who may see it, and how it reaches the schedulers."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from greenroom.api.policy import STREAM, SUBJECT
from greenroom.common import messages
from greenroom.common.clock import utcnow
from greenroom.common.messages import BotOffer, LimitUsage, PoolsAnswer, PoolState
from greenroom.common.policy import (
    AtLimit,
    Limit,
    Policy,
    PoolPolicy,
    Reservation,
    RolledBack,
    Rollout,
    Scope,
)
from tests.support.api_scheduler import LeadingScheduler
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api, until

# What is promised.
APPLIED_S = 2.0
REFUSE_20 = {"scope": "tenant", "tenant": "acme", "max_sessions": 20, "at_limit": "refuse"}
OFFICE = {"days": [4, 0, 0], "begin": "08:00", "end": "18:00:30", "zone": "Europe/Berlin", "warm": 40}
POOL = {"placement": "spread", "baseline": 2, "maximum": 60, "cold_starts": 3, "schedules": [OFFICE]}
# Every route that changes something, with a body that does.
CHANGES: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/limits/acme-all", REFUSE_20),
    ("DELETE", "/v1/limits/acme-all", None),
    ("PUT", "/v1/pools/default", POOL),
    ("DELETE", "/v1/pools/default", None),
    ("POST", "/v1/reservations", {"pool": "default", "warm": 5, "ends_at": "2100-01-01T00:00:00Z"}),
    ("DELETE", "/v1/reservations/x", None),
    ("PUT", "/v1/agents/echo/rollout", {"current": 1}),
    ("DELETE", "/v1/agents/echo/rollout", None),
    ("PUT", "/v1/weights/acme", {"weight": 3}),
    ("PUT", "/v1/pins/lobby", {"agent": "echo"}),
    ("DELETE", "/v1/pins/lobby", None),
]
READS = ["/v1/limits", "/v1/pools", "/v1/reservations", "/v1/weights", "/v1/pins", "/v1/agents/echo/rollout"]


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


async def published(world: ApiWorld) -> Policy:
    """Return the policy that the schedulers have."""
    message = await world.broker.last(STREAM, SUBJECT)
    return messages.decode(message.data, Policy) if message else Policy()


async def applied(world: ApiWorld, revision: int) -> Policy:
    """Return the policy once it is as far as `revision`; that takes as long as is promised at most."""
    began = time.monotonic()

    async def look() -> Policy:
        return await published(world)

    policy = await eventually(look, lambda found: found.revision >= revision)
    assert time.monotonic() - began < APPLIED_S
    return policy


def revision_of(response: httpx.Response) -> int:
    """Return the revision that an answer shows or has made."""
    return int(response.headers["etag"].strip('"'))


# ---------------------------------------------------------------------------- limits


async def test_a_limit_is_made_replaced_and_deleted(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Each change is a revision, which the schedulers have within two seconds."""
    made = await client.put("/v1/limits/acme-all", json=REFUSE_20)
    assert made.status_code == 200
    first = revision_of(made)
    policy = await applied(world, first)
    (limit,) = policy.limits
    assert (limit.id, limit.scope, limit.tenant, limit.key) == ("acme-all", Scope.TENANT, "acme", "*")
    assert (limit.max_sessions, limit.max_starts_per_s, limit.at_limit) == (20, None, AtLimit.REFUSE)
    replaced = await client.put("/v1/limits/acme-all", json={"scope": "tenant", "max_starts_per_s": 0.5})
    second = revision_of(replaced)
    assert second > first
    seen = (await client.get("/v1/limits/acme-all")).json()
    assert seen == replaced.json()
    assert (seen["tenant"], seen["max_sessions"], seen["max_starts_per_s"], seen["at_limit"]) == (
        "*",
        None,
        0.5,
        "queue",
    )
    deleted = await client.delete("/v1/limits/acme-all")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await applied(world, revision_of(deleted))).limits == ()
    for method in ("GET", "DELETE"):
        assert problem_of(await client.request(method, "/v1/limits/acme-all"))["code"] == "policy-not-found"


BAD_LIMITS: list[tuple[dict[str, Any], str, str]] = [
    ({"scope": "tenant"}, "invalid-body", "/max_sessions"),
    ({"scope": "planet", "max_sessions": 1}, "invalid-body", "/scope"),
    ({"scope": "tenant", "key": "x", "max_sessions": 1}, "invalid-body", "/key"),
    ({"scope": "agent_version", "key": "echo", "max_sessions": 1}, "invalid-body", "/key"),
    ({"scope": "agent", "key": "a\u0000", "max_sessions": 1}, "invalid-body", "/key"),
    ({"scope": "agent", "tenant": "a b", "max_sessions": 1}, "invalid-body", "/tenant"),
    ({"scope": "agent", "max_sessions": -1}, "invalid-body", "/max_sessions"),
    ({"scope": "agent", "max_sessions": 2**40}, "invalid-body", "/max_sessions"),
    ({"scope": "agent", "max_starts_per_s": 0}, "invalid-body", "/max_starts_per_s"),
    ({"scope": "agent", "max_sessions": 1, "at_limit": "drop"}, "invalid-body", "/at_limit"),
    ({"scope": "agent", "max_session": 1}, "unknown-field", "/max_session"),
]


async def test_a_limit_that_can_not_be_meant_is_refused(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """With the place of the fault; nothing is changed."""
    for body, code, place in BAD_LIMITS:
        problem = problem_of(await client.put("/v1/limits/l", json=body))
        assert (body, problem["status"], problem["code"]) == (body, 422, code)
        assert (body, [error["pointer"] for error in problem["errors"]]) == (body, [place])
    for name in ("a b", "x" * 65, "a%01"):
        problem = problem_of(await client.put(f"/v1/limits/{name}", json=REFUSE_20))
        assert problem["errors"][0]["pointer"] == "/limit_id"
    assert (await client.get("/v1/limits")).json()["limits"] == []
    assert (await published(world)).revision == 0


async def test_numbers_are_limited_however_they_are_written(client: httpx.AsyncClient) -> None:
    """A limit's number is compared in the one way in which sessions have it."""
    body = {"scope": "number", "key": "+49 (30) 123", "max_sessions": 1}
    assert (await client.put("/v1/limits/n", json=body)).json()["key"] == "+4930123"


async def test_a_limit_is_shown_with_its_use(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """As the leading scheduler counts it; without one the limits are shown all the same, and that nobody leads."""
    await client.put("/v1/limits/each", json={"scope": "tenant", "max_sessions": 20})
    alone = (await client.get("/v1/limits")).json()
    assert (alone["problem"], alone["applied_revision"]) == ("scheduler-unavailable", None)
    assert alone["limits"][0]["usage"] is None
    usage = (
        LimitUsage(limit_id="each", tenant="acme", key="*", active=20, waiting=3),
        LimitUsage(limit_id="each", tenant="default", key="*", active=1, waiting=0),
        LimitUsage(limit_id="gone", tenant="acme", key="*", active=1, waiting=0),
    )
    pools = PoolsAnswer(policy_revision=7, leader="sched-1", pools=(), usage=usage)
    async with LeadingScheduler(world.broker, pools=pools):
        led = (await client.get("/v1/limits")).json()
        one = (await client.get("/v1/limits/each")).json()
    assert (led["problem"], led["applied_revision"]) == (None, 7)
    assert led["limits"] == [one]
    assert one["usage"] == [
        {"tenant": "acme", "key": "*", "active": 20, "waiting": 3},
        {"tenant": "default", "key": "*", "active": 1, "waiting": 0},
    ]


# ---------------------------------------------------------------------------- who sees and changes what


async def test_a_tenant_sees_what_concerns_it(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Limits on everybody and on itself with its own use, its own weight, its own and shared rollouts; pools."""
    await client.put("/v1/limits/each", json={"scope": "tenant", "max_sessions": 20})
    await client.put("/v1/limits/mine", json={**REFUSE_20, "tenant": "acme"})
    await client.put("/v1/limits/theirs", json={**REFUSE_20, "tenant": "other"})
    await client.put("/v1/weights/acme", json={"weight": 2})
    await client.put("/v1/weights/other", json={"weight": 5})
    await client.put("/v1/agents/echo/rollout", params={"tenant": "other"}, json={"current": 5})
    await client.put("/v1/agents/echo/rollout", json={"current": 3})
    usage = tuple(
        LimitUsage(limit_id="each", tenant=tenant, key="*", active=1, waiting=0) for tenant in ("acme", "other", "*")
    )
    pools = PoolsAnswer(policy_revision=1, leader="s", pools=(), usage=usage)
    async with world.client("sessions:read", tenant="acme") as acme, LeadingScheduler(world.broker, pools=pools):
        limits = (await acme.get("/v1/limits")).json()["limits"]
        assert [limit["id"] for limit in limits] == ["each", "mine"]
        assert [used["tenant"] for used in limits[0]["usage"]] == ["acme", "*"]
        assert (await acme.get("/v1/limits/theirs")).status_code == 404
        assert (await acme.get("/v1/weights")).json()["weights"] == {"acme": 2.0}
        assert (await acme.get("/v1/agents/echo/rollout")).json()["current"] == 3
        assert (await acme.get("/v1/pools")).status_code == 200
        theirs = await acme.get("/v1/agents/echo/rollout", params={"tenant": "other"})
        assert problem_of(theirs)["code"] == "forbidden"
        assert problem_of(await acme.get("/v1/reservations"))["code"] == "forbidden"
    async with world.client("policy:read", tenant="ops") as ops:
        assert len((await ops.get("/v1/limits")).json()["limits"]) == 3
        assert (await ops.get("/v1/weights")).json()["weights"] == {"acme": 2.0, "other": 5.0}
        assert (await ops.get("/v1/agents/echo/rollout", params={"tenant": "other"})).json()["current"] == 5
        assert (await ops.get("/v1/reservations")).status_code == 200


async def test_only_operators_change_the_policy(world: ApiWorld) -> None:
    """`policy:write` (or `admin`) changes and sees it; no other scope changes anything."""
    for scopes in (("sessions:read", "sessions:write", "policy:read"), ("nothing",)):
        async with world.client(*scopes) as client:
            for method, path, body in CHANGES:
                problem = problem_of(await client.request(method, path, json=body))
                assert (path, problem["code"]) == (path, "forbidden")
    for scopes in (("policy:write",), ("admin",)):
        async with world.client(*scopes) as client:
            for method, path, body in CHANGES:
                status = (await client.request(method, path, json=body)).status_code
                assert (method, path, status) == (method, path, 404 if path.endswith("/x") else status)
                assert status in {200, 201, 204, 404}
            for path in READS[:-1]:
                assert (await client.get(path)).status_code == 200
    async with httpx.AsyncClient(base_url=world.url) as anonymous:
        for method, path, body in CHANGES:
            assert (await anonymous.request(method, path, json=body)).status_code == 401


# ---------------------------------------------------------------------------- revisions


async def test_a_change_can_depend_on_what_was_read(client: httpx.AsyncClient) -> None:
    """With `If-Match` only the revision that was read is changed; of several at once one wins."""
    await client.put("/v1/limits/a", json=REFUSE_20)
    tag = (await client.get("/v1/limits")).headers["etag"]
    answers = await asyncio.gather(
        *(client.put(f"/v1/limits/n{i}", json=REFUSE_20, headers={"if-match": tag}) for i in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412, 412]
    assert problem_of(next(answer for answer in answers if answer.is_error))["code"] == "policy-changed"
    assert len((await client.get("/v1/limits")).json()["limits"]) == 2
    for nonsense in ('"x"', "7", 'W/"7"'):
        refused = await client.delete("/v1/limits/a", headers={"if-match": nonsense})
        assert problem_of(refused)["code"] == "policy-changed"
    assert (await client.delete("/v1/limits/a", headers={"if-match": "*"})).status_code == 204


async def test_changes_at_once_are_all_made(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Writers wait for one another: each gets a revision of its own, and the last has all of it."""
    answers = await asyncio.gather(*(client.put(f"/v1/limits/n{i}", json=REFUSE_20) for i in range(20)))
    revisions = [revision_of(answer) for answer in answers]
    assert len(set(revisions)) == 20
    assert len((await applied(world, max(revisions))).limits) == 20


async def test_there_is_a_bound(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The whole travels as one message, so it can't grow without an end; what is there can still be changed."""
    await world.execute(
        "INSERT INTO policy_limits (id, scope, max_sessions)"
        " SELECT 'l' || n, 'tenant', 1 FROM generate_series(1, 1000) AS n"
    )
    problem = problem_of(await client.put("/v1/limits/more", json=REFUSE_20))
    assert (problem["status"], problem["code"]) == (409, "policy-full")
    assert (await client.put("/v1/limits/l1", json=REFUSE_20)).status_code == 200
    before = (await client.get("/v1/limits")).json()["revision"]
    assert len((await applied(world, before)).limits) == 1000


# ---------------------------------------------------------------------------- changes by hand


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("policy_limits", Limit),
        ("policy_pools", PoolPolicy),
        ("policy_reservations", Reservation),
        ("policy_rollouts", Rollout),
    ],
)
async def test_the_tables_have_the_fields_of_the_policy(database: str, table: str, kind: type[msgspec.Struct]) -> None:
    """In their order, so that a field that is added to one and not to the other is noticed."""
    connection = await asyncpg.connect(database)
    try:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position"
        columns = [row["column_name"] for row in await connection.fetch(query, table)]
    finally:
        await connection.close()
    assert columns == [field.name for field in msgspec.structs.fields(kind)]


async def test_a_change_by_hand_is_applied_too(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Whoever edits the tables by SQL needs nobody's help: every kind of statement is noticed."""
    for statement, limits in (
        ("INSERT INTO policy_limits (id, scope, max_sessions) VALUES ('hand', 'agent', 3)", 1),
        ("UPDATE policy_limits SET max_sessions = 4", 1),
        ("DELETE FROM policy_limits", 0),
        ("INSERT INTO policy_weights VALUES ('acme', 2)", 0),
        ("TRUNCATE policy_weights", 0),
    ):
        before = (await client.get("/v1/limits")).json()["revision"]
        await world.execute(statement)
        policy = await applied(world, before + 1)
        assert len(policy.limits) == limits
    # Columns have the defaults of the fields.
    await world.execute("INSERT INTO policy_pools (name) VALUES ('plain')")
    view = (await client.get("/v1/pools/plain")).json()
    await client.delete("/v1/pools/plain")
    await client.put("/v1/pools/plain", json={})
    assert view["decided"]
    assert (await client.get("/v1/pools/plain")).json() == view


async def test_a_hand_that_slips_breaks_nothing(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """What can't be read as a policy isn't published; the schedulers go on, and the status says what is wrong."""
    good = revision_of(await client.put("/v1/limits/a", json=REFUSE_20))
    await applied(world, good)
    await world.execute("""INSERT INTO policy_pools (name, schedules) VALUES ('odd', '[{"days": [1]}]')""")
    await until(lambda: world.parts.policy.problem == "policy-unusable")
    status = (await client.get("/v1/status")).json()
    assert status["problems"]["policy"] == "policy-unusable"
    assert (await published(world)).revision == good
    problem = problem_of(await client.get("/v1/limits"))
    assert (problem["status"], problem["code"]) == (500, "policy-unusable")
    assert "schedules" in problem["detail"]
    assert (await client.delete("/v1/pools/odd")).status_code == 204
    await until(lambda: world.parts.policy.problem is None)


async def test_tables_that_were_tampered_with_stop_nothing_else(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The policy can't be read then; all else goes on, and so does the policy once that is mended."""
    await world.execute(
        "ALTER TABLE policy_revision DROP CONSTRAINT policy_revision_pkey, "
        "DROP CONSTRAINT policy_revision_singleton_check"
    )
    await world.execute("INSERT INTO policy_revision (singleton, revision) VALUES (false, 1)")
    await world.execute("UPDATE policy_revision SET revision = revision + 1")
    await until(lambda: world.parts.policy.problem == "policy-unusable")
    assert problem_of(await client.get("/v1/limits"))["code"] == "policy-unusable"
    assert (await client.post("/v1/sessions", json={"agent": "echo"})).status_code == 201
    await world.execute("DELETE FROM policy_revision WHERE NOT singleton")
    await world.execute("ALTER TABLE policy_revision ADD PRIMARY KEY (singleton)")
    await until(lambda: world.parts.policy.problem is None)
    await applied(world, revision_of(await client.put("/v1/limits/a", json=REFUSE_20)))


async def test_columns_of_another_version_stop_nothing_else(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """What a migration has still to make, or has taken away, is said as such; all else goes on."""
    await world.execute("ALTER TABLE policy_revision RENAME revision TO version")
    await until(lambda: world.parts.policy.problem == "schema-not-migrated")
    problem = problem_of(await client.get("/v1/limits"))
    assert (problem["status"], problem["code"]) == (503, "schema-not-migrated")
    assert (await client.post("/v1/sessions", json={"agent": "echo"})).status_code == 201
    await world.execute("ALTER TABLE policy_revision RENAME version TO revision")
    await until(lambda: world.parts.policy.problem is None)


async def test_after_a_restore_the_next_change_is_newer(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A database from yesterday doesn't keep its changes from being applied."""
    newest = revision_of(await client.put("/v1/limits/a", json=REFUSE_20))
    await applied(world, newest)
    await world.execute("DELETE FROM policy_limits")
    await world.execute("UPDATE policy_revision SET revision = 5")
    again = revision_of(await client.put("/v1/limits/b", json=REFUSE_20))
    assert again > newest
    assert [limit.id for limit in (await applied(world, again)).limits] == ["b"]


async def test_instances_at_once_publish_one_policy(world: ApiWorld, nats_url: str) -> None:
    """Two apis on one database: each change is published, whichever of them it is made by."""
    async with running_api(nats_url, world.dsn, first=False) as other, world.client() as a, other.client() as b:
        for i in range(6):
            made = await (a, b)[i % 2].put(f"/v1/limits/n{i}", json=REFUSE_20)
            policy = await applied(world, revision_of(made))
            assert len(policy.limits) == i + 1
        await until(lambda: world.parts.policy.current == other.parts.policy.current)
        assert len(world.parts.policy.current.limits) == 6


# ---------------------------------------------------------------------------- pools and reservations


async def test_a_pools_policy_is_made_and_left_again(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """What is left out is as for a pool that nobody wrote anything about; hours are read as people write them."""
    made = await client.put("/v1/pools/default", json=POOL)
    assert made.status_code == 200
    policy = (await applied(world, revision_of(made))).pool("default")
    assert (policy.placement, policy.baseline, policy.maximum, policy.safety) == ("spread", 2, 60, 1.5)
    (schedule,) = policy.schedules
    assert (schedule.days, schedule.begin.isoformat(), schedule.end.isoformat()) == ((0, 4), "08:00:00", "18:00:30")
    view = (await client.get("/v1/pools/default")).json()
    assert (view["decided"], view["state"]) == (True, None)
    assert view["policy"] == msgspec.json.decode(messages.encode(policy))
    # What was read can be sent back.
    again = {name: value for name, value in view["policy"].items() if name != "name"}
    assert (await client.put("/v1/pools/default", json=again)).json()["policy"] == view["policy"]
    assert (await client.delete("/v1/pools/default")).status_code == 204
    assert problem_of(await client.delete("/v1/pools/default"))["code"] == "policy-not-found"
    assert problem_of(await client.get("/v1/pools/default"))["code"] == "policy-not-found"


BAD_POOLS: list[tuple[dict[str, Any], str]] = [
    ({"minimum": 3}, "/minimum"),
    ({"baseline": -1}, "/baseline"),
    ({"slots_per_runner": 0}, "/slots_per_runner"),
    ({"safety": 0}, "/safety"),
    ({"placement": "random"}, "/placement"),
    ({"schedules": [OFFICE, {**OFFICE, "zone": "Mars/Olympus"}]}, "/schedules/1/zone"),
    ({"schedules": [{**OFFICE, "zone": "../etc/passwd"}]}, "/schedules/0/zone"),
    ({"schedules": [{**OFFICE, "zone": "Europe"}]}, "/schedules/0/zone"),
    ({"schedules": [{**OFFICE, "days": [7]}]}, "/schedules/0/days"),
    ({"schedules": [{**OFFICE, "days": []}]}, "/schedules/0/days"),
    ({"schedules": [{**OFFICE, "begin": "25:00"}]}, "/schedules/0/begin"),
    ({"schedules": [{**OFFICE, "odd": 1}]}, "/schedules/0"),
]


async def test_a_pools_policy_that_can_not_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """With the place of the fault, also inside schedules."""
    for body, place in BAD_POOLS:
        problem = problem_of(await client.put("/v1/pools/default", json=body))
        assert (body, problem["status"], problem["code"]) == (body, 422, "invalid-body")
        assert problem["errors"][0]["pointer"].startswith(place)


async def test_pools_are_shown_with_how_they_stand(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """All that anybody knows of: with a policy, with runners, or known to the scheduler."""
    await client.put("/v1/pools/decided", json={"maximum": 5})
    await world.beat(BotOffer(name="echo"), pool="heard")

    async def shown() -> dict[str, Any]:
        return (await client.get("/v1/pools")).json()

    alone = await eventually(shown, lambda found: len(found["pools"]) == 2)
    assert [pool["name"] for pool in alone["pools"]] == ["decided", "heard"]
    assert (alone["problem"], alone["leader"], alone["applied_revision"]) == ("scheduler-unavailable", None, None)
    assert all(pool["state"] is None for pool in alone["pools"])
    state = PoolState(
        name="known", runners=2, draining=0, braking=1, slots=8, busy=3, warm=5, waiting=1, held_back="no capacity"
    )
    pools = PoolsAnswer(policy_revision=alone["revision"], leader="sched-1", pools=(state,))
    async with LeadingScheduler(world.broker, pools=pools):
        led = await shown()
        one = (await client.get("/v1/pools/known")).json()
    assert (led["problem"], led["leader"], led["applied_revision"]) == (None, "sched-1", alone["revision"])
    assert [pool["name"] for pool in led["pools"]] == ["decided", "heard", "known"]
    assert led["pools"][2] == one
    assert (one["decided"], one["state"]["busy"], one["state"]["held_back"]) == (False, 3, "no capacity")


async def test_slots_are_reserved_for_a_time(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A reservation holds from its beginning, or from now, until its end, and can be given up."""
    ends_at = utcnow() + timedelta(hours=2)
    wish = {"pool": "default", "warm": 50, "ends_at": ends_at.isoformat(), "note": "televised appeal"}
    made = await client.post("/v1/reservations", json=wish)
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/reservations/{made.json()['id']}"
    later = await client.post(
        "/v1/reservations", json={**wish, "starts_at": "2099-12-31T23:00:00+01:00", "ends_at": "2100-01-01T00:00:00Z"}
    )
    (first, second) = (await applied(world, revision_of(later))).reservations
    assert (first.pool, first.warm, first.note, first.ends_at) == ("default", 50, "televised appeal", ends_at)
    assert abs((first.starts_at - utcnow()).total_seconds()) < 10
    assert second.starts_at == datetime(2099, 12, 31, 22, tzinfo=UTC)
    listed = (await client.get("/v1/reservations")).json()["reservations"]
    assert [each["id"] for each in listed] == [first.id, second.id]
    assert (await client.delete(made.headers["location"])).status_code == 204
    assert problem_of(await client.delete(made.headers["location"]))["code"] == "policy-not-found"
    # What is over is history: nobody is told of it any more.
    await world.execute("UPDATE policy_reservations SET starts_at = now() - interval '2 h', ends_at = now()")
    assert (await client.get("/v1/reservations")).json()["reservations"] == []


async def test_a_reservation_that_can_not_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """Over before it begins, without a zone, beyond the calendar, of a pool that can't be."""
    good = {"pool": "default", "warm": 5, "ends_at": "2100-01-01T00:00:00Z"}
    for change, place in (
        ({"ends_at": "2020-01-01T00:00:00Z"}, "/ends_at"),
        ({"starts_at": "2100-01-01T00:00:00Z"}, "/ends_at"),
        ({"ends_at": "2100-01-01T00:00:00"}, "/ends_at"),
        ({"ends_at": "9999-12-31T23:59:59-23:59"}, "/ends_at"),
        ({"starts_at": "0001-01-01T00:00:00+23:59"}, "/starts_at"),
        ({"warm": 0}, "/warm"),
        ({"pool": "a.b"}, "/pool"),
        ({"note": "x" * 201}, "/note"),
        ({"note": "\u0000"}, "/note"),
    ):
        problem = problem_of(await client.post("/v1/reservations", json={**good, **change}))
        assert (change, problem["status"], problem["errors"][0]["pointer"]) == (change, 422, place)


# ---------------------------------------------------------------------------- rollouts and weights


async def test_a_rollout_says_which_version_new_sessions_get(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """One for all, one of a tenant's own, and what the scheduler has rolled back of it."""
    path = "/v1/agents/front desk/rollout"
    assert problem_of(await client.get(path))["code"] == "policy-not-found"
    wish = {"current": 3, "canary": 4, "canary_share": 0.25, "max_failure_rate": 0.5, "min_starts": 2}
    assert (await client.put(path, json=wish)).status_code == 200
    own = await client.put(path, params={"tenant": "default"}, json={"current": 2})
    policy = await applied(world, revision_of(own))
    assert [(each.tenant, each.agent, each.current) for each in policy.rollouts] == [
        ("*", "front desk", 3),
        ("default", "front desk", 2),
    ]
    assert (await client.get(path)).json()["current"] == 2
    back = RolledBack(tenant="*", agent="front desk", version=4, at=utcnow(), starts=10, failures=6)
    pools = PoolsAnswer(policy_revision=1, leader="s", pools=(), rolled_back=(back,))
    async with LeadingScheduler(world.broker, pools=pools):
        shared = (await client.get(path, params={"tenant": "*"})).json()
        assert (shared["canary"], shared["canary_share"]) == (4, 0.25)
        assert (shared["rolled_back"]["version"], shared["rolled_back"]["failures"]) == (4, 6)
        # Another canary is judged anew.
        await client.put(path, json={**wish, "canary": 5})
        assert (await client.get(path, params={"tenant": "*"})).json()["rolled_back"] is None
    assert (await client.delete(path, params={"tenant": "default"})).status_code == 204
    assert (await client.get(path)).json()["current"] == 3
    assert (await client.delete(path)).status_code == 204
    assert problem_of(await client.delete(path))["code"] == "policy-not-found"


async def test_a_rollout_that_can_not_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """Versions count from 1, a canary is another version, a share is a part."""
    for body, place in (
        ({}, ""),
        ({"current": 0}, "/current"),
        ({"current": 2**31}, "/current"),
        ({"current": 1, "canary": 1}, "/canary"),
        ({"current": 1, "canary_share": 0.1}, "/canary_share"),
        ({"current": 1, "canary": 2, "canary_share": 1.1}, "/canary_share"),
        ({"current": 1, "min_starts": 0}, "/min_starts"),
    ):
        problem = problem_of(await client.put("/v1/agents/echo/rollout", json=body))
        assert (body, problem["status"], problem["errors"][0]["pointer"]) == (body, 422, place)
    refused = await client.put("/v1/agents/echo/rollout", params={"tenant": "a b"}, json={"current": 1})
    assert problem_of(refused)["errors"][0]["pointer"] == "/tenant"


async def test_tenants_have_weights(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The usual one isn't kept; a weight is a positive number of a real tenant."""
    await client.put("/v1/weights/acme", json={"weight": 2.5})
    made = await client.put("/v1/weights/other", json={"weight": 0.5})
    assert made.json() == {"tenant": "other", "weight": 0.5}
    assert (await applied(world, revision_of(made))).weights == {"acme": 2.5, "other": 0.5}
    usual = await client.put("/v1/weights/acme", json={"weight": 1})
    assert (await applied(world, revision_of(usual))).weights == {"other": 0.5}
    assert (await client.get("/v1/weights")).json()["weights"] == {"other": 0.5}
    for path, body, place in (
        ("/v1/weights/acme", {"weight": 0}, "/weight"),
        ("/v1/weights/acme", {"weight": 1001}, "/weight"),
        ("/v1/weights/*", {"weight": 2}, "/tenant"),
    ):
        problem = problem_of(await client.put(path, json=body))
        assert (path, problem["errors"][0]["pointer"]) == (path, place)
