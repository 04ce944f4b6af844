"""`make bench`, `make bench only=start`: each benchmark measures two things in the same run and gives their ratio."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from greenroom.common.log import configure_logging
from tests.bench import api, cost, density, leases, media, memory, plan, soak, start
from tests.bench.report import Report

BENCHMARKS: Final[dict[str, Callable[[Report], Awaitable[None]]]] = {
    "start": start.run,
    "memory": memory.run,
    "api": api.run,
    "media": media.run,
    "density": density.run,
    "cost": cost.run,
    "leases": leases.run,
    "plan": plan.run,
    "soak": soak.run,
}


def main() -> int:
    """Run the benchmarks that are named, or all; exit code 2 for a name that there isn't."""
    chosen = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(chosen) - BENCHMARKS.keys():
        print(f"there is no benchmark {', '.join(sorted(unknown))}: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    configure_logging("bench", level="warning", form="console", instance_id="bench")
    report = Report(Console())
    for name in chosen:
        uvloop.run(_run(name, report))
    report.show()
    report.write(Path(".greenroom/bench.json"))
    return 0


async def _run(name: str, report: Report) -> None:
    await BENCHMARKS[name](report)


if __name__ == "__main__":
    sys.exit(main())
