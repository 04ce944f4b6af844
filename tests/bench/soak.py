"""1,000 short sessions on one runner: what there is of everything afterwards that wasn't there after the first 100."""

import tempfile
import time
from pathlib import Path
from typing import Final

from tests.bench.report import Report
from tests.support.soak import growth, soaking

# Of the report; `make bench` fails where it isn't met.
LEFT_BEHIND: Final = "soak.left_behind"
_WARM_UP: Final = 100
_SESSIONS: Final = 1_000
_MEMORY: Final = "memory_mb."
# What nats-server has open of its streams comes and goes with its work.
_NATS: Final = ".nats"


async def run(report: Report) -> None:
    """Hold the sessions, and report growth."""
    report.step(f"{_SESSIONS:,} short sessions, after {_WARM_UP} to warm up")
    with tempfile.TemporaryDirectory() as folder:
        async with soaking(Path(folder)) as soak:
            await soak.sessions(_WARM_UP)
            before, began = await soak.usage(), time.monotonic()
            await soak.sessions(_SESSIONS)
            took_s = time.monotonic() - began
            grown = growth(before, await soak.usage())
    counted = {name: n for name, n in grown.items() if not name.startswith(_MEMORY) and not name.endswith(_NATS)}
    left = sum(map(abs, counted.values()))
    report.add("soak.sessions", _SESSIONS, "", note=f"in {took_s:.0f} s, one after another on two slots")
    report.add(
        LEFT_BEHIND,
        left,
        "",
        note=", ".join(name for name, n in counted.items() if n)
        or "no file, thread, process, consumer, message, connection, subscription",
        expected="0",
        met=left == 0,
    )
    for process in ("runner", "zygote", "nats"):
        report.add(f"soak.{process}_mb", grown[_MEMORY + process], "MB", note="resident memory, grown")
