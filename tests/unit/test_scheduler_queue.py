"""The order of the queue: classes, tenants, first come; and what those who wait can read of it."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.lifecycle import Priority, Session, State
from greenroom.common.messages import QueuePageQuery
from greenroom.common.policy import Limit, Policy, Scope
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Lease
from greenroom.scheduler.board import Board
from greenroom.scheduler.core import Tracked
from greenroom.scheduler.history import Durations, History
from tests.support.scheduler_builders import T0, at, board_of, decide, fleet, heartbeat, running, session


def asked(count: int, tenant: str, first: float = 0, **fields: Any) -> list[Session]:
    """Return so many sessions of a tenant, asked for one after the other."""
    return [
        session(f"{tenant}{number:05}", requested=first + number / 1000, tenant=tenant, **fields)
        for number in range(count)
    ]


def waits(*sessions: Session) -> list[Tracked]:
    """Return sessions as the scheduler knows them."""
    return [Tracked(session=each, seen_at=T0) for each in sessions]


def release(board: Board, number: int) -> str:
    """Let one more slot become free; return whose session gets it."""
    held = tuple(each.session for each in board.sessions.values() if each.session.state is State.READY)
    board._fleet.heard(heartbeat("r1", seq=number + 1, slots=number, held=held), at(20))
    board.runner_changed(("default", "r1"))
    (action,) = board.plan(at(20)).actions
    assert isinstance(action, Lease)
    tracked = board.sessions[action.session_id]
    board.session_changed(Tracked(session=running(tracked.session.id, "r1", tenant=tracked.session.tenant), seen_at=T0))
    return tracked.session.tenant


# ---------------------------------------------------------------------------- order


def test_classes_come_one_after_the_other() -> None:
    """However long those of a lower class have waited, and whoever asks."""
    low, normal = asked(1, "a", priority=Priority.LOW), asked(1, "b", 1)
    high = asked(2, "c", 2, priority=Priority.HIGH)
    decided = decide(3, fleet(heartbeat(slots=3)), *low, *normal, *high)
    assert list(decided.leased_to) == ["c00000", "c00001", "b00000"]
    assert decided.texts == ["1st of 1: no free slot in pool default (3/3 busy)"]


def test_a_burst_of_one_tenant_delays_nobody_else() -> None:
    """Ten thousand of one wait; a request of another that comes after them gets the very next slot."""
    board = board_of(fleet(heartbeat(slots=1)), waits(*asked(10_000, "greedy")))
    assert [release(board, number) for number in range(1, 4)] == ["greedy"] * 3
    for each in waits(*asked(1, "modest", 15)):
        board.session_changed(each)
    assert release(board, 4) == "modest"
    assert release(board, 5) == "greedy"


def test_tenants_that_are_level_take_turns() -> None:
    """Whoever has fewer sessions running comes first; at the same number, whoever asked first."""
    waiting = [*asked(4, "a"), *asked(4, "b", 1), *asked(1, "c", 2)]
    decided = decide(3, fleet(heartbeat(slots=7)), *waiting)
    assert list(decided.leased_to) == ["a00000", "b00000", "c00000", "a00001", "b00001", "a00002", "b00002"]


def test_weights_share_scarce_slots() -> None:
    """A tenant of weight 3 gets three slots for each one of the others."""
    waiting = [*asked(50, "a"), *asked(50, "b")]
    decided = decide(1, fleet(heartbeat(slots=40)), *waiting, policy=Policy(weights={"b": 3.0}))
    assert Counter(each[0] for each in decided.leased_to) == {"a": 10, "b": 30}


def test_what_runs_counts() -> None:
    """A tenant that has much comes after one that has nothing, in whichever class its sessions are."""
    held = [running(f"x{number}", "r1", tenant="a") for number in range(3)]
    waiting = [*asked(3, "a"), *asked(3, "b", 1)]
    decided = decide(2, fleet(heartbeat(slots=6, held=tuple(held))), *held, *waiting)
    assert list(decided.leased_to) == ["b00000", "b00001", "b00002"]


tenants = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=30)


@given(tenants, st.integers(1, 12))
@settings(max_examples=60)
def test_no_tenant_is_ahead_of_one_that_waits_by_more_than_a_slot(wanted: list[tuple[str, float]], slots: int) -> None:
    """With slots handed out from nothing: who still waits has as much for its weight, less one slot, as anybody."""
    waiting = [session(f"s{number:03}", tenant=tenant, requested=number) for number, (tenant, _) in enumerate(wanted)]
    weights = dict(wanted)
    decided = decide(31, fleet(heartbeat(slots=slots), heard=31), *waiting, policy=Policy(weights=weights))
    expired = {each.id for each in waiting if each.queue_deadline_at <= at(31)}
    by_id = {each.id: each.tenant for each in waiting}
    has = Counter(by_id[each] for each in decided.leased_to)
    for tenant in {by_id[each.session_id] for each in decided.waiting} - {by_id[each] for each in expired}:
        for other, count in has.items():
            assert (count - 1) / weights[other] <= has[tenant] / weights[tenant] + 1 / weights[tenant]


# ---------------------------------------------------------------------------- nobody is held up


def test_who_is_blocked_holds_up_nobody() -> None:
    """A limit, a label, a bot that nobody has, a refusal: those behind are placed, also those of the same tenant."""
    policy = Policy(limits=(Limit(id="x", scope=Scope.AGENT, key="full", max_sessions=0),))
    blocked = [
        session("s0", agent="full"),
        session("s1", requires={"gpu": "l4"}),
        session("s2", bot="ghost"),
        session("s3", refused_by=("r1",)),
    ]
    decided = decide(2, fleet(heartbeat()), *blocked, session("s4", requested=1), policy=policy)
    assert list(decided.leased_to) == ["s4"]
    assert [each.reason for each in decided.waiting] == [
        Reason.LIMIT_REACHED,
        Reason.NO_RUNNER_FOR_AGENT,
        Reason.NO_RUNNER_FOR_AGENT,
        Reason.RUNNER_REFUSED,
    ]


def test_a_plan_may_be_bounded() -> None:
    """What is beyond comes with the next plan, in the same order."""
    board = board_of(fleet(heartbeat(slots=9)), waits(*asked(5, "a")))
    whole = board.plan(at(1)).actions
    assert len(whole) == 5
    assert board.plan(at(1), most=2).actions == whole[:2]
    assert board.plan(at(1), most=0).actions == ()
    assert {each.text for each in board.outlook().waiting()} == {"it is being decided on"}


# ---------------------------------------------------------------------------- what is told


def test_places_are_in_the_order_in_which_slots_will_be_given() -> None:
    """Not in that of the requests: the second tenant's first stands before the first one's second."""
    waiting = [*asked(3, "a"), *asked(1, "b", 1), *asked(1, "c", 2, priority=Priority.HIGH)]
    decided = decide(3, fleet(heartbeat(slots=0)), *waiting)
    assert [each.session_id for each in decided.waiting] == ["c00000", "a00000", "b00000", "a00001", "a00002"]


def test_when_a_slot_is_expected_is_told_once_calls_have_ended() -> None:
    """Of four calls of two minutes one ends each half a minute: the next slot, and for each its own."""
    held = tuple(running(f"x{number}", "r1", tenant="a") for number in range(4))
    history = History()
    board = board_of(fleet(heartbeat(held=held)), waits(*held, *asked(2, "b")), history=history)
    board.plan(at(1))
    assert str(board.outlook().of("b00001")) == "2nd of 2: no free slot in pool default (4/4 busy)"
    history.durations.add("default", 120.0)
    row = board.outlook().of("b00001")
    assert row is not None
    assert str(row) == "2nd of 2: no free slot in pool default (4/4 busy); next slot expected in ~30 s"
    assert (row.next_s, row.expected_s) == (30.0, 60.0)


def test_what_a_limit_holds_is_expected_by_the_limits_use() -> None:
    """The next place is the one of the limit's own sessions that ends next."""
    held = tuple(running(f"x{number}", "r1", tenant="acme") for number in range(2))
    history = History()
    history.durations.add("default", 28.0)
    policy = Policy(limits=(Limit(id="t", scope=Scope.TENANT, max_sessions=2),))
    known = fleet(heartbeat(slots=9, held=held))
    assert decide(1, known, *held, *asked(2, "acme"), policy=policy, history=history).texts == [
        "1st of 2: tenant acme at 2/2; next slot expected in ~14 s",
        "2nd of 2: tenant acme at 2/2; next slot expected in ~14 s",
    ]


def test_the_estimate_follows_how_long_calls_take() -> None:
    """A running mean that forgets; each pool's by itself."""
    durations: Durations[str] = Durations()
    assert durations.mean_s("default") is None
    for _ in range(10):
        durations.add("default", 100.0)
    durations.add("gpu", 5.0)
    assert durations.mean_s("default") == pytest.approx(100.0)
    for _ in range(300):
        durations.add("default", 10.0)
    assert durations.mean_s("default") == pytest.approx(10.0, abs=1.0)
    assert durations.mean_s("gpu") == 5.0
    assert durations.mean_s("gpu", least=2) is None


def test_estimates_of_what_is_gone_make_room() -> None:
    """Numbers and accounts come and go by the thousand: the one that nothing has ended under for longest is dropped."""
    durations: Durations[int] = Durations()
    for key in range(10_000):
        durations.add(key, 1.0)
        durations.add(0, 2.0)
    assert durations.mean_s(0) == pytest.approx(2.0, abs=0.1)
    assert durations.mean_s(1) is None
    assert durations.mean_s(9_999) == 1.0
    assert len(durations._means) < 5_000


def test_the_queue_is_read_in_pages() -> None:
    """Of all pools or one, of all tenants or one; the place is that in the whole queue of the pool."""
    waiting = [*asked(3, "a"), *asked(2, "b", 1)]
    other = session("g", pool="gpu", tenant="a", priority=Priority.LOW)
    board = board_of(fleet(), waits(*waiting, other))
    board.plan(at(1))
    outlook = board.outlook()
    page = outlook.page(QueuePageQuery(pool="default", tenant="a", offset=1, limit=1))
    (row,) = page.waiting
    assert (page.total, row.session_id, row.position, row.of) == (3, "a00001", 3, 5)
    assert row.text == "3rd of 5: no runner is up in pool default"
    assert (row.reason, row.priority, row.deadline_at) == (
        "no-runner-for-agent",
        "normal",
        waiting[1].queue_deadline_at,
    )
    everything = outlook.page(QueuePageQuery())
    assert (everything.total, everything.waiting[-1].session_id) == (6, "g")
    assert outlook.reasons() == {Reason.NO_RUNNER_FOR_AGENT: 6}
    assert outlook.page(QueuePageQuery(pool="nowhere")).total == 0


def test_who_waits_for_slots_is_told_from_who_waits_for_a_limit() -> None:
    """Capacity is wanted for the former alone."""
    policy = Policy(limits=(Limit(id="t", scope=Scope.TENANT, tenant="a", max_sessions=0),))
    board = board_of(fleet(heartbeat(slots=0)), waits(*asked(3, "a"), *asked(2, "b")), policy=policy)
    board.plan(at(1))
    assert board.outlook().for_slots("default") == 2
    assert board.outlook().of("unknown") is None
