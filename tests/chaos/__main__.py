"""`make chaos runs=200 seed=1`: the runs of tests/chaos/test_recorder_chaos.py, as many as are wanted, one by one."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import uvloop

from greenroom.common.log import configure_logging
from tests.support.chaos.field import Report, running_field
from tests.support.chaos.plan import plan_of

_DEFAULT_RUNS: Final = 10
_SHOWN: Final = 8


async def _play(seeds: Iterable[int], folder: Path) -> list[Report]:
    reports: list[Report] = []
    async with running_field(folder) as field:
        for seed in seeds:
            began = time.monotonic()
            report = await field.run(plan_of(seed))
            reports.append(report)
            verdict = "failed" if report.problems else "ok"
            kills = ", ".join(f"{kill.victim} at {kill.at_s:.1f}" for kill in report.plan.kills)
            waited = max(report.waited_s, key=report.waited_s.__getitem__, default="nothing")
            print(
                f"seed {seed}: {verdict} in {time.monotonic() - began:.1f} s"
                f" (calls {report.played_s:.1f} s, then {report.settled_s:.1f} s, the longest for {waited});"
                f" killed {kills}",
                flush=True,
            )
            for problem in report.problems[:_SHOWN]:
                print(f"  {problem}", flush=True)
            if more := len(report.problems[_SHOWN:]):
                print(f"  and {more} more", flush=True)
    return reports


def main() -> int:
    """Play the runs, and return 1 if something was lost in one of them."""
    runs, first, *_ = (int(text) for text in [*sys.argv[1:], *[str(_DEFAULT_RUNS), "1"][len(sys.argv) - 1 :]])
    configure_logging("chaos", level="error", form="console", instance_id="chaos")
    folder = Path(f".greenroom/chaos-{time.time_ns()}").absolute()
    reports = uvloop.run(_play(range(first, first + runs), folder))
    failed = [report for report in reports if report.problems]
    kills = sum(len(report.plan.kills) for report in reports)
    events, audio_s = sum(report.events for report in reports), sum(report.audio_s for report in reports)
    print(f"{len(reports)} runs, {kills} kills, {events} events, {audio_s:.0f} s of audio; {len(failed)} runs failed")
    if not failed:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        return 0
    for report in failed:
        print(f"again: make chaos runs=1 seed={report.plan.seed} (logs: {folder / str(report.plan.seed)})")
    return 1


if __name__ == "__main__":
    sys.exit(main())
