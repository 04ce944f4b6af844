"""What the media bridge adds to a frame's way, and how many calls one edge process holds in real time."""

import asyncio
import os
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Final

from greenroom.devtools.client import ApiClient
from tests.bench.report import Report, median, percentile
from tests.bench.websocket_load import Call, hold
from tests.support.stack import RunningStack, running_stack

_QUIET_CALLS: Final = 10
_SECONDS: Final = 6.0
# What the bridge adds to the p99 of the one-way time, at the same number of calls, must not exceed this.
_HELD_P99_MS: Final = 2.0
_STEPS: Final = (5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600)
_SLOTS: Final = 2000


async def run(report: Report) -> None:
    """Measure one way: through the bridge beside a plain WebSocket to the same program."""
    report.step("the media bridge beside a plain WebSocket")
    with tempfile.TemporaryDirectory() as folder:
        async with running_stack(Path(folder), without=("runner",), GREENROOM_MEDIA_MAX_CONNECTIONS="4000") as stack:
            fleet = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.bench.fake_fleet", str(_SLOTS)),
                env={**os.environ, "NATS_URL": stack.stack.nats_url},
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert fleet.stdout is not None
                port = int(await fleet.stdout.readline())
                await _measure(report, stack, f"ws://127.0.0.1:{port}/")
            finally:
                fleet.kill()
                await fleet.wait()


async def _measure(report: Report, stack: RunningStack, direct_url: str) -> None:
    async with stack.client() as client:
        await _agent_is_there(client)
        plain = await _times([direct_url] * _QUIET_CALLS)
        bridged = await _times(await _session_urls(client, _QUIET_CALLS))
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            added = bridged.percentile(share) - plain.percentile(share)
            report.add(
                f"media.added_{name}_ms",
                added,
                "ms",
                note=f"{bridged.percentile(share):.2f} ms bridged, {plain.percentile(share):.2f} ms plain, one way",
            )
        held, count, worst = 0, 0, 0.0
        for count in _STEPS:
            plain = await _times([direct_url] * count)
            bridged = await _times(await _session_urls(client, count))
            # The load, the broker and the far end share the cores with the edge: what they take is in both.
            worst = bridged.percentile(0.99) - plain.percentile(0.99)
            if worst > _HELD_P99_MS:
                break
            held = count
        report.add("media.calls_per_edge", held, "calls", note=f"adds {worst:.2f} ms (p99, one way) at {count}")


class Times:
    """One-way times of all frames of some calls, in milliseconds, second by second."""

    def __init__(self, calls: list[Call]) -> None:
        # The first second is connections and caches getting warm.
        self._seconds = [
            list(chain.from_iterable(chain(c.inbound_ms[at : at + 50], c.outbound_ms[at : at + 50]) for c in calls))
            for at in range(50, round(_SECONDS * 50), 50)
        ]

    def percentile(self, share: float) -> float:
        """Return the percentile of a usual second: one in which nothing else on the machine took its turn."""
        return median([percentile(second, share) for second in self._seconds])


async def _times(urls: list[str]) -> Times:
    calls = [Call(url) for url in urls]
    for start in range(0, len(calls), 20):
        await asyncio.gather(*(call.connect() for call in calls[start : start + 20]))
    await hold(calls, _SECONDS)
    for call in calls:
        call.close()
    await asyncio.sleep(0.5)
    assert all(len(call.inbound_ms) >= 0.98 * call.sent for call in calls), "frames were lost"
    return Times(calls)


async def _session_urls(client: ApiClient, count: int) -> list[str]:
    limits = {"join_timeout_s": 60}
    request = {"agent": "echo", "wait": "ready", "wait_timeout_s": 30, "limits": limits}
    urls: list[str] = []
    for start in range(0, count, 20):
        batch = (client.post("/v1/sessions", request) for _ in range(min(20, count - start)))
        urls += [session["transport"]["url"] for session in await asyncio.gather(*batch)]
    return urls


async def _agent_is_there(client: ApiClient) -> None:
    async with asyncio.timeout(15):
        while not any(agent["runnable"] for agent in (await client.get("/v1/agents"))["agents"]):
            await asyncio.sleep(0.1)
