"""What a benchmark measured: a table on the terminal, and `.greenroom/bench.json` for programs."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure; `expected` says in words what it should be."""

    key: str
    value: float
    unit: str
    note: str = ""
    expected: str = ""
    met: bool | None = None


class Report:
    """Collects figures."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[Row] = []

    def add(
        self, key: str, value: float, unit: str, *, note: str = "", expected: str = "", met: bool | None = None
    ) -> None:
        """Add a figure."""
        self.rows.append(Row(key=key, value=round(value, 3), unit=unit, note=note, expected=expected, met=met))

    def step(self, text: str) -> None:
        """Say what is being measured now."""
        self.console.print(f"[dim]{text} …[/]", highlight=False)

    def show(self) -> None:
        """Print all figures."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, justify in (("figure", "left"), ("value", "right"), ("", "left"), ("", "left"), ("expected", "left")):
            table.add_column(name, justify="right" if justify == "right" else "left")
        for row in self.rows:
            mark = {None: "", True: "[green]✓[/]", False: "[red]✗[/]"}[row.met]
            table.add_row(row.key, f"{row.value:,.2f}", row.unit, row.note, f"{row.expected} {mark}".strip())
        self.console.print(table)

    def write(self, path: Path) -> None:
        """Write all figures as JSON, over those of an earlier run with the same keys; what isn't finite is null."""
        known: dict[str, float | None] = {}
        if path.exists():
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, float | None])
        known |= {row.key: row.value for row in self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(known, order="sorted"), indent=2) + b"\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
