"""The shipped scenarios, or parts of them, give the figures that are kept in `golden_sim/`.

After a change that is meant to change them: `GREENROOM_RENEW_GOLDEN=1 pytest tests/unit/test_sim_golden.py`, then read
the difference before it is committed.
"""

import functools
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.devtools.sim.measure import Summary
from greenroom.devtools.sim.scenario import shipped
from greenroom.devtools.sim.world import Result
from tests.support.sim_scenarios import part

GOLDEN = Path(__file__).parent / "golden_sim"
# A day takes most of a minute: of those the part that has the most in it.
PARTS: dict[str, dict[str, Any]] = {
    "office_day": {"begins": datetime(2026, 1, 5, 6, 30, tzinfo=UTC), "duration_s": 5400.0},
    "ten_thousand": {"begins": datetime(2026, 1, 5, 11, 59, tzinfo=UTC), "duration_s": 120.0, "look_s": 600.0},
}


@functools.cache
def result(name: str) -> Result:
    """Return what a shipped scenario, or its part, comes to; played once for all tests here."""
    return part(name, **PARTS.get(name, {}))


@pytest.mark.parametrize("name", shipped())
def test_figures_are_as_they_were(name: str) -> None:
    """The same seed, the same figures: on any machine, in any order of whatever has no order."""
    path = GOLDEN / f"{name}.json"
    summary = result(name).summary
    if os.environ.get("GREENROOM_RENEW_GOLDEN"):
        path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    assert summary == msgspec.json.decode(path.read_bytes(), type=Summary)


def test_a_flash_crowd_loses_nobody() -> None:
    """Twenty times as many callers for ten seconds: some wait for a cold start, all are served."""
    summary = result("flash_crowd").summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert summary.waited.longest_s < 30


def test_a_greedy_tenant_keeps_a_modest_one_waiting_for_the_next_slot_only() -> None:
    """A slot of 80 comes free each 120/80 s: who is below his share gets it, so 95 % wait for four of these at most."""
    waited = result("greedy_tenant").summary.waited_by_tenant
    assert waited["modest"].p95_s <= 4 * 120 / 80
    assert waited["greedy"].p50_s > 30


def test_the_modest_tenant_loses_nobody() -> None:
    """All that expire are the greedy one's."""
    summary = result("greedy_tenant").summary
    placed = {tenant: waits.count for tenant, waits in summary.waited_by_tenant.items()}
    assert summary.sessions - sum(placed.values()) == summary.outcomes["expired"]
    assert placed["modest"] == pytest.approx(0.15 * 1800, rel=0.1)


def test_after_the_launcher_was_down_the_fleet_catches_up() -> None:
    """Within two minutes of its return nobody waits any more, although callers are still three times as many."""
    moments = result("launcher_down").moments
    down = [each for each in moments if 600 < each.at_s < 900]
    after = [each for each in moments if 1020 < each.at_s < 1200]
    assert max(each.waiting for each in down) > 20
    assert max(each.slots for each in down) <= next(each.slots for each in moments if each.at_s >= 600)
    assert max(each.waiting for each in after) <= 5
    assert max(each.p95_s or 0 for each in after) < 30


def test_the_loss_of_a_third_costs_its_calls_alone() -> None:
    """Nobody who waited or came later notices."""
    summary = result("third_lost").summary
    assert summary.outcomes["completed"] + summary.outcomes["lost"] == summary.sessions
    assert summary.outcomes["lost"] < 240 / 3
    assert summary.waited.p99_s < 1


def test_light_and_heavy_bots_share_hosts() -> None:
    """A rush for the heavy bot is served, by runners that are launched for it, while light calls go on at once.

    That no host has more than it holds is checked at every step.
    """
    found = result("mixed_bots")
    assert found.summary.outcomes == {"completed": found.summary.sessions}
    assert found.summary.waited_by_tenant["calls"].p95_s < 0.1
    assert found.summary.waited_by_tenant["looks"].longest_s > 5
    assert max(each.slots for each in found.moments) > 6 * 12


def test_ten_thousand_runners_are_planned_for_in_time() -> None:
    """A plan with one newcomer takes a fraction of a millisecond, whatever the fleet."""
    found = result("ten_thousand")
    assert found.summary.most_slots == 250_000
    assert found.effort.plan_mean_ms < 5
