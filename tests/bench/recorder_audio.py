"""The audio of how many live calls one recorder keeps up with on one core: every chunk durable within a second.

A process of its own (`recorder_audio_load`) plays the calls, in steps, until one is too many. What is expected, or
less if less has held, is then held for longer: that is what is told of, with the recorder's memory at both ends.
"""

import asyncio
import os
from asyncio.subprocess import Process
from typing import Final

import msgspec

from greenroom.common.lifecycle import Limits
from tests.bench.recorder_audio_load import Held
from tests.bench.recorder_place import Place, cpu_s, rss_mb
from tests.bench.report import Report

_STEPS: Final = (60, 125, 250, 375, 500, 650)
_STEP_S: Final = 10.0
_HOLD_S: Final = 30.0
_EXPECTED: Final = 500
_P99_MS: Final = 1000.0
_AT_ONCE: Final = 64


async def run(report: Report, place: Place) -> None:
    """Find the number, and hold it."""
    report.step(f"audio of {_STEPS[0]} to {_STEPS[-1]} live calls into one recorder on one core")
    ids = await _live_calls(place, _STEPS[-1])
    core = max(os.sched_getaffinity(0))
    async with place.recorder(cores={core}) as recorder:
        await place.settled()
        load = await place.spawn("tests.bench.recorder_audio_load")
        try:
            await _tell(load, ids)
            held = await _highest(load, report)
            before, spent_s = rss_mb(recorder), cpu_s(recorder)
            result = await _hold(load, _long(held), _HOLD_S)
            memory, spent_s = (before, rss_mb(recorder)), cpu_s(recorder) - spent_s
        finally:
            load.kill()
            await load.wait()
    _show(report, held, result, memory=memory, cores=spent_s / _HOLD_S)


def _show(report: Report, held: int, result: Held, *, memory: tuple[float, float], cores: float) -> None:
    begin, end = memory
    p99_ms = result.p99_ms
    report.add(
        "recorder.audio_sessions",
        held,
        "calls",
        note="2 tracks each, one core",
        expected=f"≥ {_EXPECTED}",
        met=held >= _EXPECTED,
    )
    report.add(
        "recorder.durable_p99_ms",
        p99_ms,
        "ms",
        note=f"{_long(held)} calls, from publishing to the acknowledgement, p50 {result.p50_ms:.0f}",
        expected="< 1,000",
        met=p99_ms < _P99_MS,
    )
    report.add("recorder.audio_cores", cores, "cores", note=f"of the recorder, with {_long(held)} calls")
    report.add("recorder.audio_rss_begin_mb", begin, "MB")
    report.add(
        "recorder.audio_rss_end_mb", end, "MB", note=f"{_HOLD_S:g} s later", expected="flat", met=end < 1.1 * begin
    )


def _long(held: int) -> int:
    """Return how many calls are held for longer."""
    return min(max(held, _STEPS[0]), _EXPECTED)


async def _live_calls(place: Place, count: int) -> list[str]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def call() -> str:
        async with turns:
            return (await place.call(limits=Limits(max_duration_s=3600))).session.id

    return await asyncio.gather(*(call() for _ in range(count)))


async def _highest(load: Process, report: Report) -> int:
    """Return with how many calls the recorder kept up."""
    held = 0
    for count in _STEPS:
        step = await _hold(load, count, _STEP_S)
        report.step(f"  {count} calls: durable after {step.p50_ms:.0f} ms (p50), {step.p99_ms:.0f} ms (p99)")
        if step.p99_ms >= _P99_MS:
            break
        held = count
    return held


async def _hold(load: Process, count: int, for_s: float) -> Held:
    await _tell(load, [count, for_s])
    assert load.stdout is not None
    return msgspec.json.decode(await load.stdout.readline(), type=Held)


async def _tell(load: Process, what: object) -> None:
    assert load.stdin is not None
    load.stdin.write(msgspec.json.encode(what) + b"\n")
    await load.stdin.drain()
