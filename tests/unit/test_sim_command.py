"""`greenroom sim`."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from greenroom.devtools.sim import report
from greenroom.devtools.sim.command import sim
from greenroom.devtools.sim.measure import Effort, Summary
from greenroom.devtools.sim.scenario import ScenarioInvalid, shipped
from tests.support.sim_scenarios import GROWING, toml


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Return the path of a scenario in which everything there is to draw happens."""
    faults: list[dict[str, Any]] = [
        {"kind": "launcher_away", "from_s": 20, "to_s": 30},
        {"kind": "runner_loss", "at_s": 40, "share": 0.5},
        {"kind": "leader_change", "at_s": 50},
    ]
    path = tmp_path / "mine.toml"
    path.write_bytes(toml(GROWING | {"duration_s": 60, "faults": faults}))
    return str(path)


def invoke(*arguments: str) -> Result:
    """Run the command."""
    found = CliRunner().invoke(sim, arguments)
    if found.exception is not None:
        raise found.exception
    return found


def test_without_a_scenario_it_lists_those_that_are_shipped() -> None:
    """With how long they are and what there is to see."""
    output = invoke().output
    assert all(name in output for name in shipped())
    assert "24 h" in output


def test_it_prints_the_figures(file: str) -> None:
    """Each on a line of its own."""
    output = invoke(file).output
    for word in ("sessions", "waited", "slots", "pools", "planning"):
        assert word in output


def test_programs_get_json(file: str) -> None:
    """Nothing else is printed; the seed may be another one."""
    found = msgspec.json.decode(invoke(file, "--json", "--seed", "42").output)
    summary = msgspec.convert(found["summary"], Summary)
    assert summary.seed == 42
    assert msgspec.convert(found["effort"], Effort).plans > 0


def test_it_draws(file: str, tmp_path: Path) -> None:
    """A PNG, faults included."""
    png = tmp_path / "sim.png"
    assert str(png.name) in invoke(file, "--png", str(png)).output.replace("\n", "")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_scenario_is_an_error_of_ours() -> None:
    """So that the command says it in one line."""
    with pytest.raises(ScenarioInvalid):
        invoke("nowhere")


def test_progress_is_shown_to_whoever_looks_on(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has taken a while; here at once."""
    monkeypatch.setattr(report, "_PATIENCE_S", -1.0)
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=True)
    report.play(console, file, png=None, seed=None, as_json=False)
    assert "simulating" in seen.getvalue()
    assert "planning" in seen.getvalue()
