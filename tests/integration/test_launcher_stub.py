"""The Nomad stub itself: what it promises to the tests that stand on it."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.support.launcher_worlds import cold_job, runner_job
from tests.support.nomad_stub import EVENT_BUFFER, NomadStub
from tests.support.nomad_stub_http import NomadServer, nomad_server

_META = {"tenant": "t", "session_id": "s", "lease_id": "s-1", "epoch": "1"}


@pytest.fixture
async def server() -> AsyncGenerator[NomadServer]:
    """Yield a stub with a job of each kind."""
    async with nomad_server(NomadStub()) as server:
        server.stub.register(cold_job("cold"))
        server.stub.register(runner_job("runner", maximum=4, updates=True))
        yield server


@pytest.fixture
async def http(server: NomadServer) -> AsyncGenerator[httpx.AsyncClient]:
    """Yield a client."""
    async with httpx.AsyncClient(base_url=server.url) as http:
        yield http


async def test_a_token_counts_until_its_job_is_garbage_collected(http: httpx.AsyncClient, server: NomadServer) -> None:
    """A repetition gets the old ID and no evaluation; both ways to write an ID are understood."""
    first = (await _dispatch(http, Meta=_META)).json()
    assert first["DispatchedJobID"].startswith("cold/dispatch-")
    assert first["EvalID"]
    again = (await _dispatch(http, Meta=_META)).json()
    assert (again["DispatchedJobID"], again["EvalID"]) == (first["DispatchedJobID"], "")
    for path in (first["DispatchedJobID"], first["DispatchedJobID"].replace("/", "%2F")):
        assert (await http.get(f"/v1/job/{path}")).json()["Status"] == "running"
    assert (await http.get(f"/v1/evaluation/{first['EvalID']}")).json()["Status"] == "complete"
    await http.delete(f"/v1/job/{first['DispatchedJobID']}")
    assert (await _dispatch(http, Meta=_META)).json()["EvalID"] == ""
    server.stub.collect_garbage()
    assert (await _dispatch(http, Meta=_META)).json()["DispatchedJobID"] != first["DispatchedJobID"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"Meta": {**_META, "x": "y"}}, "Dispatch request included unpermitted metadata keys: [x]"),
        ({"Meta": {}}, "Dispatch did not provide required meta keys: [tenant session_id lease_id epoch]"),
        (
            {"Meta": _META, "Payload": base64.b64encode(b"x").decode()},
            "Payload provided but forbidden by parameterized job",
        ),
    ],
)
async def test_what_doesnt_fit_the_job_is_500_and_text(
    http: httpx.AsyncClient, body: dict[str, Any], text: str
) -> None:
    """As Nomad has it: not JSON, not 400."""
    response = await _dispatch(http, **body)
    assert (response.status_code, response.text) == (500, text)
    assert response.headers["content-type"].startswith("text/plain")


async def test_scaling_checks_bounds_first_and_then_the_deployment(http: httpx.AsyncClient) -> None:
    """Each change starts a deployment, which blocks the next one, whatever its count."""
    assert (await _scale(http, 2)).status_code == 200
    assert (await http.get("/v1/job/runner/deployment")).json()["Status"] == "running"
    for count, text in ((5, "greater than scaling policy maximum: 5 > 4"), (2, "blocked due to active deployment")):
        response = await _scale(http, count)
        assert (response.status_code, text in response.text) == (400, True)
    assert (await http.get("/v1/job/cold/deployment")).text == "null"
    assert (await _scale(http, 2, job="nothing")).text == 'job "nothing" not found'


async def test_evaluations_say_what_is_lacking(http: httpx.AsyncClient, server: NomadServer) -> None:
    """And the one that is blocked says so, until there is room."""
    server.stub.set_capacity(0)
    evaluation_id = (await _dispatch(http, Meta=_META)).json()["EvalID"]
    evaluation = (await http.get(f"/v1/evaluation/{evaluation_id}")).json()
    assert evaluation["Status"] == "complete"
    assert evaluation["FailedTGAllocs"]["runner"]["DimensionExhausted"] == {"memory": 3}
    (blocked,) = (await http.get("/v1/evaluations", params={"status": "blocked"})).json()
    assert blocked["ID"] == evaluation["BlockedEval"]
    server.stub.set_capacity(None)
    assert (await http.get("/v1/evaluations", params={"status": "blocked"})).json() == []
    assert (await http.get("/v1/evaluation/none")).status_code == 404


async def test_permissions_are_403_and_the_task_api_wants_a_token(http: httpx.AsyncClient, server: NomadServer) -> None:
    """The event stream without topics is for management tokens."""
    server.tokens = {"good"}
    good = {"Authorization": "Bearer good"}
    for headers, text in (({}, "Permission denied"), ({"Authorization": "Bearer bad"}, "ACL token not found")):
        response = await http.get("/v1/jobs", headers=headers)
        assert (response.status_code, response.text) == (403, text)
    assert (await http.get("/v1/jobs", headers=good)).is_success
    assert (await http.get("/v1/event/stream", headers=good)).status_code == 403
    server.denied = {"dispatch-job"}
    assert (await http.post("/v1/job/cold/dispatch", json={"Meta": _META}, headers=good)).status_code == 403


async def test_the_stream_gives_a_sign_of_life_at_once_and_starts_at_the_closest_index(
    http: httpx.AsyncClient, server: NomadServer
) -> None:
    """0 is the oldest event that is kept; an index that is lost isn't said to be."""
    for _ in range(EVENT_BUFFER):
        server.stub.deploy("runner", "successful")
    server.stub.scale("runner", {"Count": 1, "Target": {"Group": "runner"}})
    oldest = server.stub.events[0]["Index"]
    for index in (0, 1, oldest):
        lines = await _lines(http, 2, topic="Deployment", index=index)
        assert lines[0] == {}
        assert lines[1]["Index"] == oldest
    lines = await _lines(http, 2, topic="Allocation", index=0)
    allocation = lines[1]["Events"][0]["Payload"]["Allocation"]
    assert (allocation["Name"], allocation["ClientStatus"]) == ("runner.runner[0]", "pending")


async def test_a_reader_that_doesnt_read_is_dropped(server: NomadServer) -> None:
    """After 40 s in earnest."""
    server.drop_slow_after_s = 0.1
    job = cold_job("fat")
    job["Job"]["ID"] = "fat" + "x" * 200_000
    _, writer = await asyncio.open_connection("127.0.0.1", server._port, limit=1024)
    writer.write(b"GET /v1/event/stream?topic=Job&index=0 HTTP/1.1\r\nHost: nomad\r\n\r\n")
    await writer.drain()
    for _ in range(EVENT_BUFFER):
        server.stub.register(job)
    async with asyncio.timeout(5):
        while not server.streams:
            await asyncio.sleep(0.01)
        while server.streams:
            await asyncio.sleep(0.01)
    writer.close()


async def _dispatch(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/v1/job/cold/dispatch", params={"idempotency_token": "s-1"}, json=body)


async def _scale(http: httpx.AsyncClient, count: int, *, job: str = "runner") -> httpx.Response:
    return await http.post(f"/v1/job/{job}/scale", json={"Count": count, "Target": {"Job": job, "Group": "runner"}})


async def _lines(http: httpx.AsyncClient, count: int, **params: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(5), http.stream("GET", "/v1/event/stream", params=params) as response:
        async for line in response.aiter_lines():
            lines.append(json.loads(line))
            if len(lines) == count:
                break
    return lines
