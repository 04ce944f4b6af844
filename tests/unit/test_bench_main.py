"""The exit code of `make bench`."""

import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.report import Report, Row
from tests.bench.soak import LEFT_BEHIND


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (Row(key=LEFT_BEHIND, value=1, unit="", met=False), 1),
        (Row(key=LEFT_BEHIND, value=0, unit="", met=True), 0),
        (Row(key="density.sessions", value=1, unit="", met=False), 0),
    ],
)
def test_what_is_left_behind_fails(row: Row, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails if sessions have left something behind, and not for figures that are the machine's."""

    async def measure(report: Report) -> None:
        report.rows.append(row)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "configure_logging", lambda *_, **__: None)
    monkeypatch.setitem(bench.BENCHMARKS, "soak", measure)
    monkeypatch.setattr(sys, "argv", ["tests.bench", "soak"])
    assert bench.main() == code
