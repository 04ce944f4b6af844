"""How many conversations this machine holds in real time: here, as cold processes, and as a pool of idle ones.

Each is a conversation of the `assistant` bot: Silero, turn detection by a model, recognition, language model and speech
by a stub of OpenAI's APIs on the loopback, callers over WebSockets. All of it shares the processors: callers, stub, and
here also broker, database, the recording of both sides and every event. A number of sessions holds if 99 % of the
bot's frames are less than 20 ms late and the 95th percentile of its answers takes at most 20 % longer than with the
first step's few.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tests.bench.memory import of
from tests.bench.processors import cpu_s
from tests.bench.programs import Program, program
from tests.bench.report import Report, median, percentile
from tests.support.openai_stub import KEY
from tests.support.stack import RunningStack, running_stack

AGENT: Final = os.environ.get("BENCH_AGENT", "assistant")
_STEPS: Final = (4, 8, 16, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 72, 80)
# A turn of each caller: in the first, there is more to do than later.
_SETTLE_S: Final = 10.0
# Two turns of each caller.
_MEASURE_S: Final = 20.0
_LATE_MS: Final = 20.0
_SLOWER: Final = 1.2
_TARGET: Final = 48


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a number of sessions was like: milliseconds, cores and MB (proportional) a session."""

    sessions: int
    late_p99_ms: float
    answer_p95_ms: float
    cores: float
    pss_mb: float
    silent: int


class Shape(Protocol):
    """A way to run sessions."""

    name: str

    async def add(self, count: int) -> list[str]:
        """Start some more; return where their callers connect."""
        ...

    def pids(self) -> list[int]:
        """Return the processes of the sessions that run, and maybe of some that wait for one."""
        ...


async def run(report: Report) -> None:
    """Find the most that each shape holds."""
    async with program("tests.bench.openai_server") as stub:
        url = (await stub.line()).strip()
        env = environment(url)
        with tempfile.TemporaryDirectory() as folder:
            slots = {"GREENROOM_SLOTS": str(_STEPS[-1] + 8), "GREENROOM_STANDBY": "4", "GREENROOM_BRAKE": "false"}
            async with running_stack(Path(folder), **slots, **env) as stack:
                ours = await _climb(report, Ours(stack))
        async with contextlib.AsyncExitStack() as started:
            pool = await _climb(report, _Processes("pool", started, env, pool=True))
        async with contextlib.AsyncExitStack() as started:
            reference = await _climb(report, _Processes("reference", started, env, pool=False))
    sessions = _held(ours)
    best = next((step for step in reversed(ours) if step.sessions == sessions), ours[0])
    report.add(
        "density.sessions",
        sessions,
        "sessions",
        note=f"late p99 {best.late_p99_ms:.1f} ms, answer p95 {best.answer_p95_ms:.0f} ms",
        expected=f"≥ {_TARGET}",
        met=sessions >= _TARGET,
    )
    report.add("density.reference_sessions", _held(reference), "sessions", note="a cold process each")
    report.add("density.pool_sessions", _held(pool), "sessions", note="a process each, imported beforehand")
    report.add("density.cores_per_session", best.cores, "cores")
    report.add("density.pss_mb", best.pss_mb, "MB", note="a session, in a call")
    ratio = reference[0].pss_mb / best.pss_mb
    report.add("density.pss_ratio", ratio, "×", note="cold process / ours", expected="≥ 4", met=ratio >= 4)


def environment(stub_url: str) -> dict[str, str]:
    """Return what bots need to find the stub of OpenAI's APIs."""
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub_url, "OPENAI_DISABLE_TELEMETRY": "1"}


async def _climb(report: Report, shape: Shape) -> list[Step]:
    """Add sessions step by step until they don't hold."""
    steps: list[Step] = []
    async with program("tests.bench.density_load") as load:
        running = 0
        for count in _STEPS:
            for start in range(running, count, 4):
                urls = await shape.add(min(4, count - start))
                await load.ask({"call": urls})
            running = count
            await asyncio.sleep(_SETTLE_S)
            step = await _measure(load, shape, count)
            steps.append(step)
            report.step(
                f"{shape.name}: {count} sessions, late p99 {step.late_p99_ms:.1f} ms, answer p95 "
                f"{step.answer_p95_ms:.0f} ms, {step.cores:.3f} cores and {step.pss_mb:.1f} MB each"
            )
            if not _holds(step, steps[0]):
                break
    return steps


async def _measure(load: "Program", shape: Shape, count: int) -> Step:
    before, began = {pid: cpu_s(pid) for pid in shape.pids()}, time.monotonic()
    measured = await load.ask({"measure": _MEASURE_S})
    spent = {pid: cpu_s(pid) - before[pid] for pid in shape.pids() if pid in before}
    # Those that wait for a session do next to nothing.
    pids = sorted(spent, key=lambda pid: spent[pid])[-count:]
    cores = sum(spent[pid] for pid in pids) / (time.monotonic() - began) / count
    late, answers = measured["late_ms"], measured["answers_ms"]
    return Step(
        sessions=count,
        late_p99_ms=percentile(late, 0.99) if late else float("inf"),
        answer_p95_ms=percentile(answers, 0.95) if answers else float("inf"),
        cores=cores,
        pss_mb=median([of(pid).pss for pid in pids]),
        silent=measured["silent"],
    )


def _holds(step: Step, first: Step) -> bool:
    quick = step.answer_p95_ms <= first.answer_p95_ms * _SLOWER
    return step.late_p99_ms < _LATE_MS and quick and step.silent == 0


def _held(steps: Sequence[Step]) -> int:
    return max((step.sessions for step in steps if _holds(step, steps[0])), default=0)


class Ours:
    """Sessions of a whole Greenroom."""

    name = "greenroom"

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack

    async def add(self, count: int) -> list[str]:
        """See `Shape`."""
        wish = {"agent": AGENT, "wait": "ready", "wait_timeout_s": 60, "body": {"greeting": ""}}
        urls: list[str] = []
        async with self._stack.client() as client:
            for _ in range(count):
                session = await client.post("/v1/sessions", wish)
                urls.append(session["transport"]["url"])
        return urls

    def pids(self) -> list[int]:
        """See `Shape`."""
        return [process.pid for process in self._stack.session_processes()]


class _Processes:
    """A process per session, without anything around it."""

    def __init__(self, name: str, started: contextlib.AsyncExitStack, env: dict[str, str], *, pool: bool) -> None:
        self.name = name
        self._started = started
        self._env = env
        self._pool = pool
        self._programs: list[Program] = []

    async def add(self, count: int) -> list[str]:
        """See `Shape`."""
        arguments = [AGENT, "--pool"] if self._pool else [AGENT]
        programs = [
            await self._started.enter_async_context(program("tests.bench.density_reference", *arguments, env=self._env))
            for _ in range(count)
        ]
        self._programs += programs
        return [await self._url(program) for program in programs]

    async def _url(self, program: "Program") -> str:
        if self._pool:
            await program.until("idle")
            program.say("")
        return f"ws://127.0.0.1:{(await program.until('port')).split()[1]}/"

    def pids(self) -> list[int]:
        """See `Shape`."""
        return [program.pid for program in self._programs]
