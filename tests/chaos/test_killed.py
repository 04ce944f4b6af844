"""Any process may be killed at any moment: the outcome is the promised one, and nothing is missing."""

import asyncio
import contextlib
import io
import wave
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import pytest_asyncio

from greenroom.devtools.call import CallReport, place
from greenroom.devtools.caller import Line
from greenroom.devtools.client import ApiClient
from tests.support.stack import (
    RunningStack,
    Stacks,
    the_runner,
    tone,
    wait_for_event,
    wait_for_recording,
    wait_for_session,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CALL_S = 8.0
# The echo bot doesn't begin.
_ANSWER_S = 1.0


@pytest.fixture(scope="module")
async def stacks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stacks]:
    """Stacks for the tests of this module."""
    async with Stacks(tmp_path_factory.mktemp("killed")).running() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stack(stacks: Stacks) -> RunningStack:
    """A whole stack, in which nothing goes on: that of the test before, unless that one left it broken."""
    return await stacks.whole()


@contextlib.asynccontextmanager
async def call_under_way(client: ApiClient) -> AsyncGenerator[tuple[str, "asyncio.Task[CallReport]"]]:
    """Hold a call with the echo bot: a tone of some seconds comes back; yields once the caller is heard."""
    session_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    calling = asyncio.create_task(
        place(
            client,
            "echo",
            [Line(pcm=tone(_CALL_S))],
            linger_s=0.5,
            answer_s=_ANSWER_S,
            on_session=lambda session, _: session_id.set_result(session["id"]),
        )
    )
    await asyncio.wait({session_id, calling}, return_when=asyncio.FIRST_COMPLETED)
    if calling.done():
        calling.result()
    try:
        await wait_for_event(client, await session_id, "call_connected")
        await asyncio.sleep(2)
        yield await session_id, calling
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


@pytest.mark.parametrize("service", ["scheduler", "recorder"])
async def test_a_call_never_notices_the_death_of(stack: RunningStack, service: str) -> None:
    """Scheduler or recorder die in mid-call: the call goes on, and afterwards nothing is missing."""
    async with stack.client() as client, call_under_way(client) as (session_id, calling):
        await stack.kill(service)
        await asyncio.sleep(1)
        await stack.start_again(service)
        report = await calling
        session = await wait_for_session(client, session_id)
        recording = await wait_for_recording(client, session_id)
        events = await wait_for_event(client, session_id, "call_completed")
    assert session["outcome"] == "completed"
    assert _missing_events(events) == []
    assert _seconds(recording) == pytest.approx(report.call.duration_s, abs=0.6)


@pytest.mark.parametrize("part", ["nats", "postgres"])
async def test_a_call_outlives_an_outage_of(stack: RunningStack, part: str) -> None:
    """nats-server or PostgreSQL die in mid-call and come back: the call goes on, and every event of it is stored."""
    server = stack.stack.nats if part == "nats" else stack.stack.postgres
    assert server is not None
    async with stack.client() as client, call_under_way(client) as (session_id, calling):
        await server.kill()
        await asyncio.sleep(1)
        await server.start()
        await calling
        session = await wait_for_session(client, session_id)
        await wait_for_recording(client, session_id)
        events = await wait_for_event(client, session_id, "call_completed")
    assert session["outcome"] == "completed"
    assert session["attempt"] == 1
    assert _missing_events(events) == []


async def test_a_call_outlives_another_api(stack: RunningStack) -> None:
    """The api dies in mid-call: its own socket is gone with it, the session ends in order and is kept whole."""
    async with stack.client() as client, call_under_way(client) as (session_id, _):
        await stack.kill("api")
        await stack.start_again("api")
        stopped = await client.post(f"/v1/sessions/{session_id}/stop")
        assert stopped["state"] in {"ending", "ended"}
        session = await wait_for_session(client, session_id)
        events = await wait_for_event(client, session_id, "call_completed")
        await wait_for_recording(client, session_id)
    assert session["outcome"] == "completed"
    assert _missing_events(events) == []


async def test_a_killed_session_process_is_a_failed_session_with_a_recording(stack: RunningStack) -> None:
    """The session process dies: `failed`, the slot comes back, the recording reaches up to the last second."""
    async with stack.client() as client:
        idle = {process.pid for process in stack.session_processes()}
        async with call_under_way(client) as (session_id, _):
            busy = await _busy_process(stack, idle)
            before = await the_runner(client)
            started = asyncio.get_running_loop().time()
            await asyncio.sleep(2)
            busy.kill()
            killed_after_s = asyncio.get_running_loop().time() - started + 2
            session = await wait_for_session(client, session_id)
            recording = await wait_for_recording(client, session_id)
        assert session["outcome"] == "failed"
        assert session["reason"] == "process-killed"
        assert _seconds(recording) >= killed_after_s - 1.5
        assert len(before["sessions"]) == 1
        await _slot_is_back(client)


async def test_a_killed_runner_loses_its_sessions_and_leaves_no_second_voice(stack: RunningStack) -> None:
    """The runner dies: its session processes end within 2 s, the session is `lost`, its recording is kept."""
    async with stack.client() as client, call_under_way(client) as (session_id, _):
        processes = stack.session_processes()
        assert processes
        await stack.kill("runner")
        await asyncio.sleep(2)
        assert [process.pid for process in processes if process.is_running()] == []
        session = await wait_for_session(client, session_id)
        assert session["outcome"] == "lost"
        assert session["reason"] == "runner-lost"
        assert _seconds(await wait_for_recording(client, session_id)) > 1
        await stack.start_again("runner")
        again = await client.post("/v1/sessions", {"agent": "echo", "wait": "ready", "wait_timeout_s": 20})
        assert again["state"] == "ready"
        await client.post(f"/v1/sessions/{again['id']}/stop")


async def _slot_is_back(client: ApiClient) -> None:
    async with asyncio.timeout(10):
        while True:
            if not (await the_runner(client))["sessions"]:
                return
            await asyncio.sleep(0.1)


async def _busy_process(stack: RunningStack, idle: set[int]):  # noqa: ANN202 - psutil has no types
    """Return the session process that holds the call: the oldest, since standbys are refilled behind it."""
    processes = stack.session_processes()
    return min(processes, key=lambda process: (process.pid not in idle, process.create_time()))


def _missing_events(events: list[dict[str, object]]) -> list[int]:
    numbers = {int(str(event["seq"])) for event in events if event["source"] == "session"}
    return sorted(set(range(1, max(numbers) + 1)) - numbers)


def _seconds(recording: bytes) -> float:
    with wave.open(io.BytesIO(recording)) as file:
        return file.getnframes() / file.getframerate()
