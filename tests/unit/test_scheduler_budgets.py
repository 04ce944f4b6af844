"""Budgets of which nothing is left: who may not begin, for how long, and who goes on."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.budgets import Spending, Spent
from greenroom.common.lifecycle import Ended, Outcome, Requeued
from greenroom.common.policy import AtLimit, Limit, Policy, Scope
from greenroom.scheduler.actions import ColdLease, Lease, Refuse
from greenroom.scheduler.capacity import ColdAllowance
from greenroom.scheduler.core import Tracked, plan
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.settle import PlanLimits
from tests.support.scheduler_builders import T0, at, board_of, decide, fleet, heartbeat, lease, running, session

ROOMY: dict[str, Any] = {"slots": 99, "standby": 99}
END_S = 3600.0


def spent(**fields: Any) -> Spent:
    """Return a budget of the tenant `t` of which nothing is left."""
    known: dict[str, Any] = {"budget": "b", "tenant": "t", "amount": "50", "spent": "50.25", "currency": "EUR"}
    known |= {"period_start": T0 - timedelta(hours=1), "period_end": at(END_S), "reached": True}
    return Spent(**known | fields)


def refusals(actions: Any) -> dict[str, Ended]:
    """Return how those end that are refused."""
    return {each.session_id: each.transition for each in actions if isinstance(each, Refuse)}


def test_a_spent_budget_refuses_until_its_period_is_over() -> None:
    """At once, with the budget by name, and with the end of the period as when to ask again."""
    decided = decide(1, fleet(heartbeat(**ROOMY)), session("s"), spent=(spent(),))
    end = refusals(decided.actions)["s"]
    assert (end.outcome, end.reason, end.retry_after_s) == (Outcome.REJECTED, "budget-reached", END_S - 1)
    assert end.detail == "budget b is spent, 50.25/50 EUR, until 2026-01-01T01:00:00+00:00"
    later = decide(END_S, fleet(heartbeat(**ROOMY), heard=END_S), session("s", requested=END_S), spent=(spent(),))
    assert later.leased_to == {"s": "r1"}


@pytest.mark.parametrize("others", [{"tenant": "u"}, {"agent": "b"}])
def test_others_go_on(others: dict[str, Any]) -> None:
    """A budget is one tenant's, or one agent's of it."""
    asked = (session("mine"), session("theirs", **others))
    decided = decide(1, fleet(heartbeat(**ROOMY)), *asked, spent=(spent(agent="a"),))
    assert (decided.leased_to, [*refusals(decided.actions)]) == ({"theirs": "r1"}, ["mine"])


def test_a_budget_may_let_wait() -> None:
    """They wait with the budget as their reason, and get their slots when the period is over."""
    waits = msgspec.structs.replace(session("s"), queue_deadline_at=at(2 * END_S))
    known = fleet(heartbeat(**ROOMY))
    board = board_of(known, [Tracked(session=waits, seen_at=T0)], spent=(spent(at_limit=AtLimit.QUEUE),))
    assert board.plan(at(1)).actions == ()
    assert [(each.reason, each.expected_s) for each in board.outlook().waiting()] == [("budget-reached", None)]
    known.heard(heartbeat(seq=2, **ROOMY), at(END_S))
    board.runner_changed(("default", "r1"))
    assert [type(each) for each in board.plan(at(END_S)).actions] == [Lease]


def test_what_lives_is_never_cut() -> None:
    """Sessions that run, that are being launched for, and that lost their runner go on as if nothing were spent."""
    runs = running("runs", "r1")
    lost = session("lost", lease("r9"), Requeued(epoch=1, reason="runner-lost", exclude_runner=False))
    decided = decide(1, fleet(heartbeat(held=(runs,), **ROOMY)), runs, lost, spent=(spent(),))
    assert refusals(decided.actions) == {}
    assert decided.leased_to == {"lost": "r1"}


def test_nothing_is_launched_for_whom_a_budget_holds_back() -> None:
    """A cold start costs, too."""
    cold = {"default": ColdAllowance(count=5, deadline_s=60)}
    waits = spent(at_limit=AtLimit.QUEUE)
    for gates, launched in (((), 1), ((waits,), 0)):
        actions = decide(1, fleet(heartbeat(slots=0, standby=0)), session("s"), cold=cold, spent=gates).actions
        assert sum(isinstance(each, ColdLease) for each in actions) == launched


def test_the_picture_takes_budgets_in_as_they_are_told() -> None:
    """One that is raised lets in again, in the middle of its period."""
    picture = Picture()
    picture.ticked(at(-60), connected=True)
    picture.heard(heartbeat(**ROOMY), at(0))
    picture.board.session_changed(Tracked(session=session("s"), seen_at=T0))
    picture.spending_changed(Spending(at=T0, budgets=(spent(), spent(budget="c", tenant="u", reached=False))))
    assert [*refusals(picture.board.plan(at(1)).actions)] == ["s"]
    picture.spending_changed(Spending(at=T0, budgets=(spent(amount="60", reached=False),)))
    assert [type(each) for each in picture.board.plan(at(1)).actions] == [Lease]


def test_that_more_is_spent_costs_nothing() -> None:
    """What is reached already holds back the same: nothing is counted anew each minute."""
    board = board_of(fleet(heartbeat(**ROOMY)), [Tracked(session=session("s"), seen_at=T0)], spent=(spent(),))
    board.plan(at(1))
    counted = board.outlook()._desk.book
    board.spending_changed((spent(spent="51"),))
    assert board.outlook()._desk.book is counted
    board.spending_changed(())
    assert board.outlook()._desk.book is not counted


BUDGETS = st.lists(
    st.builds(
        spent,
        budget=st.sampled_from(["b", "c"]),
        tenant=st.sampled_from(["t", "u"]),
        agent=st.sampled_from(["*", "a", "b"]),
        reached=st.booleans(),
        at_limit=st.sampled_from(AtLimit),
        period_end=st.integers(-10, 10).map(at),
    ),
    max_size=4,
).map(tuple)
SESSIONS = st.lists(
    st.tuples(st.sampled_from(["t", "u"]), st.sampled_from(["a", "b"]), st.sampled_from(["asked", "lost", "runs"])),
    max_size=8,
)


@given(BUDGETS, SESSIONS, st.integers(-5, 5), st.integers(0, 3))
def test_who_is_held_back_is_whom_a_reached_budget_concerns(
    budgets: tuple[Spent, ...], wanted: list[tuple[str, str, str]], now: int, limit: int
) -> None:
    """Nobody else: not below the amount, not when the period is over, and none that has begun; limits hold beside."""
    made = {
        "asked": session,
        "lost": lambda name, **f: session(name, lease("r9"), Requeued(epoch=1, reason="runner-lost"), **f),
        "runs": lambda name, **f: running(name, "r1", **f),
    }
    sessions = [made[kind](f"s{n}", tenant=tenant, agent=agent) for n, (tenant, agent, kind) in enumerate(wanted)]
    waiting = [msgspec.structs.replace(each, queue_deadline_at=at(99)) for each in sessions]
    gates = tuple(each for each in budgets if each.reached)
    policy = Policy(limits=(Limit(id="l", scope=Scope.AGENT, key="b", max_sessions=limit),))
    held = tuple(each for each in waiting if each.runner_id == "r1")
    known = fleet(heartbeat(held=held, **ROOMY), heard=now)
    tracked = [Tracked(session=each, seen_at=at(now), asked=True) for each in waiting]
    actions = plan(at(now), known, tracked, PlanLimits(), policy, spent=gates).actions
    leased = {each.session_id for each in actions if isinstance(each, Lease)}
    by_budget = {name for name, end in refusals(actions).items() if end.reason == "budget-reached"}
    assert by_budget == refusals(actions).keys()
    for each in waiting:
        concerned = [gate for gate in budgets if gate.holds_back(each, at(now))]
        if concerned:
            assert each.id not in leased
        refuses = any(gate.at_limit is AtLimit.REFUSE for gate in concerned)
        assert (each.id in by_budget) == refuses
    free = [
        each for each in waiting if each.runner_id is None and not any(g.holds_back(each, at(now)) for g in budgets)
    ]
    assert {each.id for each in free if each.agent == "a"} <= leased
