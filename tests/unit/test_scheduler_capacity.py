"""How many warm slots a pool should have, and what is launched for it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.policy import PoolPolicy, Reservation, Schedule
from greenroom.scheduler import pool_memory
from greenroom.scheduler.arrivals import Arrivals
from greenroom.scheduler.breaker import CLOSED, failed
from greenroom.scheduler.capacity import BotAllowance, ColdAllowance, allowed, spent, wanted
from greenroom.scheduler.pool_decisions import decisions
from greenroom.scheduler.pool_memory import PoolMemory
from tests.support.capacity_pools import NOW, LivingPool, at, instance, look, policy, pool, runner, steady


def target(memory: PoolMemory, *reservations: Reservation, **fields: Any) -> int:
    """Return the warm target of a pool."""
    return wanted(NOW, policy(**fields), reservations, memory)[0]


def booked(warm: int, begin: float = -60, end: float = 60) -> Reservation:
    """Return a reservation between two moments, in seconds from now."""
    return Reservation(id="r", pool="default", warm=warm, starts_at=at(begin), ends_at=at(end))


def broken(count: int = 3, **fields: Any) -> PoolMemory:
    """Return the memory of a pool whose last launches failed a moment ago."""
    breaker = CLOSED
    for number in range(count):
        breaker = failed(breaker, at(number - count), "exit code 1", begun_at=at(number - count - 1))
    return PoolMemory(breaker=breaker, **fields)


# ---------------------------------------------------------------------------- the target


def test_the_formula() -> None:
    """`max(baseline, arrivals/s × measured cold start p95 × safety) + variance term`, with its terms."""
    count, why = wanted(NOW, policy(baseline=2, safety=1.5), [], steady(2.0, cold_s=10))

    assert why["demand"] == pytest.approx(2.0 * 10 * 1.5)
    assert why["spare"] == pytest.approx(1.645 * 20**0.5, abs=0.001)
    assert count == 37
    assert set(why) >= {"arrivals_per_s", "cold_start_p95_s", "safety", "baseline", "minimum", "maximum"}


@pytest.mark.parametrize(
    ("rate", "fields", "slots"),
    [
        (0.0, {}, 0),
        (0.0, {"baseline": 3}, 3),
        (0.0, {"baseline": 3, "minimum": 5}, 5),
        (0.0, {"baseline": 300}, 100),
        (50.0, {}, 100),
        (50.0, {"maximum": 0}, 0),
        (0.001, {"baseline": 1}, 1),
    ],
)
def test_bounds(rate: float, fields: dict[str, Any], slots: int) -> None:
    """The target is never below the minimum or above the maximum, and a trickle doesn't ask for a slot."""
    assert target(steady(rate), **fields) == slots


def test_reservations_and_schedules_come_on_top() -> None:
    """What was asked for in so many words is added to what is reckoned, beyond the maximum too."""
    always = [
        Schedule(days=(0, 1, 2, 3, 4, 5, 6), begin=NOW.time(), end=NOW.time(), zone="UTC", warm=n) for n in (7, 5)
    ]

    assert target(steady(0.0), baseline=3, schedules=tuple(always)) == 3 + 7
    assert target(steady(0.0), booked(10), booked(4), baseline=3) == 3 + 14
    assert target(steady(50.0), booked(10), schedules=tuple(always)) == 100 + 7 + 10


def test_a_reservation_ends() -> None:
    """A reservation counts from as long before its begin as a cold start takes until its end."""
    assert [target(steady(0.0, cold_s=30), booked(9, begin, end)) for begin, end in [(31, 99), (30, 99), (-9, 0)]] == [
        0,
        9,
        0,
    ]


@given(
    st.tuples(st.floats(0, 50), st.floats(0, 50)),
    st.floats(1, 90),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 200),
)
@settings(max_examples=100, deadline=None)
def test_monotone_in_arrivals(
    rates: tuple[float, float], cold_s: float, baseline: int, minimum: int, maximum: int
) -> None:
    """More arrivals never make a lower target, and it keeps its bounds."""
    how = policy(baseline=baseline, minimum=minimum, maximum=maximum)
    less, more = (wanted(NOW, how, [], steady(rate, cold_s=cold_s))[0] for rate in sorted(rates))

    assert min(minimum, maximum) <= less <= more <= maximum


# ---------------------------------------------------------------------------- the group


def test_grows_to_the_target() -> None:
    """The baseline group is made as large as it takes for the free slots to reach the target."""
    assert look(pool(runner("a", 3)), policy(baseline=10)).scale == 1 + 3


def test_what_is_on_its_way_counts() -> None:
    """Runners that were launched and don't report in so far aren't launched again."""
    coming = (instance("i-a"), instance("i-b", state="pending"), instance("i-c", state="pending"))

    assert look(pool(runner("a"), instances=coming), policy(baseline=12)).scale is None
    assert look(pool(runner("a"), instances=coming), policy(baseline=13)).scale == 4
    assert look(pool(runner("a"), group=3), policy(baseline=12)).scale is None


def test_who_waits_counts() -> None:
    """Callers who wait will take the first slots, so as many more are launched."""
    assert look(pool(runner("a", 4), waiting=5), policy(baseline=4)).scale == 1 + 3


@pytest.mark.parametrize("fields", [{"draining": True}, {"braking": True}, {"claim": "s1-1"}])
def test_slots_of_no_use(fields: dict[str, Any]) -> None:
    """Free slots of runners that drain, brake or were launched for one session aren't warm."""
    found = look(pool(runner("a", **fields)), policy(baseline=4))

    assert found.state.warm == 0
    assert found.scale is not None


def test_never_shrinks_by_count() -> None:
    """A group that is larger than needed is never made smaller by setting its size."""
    runners = [runner(str(number)) for number in range(9)]

    assert look(pool(*runners), policy(baseline=1, idle_retire_s=1)).scale is None


def test_cooldown() -> None:
    """Between two changes of the group's size there is the cooldown, and it says so."""
    memory = pool_memory.scaled(PoolMemory(), at(-20), patience_s=90)
    found = look(pool(runner("a")), policy(baseline=10, cooldown_s=60), memory)

    assert found.scale is None
    assert (found.hold and found.hold.code, found.state.held_back_until) == ("cooldown", at(40))
    assert look(pool(runner("a")), policy(baseline=10, cooldown_s=20), memory).scale == 3


def test_a_size_that_was_refused() -> None:
    """What the launcher says when it refuses a size is shown, and it is asked again when it said."""
    memory = pool_memory.scale_refused(PoolMemory(), "deployment under way", at(-5), again_s=30)

    assert look(pool(runner("a")), policy(baseline=10), memory).state.held_back == "deployment under way"
    assert look(pool(runner("a")), policy(baseline=10), memory, now=at(25)).scale == 3


def test_a_pool_that_is_not_scaled() -> None:
    """A pool whose maximum is 0 keeps its size, and says so when somebody reserved slots in it."""
    plain = look(pool(runner("a", 4), waiting=3), policy(maximum=0))
    asked = look(pool(runner("a", 4), waiting=3), policy(maximum=0), reservations=(booked(5),))

    assert (plain.scale, plain.hold) == (None, None)
    assert (asked.scale, asked.hold and asked.hold.code, asked.target) == (None, "not-scaled", 5)


def test_max_runners() -> None:
    """No more runners are launched than may be up, cold ones included."""
    runners = [runner(str(number), 4) for number in range(4)]
    facts = pool(*runners, cold_leases=frozenset({"s1-1", "s2-1"}))

    assert look(facts, policy(baseline=80, max_runners=8)).scale == 4 + 2
    full = look(facts, policy(baseline=80, max_runners=6))
    assert (full.scale, full.state.held_back) == (None, "6 runners are up or on their way, of at most 6")


def test_callers_come_before_the_group() -> None:
    """The last runners that may be launched are for those who wait."""
    found = look(pool(runner("a", 4), waiting=2), policy(baseline=40, cold_starts=9, max_runners=4))

    assert (found.scale, found.cold.count) == (2, 2)


def test_an_unknown_zone_is_told() -> None:
    """A schedule in a zone that doesn't exist shows on the pool."""
    day = Schedule(days=(0,), begin=NOW.time(), end=NOW.time(), zone="Europe/Berlln", warm=9)

    assert "Europe/Berlln" in (look(pool(), policy(schedules=(day,))).state.held_back or "")


# ---------------------------------------------------------------------------- cold starts


def test_cold_starts_are_bounded_in_flight() -> None:
    """Overflow is dispatched, bounded in flight, with a deadline."""
    facts = pool(runner("a", 4), waiting=9, cold_leases=frozenset({"s1-1"}))
    cold = look(facts, policy(maximum=0, cold_starts=4, cold_deadline_s=45)).cold

    assert (cold.count, cold.reason, cold.deadline_s) == (3, "1 of at most 4 launches are under way", 45)


def test_no_cold_starts() -> None:
    """A pool without cold starts lets overflow wait."""
    cold = look(pool(runner("a", 4), waiting=9), policy(maximum=0)).cold

    assert (cold.count, cold.reason) == (0, "pool default has no cold starts")


def test_who_gets_a_cold_start_needs_no_slot() -> None:
    """A caller for whom a runner of his own is launched isn't counted again for the group."""
    assert look(pool(runner("a"), waiting=3), policy(baseline=4, cold_starts=3)).scale is None


def test_a_cold_start_that_shows_is_one() -> None:
    """A cold lease and the instance that was launched for it are one runner."""
    cold = instance("i-x", launch_id="s1-1", state="pending")
    facts = pool(instances=(cold,), cold_leases=frozenset({"s1-1"}))

    assert facts.launched == 1


def test_cold_starts_that_fail() -> None:
    """Pools that crash-loop are backed off by a breaker with a reason, and then one launch is tried."""
    facts = pool(runner("a", 4), waiting=9)
    held = look(facts, policy(baseline=9, cold_starts=9), broken())
    trial = look(facts, policy(baseline=9, cold_starts=9), broken(), now=at(30))

    assert (held.cold.count, held.scale) == (0, None)
    assert held.state.held_back == "3 launches failed in a row, last: exit code 1; next try in 9 s"
    assert held.state.held_back_until == at(9)
    assert (trial.cold.count, trial.scale, trial.hold and trial.hold.code) == (1, None, "breaker")


def test_one_try_by_the_group() -> None:
    """Where nobody waits the one try that a breaker lets through is a runner of the group."""
    assert look(pool(runner("a", 4)), policy(baseline=40, cold_starts=9), broken(), now=at(30)).scale == 2


def test_bots_that_crash() -> None:
    """Bots that crash-loop are backed off by themselves: others of the pool are launched for."""
    memory = PoolMemory(bots={"echo": broken().breaker})
    cold = look(pool(waiting=2), policy(cold_starts=5), memory).cold

    assert allowed(cold, "frontdesk").count == 5
    assert allowed(cold, "echo").count == 0
    assert allowed(cold, "echo").reason.startswith("3 starts of bot echo failed in a row, last: exit code 1")


def test_an_allowance_is_spent() -> None:
    """Each plan takes what it uses off the allowance, until the next assessment."""
    cold = ColdAllowance(count=2, reason="enough", bots={"echo": BotAllowance(count=1, reason="one try")})
    left = spent(cold, "echo")

    assert allowed(left, "echo") == BotAllowance(count=0, reason="one try")
    assert allowed(left, "frontdesk") == BotAllowance(count=1, reason="enough")
    assert spent(spent(left, "frontdesk"), "frontdesk").count == 0


# ---------------------------------------------------------------------------- what is in the way


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"hearing": False}, "not-hearing", "this scheduler hasn't been hearing the runners for long enough"),
        ({"launcher": "none"}, "no-launcher", "no launcher is set up: the fleet is fixed"),
        ({"instances": None}, "launcher-unreachable", "process doesn't answer"),
        ({"launcher_holds": "no capacity: memory"}, "launcher-held-back", "no capacity: memory"),
    ],
)
def test_nothing_is_launched(fields: dict[str, Any], code: str, text: str) -> None:
    """Where a launch can't be decided on or can't succeed nothing is launched, and the pool says why."""
    found = look(pool(runner("a", 4), waiting=9, **fields), policy(baseline=9, cold_starts=9))

    assert (found.scale, found.cold.count, found.cold.reason) == (None, 0, text)
    assert found.hold is not None
    assert (found.hold.code, found.state.held_back) == (code, text)


def test_a_fixed_fleet_is_not_held_back() -> None:
    """A pool that isn't meant to grow says nothing of a launcher that isn't there."""
    assert look(pool(runner("a", 4), launcher="none", waiting=9), PoolPolicy(name="default")).hold is None


def test_the_cloud_guard() -> None:
    """Where the launcher shows more running than reports in, nothing is launched."""
    heard = [runner(str(number), 4) for number in range(6)]
    how = policy(baseline=9, cold_starts=9)
    memory = pool_memory.observed(PoolMemory(), pool(*heard), NOW)
    cut = pool(*heard[:4], waiting=20, instances=pool(*heard).instances)
    memory = pool_memory.observed(memory, cut, at(10))

    early, later = (look(cut, how, memory, now=at(second)) for second in (12, 15))

    assert early.scale is not None
    assert (later.scale, later.cold.count, later.retire) == (None, 0, ())
    assert later.state.held_back == "process has 6 instances up, but 2 of them don't report in (i-4, i-5)"
    assert look(pool(*heard), how, pool_memory.observed(memory, pool(*heard), at(16)), now=at(16)).hold is None


def test_the_guard_waits_for_those_that_start() -> None:
    """An instance that was never heard may take as long as a cold start before it counts as missing."""
    facts = pool(runner("a", 4), instances=(instance("i-a"), instance("i-b", state="pending")))
    how = policy(baseline=40, cold_deadline_s=90)
    memory = pool_memory.observed(PoolMemory(), facts, NOW)

    assert look(facts, how, memory, now=at(89)).hold is None
    assert (hold := look(facts, how, memory, now=at(90)).hold) is not None
    assert hold.code == "cloud-guard"


# ---------------------------------------------------------------------------- what is told


def test_the_state_of_a_pool() -> None:
    """An assessment shows the pool as it stands."""
    state = look(
        pool(runner("a", 4), runner("b", 1), runner("c", draining=True), waiting=2), policy(baseline=1), steady(1.0)
    ).state

    assert (state.runners, state.draining, state.slots, state.busy, state.warm, state.waiting) == (3, 1, 12, 5, 3, 2)
    assert (state.instances, state.cold_start_p95_s, state.arrivals_per_s) == (3, 10, pytest.approx(1.0))
    assert (state.launcher, state.target_why["baseline"]) == ("process", 1)


def test_decisions_are_told_once() -> None:
    """A change of size and the beginning and end of a hold are decisions, with what they were made from."""
    facts, how = pool(runner("a", 4), waiting=2), policy(baseline=4)
    grows, held = look(facts, how), look(facts, how, broken())
    still = look(facts, how, broken(), now=at(1))

    scale, *_ = decisions(None, grows, NOW, policy_revision=7)
    assert (scale.decision, scale.inputs["count"], scale.inputs["waiting"], scale.policy_revision) == ("scale", 3, 2, 7)
    assert "0 warm slots free and 2 callers waiting, 4 wanted" in scale.text
    assert [(each.decision, each.reason) for each in decisions(grows, held, NOW)] == [("hold_back", "breaker")]
    assert decisions(held, still, NOW) == ()
    assert [each.reason for each in decisions(held, grows, NOW)] == ["warm-below-target", "over"]


# ---------------------------------------------------------------------------- over time


@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0])
def test_a_constant_load_comes_to_rest(rate: float) -> None:
    """Under a constant load the group reaches a size and keeps it."""
    living = LivingPool(policy(baseline=2, idle_retire_s=120, cooldown_s=20))
    living.live(2400, rate)

    assert len(set(living.sizes[-900:])) == 1
    assert living.assessments[-1].state.warm >= living.assessments[-1].target > 0


def test_a_flash_crowd_raises_at_once() -> None:
    """A flash crowd raises target and group within one assessment."""
    living = LivingPool(policy(baseline=2, idle_retire_s=120, cooldown_s=30))
    living.live(1200, 0.2)
    before = living.assessments[-1]
    living.live(1, {1201: 40})
    after = living.assessments[-1]

    assert after.target > before.target + 10
    assert after.scale is not None
    assert (after.scale - living.sizes[-2]) * 4 >= 40 - before.state.warm


@given(st.dictionaries(st.integers(1, 500), st.integers(1, 60), max_size=12), st.sampled_from(["any", "last"]))
@settings(max_examples=12, deadline=None)
def test_whatever_comes(crowds: dict[int, int], retires: Any) -> None:
    """Whatever load comes and goes: no runner is retired with a session, and never more are up than may be."""
    how = policy(baseline=2, idle_retire_s=30, cooldown_s=10, max_runners=12, maximum=60)
    living = LivingPool(how, call_s=40, retires=retires)
    living.live(1800, crowds)

    assert all(sessions == 0 for _, sessions in living.retired)
    assert max(living.sizes) <= 12
    assert living.sizes[-1] <= 2


@given(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 20)),
    st.tuples(st.integers(0, 10), st.integers(0, 30), st.integers(0, 60)),
    st.floats(0, 20),
)
@settings(max_examples=150, deadline=None)
def test_never_beyond_max_runners(there: tuple[int, int, int], bounds: tuple[int, int, int], rate: float) -> None:
    """What an assessment allows in all, group and cold starts together, stays within the bound."""
    (runners, cold, waiting), (cold_starts, max_runners, baseline) = there, bounds
    facts = pool(
        *(runner(str(number), number % 5) for number in range(runners)),
        waiting=waiting,
        cold_leases=frozenset(f"s{number}-1" for number in range(cold)),
    )
    found = look(facts, policy(baseline=baseline, cold_starts=cold_starts, max_runners=max_runners), steady(rate))
    grown = (found.scale or facts.group_size) - facts.group_size

    assert found.scale is None or found.scale > facts.group_size
    assert grown + found.cold.count <= max(max_runners - facts.launched, 0)
    assert found.cold.count <= max(cold_starts - cold, 0)
    assert found.cold.reason


def test_arrivals_of_nobody() -> None:
    """A pool that nobody knows anything of wants nothing."""
    assert look(pool(), policy(), PoolMemory(arrivals=Arrivals())).target == 0
