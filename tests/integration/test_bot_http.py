"""HTTP routes of a bot's own, reached over the api: the bot is written for Pipecat Cloud and runs unchanged."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest

from greenroom.runner.control import PipelineReady
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.commanding import until_events
from tests.support.session_rig import HostProcess, SessionRun, Sessions

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


async def test_head_and_options_reach_the_bot(stage: Stage) -> None:
    """They are answered by the bot's own routes, with the length that a body would have."""
    run = await run_of(stage, "cloud")
    path = f"/v1/sessions/{run.session.id}/proxy/status"
    head = await stage[2].head(path)
    assert (head.status_code, head.headers["content-length"], head.headers["x-bot"], head.content) == (
        200,
        "77",
        "cloud",
        b"",
    )
    options = await stage[2].options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_server_sent_events_come_as_they_are_said_until_the_client_hangs_up(stage: Stage) -> None:
    """Each event is there while the route goes on; the route ends when nobody listens any more."""
    run = await run_of(stage, "cloud")
    base, client = f"/v1/sessions/{run.session.id}/proxy", stage[2]
    async with client.stream("GET", f"{base}/stream/ticks") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        seen = [line async for line in _first(lines, 10) if line]
        assert seen == [f"data: {number}" for number in range(5)]
        assert (await client.get(f"{base}/streams")).json()["running"] == 1

    async def running() -> int:
        return (await client.get(f"{base}/streams")).json()["running"]

    await eventually(running, lambda count: count == 0)
    told = (await until_events(run, "bot_http", 2))[0].data
    assert (told["path"], told["status"]) == ("/stream/ticks", 200)


async def test_a_client_that_reads_slowly_holds_the_route_back(stage: Stage) -> None:
    """Of 20 MiB only what fits into bounded buffers is made while nobody reads; all of it arrives in the end."""
    run = await run_of(stage, "cloud")
    base, client = f"/v1/sessions/{run.session.id}/proxy", stage[2]

    async def given() -> int:
        return (await client.get(f"{base}/streams")).json()["given"]

    async with client.stream("GET", f"{base}/stream/flood") as answer:
        parts = answer.aiter_raw()
        size = len(await anext(parts))
        before = -1
        while before != (before := await given()):
            await asyncio.sleep(0.5)
        assert before < 16 * 1024 * 1024
        async for part in parts:
            size += len(part)
    assert size == 320 * 64 * 1024 == await given()


async def test_an_answer_that_breaks_off_is_not_taken_for_the_whole(stage: Stage) -> None:
    """The connection is cut without its end; the session goes on."""
    run = await run_of(stage, "cloud")
    base, client = f"/v1/sessions/{run.session.id}/proxy", stage[2]
    got: list[bytes] = []

    async def read() -> None:
        async with client.stream("GET", f"{base}/stream/half") as answer:
            got.extend([part async for part in answer.aiter_raw()])

    with pytest.raises(httpx.RemoteProtocolError):
        await read()
    assert (await client.get(f"{base}/status")).status_code == 200


async def _first(lines: AsyncIterator[str], count: int) -> AsyncGenerator[str]:
    async for line in lines:
        yield line
        count -= 1
        if not count:
            return


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
