"""The session routes on a real broker and a real database."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Ended, Ending, Outcome, Ready, Started, State
from greenroom.common.messages import BotOffer, QueuePosition, QueueQuery
from tests.support.api_world import LEASED, RUNNER, ApiWorld, eventually, problem_of, running_api

SCHEMA = {"type": "object", "properties": {"language": {"enum": ["en", "de"]}}, "required": ["language"]}


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


# ---------------------------------------------------------------------------- asking


async def test_a_request_is_in_the_ledger_once_it_is_answered(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The answer has the session, where to find it and how to connect; the ledger has it, without the ticket."""
    wish = {
        "agent": "echo",
        "body": {"a": 1},
        "metadata": {"b": "c"},
        "limits": {"queue_timeout_s": 7},
        "on_loss": "never",
        "pool": "gpu",
    }
    response = await client.post("/v1/sessions", json=wish)
    assert response.status_code == 201
    answer = response.json()
    assert response.headers["location"] == answer["links"]["self"] == f"/v1/sessions/{answer['id']}"
    entry = await world.ledger.last("default", answer["id"])
    assert entry is not None
    session = entry.session
    assert (session.state, session.body, session.metadata, session.pool) == (
        "requested",
        {"a": 1},
        {"b": "c"},
        "gpu",
    )
    assert (session.limits.queue_timeout_s, session.limits.max_duration_s, session.on_loss) == (7, 7200, "never")
    url = answer["transport"]["url"]
    assert url.startswith(world.url.replace("http", "ws") + "/v1/media/")
    assert url.rpartition("/")[2] not in messages.encode(session).decode()


BAD_BODIES: list[tuple[bytes, int, str, list[str]]] = [
    (b"", 400, "malformed-json", []),
    (b"{", 400, "malformed-json", []),
    (b"\xff", 400, "malformed-json", []),
    (b"[1]", 422, "invalid-body", [""]),
    (b"{}", 422, "invalid-body", [""]),
    (b'{"agent":""}', 422, "invalid-body", ["/agent"]),
    (b'{"agent":"echo","agnet":1,"limits":{"x/y":1}}', 422, "unknown-field", ["/agnet", "/limits/x~1y"]),
    (b'{"agent":"echo","limits":{"queue_timeout_s":-1}}', 422, "invalid-body", ["/limits/queue_timeout_s"]),
    (b'{"agent":"echo","metadata":{"a":1}}', 422, "invalid-body", ["/metadata"]),
    (b'{"agent":"echo","wait":"ended"}', 422, "invalid-body", ["/wait"]),
    (b'{"agent":"echo","wait_timeout_s":61}', 422, "invalid-body", ["/wait_timeout_s"]),
    (b'{"agent":"echo","transport":"fax"}', 422, "invalid-body", ["/transport"]),
    (b'{"agent":"nobody"}', 404, "agent-not-found", []),
]


async def test_a_bad_body_is_refused_with_the_place_of_the_fault(client: httpx.AsyncClient) -> None:
    """What isn't JSON, doesn't fit or names something unknown is told apart, and pointed at."""
    for raw, status, code, pointers in BAD_BODIES:
        problem = problem_of(await client.post("/v1/sessions", content=raw))
        assert (raw, problem["status"], problem["code"]) == (raw, status, code)
        assert (raw, [error["pointer"] for error in problem.get("errors", [])]) == (raw, pointers)


async def test_a_large_body_is_refused(client: httpx.AsyncClient) -> None:
    """More than a million bytes is too much, announced or not, and whatever is around them."""
    large = msgspec.json.encode({"agent": "echo", "body": {"text": "x" * 1_000_000}})

    async def chunks() -> AsyncGenerator[bytes]:
        yield large[:1000]
        yield large[1000:]

    for content in (large, chunks()):
        assert problem_of(await client.post("/v1/sessions", content=content))["code"] == "body-too-large"
    padded = large.replace(b"x" * 1_000_000, b"") + b" " * 1_100_000
    assert problem_of(await client.post("/v1/sessions", content=padded))["code"] == "body-too-large"


async def test_a_body_that_nobody_takes_leaves_the_key_free(client: httpx.AsyncClient) -> None:
    """It is refused before anything is begun, as whatever else can't be."""
    key = {"idempotency-key": "k"}
    large = {"agent": "echo", "body": {"text": "x" * 1_000_000}}
    assert problem_of(await client.post("/v1/sessions", json=large, headers=key))["code"] == "body-too-large"
    assert (await client.post("/v1/sessions", json={"agent": "echo"}, headers=key)).status_code == 201


async def test_other_requests_are_small(client: httpx.AsyncClient) -> None:
    """Whatever isn't a request for a session has 64 KiB."""
    large = {"agent": "echo", "body": {"text": "x" * 64 * 1024}}
    problem = problem_of(await client.put("/v1/numbers/twilio/+4930123456", json=large))
    assert (problem["status"], problem["code"]) == (413, "body-too-large")


@pytest.mark.parametrize(("size", "by_reference"), [(65_536, False), (65_537, True), (1_000_000, True)])
async def test_a_large_body_is_kept_beside_the_ledger(
    world: ApiWorld,
    client: httpx.AsyncClient,
    size: int,
    by_reference: bool,  # noqa: FBT001
) -> None:
    """The view says how large it is, and what its digest is; the same request with its key is the same session."""
    body = {"text": "x" * (size - len('{"text":""}'))}
    wish = {"agent": "echo", "body": body}
    made, again = [await client.post("/v1/sessions", json=wish, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert (made.status_code, again.content) == (201, made.content)
    view = (await client.get(made.headers["location"])).json()
    if by_reference:
        digest = hashlib.sha256(msgspec.json.encode(body)).hexdigest()
        assert (view["body"], view["body_ref"]) == ({}, {"size_bytes": size, "sha256": digest})
    else:
        assert (view["body"], view["body_ref"]) == (body, None)
    assert await world.broker.count("BODIES", subjects.BODY.wildcard()) == by_reference
    other = {"agent": "echo", "body": {"text": body["text"][1:]}}
    refused = await client.post("/v1/sessions", json=other, headers={"idempotency-key": "k"})
    assert problem_of(refused)["code"] == "idempotency-mismatch"


async def test_a_large_body_fits_the_schema_too(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """It is checked like any other, and one that doesn't fit leaves nothing."""
    await world.add_agent("frontdesk", body_schema=SCHEMA)
    wish = {"agent": "frontdesk", "body": {"language": "fr", "more": "x" * 900_000}}
    problem = problem_of(await client.post("/v1/sessions", json=wish))
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid-body", "/body/language")
    assert await world.broker.count("BODIES", subjects.BODY.wildcard()) == 0


async def test_the_body_fits_the_agents_schema(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A body that its agent's JSON Schema refuses is refused here, with a pointer into it."""
    await world.add_agent("frontdesk", body_schema=SCHEMA)
    good = await client.post("/v1/sessions", json={"agent": "frontdesk", "body": {"language": "de"}})
    assert good.status_code == 201
    problem = problem_of(await client.post("/v1/sessions", json={"agent": "frontdesk", "body": {"language": "fr"}}))
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid-body", "/body/language")


async def test_a_broken_schema_is_not_the_callers_fault(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """An agent whose schema is none says so, and the others go on."""
    await world.add_agent("odd", body_schema={"properties": {"a": {"$ref": "http://nowhere/"}}})
    problem = problem_of(await client.post("/v1/sessions", json={"agent": "odd", "body": {"a": 1}}))
    assert (problem["status"], problem["code"]) == (500, "agent-schema-broken")


async def test_a_bot_that_was_just_announced_can_be_asked_for(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A heartbeat makes a bot an agent of all tenants, in PostgreSQL too."""
    await world.beat(BotOffer(name="new", description="just come", body_schema=SCHEMA))

    async def asked() -> int:
        return (await client.post("/v1/sessions", json={"agent": "new", "body": {"language": "en"}})).status_code

    await eventually(asked, lambda status: status == 201)

    async def stored() -> Any:
        agents = (await client.get("/v1/agents")).json()["agents"]
        return next((agent for agent in agents if agent["name"] == "new"), None)

    agent = await eventually(stored)
    assert agent["runnable"]
    assert agent["body_schema"] == SCHEMA


async def test_a_bot_that_can_not_be_stored_harms_nobody(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A bot with a NUL in its schema runs, but is no agent in PostgreSQL; the others are."""
    await world.beat(BotOffer(name="odd", body_schema={"title": "\0"}), BotOffer(name="sane"))

    async def names() -> set[str]:
        return {agent["name"] for agent in (await client.get("/v1/agents")).json()["agents"]}

    assert await eventually(names, lambda found: "sane" in found) == {"echo", "sane"}
    assert (await client.post("/v1/sessions", json={"agent": "odd"})).status_code == 201


# ---------------------------------------------------------------------------- waiting


async def test_waiting_for_ready_is_answered_when_it_is(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """`wait=ready` answers as soon as the session is ready."""
    asking = asyncio.create_task(client.post("/v1/sessions", json={"agent": "echo", "wait": "ready"}))
    session_id = await first_session(world)
    await world.advance(session_id, LEASED)
    await asyncio.sleep(0.05)
    assert not asking.done()
    await world.advance(session_id, Started(runner_id=RUNNER, epoch=1), Ready(epoch=1))
    response = await asyncio.wait_for(asking, 2)
    assert (response.status_code, response.json()["state"]) == (201, "ready")


async def test_waiting_for_a_lease_is_answered_when_it_is_there(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """`wait=leased` doesn't wait for more than the lease."""
    asking = asyncio.create_task(client.post("/v1/sessions", json={"agent": "echo", "wait": "leased"}))
    await world.advance(await first_session(world), LEASED)
    assert (await asyncio.wait_for(asking, 2)).json()["state"] == "leased"


async def test_a_wait_that_runs_out_tells_of_the_queue(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """At the deadline the answer is 202, with the place in the queue as the scheduler says it."""

    async def answer(message: Message) -> bytes:
        query = messages.decode(message.data, QueueQuery)
        return messages.encode(QueuePosition(session_id=query.session_id, position=3, of=7, reason="no-free-slot"))

    await world.broker.serve(subjects.REQUEST.format(service="scheduler", name="queue"), answer)
    await world.broker.client.flush()
    response = await client.post("/v1/sessions", json={"agent": "echo", "wait": "ready", "wait_timeout_s": 0.1})
    assert response.status_code == 202
    assert response.json()["queue"] == {"position": 3, "of": 7, "reason": "no-free-slot"}
    seen = (await client.get(response.json()["links"]["self"])).json()
    assert seen["queue"] == {"position": 3, "of": 7, "reason": "no-free-slot"}


async def test_without_a_scheduler_the_queue_says_so(client: httpx.AsyncClient) -> None:
    """Nobody to ask is a reason too."""
    response = await client.post("/v1/sessions", json={"agent": "echo", "wait": "leased", "wait_timeout_s": 0.05})
    assert response.status_code == 202
    assert response.json()["queue"] == {"position": None, "of": None, "reason": "scheduler-unavailable"}


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "retryable"),
    [
        (Outcome.EXPIRED, "queue-expired", 503, True),
        (Outcome.REJECTED, "no-runner-for-agent", 503, True),
        (Outcome.FAILED, "bot-failed", 502, False),
        (Outcome.CANCELED, "client-canceled", 409, False),
        (Outcome.COMPLETED, "a-reason-of-the-bot", 409, False),
    ],
)
async def test_an_end_before_the_wait_is_over_is_a_problem(
    world: ApiWorld, client: httpx.AsyncClient, outcome: Outcome, reason: str, status: int, *, retryable: bool
) -> None:
    """The problem's code is the reason of the end, and it names the session."""
    asking = asyncio.create_task(client.post("/v1/sessions", json={"agent": "echo", "wait": "ready"}))
    session_id = await first_session(world)
    await world.advance(session_id, Ended(by="scheduler", epoch=0, outcome=outcome, reason=reason))
    problem = problem_of(await asyncio.wait_for(asking, 2))
    assert (problem["status"], problem["code"], problem["retryable"]) == (status, reason, retryable)
    assert (problem["session_id"], problem["outcome"]) == (session_id, outcome)


async def test_a_write_that_lost_its_race_wakes_nobody_up(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Core NATS also hears writes that the ledger refused: they are not believed."""
    asking = asyncio.create_task(
        client.post("/v1/sessions", json={"agent": "echo", "wait": "ready", "wait_timeout_s": 0.5})
    )
    session_id = await first_session(world)
    entry = await world.ledger.last("default", session_id)
    assert entry is not None
    forged = msgspec.structs.replace(entry.session, state=State.READY, ready_at=utcnow())
    document = {"id": uuid7(), "at": utcnow(), "transition": {"type": "ready", "epoch": 0}, "session": forged}
    subject = subjects.SESSION_LIFECYCLE.format(tenant="default", session_id=session_id)
    await world.broker.publish(
        subject, msgspec.json.encode(document), {"Nats-Expected-Last-Subject-Sequence": str(entry.revision - 1)}
    )
    assert (await asking).status_code == 202


# ---------------------------------------------------------------------------- looking


async def test_a_live_session_is_shown_as_the_ledger_has_it(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Nothing needs to be stored yet for a session to be seen, and nothing of hosts is shown."""
    entry = await world.make_ready((await world.request()).session.id)
    response = await client.get(f"/v1/sessions/{entry.session.id}")
    assert response.json()["state"] == "ready"
    assert response.json()["queue"] is None
    assert RUNNER not in response.text


async def test_a_session_that_the_broker_has_forgotten_is_shown_from_the_database(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """The history outlives the stream."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await world.record()
    await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
    session = (await client.get(f"/v1/sessions/{session_id}")).json()
    assert (session["state"], session["outcome"], session["reason"]) == ("ended", "completed", "goodbye")


async def test_sessions_are_listed_newest_first_page_by_page(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Following the cursor shows each session once, and filters hold."""
    ids = [(await world.request(agent=("echo" if i % 2 else "other"))).session.id for i in range(7)]
    await world.end((await world.make_ready(ids[3])).session.id)
    await world.record()
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/v1/sessions", params=params)).json()
        found += [session["id"] for session in page["sessions"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ids[::-1]

    async def listed(**filters: str) -> list[str]:
        page = (await client.get("/v1/sessions", params=filters)).json()
        return [session["id"] for session in page["sessions"]]

    assert await listed(agent="echo") == [ids[5], ids[3], ids[1]]
    assert await listed(state="ended", outcome="completed", agent="echo") == [ids[3]]
    assert await listed(until=(utcnow() - timedelta(hours=1)).isoformat()) == []
    assert await listed(since=(utcnow() - timedelta(hours=1)).isoformat(), limit="200") == ids[::-1]


async def test_a_wrong_query_is_refused(client: httpx.AsyncClient) -> None:
    """A filter that can't be understood is never ignored."""
    for name, value in (
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "x"),
        ("state", "asleep"),
        ("cursor", "abc"),
        ("cursor", "W10"),
        ("since", "2026-01-01T00:00:00"),
        ("since", "0001-01-01T00:00:00+23:59"),
        ("until", "9999-12-31T23:59:59-23:59"),
        ("cursor", cursor_of('["0001-01-01T00:00:00+23:59","0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42"]')),
        ("cursor", cursor_of('["2026-01-01T00:00:00Z","x"]')),
        ("stat", "ready"),
    ):
        problem = problem_of(await client.get("/v1/sessions", params={name: value}))
        assert (name, value, problem["status"], problem["code"]) == (name, value, 400, "invalid-query")
        assert name in problem["detail"]


def cursor_of(place: str) -> str:
    """Return a cursor that leads to a place."""
    return base64.urlsafe_b64encode(place.encode()).decode()


async def test_unknown_sessions_are_not_found(client: httpx.AsyncClient) -> None:
    """Whatever stands where an id should be leads nowhere."""
    for session_id in ("nonsense", "*", "0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42", "a.b", "%01"):
        for method, suffix in (("GET", ""), ("POST", "/stop"), ("GET", "/events"), ("GET", "/recording")):
            problem = problem_of(await client.request(method, f"/v1/sessions/{session_id}{suffix}"))
            assert problem["code"] == "session-not-found"


async def test_sessions_of_others_are_not_found(world: ApiWorld) -> None:
    """A key sees its own tenant only."""
    session_id = (await world.request(tenant="acme")).session.id
    await world.record()
    async with world.client(tenant="acme") as own, world.client(tenant="other") as other:
        assert (await own.get(f"/v1/sessions/{session_id}")).status_code == 200
        assert (await other.get(f"/v1/sessions/{session_id}")).status_code == 404
        assert (await other.post(f"/v1/sessions/{session_id}/stop")).status_code == 404
        assert (await other.get(f"/v1/sessions/{session_id}/events")).status_code == 404
        assert (await other.get("/v1/sessions")).json()["sessions"] == []


# ---------------------------------------------------------------------------- stopping


async def test_a_waiting_session_is_canceled_at_once(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Nobody holds it, so it ends with the request; again, it has ended already."""
    session_id = (await world.request()).session.id
    for _ in range(2):
        response = await client.post(f"/v1/sessions/{session_id}/stop", json={"reason": "never mind"})
        assert response.status_code == 200
        seen = response.json()
        assert (seen["state"], seen["outcome"], seen["reason"]) == ("ended", "canceled", "client-canceled")
        assert (seen["detail"], seen["ended_by"]) == ("never mind", "client")


@pytest.mark.parametrize(
    ("steps", "outcome", "reason"),
    [
        ((LEASED,), "canceled", "client-canceled"),
        ((LEASED, Started(runner_id=RUNNER, epoch=1)), "canceled", "client-canceled"),
        ((LEASED, Started(runner_id=RUNNER, epoch=1), Ready(epoch=1)), "completed", "client-stop"),
    ],
)
async def test_a_session_with_a_runner_ends_in_order(
    world: ApiWorld, client: httpx.AsyncClient, steps: tuple[Any, ...], outcome: str, reason: str
) -> None:
    """The runner is told through the ledger and ends it; stopping it again changes nothing."""
    session_id = (await world.request()).session.id
    await world.advance(session_id, *steps)
    response = await client.post(f"/v1/sessions/{session_id}/stop")
    assert response.status_code == 202
    assert (response.json()["state"], response.json()["outcome"], response.json()["reason"]) == (
        "ending",
        outcome,
        reason,
    )
    entry = await world.ledger.last("default", session_id)
    assert entry is not None
    assert isinstance(entry.transition, Ending)
    again = await client.post(f"/v1/sessions/{session_id}/stop", json={})
    assert again.status_code == 202
    unchanged = await world.ledger.last("default", session_id)
    assert unchanged is not None
    assert unchanged.revision == entry.revision


async def test_stopping_a_forgotten_session_shows_how_it_ended(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A session that only the database knows has ended."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await world.record()
    await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
    response = await client.post(f"/v1/sessions/{session_id}/stop")
    assert (response.status_code, response.json()["outcome"]) == (200, "completed")


async def test_a_stop_with_a_bad_body_does_nothing(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A misspelt field is refused before anything is stopped."""
    session_id = (await world.request()).session.id
    problem = problem_of(await client.post(f"/v1/sessions/{session_id}/stop", json={"why": "x"}))
    assert problem["errors"][0]["pointer"] == "/why"
    assert (await client.get(f"/v1/sessions/{session_id}")).json()["state"] == "requested"


async def first_session(world: ApiWorld) -> str:
    """Return the id of the session that is in the ledger, once there is one."""
    reader = await world.ledger.watch()
    try:
        async with asyncio.timeout(5):
            async for entry in reader:
                return entry.session.id
    finally:
        await reader.close()
    raise AssertionError("the reader was closed")


async def test_garbage_in_the_ledger_is_a_problem_with_a_code(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Looking, stopping and following say what is wrong, and it is counted; what was stored before is still shown."""
    recorded = (await world.request()).session.id
    await world.make_ready(recorded)
    await world.end(recorded)
    await world.record()
    fresh = (await client.post("/v1/sessions", json={"agent": "echo"})).json()["id"]
    for session_id in (fresh, recorded):
        subject = subjects.SESSION_LIFECYCLE.format(tenant="default", session_id=session_id)
        await world.broker.append(subject, b"\xff{")
    answers = [
        await client.get(f"/v1/sessions/{fresh}"),
        await client.post(f"/v1/sessions/{fresh}/stop"),
        await client.get(f"/v1/sessions/{fresh}/events"),
    ]
    for answer in answers:
        problem = problem_of(answer)
        assert (problem["status"], problem["code"], problem["retryable"]) == (500, "ledger-corrupt", False)
    assert (await client.get(f"/v1/sessions/{recorded}")).json()["state"] == "ended"
    assert world.counted("api_ledger_corrupt_total") == 4
