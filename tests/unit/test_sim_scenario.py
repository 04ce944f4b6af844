"""Scenario files: what they may say, and how they are told that they may not."""

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from greenroom.devtools.sim import arrivals
from greenroom.devtools.sim.faults import LauncherAway
from greenroom.devtools.sim.scenario import Burst, Callers, Diurnal, Recorded, ScenarioInvalid, load, parse, shipped
from greenroom.devtools.sim.spans import Constant, Exponential, Lognormal, Span, chance_of
from tests.support.sim_scenarios import GROWING, PLAIN, scenario, toml

CALLERS: dict[str, Any] = {"when": {"kind": "constant", "per_s": 1}}
AWAY: dict[str, Any] = {"kind": "launcher_away", "from_s": 1, "to_s": 2}


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_can_be_read(name: str) -> None:
    """Each has a title and says what there is to see."""
    known = load(name)
    assert known.title
    assert known.about
    assert load(str(shipped()[name])) == known


def test_the_scenario_of_the_documentation_can_be_read() -> None:
    """It names most fields there are."""
    page = (Path(__file__).parents[2] / "docs/simulation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    known = parse(block.encode(), "docs/simulation.md")
    assert known.policy.pool("default").cold_starts == 10
    assert known.faults


def test_a_scenario_is_read_as_it_is_written() -> None:
    """Policy and patience are the scheduler's own structs."""
    known = scenario(GROWING, faults=[AWAY], scheduler={"lease_s": 4}, seed=9)
    assert known.policy.pool("default").cold_starts == 10
    assert known.scheduler.lease_s == 4
    assert known.seed == 9
    assert known.faults == (LauncherAway(from_s=1, to_s=2),)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"duration_s": "long"}, "/duration_s", "Expected `float`, got `str`"),
        ({"duration_s": 0}, "/duration_s", "Expected `float` > 0"),
        ({"speed": 2}, "", "unknown field `speed`"),
        ({"callers": []}, "/callers", "length >= 1"),
        ({"callers": [{}]}, "/callers/0", "missing required field `when`"),
        ({"callers": [{"when": {"kind": "sometimes"}}]}, "/callers/0/when/kind", "sometimes"),
        ({"callers": [CALLERS | {"length": {"kind": "lognormal", "median_s": 1}}]}, "/callers/0/length", "p95_s"),
        ({"callers": [CALLERS | {"pool": "gpu"}]}, "/callers/0/pool", "there is no pool gpu"),
        ({"callers": [CALLERS | {"begins_s": 9, "ends_s": 9}]}, "/callers/0/ends_s", "it isn't after begins_s"),
        ({"callers": [{"when": {"kind": "recorded", "file": "no.txt"}}]}, "/callers/0/when/file", "no file no.txt"),
        (
            {"callers": [{"when": {"kind": "diurnal", "low_per_s": 2, "peak_per_s": 1}}]},
            "/callers/0/when/low_per_s",
            "above peak_per_s",
        ),
        ({"pools": [{"slots": 0}]}, "/pools/0/slots", ">= 1"),
        ({"policy": {"limits": [{"id": "l", "scope": "tenant", "max": 1}]}}, "/policy/limits/0", "`max`"),
        ({"policy": {"pools": [{"name": "gpu"}]}}, "/policy/pools/0/name", "there is no pool gpu"),
        ({"scheduler": {"lease": 1}}, "/scheduler", "`lease`"),
        ({"faults": [AWAY]}, "/faults/0/kind", "there is no launcher"),
        (
            {"faults": [{"kind": "partition", "from_s": 5, "to_s": 5, "share": 0.5}]},
            "/faults/0/to_s",
            "it isn't after from_s",
        ),
        ({"faults": [{"kind": "runner_loss", "at_s": 5, "share": 2}]}, "/faults/0/share", "<= 1"),
        ({"faults": [{"kind": "runner_loss", "at_s": 5, "share": 1, "pool": "x"}]}, "/faults/0/pool", "no pool x"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], pointer: str, words: str) -> None:
    """The error has the place and what is wrong there, and begins with the file."""
    with pytest.raises(ScenarioInvalid) as raised:
        scenario(**fields)
    (problem,) = raised.value.errors
    assert problem.pointer == pointer
    assert words in problem.detail
    assert raised.value.detail.startswith("test.toml: ")


def test_a_time_without_a_zone_is_refused() -> None:
    """Schedules have zones, so the beginning needs one too."""
    text = toml(PLAIN) + b"\nbegins = 2026-01-05T08:00:00"
    with pytest.raises(ScenarioInvalid, match=r"begins.*time zone"):
        parse(text, "x")


@pytest.mark.parametrize("text", [b"title = ", b"\xff\xfe"])
def test_what_is_not_toml_is_told_so(text: bytes) -> None:
    """With the parser's words."""
    with pytest.raises(ScenarioInvalid, match="isn't TOML"):
        parse(text, "x")


def test_a_name_that_nothing_has_is_told_which_there_are(tmp_path: Path) -> None:
    """A misspelt name of a shipped one is the usual case; a folder isn't a file."""
    with pytest.raises(ScenarioInvalid, match="flash_crowd"):
        load("flash_mob")
    with pytest.raises(ScenarioInvalid, match="can't be read"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("span", "median", "p95"),
    [
        (Constant(s=3.0), 3.0, 3.0),
        (Exponential(mean_s=10.0), 6.93, 29.96),
        (Lognormal(median_s=120.0, p95_s=600.0), 120.0, 600.0),
    ],
)
def test_lengths_are_distributed_as_they_say(span: Span, median: float, p95: float) -> None:
    """Within a twentieth, of ten thousand."""
    chance = chance_of(1, "test")
    drawn = sorted(span.draw(chance) for _ in range(10_000))
    assert statistics.median(drawn) == pytest.approx(median, rel=0.05)
    assert drawn[9500] == pytest.approx(p95, rel=0.05)


def test_one_chance_does_not_disturb_another() -> None:
    """The same name draws the same, whatever else is drawn."""
    first = chance_of(1, "a")
    chance_of(1, "b").random()
    assert first.random() == chance_of(1, "a").random()
    assert chance_of(1, "a").random() != chance_of(2, "a").random()


def times(callers: Callers, duration_s: float, **fields: Any) -> list[float]:
    """Return when callers come to a scenario that begins at midnight."""
    known = scenario(duration_s=duration_s, **fields)
    return list(arrivals.times(known, callers, chance_of(1, "test")))


def count(at: list[float], since: float, until: float) -> int:
    """Return how many of the times are within a span."""
    return sum(since <= each < until for each in at)


def test_a_day_has_its_peak_when_it_should() -> None:
    """And its low twelve hours from it; the mean of a cosine is half its height."""
    at = times(Callers(when=Diurnal(low_per_s=0.0, peak_per_s=0.2, peak_hour=15)), 86400)
    assert count(at, 14.5 * 3600, 15.5 * 3600) == pytest.approx(0.2 * 3600, rel=0.1)
    assert count(at, 2.5 * 3600, 3.5 * 3600) < 20
    assert len(at) == pytest.approx(0.1 * 86400, rel=0.05)


def test_a_burst_is_as_high_and_as_long_as_it_says() -> None:
    """Before and after it nothing is different."""
    at = times(Callers(when=Burst(per_s=2, at_s=100, for_s=50, times=10)), 300)
    assert count(at, 100, 150) == pytest.approx(1000, rel=0.1)
    assert count(at, 0, 100) == pytest.approx(200, rel=0.2)
    assert count(at, 150, 300) == pytest.approx(300, rel=0.2)


def test_regular_callers_come_by_the_clock() -> None:
    """From when they begin to when they end."""
    known = scenario(
        callers=[{"when": {"kind": "constant", "per_s": 0.5, "regular": True}, "begins_s": 3, "ends_s": 8}]
    )
    assert list(arrivals.times(known, known.callers[0], chance_of(1, "x"))) == [3.0, 5.0, 7.0]


def test_recorded_callers_come_as_they_came(tmp_path: Path) -> None:
    """One time a line, comments and gaps allowed; what is beyond the end doesn't count."""
    (tmp_path / "calls.txt").write_text("# seconds\n7.5\n\n1 # first\n400\n")
    known = scenario(callers=[{"when": {"kind": "recorded", "file": "calls.txt"}}], folder=tmp_path)
    assert isinstance(known.callers[0].when, Recorded)
    assert list(arrivals.times(known, known.callers[0], chance_of(1, "x"))) == [1.0, 7.5]
    (tmp_path / "calls.txt").write_text("1\nsoon\n")
    with pytest.raises(ScenarioInvalid, match="line 2 isn't a number of seconds: soon"):
        list(arrivals.times(known, known.callers[0], chance_of(1, "x")))
