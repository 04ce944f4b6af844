"""What the scheduler decides. `plan` is a pure function of what is known: the same picture, the same plan.

Everything that isn't decided here isn't decided: the shell folds what it hears into the picture, asks its board for a
plan, and carries the actions out. Two schedulers that plan from two pictures can't do harm either, since each action is
a compare-and-set on the ledger, on the very revision that the picture shows.

The shell keeps one `Board` and tells it what changes; `plan` makes one, and so says what that board is worth: whatever
it was fed, and in whichever order, its plan is the one that is made here from what it knows by then.
"""

from collections.abc import Iterable
from datetime import datetime

from greenroom.common.budgets import Spent
from greenroom.common.policy import Policy
from greenroom.scheduler.actions import Plan
from greenroom.scheduler.board import Board, Cold
from greenroom.scheduler.fleet import Fleet
from greenroom.scheduler.settle import PlanLimits, Tracked

__all__ = ["Board", "Cold", "PlanLimits", "Tracked", "plan"]


def plan(  # noqa: PLR0917 (the seven things that a plan is made from)
    now: datetime,
    fleet: Fleet,
    sessions: Iterable[Tracked],
    limits: PlanLimits,
    policy: Policy | None = None,
    cold: Cold | None = None,
    spent: tuple[Spent, ...] = (),
) -> Plan:
    """Return what is to be done now.

    Args:
        now: UTC, by the clock that `fleet` and `sessions` were folded by.
        fleet: the runners.
        sessions: all that haven't ended, in any order.
        limits: how patient the scheduler is.
        policy: what operators decided; None: nothing.
        cold: how many runners may be launched for single sessions, by pool; None: none.
        spent: budgets of which nothing is left.
    """
    board = Board(fleet, limits, policy, spent=spent)
    for tracked in sessions:
        board.session_changed(tracked)
    return board.plan(now, cold)
