"""Draws what a simulation measured. The only module that needs matplotlib."""

from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from greenroom.devtools.sim.faults import LauncherAway, LauncherSlow, LeaderChange, Partition, RunnerLoss
from greenroom.devtools.sim.scenario import Scenario
from greenroom.devtools.sim.world import Result

_WIDTH, _HEIGHT = 11.0, 7.5
_DPI: Final = 110
_HOUR_S: Final = 3600.0
_MINUTE_S: Final = 60.0
# Longer ones are drawn in hours.
_HOURS_FROM_S: Final = 3 * _HOUR_S
_FAULT: Final = "#b03030"


def draw(scenario: Scenario, result: Result, path: Path) -> None:
    """Write a picture: slots, calls and who waits over time, and below how long those waited that were placed.

    Args:
        scenario: that was played; its faults are marked.
        result: of it.
        path: of the PNG file.

    Raises:
        OSError: it can't be written.
    """
    moments = [each for each in result.moments if each.at_s <= scenario.duration_s]
    unit_s, unit = (_HOUR_S, "hours") if scenario.duration_s >= _HOURS_FROM_S else (_MINUTE_S, "minutes")
    at = [each.at_s / unit_s for each in moments]
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.5, 1.5])
    waited = result.summary.waited
    figure.suptitle(
        f"{scenario.title}: {result.summary.sessions:,} sessions, waited p95 {waited.p95_s:.3g} s, "
        f"{result.summary.utilisation:.0%} of the slots busy"
    )
    upper.step(at, [each.slots for each in moments], where="post", color="#888888", label="slots")
    upper.fill_between(at, [each.busy for each in moments], step="post", color="#2a7f62", alpha=0.6, label="calls")
    if any(each.target for each in moments):
        wanted = [each.busy + each.target for each in moments]
        upper.step(at, wanted, where="post", color="#3060a0", linewidth=1, linestyle="--", label="calls + warm target")
    upper.set_ylabel("slots")
    middle.fill_between(at, [each.waiting for each in moments], step="post", color="#c07820", alpha=0.7)
    middle.set_ylabel("waiting")
    placed = [(each_at, each) for each_at, each in zip(at, moments, strict=True) if each.p50_s is not None]
    for share, color in (("p95", "#c07820"), ("p50", "#3060a0")):
        waits = [getattr(each, f"{share}_s") for _, each in placed]
        lower.plot([each_at for each_at, _ in placed], waits, ".", markersize=3, color=color, label=share)
    lower.set_ylabel("waited, s")
    lower.set_xlabel(unit)
    for axes in (upper, middle, lower):
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.25)
        for begin_s, end_s in _faults(scenario):
            if begin_s == end_s:
                axes.axvline(begin_s / unit_s, color=_FAULT, linewidth=1, linestyle=":")
            else:
                axes.axvspan(begin_s / unit_s, end_s / unit_s, color=_FAULT, alpha=0.08)
    upper.legend(loc="upper left")
    lower.legend(loc="upper left")
    figure.savefig(path, format="png")


def _faults(scenario: Scenario) -> list[tuple[float, float]]:
    rows: list[tuple[float, float]] = []
    for fault in scenario.faults:
        match fault:
            case RunnerLoss():
                rows.append((fault.at_s, fault.at_s))
            case LeaderChange():
                rows.append((fault.at_s, fault.at_s + fault.gap_s))
            case Partition() | LauncherAway() | LauncherSlow():
                rows.append((fault.from_s, fault.to_s))
    return rows
