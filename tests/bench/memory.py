"""What a session costs in memory, beside a cold process with the same bot in the same situation."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from greenroom.devtools import call
from greenroom.devtools.caller import Caller
from tests.bench.report import Report, median
from tests.support.stack import RunningStack, running_stack, wait_for_session

_AGENT: Final = "frontdesk"
_SESSIONS: Final = 8
_CALL_S: Final = 10.0
_SENTENCE: Final = "what are your opening hours"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Proportional and unique set size, in MB (10⁶ bytes)."""

    pss: float
    uss: float


def of(pid: int) -> Memory:
    """Return what the kernel says of a process (/proc/PID/smaps_rollup)."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"] + fields.get("Private_Hugetlb", 0)
    return Memory(pss=fields["Pss"] / 1e6, uss=private / 1e6)


async def run(report: Report) -> None:
    """Measure idle standbys, sessions in a call, and the reference."""
    report.step(f"memory of {_SESSIONS} sessions of {_AGENT} after {_CALL_S:g} s of a call, beside a cold process")
    with tempfile.TemporaryDirectory() as folder:
        async with running_stack(
            Path(folder), GREENROOM_SLOTS=str(_SESSIONS), GREENROOM_STANDBY=str(_SESSIONS)
        ) as stack:
            await asyncio.sleep(2)
            idle = {process.pid for process in stack.session_processes()}
            standby = [of(pid) for pid in idle]
            sessions = await _in_calls(stack, idle)
    reference = await _reference()
    for name, values in (("standby", standby), ("session", sessions), ("reference", [reference])):
        pss, uss = median([value.pss for value in values]), median([value.uss for value in values])
        if name == "session":
            report.add("memory.session_pss_mb", pss, "MB", expected="≤ 35", met=pss <= 35)
            report.add("memory.session_uss_mb", uss, "MB", expected="≤ 22", met=uss <= 22)
        else:
            report.add(f"memory.{name}_pss_mb", pss, "MB")
            report.add(f"memory.{name}_uss_mb", uss, "MB")


async def _in_calls(stack: RunningStack, idle: set[int]) -> list[Memory]:
    lines = call.spoken([_SENTENCE, _SENTENCE])
    async with stack.client() as client:
        sessions = [
            await client.post("/v1/sessions", {"agent": _AGENT, "wait": "ready", "wait_timeout_s": 30})
            for _ in range(_SESSIONS)
        ]
        calls = [asyncio.create_task(Caller(session["transport"]["url"], lines).run()) for session in sessions]
        await asyncio.sleep(_CALL_S)
        # What stood by before runs the calls now; standbys that were refilled meanwhile are others.
        measured = [of(process.pid) for process in stack.session_processes() if process.pid in idle]
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for session in sessions:
            await wait_for_session(client, session["id"])
    return measured


async def _reference() -> Memory:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.reference_bot", _AGENT, "--audio", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while await process.stdout.readline() != b"ready\n":
            pass
    await asyncio.sleep(_CALL_S)
    memory = of(process.pid)
    process.kill()
    await process.wait()
    return memory
