"""Accepted sessions per second, beside the same route without the ledger's publish, and beside the bare publish."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from greenroom.common import messages
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Requested, Session
from greenroom.common.nats_broker import NatsBroker
from tests.bench.fake_fleet import announcement
from tests.bench.http_load import Connection
from tests.bench.report import Report
from tests.support.stack import RunningStack, running_stack

_CONCURRENCY: Final = 32
_SECONDS: Final = 5.0


async def run(report: Report) -> None:
    """Measure the three with the same concurrency, one after the other, twice, and take the better of each."""
    report.step("accepted sessions per second beside the bare route and the bare publish")
    with tempfile.TemporaryDirectory() as folder:
        async with running_stack(Path(folder), without=("runner", "scheduler", "recorder")) as stack:
            await _announce(stack)
            bare = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.bench.bare_api"),
                env={
                    **os.environ,
                    "NATS_URL": stack.stack.nats_url,
                    "DATABASE_URL": stack.stack.database_url,
                    "GREENROOM_API_PORT": "0",
                    "GREENROOM_HEALTH_PORT": "0",
                    "GREENROOM_LOG_LEVEL": "warning",
                },
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert bare.stdout is not None
                async with asyncio.timeout(30):
                    bare_url = (await bare.stdout.readline()).decode().strip()
                accepted = bare_route = publish = 0.0
                for _ in range(2):
                    bare_route = max(bare_route, await _posts(bare_url, stack.stack.api_key))
                    publish = max(publish, await _publishes(stack))
                    accepted = max(accepted, await _posts(stack.stack.api_url, stack.stack.api_key))
            finally:
                bare.kill()
                await bare.wait()
    report.add("api.bare_route_per_s", bare_route, "/s", note="the same route, the ledger's publish left out")
    report.add("api.publish_per_s", publish, "/s", note="Requested published and acknowledged, nothing else")
    share = accepted / min(bare_route, publish)
    report.add(
        "api.accepted_per_s",
        accepted,
        "/s",
        note=f"{share:.2f} of the smaller",
        expected="≥ 0.5 of the smaller",
        met=share >= 0.5,
    )


async def _rate(once: Callable[[], Awaitable[None]]) -> float:
    """Return how often `once` is done per second, by 32 at a time."""
    deadline = time.perf_counter() + _SECONDS
    done = 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await once()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))
    return done / (time.perf_counter() - began)


async def _posts(url: str, key: str) -> float:
    connections = [await Connection.open(url, key) for _ in range(_CONCURRENCY)]
    idle = list(connections)

    async def once() -> None:
        connection = idle.pop()
        await connection.post("/v1/sessions", {"agent": "echo"})
        idle.append(connection)

    try:
        return await _rate(once)
    finally:
        for connection in connections:
            connection.close()


async def _publishes(stack: RunningStack) -> float:
    broker = await NatsBroker.connect(stack.stack.nats_url, name="bench")
    ledger = Ledger(broker)

    async def once() -> None:
        now = utcnow()
        session = Session(
            id=uuid7(), tenant="default", agent="echo", bot="echo", requested_at=now, queue_deadline_at=now
        )
        await ledger.create(Requested(session=session))

    try:
        return await _rate(once)
    finally:
        await broker.close()


async def _announce(stack: RunningStack) -> None:
    """Make the agent known: a runner that offers it is heard of once."""
    broker = await NatsBroker.connect(stack.stack.nats_url, name="bench")
    try:
        async with stack.client() as client, asyncio.timeout(15):
            while not (await client.get("/v1/agents"))["agents"]:
                subject, beat = announcement()
                await broker.publish(subject, messages.encode(beat))
                await asyncio.sleep(0.3)
    finally:
        await broker.close()
