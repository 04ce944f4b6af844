"""Keys, agents, runners, status, probes, pages of other origins, and what is told to operators."""

import io
import logging
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from greenroom.api.openapi import render
from greenroom.common import messages, subjects
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import State
from greenroom.common.log import configure_logging
from greenroom.common.messages import BotDensity, BotOffer, HeldSession, LeaderClaim
from tests.support.api_world import RUNNER, ApiWorld, FakeProcess, eventually, problem_of, running_api, until
from tests.support.spans import record_spans

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEYED_ROUTES = [
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/x"),
    ("POST", "/v1/sessions/x/stop"),
    ("GET", "/v1/sessions/x/events"),
    ("GET", "/v1/sessions/x/recording"),
    ("GET", "/v1/sessions/x/recording/manifest"),
    ("GET", "/v1/agents"),
    ("GET", "/v1/runners"),
    ("GET", "/v1/status"),
    ("GET", "/v1/queue"),
    ("GET", "/v1/limits"),
    ("GET", "/v1/limits/x"),
    ("GET", "/v1/pools"),
    ("GET", "/v1/pools/x"),
    ("GET", "/v1/reservations"),
    ("GET", "/v1/agents/x/rollout"),
    ("GET", "/v1/weights"),
    ("GET", "/openapi.json"),
]


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


@pytest.fixture
def log() -> Generator[io.StringIO]:
    """Everything that is logged, down to the last detail."""
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    stream = io.StringIO()
    configure_logging("api", level="debug", form="json", stream=stream)
    # The client of the test isn't ours, and says all it sends.
    logging.getLogger("websockets.client").setLevel(logging.WARNING)
    yield stream
    logging.getLogger("websockets.client").setLevel(logging.NOTSET)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# ---------------------------------------------------------------------------- keys


async def test_nothing_is_answered_without_a_key(world: ApiWorld) -> None:
    """Every route but the probes wants a key, before it looks at anything else."""
    async with httpx.AsyncClient(base_url=world.url) as anonymous:
        for method, path in KEYED_ROUTES:
            response = await anonymous.request(method, path, content=b"{")
            problem = problem_of(response)
            assert (path, problem["status"], problem["code"]) == (path, 401, "unauthenticated")
            assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/livez", "/readyz"):
            assert (await anonymous.get(path)).status_code == 200


async def test_what_is_no_valid_key_is_refused(world: ApiWorld) -> None:
    """Unknown, malformed, expired and revoked keys are all the same: no key."""
    expired, revoked = await world.key(), await world.key()
    await world.execute(
        "UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE starts_with($1, prefix)", expired
    )
    await world.execute("UPDATE api_keys SET revoked_at = now() WHERE starts_with($1, prefix)", revoked)
    async with httpx.AsyncClient(base_url=world.url) as client:
        for header in (
            "Bearer gr_unknown",
            f"Bearer {expired}",
            f"Bearer {revoked}",
            "Bearer",
            "Basic Z3I6",
            f"Bearer {'gr_' + 'x' * 5000}",
            "gr_unknown",
        ):
            response = await client.get("/v1/sessions", headers={"authorization": header})
            code = "key-expired" if expired in header else "unauthenticated"
            assert (header, problem_of(response)["code"]) == (header, code)
            assert response.headers["www-authenticate"] == "Bearer"
        again = await client.get("/v1/agents", headers={"authorization": f"bearer {await world.key()}"})
        assert again.status_code == 200


async def test_a_key_does_what_its_scopes_say(world: ApiWorld) -> None:
    """Reading, writing and administering are three things; a key without scopes does nothing."""
    routes = ("GET /v1/sessions", "GET /v1/agents", "GET /v1/status", "POST /v1/sessions", "GET /v1/runners")
    cases = [
        (("sessions:read",), {"GET /v1/sessions", "GET /v1/agents", "GET /v1/status"}),
        (("sessions:write",), {"POST /v1/sessions"}),
        (("nothing",), set[str]()),
        (("admin",), set(routes)),
    ]
    for scopes, allowed in cases:
        async with world.client(*scopes) as client:
            for route in (
                "GET /v1/sessions",
                "GET /v1/agents",
                "GET /v1/status",
                "POST /v1/sessions",
                "GET /v1/runners",
            ):
                method, path = route.split()
                response = await client.request(method, path, json={"agent": "echo"} if method == "POST" else None)
                if route in allowed:
                    assert response.is_success, (scopes, route)
                else:
                    assert problem_of(response)["code"] == "forbidden", (scopes, route)


async def test_a_revoked_key_is_dead_within_seconds(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are remembered for a short time only."""
    async with world.client() as client:
        assert (await client.get("/v1/agents")).status_code == 200
        await world.execute("UPDATE api_keys SET revoked_at = now()")
        assert (await client.get("/v1/agents")).status_code == 200
        cache = world.parts.keys._cache
        monkeypatch.setattr(cache, "_ttl_s", 0.0)
        assert (await client.get("/v1/agents")).status_code == 401


async def test_the_use_of_a_key_is_written_down(world: ApiWorld) -> None:
    """Operators see which keys are used."""
    async with world.client() as client:
        await client.get("/v1/agents")
    await world.parts.keys.flush()
    await world.execute("DO $$ BEGIN ASSERT (SELECT bool_and(last_used_at IS NOT NULL) FROM api_keys); END $$")


# ---------------------------------------------------------------------------- what there is


async def test_runners_are_shown_as_they_say_they_are(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Slots, sessions and bots of each; a draining one has nothing free."""
    held = HeldSession(session_id="s-1", tenant="default", epoch=1, phase=State.READY, since=utcnow())
    odd = BotOffer(name="odd", error="no module", traceback="Traceback …\nno module")
    offers = (BotOffer(name="echo", resources="voice"), BotOffer(name="echo", version=2), odd)
    cost = BotDensity(bot="echo", cores=0.02, memory=18 << 20, seen=12, more=3)
    await world.beat(*offers, sessions=(held,), host="h-1", density=(cost,), by_cost=True)
    await world.beat(BotOffer(name="echo"), runner_id="runner-2", draining=True)
    labels = {"gpu": "l4"}
    await world.beat(runner_id="runner-3", brake="loop lag 80 ms", labels=labels, instance="alloc-1", claim="s-2-1")

    async def shown() -> list[dict[str, Any]]:
        return (await client.get("/v1/runners")).json()["runners"]

    first, second, third = await eventually(shown, lambda runners: len(runners) == 3)
    assert (first["id"], first["state"], first["slots"], first["free"], first["host"]) == (
        RUNNER,
        "serving",
        4,
        3,
        "h-1",
    )
    assert first["sessions"][0]["session_id"] == "s-1"
    unknown = {"error": None, "traceback": "", "resources": "", "cores": None, "memory": None, "more": None}
    measured = {"resources": "voice", "cores": 0.02, "memory": 18 << 20, "more": 3}
    assert first["bots"] == [
        {"name": "echo", "version": 1, **unknown, **measured},
        {"name": "echo", "version": 2, **unknown},
        {"name": "odd", "version": 1, **unknown, "error": "no module", "traceback": "Traceback …\nno module"},
    ]
    assert (second["state"], second["free"]) == ("draining", 0)
    assert (third["state"], third["free"], third["brake"]) == ("serving", 0, "loop lag 80 ms")
    assert (third["labels"], third["instance"], third["claim"]) == (labels, "alloc-1", "s-2-1")


async def test_an_agent_is_runnable_while_a_runner_offers_it(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A bot that can't be imported, or only drains, can't be run."""
    await world.beat(BotOffer(name="echo"), BotOffer(name="odd", error="no module"))

    async def runnable() -> dict[str, bool]:
        agents = (await client.get("/v1/agents")).json()["agents"]
        return {agent["name"]: agent["runnable"] for agent in agents}

    assert await eventually(runnable, lambda found: found["echo"]) == {"echo": True}
    await world.beat(BotOffer(name="echo"), seq=2, draining=True)
    assert await eventually(runnable, lambda found: not found["echo"]) == {"echo": False}


async def test_the_status_tells_what_is_and_what_is_missing(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Without a scheduler nothing is placed, so it isn't ready; with one it is."""
    await world.request()
    await world.record()
    status = (await client.get("/v1/status")).json()
    assert (status["ready"], status["problems"]) == (False, {"scheduler": "scheduler-unavailable"})
    assert status["sessions"] == {"requested": 1}
    assert status["schema_version"].startswith("0")
    assert status["transports"] == ["smallwebrtc", "websocket"]
    subject = subjects.LEADER.format(name="scheduler-default")
    await world.broker.append(subject, messages.encode(LeaderClaim(holder="sched-1", term=3, at=utcnow())))
    await world.beat(BotOffer(name="echo"))

    async def again() -> dict[str, Any]:
        return (await client.get("/v1/status")).json()

    status = await eventually(again, lambda now: now["runners"]["serving"])
    assert (status["ready"], status["scheduler"]) == (True, {"leader": "sched-1", "term": 3})
    assert status["runners"] == {"serving": 1, "draining": 0, "lost": 0, "slots": 4, "held": 0}
    stale = LeaderClaim(holder="sched-1", term=3, at=utcnow() - timedelta(minutes=1))
    await world.broker.append(subject, messages.encode(stale))
    assert (await again())["scheduler"]["leader"] is None


async def test_the_schema_is_served_as_it_is_documented(client: httpx.AsyncClient) -> None:
    """`/openapi.json` and docs/openapi.json are one document."""
    assert (await client.get("/openapi.json")).json() == msgspec.json.decode(render())


async def test_unknown_addresses_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    """Nothing of the framework shows."""
    for method, path, status, code in (
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/schema", 404, "not-found"),
        ("GET", "/v1/sessions/../../etc/passwd", 404, "not-found"),
        ("DELETE", "/v1/sessions", 405, "method-not-allowed"),
        ("GET", "/v1/media/abc", 404, "not-found"),
    ):
        problem = problem_of(await client.request(method, path))
        assert (path, problem["status"], problem["code"]) == (path, status, code)


async def test_pages_of_the_allowed_origins_may_call(nats_url: str, database: str) -> None:
    """Preflights and answers name the origin if it is on the list, and only then."""
    listed = ("https://app.example.org",)
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with running_api(nats_url, database, allowed_origins=listed) as world, world.client() as client:
        for origin, allowed in (
            ("https://app.example.org", True),
            ("https://app.example.org.evil.org", False),
            ("http://app.example.org", False),
            ("null", False),
        ):
            preflight = await client.options("/v1/sessions", headers={"origin": origin, **asked})
            response = await client.get("/v1/agents", headers={"origin": origin})
            for answer in (preflight, response):
                named = answer.headers.get("access-control-allow-origin")
                assert named == (origin if allowed else None), origin
                assert "access-control-allow-credentials" not in answer.headers


# ---------------------------------------------------------------------------- what is told


async def test_a_call_is_one_trace_that_begins_with_the_request(world: ApiWorld) -> None:
    """The request's span is named by its route, continues the caller's trace, and is the parent of all that follows."""
    async with world.client() as client:
        await client.get("/v1/agents")
        recorder = record_spans()
        wish = {"agent": "echo"}
        response = await client.post("/v1/sessions", json=wish, headers={"traceparent": PARENT, "x-request-id": "r-1"})
        session = response.json()
        await client.get(f"/v1/sessions/{session['id']}")
        await world.make_ready(session["id"])
        async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]):
            pass
    root = recorder.one("POST /v1/sessions")
    assert root.parent is not None
    assert format(root.parent.trace_id, "032x") == PARENT.split("-")[1] == session["trace_id"]
    assert response.headers["x-trace-id"] == session["trace_id"]
    assert response.headers["x-request-id"] == "r-1"
    assert root.attributes is not None
    assert root.attributes["http.route"] == "/v1/sessions"
    assert root.attributes["session.id"] == session["id"]
    entry = await world.ledger.last("default", session["id"])
    assert entry is not None
    assert entry.session.traceparent == f"00-{session['trace_id']}-{recorder.id_of('POST /v1/sessions'):016x}-01"
    media = recorder.one("media.connect")
    assert media.parent is not None
    assert media.parent.span_id == recorder.id_of("POST /v1/sessions")
    look = recorder.one("GET /v1/sessions/{session_id}")
    assert look.parent is None
    told = " ".join(str(dict(span.attributes or {})) + span.name for span in recorder.spans)
    assert session["transport"]["url"].rpartition("/")[2] not in told
    assert session["id"] not in " ".join(span.name for span in recorder.spans)


async def test_event_streams_and_probes_have_no_span(world: ApiWorld) -> None:
    """What stays open, and what is asked each second, isn't traced."""
    session_id = (await world.request()).session.id
    async with world.client() as client:
        await client.get("/v1/agents")
        recorder = record_spans()
        await client.get("/livez")
        headers = {"accept": "text/event-stream"}
        async with client.stream("GET", f"/v1/sessions/{session_id}/events", headers=headers) as response:
            await anext(response.aiter_lines())
    assert [span.name for span in recorder.spans if span.name.startswith("GET")] == []


async def test_no_secret_is_in_the_log(world: ApiWorld, log: io.StringIO) -> None:
    """Keys and tickets appear nowhere, whatever happens with them, at the most talkative level."""
    async with world.client() as client:
        secret = client.headers["authorization"].removeprefix("Bearer ")
        session = (await client.post("/v1/sessions", json={"agent": "echo"})).json()
        await client.post("/v1/sessions", content=b"{")
        await client.get("/v1/sessions", headers={"authorization": "Bearer gr_" + "wrong" * 5})
    url = session["transport"]["url"]
    await world.make_ready(session["id"])
    async with FakeProcess(world, session["id"]), connect(url):
        pass
    with pytest.raises(InvalidStatus):
        await connect(url)
    await until(lambda: "media_closed" in log.getvalue())
    assert session["id"] in log.getvalue()
    for hidden in (secret, url.rpartition("/")[2], "wrongwrong"):
        assert hidden not in log.getvalue()


async def test_requests_and_problems_are_counted_by_route(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Labels are routes, methods and codes, never what a caller made up."""
    await client.post("/v1/sessions", json={"agent": "echo"})
    await client.post("/v1/sessions", json={"agent": "nobody"})
    await client.get("/v1/sessions/made-up-by-the-caller")
    await client.request("BREW", "/made-up-by-the-caller")
    counted = world.counted
    assert counted("api_requests_total", route="/v1/sessions", method="POST", status="201") == 1
    assert counted("api_requests_total", route="/v1/sessions", method="POST", status="404") == 1
    assert counted("api_problems_total", route="/v1/sessions", code="agent-not-found") == 1
    assert counted("api_problems_total", route="/v1/sessions/{session_id}", code="session-not-found") == 1
    assert b"made-up-by-the-caller" not in world.metrics.render()
    assert b"BREW" not in world.metrics.render()
