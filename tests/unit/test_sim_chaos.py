"""Scenarios made of chance: fleets, callers, limits and faults that nobody thought of together.

What does this test do? It plays a scenario per seed and asserts nothing but what the world asserts at each step: no
runner beyond its slots, no limit exceeded, no call cut by scale-in, no session forgotten, each ended in one way.
How does it accomplish this? Everything in the scenario is drawn from the seed; so a failure is repeated by its seed.
"""

import random
from typing import Any

import pytest

from tests.support.sim_scenarios import GROWING, PLAIN, play


def fault(chance: random.Random, *, launcher: bool) -> dict[str, Any]:
    """Return something that goes wrong in the first minutes."""
    at_s = chance.uniform(5, 200)
    span = {"from_s": at_s, "to_s": at_s + chance.uniform(0.5, 70)}
    kinds: list[dict[str, Any]] = [
        {"kind": "runner_loss", "at_s": at_s, "share": chance.random()} | ({} if launcher else {"back_s": 20.0}),
        {"kind": "partition", "share": chance.random()} | span,
        {"kind": "leader_change", "at_s": at_s, "gap_s": chance.uniform(0.1, 6)},
        {"kind": "launcher_away"} | span,
        {"kind": "launcher_slow", "times": chance.uniform(2, 12)} | span,
    ]
    return chance.choice(kinds if launcher else kinds[:3])


def caller(chance: random.Random, number: int) -> dict[str, Any]:
    """Return callers of a tenant of their own."""
    return {
        "tenant": f"t{number}",
        "when": chance.choice(
            [
                {"kind": "constant", "per_s": chance.uniform(0.05, 1.0)},
                {"kind": "burst", "per_s": 0.1, "at_s": chance.uniform(10, 150), "for_s": 10.0, "times": 30},
            ]
        ),
        "length": {"kind": "exponential", "mean_s": chance.uniform(5, 60)},
        "patience_s": chance.uniform(2, 90),
        "priority": chance.choice(["high", "normal", "low"]),
        "on_loss": chance.choice(["never", "before_media", "always"]),
        "accounts": chance.choice([[], ["openai/main"]]),
    }


def limits(chance: random.Random) -> list[dict[str, Any]]:
    """Return some limits, or none."""
    known = [
        {"id": "at once", "scope": "tenant", "max_sessions": chance.randint(1, 20)},
        {"id": "refused", "scope": "tenant", "max_sessions": chance.randint(5, 20), "at_limit": "refuse"},
        {"id": "paced", "scope": "tenant", "max_starts_per_s": chance.choice([0.5, 1.0, 2.5, 7.0])},
        {"id": "account", "scope": "account", "max_sessions": chance.randint(1, 12)},
    ]
    return chance.sample(known, chance.randint(0, len(known)))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_no_promise_is_broken(seed: int) -> None:
    """Each session ends, in one way, and never were there more than there may be."""
    chance = random.Random(seed)
    grows = seed % 3 > 0
    base, slots = GROWING if grows else PLAIN, chance.randint(1, 6)
    policy: dict[str, Any] = {"limits": limits(chance)}
    if grows:
        pool = GROWING["policy"]["pools"][0]
        policy["pools"] = [
            pool
            | {"slots_per_runner": slots, "cold_starts": chance.choice([0, 2, 10]), "idle_retire_s": 10.0}
            | {"cold_deadline_s": chance.uniform(12, 60)}
        ]
    summary = play(
        base,
        seed=seed,
        pools=[{"runners": chance.randint(1, 6), "slots": slots, "standby": chance.randint(0, 3)}],
        callers=[caller(chance, number) for number in range(chance.randint(1, 3))],
        faults=[fault(chance, launcher=grows) for _ in range(chance.randint(1, 5))],
        policy=policy,
    ).summary
    assert sum(summary.outcomes.values()) == summary.sessions > 0
