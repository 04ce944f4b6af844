"""What one more call costs the processor, by process: a handful of conversations like those of `density`, for a while.

Processor time is counted by the kernel, so other work on the machine disturbs it little: to compare before and after,
`make bench only=cost`. What answers take beside it tells whether saving made the bot slower. `BENCH_INPUT_CHUNK_MS=20`
has the user's audio reach the pipelines in pieces of that length.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Final

from tests.bench.density import AGENT, Ours, environment
from tests.bench.memory import of
from tests.bench.processors import Meter, Roles, roles_of
from tests.bench.programs import Program, program
from tests.bench.report import Report, median, percentile
from tests.support.stack import RunningStack, running_stack

_SESSIONS: Final = int(os.environ.get("BENCH_SESSIONS", "6"))
_INPUT_CHUNK_MS: Final = os.environ.get("BENCH_INPUT_CHUNK_MS", "60")
_SETTLE_S: Final = 8.0
# Two turns of each caller.
_MEASURE_S: Final = 20.0
_SHOWN: Final = ("session", "api", "nats", "runner", "recorder", "scheduler", "postgres", "load", "stub")


async def run(report: Report) -> None:
    """Measure some sessions in a call."""
    report.step(f"{_SESSIONS} conversations of {AGENT}, the user's audio in pieces of {_INPUT_CHUNK_MS} ms")
    async with program("tests.bench.openai_server") as stub:
        env = environment((await stub.line()).strip())
        with tempfile.TemporaryDirectory() as folder:
            slots = {"GREENROOM_SLOTS": str(_SESSIONS + 4), "GREENROOM_STANDBY": "0", "GREENROOM_BRAKE": "false"}
            slots["GREENROOM_INPUT_CHUNK_MS"] = _INPUT_CHUNK_MS
            async with (
                running_stack(Path(folder), **slots, **env) as stack,
                program("tests.bench.density_load") as load,
            ):
                await _measure(report, stack, load, stub)


async def _measure(report: Report, stack: RunningStack, load: Program, stub: Program) -> None:
    for _ in range(_SESSIONS):
        await load.ask({"call": await Ours(stack).add(1)})
    await asyncio.sleep(_SETTLE_S)

    def roles() -> Roles:
        return {**roles_of(stack), "load": [load.pid], "stub": [stub.pid]}

    report.step("measuring")
    meter = Meter(roles)
    measured = await load.ask({"measure": _MEASURE_S})
    spent = meter.spent()
    for role in _SHOWN:
        report.add(f"cost.{role}_ms", spent[role] / _SESSIONS / _MEASURE_S * 1000, "ms/s", note="of a call's second")
    ours = sum(took for role, took in spent.items() if role not in {"load", "stub"})
    report.add("cost.greenroom_ms", ours / _SESSIONS / _MEASURE_S * 1000, "ms/s", note="all of Greenroom")
    report.add("cost.all_ms", sum(spent.values()) / _SESSIONS / _MEASURE_S * 1000, "ms/s", note="with load and stub")
    late, answers = measured["late_ms"], measured["answers_ms"]
    report.add("cost.late_p99_ms", percentile(late, 0.99) if late else float("inf"), "ms")
    report.add(
        "cost.answer_ms", median(answers) if answers else float("inf"), "ms", note=f"{len(answers)} answers, median"
    )
    report.add("cost.pss_mb", median([of(pid).pss for pid in roles()["session"]]), "MB", note="a session")
