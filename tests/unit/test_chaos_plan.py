"""The plans of the recorder's chaos, and what its calls consist of."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chaos.calls import CALLS, RATE, SIDES, Heard, Said, audio, calls_of, recording
from tests.support.chaos.plan import (
    FIRST_KILL_S,
    LONGEST_AWAY_S,
    MOST_KILLS_MORE,
    SHORTEST_LIFE_S,
    Kill,
    plan_of,
)

seeds = st.integers(min_value=0, max_value=2**32)


@settings(max_examples=20)
@given(seeds)
def test_a_seed_is_a_plan(seed: int) -> None:
    """The same seed gives the same plan and the same calls."""
    assert plan_of(seed) == plan_of(seed)
    assert calls_of(seed) == calls_of(seed)


@given(seeds)
def test_everybody_is_killed(seed: int) -> None:
    """Each run kills everything that there is at least once, and a few things again."""
    plan = plan_of(seed)
    assert {kill.victim for kill in plan.kills} == set(plan.mortals)
    assert len(plan.mortals) <= len(plan.kills) <= len(plan.mortals) + MOST_KILLS_MORE


@given(seeds)
def test_nobody_is_killed_twice_at_once(seed: int) -> None:
    """Who is killed is there: it has been back for a moment since the last time. Nothing stays away for long."""
    lives: dict[str, list[Kill]] = defaultdict(list)
    for kill in plan_of(seed).kills:
        assert kill.at_s >= FIRST_KILL_S
        assert 0 <= kill.away_s <= LONGEST_AWAY_S
        lives[kill.victim].append(kill)
    for kills in lives.values():
        assert all(after.at_s - before.back_s > SHORTEST_LIFE_S / 2 for before, after in pairwise(kills))


def test_orders_and_worlds_are_drawn() -> None:
    """Two hundred seeds have every order of the four kinds, one recorder and two, a bucket and a folder."""
    plans = [plan_of(seed) for seed in range(1, 201)]
    orders = {
        tuple(dict.fromkeys(kill.victim.partition("-")[0] for kill in plan.kills)) for plan in plans if plan.bucket
    }
    assert len(orders) == 4 * 3 * 2
    assert {(len(plan.recorders), plan.bucket) for plan in plans} == {(1, True), (1, False), (2, True), (2, False)}


@settings(max_examples=5)
@given(seeds)
def test_calls_can_be_told_apart(seed: int) -> None:
    """No two tracks share a stretch of samples, and none of them one with itself."""
    stretches = [
        audio(seed, call, side, RATE)[at : at + 20].tobytes()
        for call in range(CALLS)
        for side in SIDES
        for at in range(0, RATE, 1000)
    ]
    assert len(set(stretches)) == len(stretches)


@settings(max_examples=20)
@given(seeds)
def test_chunks_are_as_a_live_call_has_them(seed: int) -> None:
    """In order, a second at most, one behind the other; each call says something and is heard on both sides."""
    for call in calls_of(seed):
        assert [step.at_s for step in call.steps] == sorted(step.at_s for step in call.steps)
        assert all(step.at_s <= call.end_s for step in call.steps)
        assert any(isinstance(step, Said) for step in call.steps)
        for side in SIDES:
            chunks = [step for step in call.steps if isinstance(step, Heard) and step.side == side]
            assert chunks
            assert all(0 < chunk.samples <= RATE for chunk in chunks)
            assert all(one.position + one.samples <= other.position for one, other in pairwise(chunks))


def test_a_recording_is_what_was_sent() -> None:
    """Each chunk is at its place in the recording, on its side, and elsewhere there is silence."""
    call = calls_of(7)[3]
    whole = recording(7, call)
    for column, side in enumerate(SIDES):
        sent = audio(7, call.number, side, call.samples)
        silent = np.ones(call.samples, bool)
        for step in call.steps:
            if isinstance(step, Heard) and step.side == side:
                at = slice(step.position, step.position + step.samples)
                assert (whole[at, column] == sent[at]).all()
                silent[at] = False
        assert not whole[silent, column].any()
