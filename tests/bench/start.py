"""From the request to a running pipeline, beside the reference pattern: a subprocess per bot, started on request."""

import asyncio
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from greenroom.devtools.client import ApiClient
from tests.bench.http_load import Connection
from tests.bench.report import Report, median, percentile
from tests.support.stack import running_stack, wait_for_session

_STARTS: Final = 100
_REFERENCE_STARTS: Final = 15
_AGENT: Final = "frontdesk"
_STAGES: Final = (
    ("requested_at", "leased_at", "lease"),
    ("leased_at", "started_at", "claim"),
    ("started_at", "ready_at", "pipeline"),
)


async def run(report: Report) -> None:
    """Measure both, interleaved, so that a machine that gets slower does so for both."""
    report.step(f"{_STARTS} warm starts of {_AGENT} beside {_REFERENCE_STARTS} cold subprocesses")
    ours: list[float] = []
    stages: dict[str, list[float]] = {name: [] for _, _, name in _STAGES}
    reference: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with (
            running_stack(Path(folder), GREENROOM_SLOTS="8", GREENROOM_STANDBY="4") as stack,
            stack.client() as client,
        ):
            connection = await Connection.open(stack.stack.api_url, stack.stack.api_key)
            await _once(client, connection, stages=None)  # connections and caches
            for index in range(_STARTS):
                ours.append(await _once(client, connection, stages))
                if index % (_STARTS // _REFERENCE_STARTS) == 0:
                    reference.append(await _reference())
    p50, p99 = median(ours), percentile(ours, 0.99)
    reference_p50 = median(reference)
    report.add("start.request_to_ready_ms.p50", p50, "ms", expected="≤ 15", met=p50 <= 15)
    report.add("start.request_to_ready_ms.p99", p99, "ms", expected="≤ 60", met=p99 <= 60)
    for name, values in stages.items():
        report.add(f"start.stage_ms.{name}", median(values), "ms", note="p50")
    report.add("start.reference_ms.p50", reference_p50, "ms", note="python -m bot until its pipeline runs")
    report.add("start.reference_ms.p99", percentile(reference, 0.99), "ms")
    ratio = reference_p50 / p50
    report.add("start.ratio", ratio, "×", note="reference p50 / ours", expected="≥ 50", met=ratio >= 50)


async def _once(client: ApiClient, connection: Connection, stages: dict[str, list[float]] | None) -> float:
    """Start one session, end it, and return the milliseconds from the POST to its answer."""
    began = time.perf_counter()
    session = await connection.post("/v1/sessions", {"agent": _AGENT, "wait": "ready", "wait_timeout_s": 20})
    took_ms = (time.perf_counter() - began) * 1000
    await client.post(f"/v1/sessions/{session['id']}/stop")
    ended = await wait_for_session(client, session["id"])
    for first, second, name in _STAGES if stages is not None else ():
        assert stages is not None
        stages[name].append(_between_ms(ended, first, second))
    # The next start finds the standbys refilled, as at any rate below one start in some tenths of a second.
    await asyncio.sleep(0.3)
    return took_ms


def _between_ms(session: dict[str, Any], first: str, second: str) -> float:
    return (datetime.fromisoformat(session[second]) - datetime.fromisoformat(session[first])).total_seconds() * 1000


async def _reference() -> float:
    """Start the same bot in a fresh interpreter and return the milliseconds until its pipeline runs."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.reference_bot", _AGENT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while (line := await process.stdout.readline()) != b"ready\n":
            assert line, "the reference bot ended early"
    took_ms = (time.perf_counter() - began) * 1000
    process.kill()
    await process.wait()
    return took_ms
