"""Leases per second, end to end over a real NATS server, beside a plain dispatcher that posts over HTTP."""

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

from greenroom.common import topology_admin
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Limits, Requested, Session, State
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.bench import list_and_post
from tests.bench.report import Report

_SESSIONS: Final = 5000
_RUNNERS: Final = 50
_SLOTS: Final = 120
_AT_ONCE: Final = 128
_DEADLINE_S: Final = 120.0


async def run(report: Report) -> None:
    """Measure both; the sessions wait before the first slot is there, so that only placing them is measured."""
    report.step(f"{_SESSIONS} sessions onto {_RUNNERS} runners by the scheduler, and by list and post")
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedNats(Path(folder)) as server:
            leases = await _leases(server.url)
    reference = await _posts()
    report.add(
        "scheduler.leases_per_s",
        leases,
        "/s",
        note="requested → leased → asked → claimed, each step stored",
        expected="≥ 1,000",
        met=leases >= 1000,
    )
    report.add("scheduler.reference_per_s", reference, "/s", note="a list and an HTTP post each, nothing stored")
    report.add("scheduler.ratio", leases / reference, "×", note="of the reference")


async def _leases(nats_url: str) -> float:
    broker = await NatsBroker.connect(nats_url, name="bench")
    scheduler = fleet = None
    try:
        await topology_admin.apply(broker)
        fleet = await _spawn("tests.bench.lease_fleet", str(_RUNNERS), str(_SLOTS), nats_url=nats_url)
        scheduler = await _spawn("greenroom.scheduler", nats_url=nats_url)
        ledger = Ledger(broker)
        await _request_all(ledger)
        assert fleet.stdout is not None
        assert fleet.stdin is not None
        await fleet.stdout.readline()
        fleet.stdin.write(b"begin\n")
        return await _rate(ledger)
    finally:
        for process in (scheduler, fleet):
            if process is not None:
                process.kill()
                await process.wait()
        await broker.close()


async def _spawn(module: str, *arguments: str, nats_url: str) -> Process:
    env = {
        **os.environ,
        "NATS_URL": nats_url,
        "GREENROOM_LOG_LEVEL": "warning",
        "GREENROOM_HEALTH_PORT": "0",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, env=env, stdin=PIPE, stdout=PIPE
    )


async def _request_all(ledger: Ledger) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with turns:
            now = utcnow()
            session = Session(
                id=uuid7(),
                tenant="default",
                agent="echo",
                bot="echo",
                limits=Limits(queue_timeout_s=600),
                requested_at=now,
                queue_deadline_at=now,
            )
            await ledger.create(Requested(session=session))

    await asyncio.gather(*(one() for _ in range(_SESSIONS)))


async def _rate(ledger: Ledger) -> float:
    """Follow the ledger until every session has been claimed, and return how many were in a second."""
    first = last = 0.0
    claimed: set[str] = set()
    reader = await ledger.watch()
    async with asyncio.timeout(_DEADLINE_S):
        async for entry in reader:
            at = entry.at.timestamp()
            if entry.session.state is State.LEASED:
                first = min(first or at, at)
            elif entry.session.started_at is not None and entry.session.id not in claimed:
                claimed.add(entry.session.id)
                last = max(last, entry.session.started_at.timestamp())
                leased = entry.session.leased_at
                first = min(first or last, leased.timestamp() if leased else last)
                if len(claimed) == _SESSIONS:
                    break
    await reader.close()
    return _SESSIONS / (last - first)


async def _posts() -> float:
    runner = await _spawn("tests.bench.list_and_post", nats_url="")
    try:
        assert runner.stdout is not None
        port = int(await runner.stdout.readline())
        waiting = list_and_post.requests(_SESSIONS)
        began = time.perf_counter()
        done = await list_and_post.Operator([f"http://127.0.0.1:{port}"] * _RUNNERS).run(waiting)
        return done / (time.perf_counter() - began)
    finally:
        runner.kill()
        await runner.wait()
