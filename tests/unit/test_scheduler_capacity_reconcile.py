"""Ledger, heartbeats and launcher are compared; each difference has one named remedy."""

from typing import Any

import msgspec
import pytest

from greenroom.common.lifecycle import Session, State
from greenroom.scheduler.pool_facts import PoolFacts
from greenroom.scheduler.reconcile import RULES, Difference, Finding, Remedy, Standing, differences
from tests.support.capacity_pools import NOW, at, instance, policy, pool, runner

HOW = policy()


def session(name: str, state: State, runner_id: str | None, *, cold: bool = False, epoch: int = 1) -> Session:
    """Return a session as the ledger has it."""
    return Session(
        id=name,
        tenant="t",
        agent="a",
        bot="echo",
        state=state,
        epoch=epoch,
        runner_id=runner_id,
        cold=cold,
        requested_at=NOW,
        queue_deadline_at=NOW,
    )


def acted(facts: PoolFacts, *sessions: Session, until: int = 100, how: Any = HOW, **also: Any) -> list[Finding]:
    """Return what was acted upon while a pool looked the same for `until` seconds."""
    standing, found, known = Standing(), list[Finding](), {each.id: each for each in sessions}
    for second in range(until + 1):
        standing, due = differences(standing, known.get, facts, how, at(second), **also)
        found += due
    return found


COLD = session("s1", State.LEASED, "cold-s1-1", cold=True)
WAITS = frozenset({"s1-1"})
LAUNCHED = instance("i-x", launch_id="s1-1")
HELD = frozenset({("s1", 1)})

# Each difference: the pool, the sessions, the remedy and whom it concerns.
ROWS: dict[Difference, tuple[PoolFacts, tuple[Session, ...], Remedy, dict[str, Any]]] = {
    Difference.LAUNCH_GONE: (
        pool(cold_leases=WAITS),
        (COLD,),
        Remedy.TAKE_BACK,
        {"session_id": "s1", "epoch": 1, "launch_id": "s1-1"},
    ),
    Difference.LEASE_GONE: (pool(instances=(LAUNCHED,)), (), Remedy.CANCEL, {"launch_id": "s1-1"}),
    Difference.LAUNCHED_TWICE: (
        pool(instances=(LAUNCHED, instance("i-y", launch_id="s1-1", state="pending"))),
        (COLD,),
        Remedy.NOTE,
        {"launch_id": "s1-1"},
    ),
    Difference.SILENT_INSTANCE: (
        pool(runner("a"), instances=(instance("i-a"), instance("i-b"))),
        (),
        Remedy.HOLD,
        {"instance": instance("i-b")},
    ),
    Difference.UNKNOWN_RUNNER: (pool(runner("a"), instances=()), (), Remedy.NOTE, {"runner_id": "a"}),
    Difference.DRAINED_RUNNER: (
        pool(runner("a", draining=True)),
        (),
        Remedy.RETIRE,
        {"runner_id": "a", "instance": instance("i-a", ordinal=0)},
    ),
    Difference.HELD_AFTER_END: (
        pool(runner("a", 1, held=HELD)),
        (),
        Remedy.LEAVE,
        {"session_id": "s1", "epoch": 1, "runner_id": "a"},
    ),
}


def test_every_difference_has_a_row() -> None:
    """There is a test and a rule for each difference, and each remedy is one's."""
    assert set(ROWS) == set(RULES) == set(Difference)
    assert {rule.remedy for rule in RULES.values()} == set(Remedy)


@pytest.mark.parametrize("difference", Difference)
def test_each_difference(difference: Difference) -> None:
    """Each difference has one named remedy, and says whom it concerns."""
    facts, sessions, remedy, whom = ROWS[difference]
    first, *again = acted(facts, *sessions)

    assert (first.difference, first.remedy) == (difference, remedy)
    assert {name: value for name, value in msgspec.structs.asdict(first).items() if name in whom} == whom
    assert first.text
    assert {each.key for each in again} <= {first.key}


@pytest.mark.parametrize("difference", Difference)
def test_each_has_its_time(difference: Difference) -> None:
    """A difference is acted upon when it has stood for its time, not before."""
    facts, sessions, _, _ = ROWS[difference]
    after_s = RULES[difference].after_s
    wait_s = int(HOW.cold_deadline_s if after_s is None else after_s)

    assert acted(facts, *sessions, until=wait_s - 1) == []
    assert [each.difference for each in acted(facts, *sessions, until=wait_s)] == [difference]


@pytest.mark.parametrize("difference", Difference)
def test_trying_again(difference: Difference) -> None:
    """A remedy that didn't help is tried again each half minute; what is only said is said once."""
    facts, sessions, remedy, _ = ROWS[difference]
    count = len(acted(facts, *sessions, until=160))

    assert (count == 1) == (remedy in {Remedy.NOTE, Remedy.HOLD, Remedy.LEAVE})


@pytest.mark.parametrize("difference", Difference)
@pytest.mark.parametrize("fields", [{"hearing": False}, {"instances": None}])
def test_a_clouded_view(difference: Difference, fields: dict[str, Any]) -> None:
    """Nothing is concluded while heartbeats can't be heard or the launcher can't be asked."""
    facts, sessions, _, _ = ROWS[difference]

    assert acted(msgspec.structs.replace(facts, **fields), *sessions) == []


@pytest.mark.parametrize(
    ("facts", "sessions"),
    [
        pytest.param(pool(instances=(LAUNCHED,), cold_leases=WAITS), (COLD,), id="a launch on its way"),
        pytest.param(pool(runner("x", claim="s1-1"), cold_leases=WAITS), (COLD,), id="a cold runner that is there"),
        pytest.param(
            pool(runner("x", claim="s1-1", instance="4711"), instances=(LAUNCHED,)),
            (session("s1", State.STARTED, "x", cold=True),),
            id="a cold runner that the launcher knows by its launch",
        ),
        pytest.param(
            pool(runner("x", 1, claim="s1-1", held=HELD)),
            (session("s1", State.READY, "x", cold=True),),
            id="a cold runner with its call",
        ),
        pytest.param(pool(runner("a", 1, held=HELD)), (session("s1", State.READY, "a"),), id="a call on a warm runner"),
        pytest.param(pool(), (session("s1", State.REQUESTED, None),), id="one that waits"),
        pytest.param(pool(instances=(instance("i-a", state="pending"),)), (), id="a baseline runner that comes"),
        pytest.param(pool(runner("a"), launcher="none", instances=()), (), id="a fixed fleet"),
        pytest.param(pool(runner("a", 1, draining=True, held=frozenset())), (), id="a drained runner with a lease"),
        pytest.param(pool(instances=(instance("i-a", launch_id="s1-1", state="stopping"),)), (), id="one that stops"),
    ],
)
def test_nothing_is_wrong(facts: PoolFacts, sessions: tuple[Session, ...]) -> None:
    """Where all three agree, or differ only as they do on the way, nothing is done."""
    assert acted(facts, *sessions) == []


def test_a_call_is_never_canceled() -> None:
    """What a cold runner holds isn't ended, whatever the ledger says."""
    facts = pool(runner("x", 1, claim="s1-1", held=HELD))

    assert {each.remedy for each in acted(facts)} == {Remedy.LEAVE}


@pytest.mark.parametrize(
    "later",
    [
        session("s1", State.REQUESTED, None, epoch=1),
        session("s1", State.READY, "a", epoch=2),
        session("s1", State.READY, "b", epoch=1),
    ],
)
def test_a_stale_epoch(later: Session) -> None:
    """A session that is somebody else's by now, or waits again, is over for the runner that still has it."""
    found = acted(pool(runner("a", 1, held=HELD), runner("b")), later)

    assert [each.difference for each in found] == [Difference.HELD_AFTER_END]


def test_a_launch_for_one_that_waits_again() -> None:
    """What was launched for a lease that ran out is canceled, though its session is still there."""
    found = acted(pool(instances=(LAUNCHED,)), session("s1", State.REQUESTED, None))

    assert {each.difference for each in found} == {Difference.LEASE_GONE}


def test_retirements_under_way() -> None:
    """A retirement that is under way here is left to itself, and a pool that isn't scaled to its operator."""
    facts, _, _, _ = ROWS[Difference.DRAINED_RUNNER]

    assert acted(facts, retiring=["a"]) == []
    assert acted(facts, how=policy(maximum=0)) == []
    assert acted(msgspec.structs.replace(facts, retires="none")) == []


def test_a_difference_that_went_away() -> None:
    """A difference that comes back has to stand for its time anew."""
    facts, _, _, _ = ROWS[Difference.LAUNCH_GONE]
    known = {"s1": COLD}
    standing, _ = differences(Standing(), known.get, facts, HOW, at(0))
    standing, _ = differences(standing, known.get, pool(), HOW, at(5))
    standing, _ = differences(standing, known.get, facts, HOW, at(6))

    assert differences(standing, known.get, facts, HOW, at(15))[1] == ()
    assert differences(standing, known.get, facts, HOW, at(16))[1] != ()
