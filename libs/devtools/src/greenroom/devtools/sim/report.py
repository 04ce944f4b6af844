"""What `greenroom sim` prints."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from greenroom.common.log import configure_logging
from greenroom.devtools.sim.measure import Effort, Summary, Waits
from greenroom.devtools.sim.scenario import Scenario, load, shipped
from greenroom.devtools.sim.world import Progress as OnProgress
from greenroom.devtools.sim.world import Result, simulate

# What is done sooner needs no bar.
_PATIENCE_S: Final = 1.0
_HOUR_S: Final = 3600.0


def list_shipped(console: Console) -> None:
    """Print the scenarios that come with Greenroom."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("scenario", "virtual", "what"):
        table.add_column(column, no_wrap=column != "what")
    for name in shipped():
        scenario = load(name)
        table.add_row(name, _span(scenario.duration_s), f"{scenario.title}. [dim]{scenario.about}[/]")
    console.print(table)
    console.print("[dim]greenroom sim SCENARIO plays one; a file of your own too: docs/simulation.md[/]")


def play(console: Console, name: str, *, png: Path | None, seed: int | None, as_json: bool) -> Result:
    """Play a scenario, print the figures and draw them.

    Args:
        console: where to.
        name: of a file or a shipped scenario.
        png: where to draw; None: nowhere.
        seed: instead of the scenario's own.
        as_json: print JSON instead of tables.

    Raises:
        ScenarioInvalid: it can't be played.
        InvariantBroken: the scheduler did what it must never do.
    """
    # Launchers that are away are a part of the play, not news.
    configure_logging("greenroom", level="error", form="console", instance_id="")
    scenario = load(name)
    if seed is not None:
        scenario = msgspec.structs.replace(scenario, seed=seed)
    with _progress(console, shown=not as_json) as progress:
        result = simulate(scenario, progress)
    if as_json:
        known = {"summary": result.summary, "effort": result.effort}
        console.print(msgspec.json.encode(known).decode(), soft_wrap=True, highlight=False, markup=False)
    else:
        show(console, scenario, result)
    if png is not None:
        from greenroom.devtools.sim.draw import draw  # noqa: PLC0415 - takes a second to load

        draw(scenario, result, png)
        if not as_json:
            console.print(f"drawn to {png}", highlight=False)
    return result


def show(console: Console, scenario: Scenario, result: Result) -> None:
    """Print the figures for people."""
    summary, effort = result.summary, result.effort
    console.print(f"[bold]{summary.title}[/]  [dim]{scenario.about}[/]", highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in _rows(summary):
        table.add_row(name, text)
    table.add_row("planning", _effort(effort, summary.virtual_s))
    console.print(table, highlight=False)


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in summary.outcomes.items())
    yield "sessions", f"{summary.sessions:,}: {outcomes}"
    if summary.reasons:
        yield "why not", _counts(summary.reasons)
    yield "waited", _waits(summary.waited)
    if len(summary.waited_by_tenant) > 1:
        for tenant, waits in summary.waited_by_tenant.items():
            yield f"  {tenant}", _waits(waits)
    yield "most waiting", f"{summary.most_waiting:,}"
    if summary.requeued:
        yield "requeued", _counts(summary.requeued)
    hours = f"{summary.utilisation:.1%} busy: {summary.busy_hours:,.1f} of {summary.slot_hours:,.1f} slot-hours, "
    yield "slots", f"{hours}{summary.most_slots:,} slots at most, {summary.runner_hours:,.1f} runner-hours"
    if summary.cold_leases:
        yield "cold starts", f"{summary.cold_leases:,} leased, {summary.cold_started:,} claimed"
    if summary.pool_decisions:
        yield "pools", _counts(summary.pool_decisions)


def _waits(waits: Waits) -> str:
    return (
        f"p50 {_short(waits.p50_s)}, p95 {_short(waits.p95_s)}, p99 {_short(waits.p99_s)}, "
        f"longest {_short(waits.longest_s)} ({waits.count:,} placed)"
    )


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _effort(effort: Effort, virtual_s: float) -> str:
    return (
        f"{effort.plans:,} plans of {effort.plan_mean_ms:.3g} ms, the longest {effort.plan_longest_ms:.3g} ms, "
        f"longest look at the pools {effort.look_longest_ms:.3g} ms; {_span(virtual_s)} took {effort.took_s:.1f} s here"
    )


def _span(seconds: float) -> str:
    return f"{seconds / _HOUR_S:.3g} h" if seconds >= _HOUR_S else f"{seconds / 60:.3g} min"


@contextmanager
def _progress(console: Console, *, shown: bool) -> Generator[OnProgress | None]:
    """Show how far it is, once it has taken a while and if anybody looks on."""
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("simulating", total=1.0)
    began = time.perf_counter()
    begun = False

    def on_progress(share: float) -> None:
        nonlocal begun
        if not begun and time.perf_counter() - began > _PATIENCE_S:
            begun = True
            bar.start()
        bar.update(task, completed=share)

    try:
        yield on_progress
    finally:
        if begun:
            bar.stop()
