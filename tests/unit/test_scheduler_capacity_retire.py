"""Retiring: only idle runners, patiently; never a live session."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from greenroom.scheduler import pool_memory
from greenroom.scheduler.capacity import assess, warm_free
from greenroom.scheduler.pool_facts import PoolFacts
from greenroom.scheduler.pool_memory import PoolMemory
from tests.support.capacity_pools import LivingPool, at, instance, policy, pool, runner

HOW = policy(baseline=4, idle_retire_s=300, cooldown_s=60)


def idle(facts: PoolFacts, seconds: float = 300, **fields: Any) -> PoolMemory:
    """Return the memory of a pool that has looked like that for so long."""
    return pool_memory.observed(PoolMemory(**fields), facts, at(-seconds))


def steps(facts: PoolFacts, memory: PoolMemory, how: Any = HOW, now: float = 0) -> list[tuple[str, str]]:
    """Return the steps that are due, as runner and step."""
    seen = pool_memory.observed(memory, facts, at(now))
    return [(each.runner_id, each.step) for each in assess(at(now), facts, how, (), seen).retire]


def test_in_two_steps() -> None:
    """An idle runner is told to drain, and let go when it is heard draining and empty."""
    facts = pool(runner("a", 1), runner("b"), runner("c"))
    memory = idle(facts)
    assert steps(facts, memory) == [("b", "drain")]

    memory = pool_memory.drained(pool_memory.observed(memory, facts, at(0)), "b", at(0))
    assert steps(facts, memory, now=1) == []
    drained = pool(runner("a", 1), runner("b", draining=True), runner("c"))
    assert steps(drained, memory, now=2) == [("b", "retire")]

    memory = pool_memory.retired(pool_memory.observed(memory, drained, at(2)), "b", at(2))
    assert steps(drained, memory, now=3) == []


def test_a_session_that_slipped_in() -> None:
    """A runner that got a session before it drained serves it to its end, and goes then."""
    facts = pool(runner("a", 1), runner("b"), runner("c"))
    memory = pool_memory.drained(idle(facts), "b", at(0))

    assert steps(pool(runner("a", 1), runner("b", 1, draining=True), runner("c")), memory, now=2) == []
    assert steps(pool(runner("a", 1), runner("b", draining=True), runner("c")), memory, now=900) == [("b", "retire")]


def test_a_slot_that_is_too_small_for_some_is_not_spare() -> None:
    """What a runner's going takes away, and what is left without it, is counted as room for whatever may come."""
    roomy = pool(runner("a"), runner("b"), runner("c"))
    small = pool(runner("a", room=1), runner("b", room=1), runner("c", room=1))
    assert steps(roomy, idle(roomy)) == [("a", "drain")]
    assert steps(small, idle(small)) == []
    assert [warm_free(facts.runners) for facts in (roomy, small)] == [12, 3]


def test_a_lease_counts_as_a_session() -> None:
    """A runner with a lease that it doesn't report so far isn't idle."""
    leased = runner("b", used=1, held=frozenset())

    assert steps(pool(runner("a"), leased), idle(pool(runner("a"), leased))) == []


@pytest.mark.parametrize("seconds", [0, 299])
def test_patience(seconds: float) -> None:
    """A runner that hasn't been idle for long enough stays."""
    facts = pool(runner("a"), runner("b"), runner("c"))

    assert steps(facts, idle(facts, seconds)) == []


def test_idle_anew() -> None:
    """A session in between makes the wait begin anew."""
    facts = pool(runner("a", 1), runner("b"), runner("c"))
    memory = pool_memory.observed(idle(facts), pool(runner("a", 1), runner("b", 1), runner("c", 1)), at(-10))

    assert steps(facts, memory) == []


def test_what_is_left_is_more_than_wanted() -> None:
    """A runner goes only if without it more slots are warm than wanted, or the next caller would bring it back."""
    facts = pool(runner("a"), runner("b"))

    assert steps(facts, idle(facts), policy(baseline=3)) == [("a", "drain")]
    assert steps(facts, idle(facts), policy(baseline=4)) == []


def test_the_longest_idle_goes() -> None:
    """Of those that may go the longest idle one goes, one at a time for each cooldown."""
    memory = idle(pool(runner("a", 1), runner("b"), runner("c"), runner("d")), 900)
    facts = pool(runner("a"), runner("b"), runner("c"), runner("d"))
    memory = pool_memory.observed(memory, facts, at(-400))
    assert steps(facts, memory) == [("b", "drain")]

    memory = pool_memory.drained(memory, "b", at(0))
    facts = pool(runner("a"), runner("b", draining=True, used=1), runner("c"), runner("d"))
    assert steps(facts, memory, now=59) == []
    assert steps(facts, memory, now=60) == [("c", "drain")]


def test_the_last_or_none() -> None:
    """Where a group shrinks from its end, only the runner of the highest ordinal goes, and only if that one is idle."""
    able = pool(runner("a"), runner("b"), runner("c"), retires="last")
    busy = pool(runner("a"), runner("b"), runner("c", 1), retires="last")

    assert steps(able, idle(able)) == [("c", "drain")]
    assert steps(busy, idle(busy)) == []


@pytest.mark.parametrize(
    "instances",
    [
        (instance("i-a", ordinal=0), instance("i-b", ordinal=1), instance("i-x", ordinal=2, state="pending")),
        (instance("i-a", ordinal=0), instance("i-b", ordinal=1), instance("i-x")),
        (instance("i-a", ordinal=0), instance("i-b", ordinal=1), instance("i-x", ordinal=1)),
    ],
)
def test_the_last_is_uncertain(instances: Any) -> None:
    """While it isn't certain which instance a smaller group would lose, none goes."""
    facts = pool(runner("a"), runner("b"), runner("c", instance=""), retires="last", instances=instances)
    # So patient that the cloud guard has no part in it.
    how = replace(HOW, cold_deadline_s=9999)

    assert steps(facts, idle(facts), how) == []


def test_ordinals_from_heartbeats() -> None:
    """Where the launcher doesn't number its instances the runners do."""
    runners = [runner(name, ordinal=number) for number, name in enumerate("abc")]
    facts = pool(*runners, retires="last", instances=tuple(instance(f"i-{name}") for name in "abc"))

    assert steps(facts, idle(facts)) == [("c", "drain")]


@pytest.mark.parametrize(
    "fields", [{"retires": "none"}, {"waiting": 1}, {"hearing": False}, {"instances": None}, {"instances": ()}]
)
def test_nobody_goes(fields: dict[str, Any]) -> None:
    """No runner goes while somebody waits, while the view is clouded, or where it isn't the launcher's."""
    facts = pool(runner("a"), runner("b"), runner("c"), **fields)

    assert steps(facts, idle(facts)) == []


def test_nobody_goes_under_the_cloud_guard() -> None:
    """While the launcher has more up than reports in no runner goes, however idle those that are heard look."""
    facts = pool(runner("a"), runner("b"), runner("c"))
    cut = pool(runner("a"), runner("b"), instances=facts.instances)
    memory = pool_memory.observed(idle(facts), cut, at(0))

    assert steps(cut, memory, policy(baseline=1), now=4) == [("a", "drain")]
    assert steps(cut, memory, policy(baseline=1), now=5) == []


def test_a_pool_that_is_not_scaled() -> None:
    """A pool whose maximum is 0 keeps its runners, and so does one that has been resized just now."""
    facts = pool(runner("a"), runner("b"), runner("c"))

    assert steps(facts, idle(facts), policy(maximum=0)) == []
    assert steps(facts, idle(facts, resized_at=at(-59))) == []
    assert steps(facts, idle(facts, resized_at=at(-60))) == [("a", "drain")]


def test_cold_runners_go_by_themselves() -> None:
    """A runner that was launched for one session isn't of the group, and isn't retired."""
    facts = pool(runner("a", 1), runner("b", claim="s1-1"), runner("c", 1), runner("d", 1))

    assert steps(facts, idle(facts), policy(maximum=9)) == []


def test_drained_by_somebody_else() -> None:
    """A runner that drains by another's command isn't ended here: it may be about to be replaced."""
    facts = pool(runner("a"), runner("b", draining=True))

    assert steps(facts, idle(facts), policy(baseline=4)) == []


def test_a_command_that_was_lost() -> None:
    """A runner that isn't heard draining is told again, if it may still go."""
    facts = pool(runner("a", 1), runner("b"), runner("c"))
    memory = pool_memory.drained(idle(facts), "b", at(0))

    assert pool_memory.observed(memory, facts, at(9)).retiring == {"b": at(0)}
    assert pool_memory.observed(memory, facts, at(11)).retiring == {}
    assert steps(facts, memory, now=61) == [("b", "drain")]


@given(
    st.lists(
        st.builds(
            runner,
            st.uuids().map(str),
            st.integers(0, 4),
            draining=st.booleans(),
            braking=st.booleans(),
            claim=st.sampled_from([None, None, "s1-1"]),
            instance=st.sampled_from(["i-0", "i-1", "i-2", "i-3", ""]),
        ),
        max_size=5,
        unique_by=lambda each: each.instance or each.id,
    ),
    st.sampled_from(["any", "last", "none"]),
    st.integers(0, 8),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_only_the_idle(runners: list[Any], retires: Any, baseline: int, told: bool) -> None:  # noqa: FBT001
    """Whatever the pool: who is told to drain has no session, and who is let go has drained for it and has none."""
    instances = tuple(instance(f"i-{number}", ordinal=number) for number in range(4))
    facts = pool(*runners, retires=retires, instances=instances)
    memory = idle(facts, 400)
    if told:
        memory = replace(memory, retiring={each.id: at(-1) for each in runners})
    seen = pool_memory.observed(memory, facts, at(0))
    found = assess(at(0), facts, policy(baseline=baseline, cold_deadline_s=9999), (), seen)
    known = {each.id: each for each in runners}

    assert len(found.retire) <= 1
    for step in found.retire:
        gone = known[step.runner_id]
        assert gone.used == 0
        assert gone.claim is None
        assert gone.draining == (step.step == "retire")
        assert retires == "any" or step.instance.ordinal == 3
        assert step.step == "retire" or found.state.warm - gone.slots > found.target


def test_a_quiet_night() -> None:
    """When the day's calls are over the group goes down to its baseline, one by one."""
    living = LivingPool(policy(baseline=2, idle_retire_s=60, cooldown_s=10), retires="last")
    living.live(600, 0.3)
    busy = living.sizes[-1]
    living.live(2400, 0)

    assert busy > 10
    assert living.sizes[-1] == 1
    assert all(before - after <= 1 for before, after in zip(living.sizes, living.sizes[1:], strict=False))
    assert {sessions for _, sessions in living.retired} == {0}
