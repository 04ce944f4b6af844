"""HTTP routes of a bot's own, reached over the api: the bot is written for Pipecat Cloud and runs unchanged."""

from collections.abc import AsyncGenerator, Generator

import httpx
import pytest

from greenroom.runner.control import PipelineReady
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.commanding import until_events
from tests.support.session_rig import HostProcess, SessionRun, Sessions


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[HostProcess]:
    """What forks session processes."""
    host = HostProcess(tmp_path_factory.mktemp("session-host"))
    yield host
    host.close()


type Stage = tuple[ApiWorld, Sessions, httpx.AsyncClient]


@pytest.fixture
async def stage(host: HostProcess, nats_url: str, database: str) -> AsyncGenerator[Stage]:
    """An api, session processes, and a client."""
    async with Sessions(host, nats_url) as sessions, running_api(nats_url, database) as world, world.client() as client:
        yield world, sessions, client


async def run_of(stage: Stage, bot: str) -> SessionRun:
    """Return a session of a bot, which the ledger knows."""
    world, sessions, _ = stage
    run = await sessions.assign(bot)
    await run.expect(PipelineReady)
    await world.request(id=run.session.id, agent=bot, bot=bot)
    await world.make_ready(run.session.id)
    return run


async def test_a_bot_for_pipecat_cloud_is_reached_by_both_paths(stage: Stage) -> None:
    """Query, body, status and headers go through; who called which route is told, and not with what."""
    run = await run_of(stage, "cloud")
    client, session_id = stage[2], run.session.id
    answer = await client.get(f"/v1/sessions/{session_id}/proxy/status", params={"detail": "a b"})
    assert (answer.status_code, answer.json()) == (200, {"status": "active", "detail": "a b"})
    assert answer.headers["content-type"] == "application/json"
    made = await client.post(f"/v1/public/cloud/sessions/{session_id}/items/two%20words", json={"price": 3})
    assert (made.status_code, made.json()) == (201, {"name": "two words", "price": 3})
    missing = await client.delete(f"/v1/sessions/{session_id}/proxy/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    told = [event.data for event in await until_events(run, "bot_http", 3)]
    assert [(each["method"], each["path"], each["status"]) for each in told] == [
        ("GET", "/status", 200),
        ("POST", "/items/two words", 201),
        ("DELETE", "/nothing", 404),
    ]
    assert "price" not in str(told)


async def test_a_route_that_raises_is_a_typed_problem(stage: Stage) -> None:
    """The session goes on, and the text of the bot's error stays with it."""
    run = await run_of(stage, "cloud")
    problem = problem_of(await stage[2].get(f"/v1/sessions/{run.session.id}/proxy/broken"))
    assert (problem["code"], problem["status"]) == ("function-failed", 502)
    assert "4111" not in str(problem)
    assert (await stage[2].get(f"/v1/sessions/{run.session.id}/proxy/status")).status_code == 200


async def test_what_cannot_be_reached_is_said(stage: Stage) -> None:
    """A bot without routes, a session of another agent, one that isn't running, a key without the scope."""
    run = await run_of(stage, "echo")
    world, _, client = stage
    path = f"/v1/sessions/{run.session.id}/proxy/status"
    assert problem_of(await client.get(path))["code"] == "command-unsupported"
    other = await client.get(f"/v1/public/cloud/sessions/{run.session.id}/status")
    assert problem_of(other)["code"] == "session-not-found"
    waiting = (await world.request()).session.id
    assert problem_of(await client.get(f"/v1/sessions/{waiting}/proxy/status"))["code"] == "session-not-live"
    async with world.client("sessions:read", "sessions:write") as limited:
        assert problem_of(await limited.get(path))["code"] == "forbidden"
