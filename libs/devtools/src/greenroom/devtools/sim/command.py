"""`greenroom sim`: plays a scenario and shows what came of it."""

from pathlib import Path

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.command()
@click.argument("scenario", required=False)
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file.")
@click.option("--seed", type=int, help="Another chance than the scenario's own.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def sim(*, scenario: str | None, png: Path | None, seed: int | None, as_json: bool) -> None:
    """Play SCENARIO (a file, or the name of a shipped one) in virtual time; without it, list the shipped ones.

    The scheduler that decides is the real one; runners, callers, launcher and faults are the scenario's. Every step is
    checked: no runner beyond its slots, no limit exceeded, no session forgotten.
    """
    from greenroom.devtools.sim import report  # noqa: PLC0415 - `--help` must load neither the scheduler nor a plotter

    if scenario is None:
        report.list_shipped(_console)
    else:
        report.play(_console, scenario, png=png, seed=seed, as_json=as_json)
