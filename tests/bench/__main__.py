"""`make bench`, `make bench only=start`: each benchmark measures two things in the same run and gives their ratio.

It fails where what was measured may not be otherwise: where a plan is wrong, or sessions have left something behind.

Two are for themselves: `make bench only=queries` takes half an hour and 30 GB, and compares plans; `make bench
only=long` takes an hour.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from greenroom.common.log import configure_logging
from tests.bench import (
    api,
    barge_in,
    cost,
    density,
    leases,
    media,
    memory,
    plan,
    queries,
    recorder,
    recorder_long,
    soak,
    start,
)
from tests.bench.report import Report

BENCHMARKS: Final[dict[str, Callable[[Report], Awaitable[None]]]] = {
    "start": start.run,
    "memory": memory.run,
    "api": api.run,
    "media": media.run,
    "density": density.run,
    "cost": cost.run,
    "barge_in": barge_in.run,
    "leases": leases.run,
    "plan": plan.run,
    "recorder": recorder.run,
    "soak": soak.run,
}
_FOR_THEMSELVES: Final = ("queries", "long")
# Figures, by how their keys begin, that aren't a matter of the machine.
_MUST_BE_MET: Final = ("queries.", soak.LEFT_BEHIND)


def main() -> int:
    """Run the benchmarks that are named, or all; exit code 2: there is none such; 1: see `_MUST_BE_MET`."""
    parser = argparse.ArgumentParser(prog="tests.bench", description="Measure, all or some.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sessions", type=int, default=queries.FULL, help="of `queries`: how many there are")
    parser.add_argument("--golden", action="store_true", help="of `queries`: make what is found the golden plans")
    wanted = parser.parse_args()
    chosen: list[str] = wanted.names or list(BENCHMARKS)
    known = [*BENCHMARKS, *_FOR_THEMSELVES]
    if unknown := set(chosen).difference(known):
        print(f"there is no benchmark {', '.join(sorted(unknown))}: {', '.join(known)}", file=sys.stderr)
        return 2
    configure_logging("bench", level="warning", form="console", instance_id="bench")
    report = Report(Console())
    for name in chosen:
        if name == "queries":
            uvloop.run(queries.run(report, sessions=wanted.sessions, golden=wanted.golden))
        elif name == "long":
            uvloop.run(recorder_long.run(report))
        else:
            uvloop.run(_run(name, report))
    report.show()
    report.write(Path(".greenroom/bench.json"))
    return 1 if any(row.key.startswith(_MUST_BE_MET) and row.met is False for row in report.rows) else 0


async def _run(name: str, report: Report) -> None:
    await BENCHMARKS[name](report)


if __name__ == "__main__":
    sys.exit(main())
