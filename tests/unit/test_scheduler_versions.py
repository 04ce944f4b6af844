"""Which version of its agent a session gets, and what becomes of a canary that fails."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.lifecycle import Ended, Outcome, Ready, Requeued, Session, Started, Transition
from greenroom.common.messages import BotOffer
from greenroom.common.policy import Limit, Policy, Rollout, Scope
from greenroom.scheduler.actions import Lease, RollBack
from greenroom.scheduler.board import Board
from greenroom.scheduler.core import PlanLimits
from greenroom.scheduler.fleet import Fleet
from greenroom.scheduler.history import Trial
from greenroom.scheduler.versions import Rollouts
from tests.support.scheduler_builders import Decided, at, decide, fleet, heartbeat, lease, session

CANARY = Rollout(agent="a", current=1, canary=2, canary_share=0.25)


def offers(*versions: int) -> tuple[BotOffer, ...]:
    """Return what a runner offers that has some versions of the bot."""
    return tuple(BotOffer(name="echo", version=version) for version in versions)


def both(**fields: Any) -> Fleet:
    """Return a runner of each version."""
    return fleet(heartbeat("r1", bots=offers(1), **fields), heartbeat("r2", bots=offers(2), **fields))


def versions(decided: Decided) -> dict[str, int | None]:
    """Return which version each session is leased in."""
    return {each.session_id: each.transition.agent_version for each in decided.actions if isinstance(each, Lease)}


# ---------------------------------------------------------------------------- which one


def test_without_a_rollout_the_newest_version_that_has_a_slot_is_taken() -> None:
    """New sessions go to the new runners, and to the old ones as long as those are the ones with room."""
    known = both(slots=1)
    decided = decide(1, known, *(session(f"s{number}", requested=number / 10) for number in range(3)))
    assert versions(decided) == {"s0": 2, "s1": 1}
    assert decided.texts == ["1st of 1: no free slot in pool default (2/2 busy)"]


def test_new_sessions_get_the_current_version() -> None:
    """Although a newer one is offered; nobody gets another while it has no slot."""
    policy = Policy(rollouts=(Rollout(agent="a", current=1),))
    decided = decide(1, both(slots=1), session("s0"), session("s1"), policy=policy)
    assert versions(decided) == {"s0": 1}
    missing = decide(1, fleet(heartbeat(bots=offers(2))), session("s0"), policy=policy)
    assert missing.texts == ["1st of 1: no runner offers bot echo in version 1 in pool default"]


def test_a_tenants_own_rollout_goes_before_the_one_that_all_share() -> None:
    """Other agents aren't concerned by either."""
    policy = Policy(rollouts=(Rollout(agent="a", current=1), Rollout(tenant="own", agent="a", current=2)))
    asked = [session("s0"), session("s1", tenant="own"), session("s2", agent="other")]
    assert versions(decide(1, both(), *asked, policy=policy)) == {"s0": 1, "s1": 2, "s2": 2}


# ---------------------------------------------------------------------------- canaries


@given(st.text(min_size=1, max_size=20), st.integers(1, 50))
def test_a_key_stays_with_its_version(key: str, calls: int) -> None:
    """All sessions of a caller get the same one, and whoever has the canary keeps it while its share grows."""
    rollouts = [
        Rollouts(Policy(rollouts=(Rollout(agent="a", current=1, canary=2, canary_share=share),)))
        for share in (0.0, 0.25, 0.5, 1.0)
    ]
    asked = [session(f"s{number}", sticky_key=key) for number in range(calls)]
    trials = [[each.share(one).trial for one in asked] for each in rollouts]
    assert all(len(set(row)) == 1 for row in trials)
    firsts = [row[0] for row in trials]
    assert firsts == sorted(firsts)
    assert (firsts[0], firsts[-1]) == (False, True)


def test_the_canary_gets_its_share() -> None:
    """Of sessions without a key, each decides for itself; another canary is given to others."""
    policy = Policy(rollouts=(CANARY,))
    asked = [session(f"s{number:05}") for number in range(4000)]
    first = [Rollouts(policy).share(each).trial for each in asked]
    assert sum(first) / 4000 == pytest.approx(0.25, abs=0.03)
    other = Policy(rollouts=(Rollout(agent="a", current=1, canary=3, canary_share=0.25),))
    both_times = sum(
        one and two for one, two in zip(first, [Rollouts(other).share(each).trial for each in asked], strict=True)
    )
    assert both_times / 4000 == pytest.approx(0.0625, abs=0.02)


def test_who_belongs_to_the_canary_waits_for_it_and_nobody_waits_for_one_that_is_not_there() -> None:
    """A key stays with its version while slots are short; a canary that no runner has yet is given to nobody."""
    policy = Policy(rollouts=(Rollout(agent="a", current=1, canary=2, canary_share=1.0),))
    full = fleet(heartbeat("r1", bots=offers(1)), heartbeat("r2", bots=offers(2), slots=0))
    assert decide(1, full, session("s"), policy=policy).texts == ["1st of 1: no free slot in pool default (0/0 busy)"]
    assert versions(decide(1, fleet(heartbeat("r1", bots=offers(1))), session("s"), policy=policy)) == {"s": 1}
    leaving = fleet(heartbeat("r1", bots=offers(1)), heartbeat("r2", bots=offers(2), draining=True))
    assert versions(decide(1, leaving, session("s"), policy=policy)) == {"s": 1}


# ---------------------------------------------------------------------------- roll-back


def board_with(policy: Policy) -> Board:
    """Return a board with a runner of each version."""
    return Board(both(), PlanLimits(), policy)


def start(board: Board, number: int, how: str, version: int = 2) -> None:
    """Let a session of a version start well, fail, or be refused for a reason."""
    granted = session(f"s{number}", lease("r1"), agent_version=version)
    started = session(f"s{number}", lease("r1"), Started(runner_id="r1", epoch=1), agent_version=version)
    failed = Ended(by="runner", epoch=1, outcome=Outcome.FAILED, reason="bot-failed")
    seen: dict[str, tuple[Transition, Session]] = {
        "well": (Ready(epoch=1), started),
        "fails": (failed, started),
        "refused": (Requeued(epoch=1, reason="bot-import-failed"), granted),
        "no slot": (Requeued(epoch=1, reason="no-free-slot"), granted),
        "stopped": (Ended(by="client", epoch=1, outcome=Outcome.CANCELED, reason="client-stop"), started),
    }
    transition, before = seen[how]
    board.witnessed(transition, before)


def rolled_back(board: Board) -> list[RollBack]:
    """Return the roll-backs of the next plan."""
    return [each for each in board.plan(at(1)).actions if isinstance(each, RollBack)]


def test_a_canary_whose_starts_fail_is_rolled_back() -> None:
    """Too many of the first ten; by whoever leads, until that is kept; from that very plan on nobody gets it."""
    policy = Policy(rollouts=(Rollout(agent="a", current=1, canary=2, canary_share=1.0),))
    board = board_with(policy)
    for number in range(7):
        start(board, number, "well")
    start(board, 7, "fails")
    start(board, 8, "refused")
    assert rolled_back(board) == []
    start(board, 9, "fails")
    (action,) = rolled_back(board)
    found = action.rolled_back
    assert (found.tenant, found.agent, found.version, found.starts, found.failures) == ("*", "a", 2, 10, 3)
    assert action.why.text == "3 of 10 starts of a@2 failed"
    assert len(rolled_back(board)) == 1
    board.policy_changed(policy, (found,))
    assert rolled_back(board) == []
    held = Rollouts(policy, (found,))
    assert held.versions(held.share(session("s")), (2, 1)) == (1,)


def test_a_canary_that_can_no_longer_pass_is_not_waited_for() -> None:
    """With three of three failed, of ten that may fail twice, seven good ones would change nothing."""
    board = board_with(Policy(rollouts=(CANARY,)))
    start(board, 0, "fails")
    start(board, 1, "refused")
    assert rolled_back(board) == []
    start(board, 2, "fails")
    assert len(rolled_back(board)) == 1


def test_only_starts_of_the_canary_are_judged() -> None:
    """Not those of the current version, of other agents, of runners without a slot, or that somebody stopped."""
    board = board_with(Policy(rollouts=(CANARY,)))
    for number in range(20):
        start(board, number, "fails", version=1)
        start(board, number, "no slot")
        start(board, number, "stopped")
    assert board.history.trials == {}
    start(board, 99, "well")
    assert board.history.trials == {("*", "a", 2): Trial(starts=1)}


def test_a_trial_is_forgotten_with_its_rollout() -> None:
    """Another canary is judged by its own starts."""
    board = board_with(Policy(rollouts=(CANARY,)))
    for number in range(3):
        start(board, number, "fails")
    board.policy_changed(Policy(revision=2, rollouts=(Rollout(agent="a", current=1, canary=3),)), ())
    assert board.history.trials == {}
    assert rolled_back(board) == []


# ---------------------------------------------------------------------------- limits on versions


def test_a_limit_on_a_version_sends_the_rest_to_the_next_one() -> None:
    """Without a rollout; of a rollout they wait."""
    limit = Limit(id="v", scope=Scope.AGENT_VERSION, key="a@2", max_sessions=1)
    asked = [session(f"s{number}", requested=number / 10) for number in range(3)]
    assert versions(decide(1, both(), *asked, policy=Policy(limits=(limit,)))) == {"s0": 2, "s1": 1, "s2": 1}
    rollout = Rollout(agent="a", current=2)
    decided = decide(1, both(), *asked, policy=Policy(limits=(limit,), rollouts=(rollout,)))
    assert versions(decided) == {"s0": 2}
    assert decided.texts == [f"{place} of 2: agent version a@2 at 1/1" for place in ("1st", "2nd")]
