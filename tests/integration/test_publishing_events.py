"""docs/publishing-events.md, executed: other services publish onto a session and follow it, with nothing of ours."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest

from greenroom.common import messages
from greenroom.common.messages import Parked
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as recorder_database
from greenroom.recorder.app import Recorder
from greenroom.recorder.settings import RecorderSettings
from tests.support.api_world import PATIENCE_S, ApiWorld, eventually, running_api
from tests.support.workspace import ROOT

DOCUMENT = ROOT / "docs" / "publishing-events.md"


def program(name: str) -> str:
    """Return a program of the document."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if block.startswith(f"# {name}"))


async def start(name: str, world: ApiWorld, session_id: str) -> asyncio.subprocess.Process:
    """Start a program of the document, with nothing but the address of NATS."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program(name), "default", session_id),
        env={"NATS_URL": world.nats_url, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )


async def output(process: asyncio.subprocess.Process) -> list[str]:
    """Return what a program printed; it must end well."""
    printed, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    return printed.decode().splitlines()


@pytest.fixture
async def world(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[ApiWorld]:
    """A running api, and a recorder behind it."""
    async with running_api(nats_url, database) as running:
        settings = RecorderSettings(nats_url=nats_url, database_url=database, recordings_dir=str(tmp_path))
        pool = await recorder_database.open_pool(database, size=6)
        recorder = Recorder(broker=running.broker, pool=pool, settings=settings, metrics=Metrics())
        work = asyncio.create_task(recorder.run())
        try:
            yield running
        finally:
            work.cancel()
            await asyncio.wait({work})
            await recorder_database.close_pool(pool, timeout_s=2)


async def stored(world: ApiWorld, session_id: str, kind: str) -> list[dict[str, Any]]:
    """Return the stored events of a kind."""
    async with world.client() as client:
        page = (await client.get(f"/v1/sessions/{session_id}/events")).json()
    return [event for event in page.get("events", []) if event["type"] == kind]


async def test_an_event_of_another_service_is_stored_and_streamed(world: ApiWorld) -> None:
    """What the document's program publishes is enveloped, stored and streamed; sent twice, it is there once."""
    session_id = (await world.request()).session.id
    streamed = asyncio.create_task(first_streamed(world, session_id, "crm.ticket_opened"))
    sequences = [await output(await start("publish_event.py", world, session_id)) for _ in range(2)]
    assert sequences[0] == sequences[1]
    event = await streamed
    assert (event["source"], event["data"]) == ("crm", {"ticket": 4711, "priority": "high"})
    assert (event["id"], event["session_id"]) == ("crm-ticket-4711", session_id)
    assert event["stream_seq"] == int(sequences[0][0])
    kept = await eventually(lambda: stored(world, session_id, "crm.ticket_opened"))
    assert kept == [event]


async def test_a_session_can_be_followed_with_nothing_but_nats(world: ApiWorld) -> None:
    """The document's other program prints everything in order, from the request to the end."""
    session_id = (await world.request()).session.id
    follower = await start("follow_session.py", world, session_id)
    await world.make_ready(session_id)
    await output(await start("publish_event.py", world, session_id))
    await world.end(session_id)
    lines = [line.split(" ", 2) for line in await output(follower)]
    assert [line[1] for line in lines] == [
        "session.requested",
        "session.leased",
        "session.started",
        "session.ready",
        "crm.ticket_opened",
        "session.ended",
    ]
    assert msgspec.json.decode(lines[4][2]) == {"ticket": 4711, "priority": "high"}
    sequences = [int(line[0]) for line in lines]
    assert sequences == sorted(sequences)


async def test_malformed_events_are_put_aside_and_hold_nobody_up(world: ApiWorld) -> None:
    """Each kind of fault is parked with its reason; what is published behind it is stored and streamed."""
    session_id = (await world.request()).session.id
    nobody = "0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42"
    faults = [
        (session_id, b"no json"),
        (session_id, b"[]"),
        (session_id, b'{"dta": {}}'),
        (session_id, b'{"data": 1}'),
        (session_id, b'{"session_id": "another"}'),
        (session_id, b'{"at": "2026-03-02T09:30:00"}'),
        (session_id, b'{"data": {"x": "' + b"x" * 256 * 1024 + b'"}}'),
        (nobody, b"{}"),
    ]
    client = await nats.connect(world.nats_url)
    try:
        for session, body in faults:
            subject = f"gr.v1.session.default.{session}.event.crm.ticket_opened"
            await client.jetstream().publish(subject, body)
        subject = f"gr.v1.session.default.{session_id}.event.crm.ticket_closed"
        await client.jetstream().publish(subject, b"{}")
    finally:
        await client.close()
    event = await first_streamed(world, session_id, "crm.ticket_closed")
    assert (event["source"], event["data"], event["seq"]) == ("external", {}, 0)
    await eventually(lambda: stored(world, session_id, "crm.ticket_closed"))
    assert await stored(world, session_id, "crm.ticket_opened") == []
    parked = await eventually(lambda: put_aside(world), lambda found: len(found) == len(faults))
    assert {bytes(each.payload) for each in parked} == {body for _, body in faults}
    assert all(each.reason for each in parked)


async def test_events_may_come_after_the_end(world: ApiWorld) -> None:
    """What happens about a call when it is over belongs to it too."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await output(await start("publish_event.py", world, session_id))
    await eventually(lambda: stored(world, session_id, "crm.ticket_opened"))


async def first_streamed(world: ApiWorld, session_id: str, kind: str) -> dict[str, Any]:
    """Return the first event of a kind in the event stream."""
    async with asyncio.timeout(PATIENCE_S), world.client() as client:
        headers = {"accept": "text/event-stream"}
        async with client.stream("GET", f"/v1/sessions/{session_id}/events", headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    event = msgspec.json.decode(line.removeprefix("data: "), type=dict[str, Any])
                    if event.get("type") == kind:
                        return event
    raise AssertionError("the stream ended")


async def put_aside(world: ApiWorld) -> list[Parked]:
    """Return what was parked."""
    if not await world.broker.count("PARKED", "gr.v1.parked.SESSIONS"):
        return []
    reader = await world.broker.read("PARKED", ["gr.v1.parked.SESSIONS"], after=0)
    found: list[Parked] = []
    async for message in reader:
        found.append(messages.decode(message.data, Parked))
        if reader.caught_up.is_set():
            break
    await reader.close()
    return found
