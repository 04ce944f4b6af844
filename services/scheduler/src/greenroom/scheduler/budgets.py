"""Budgets as the scheduler goes by them: nobody begins for whom there is nothing left, until the period is over.

The recorder tells how budgets stand; what is told here holds until the end of the period, whoever is away meanwhile.
Sessions that ever had a slot go on, and are tried again if their runner is lost: nothing that lives is cut.
"""

from datetime import datetime
from typing import override

from greenroom.common.budgets import Spent
from greenroom.common.policy import EACH, Limit, Scope
from greenroom.common.reasons import Reason
from greenroom.scheduler.limits import Gate, Refusal


class BudgetGate[L](Gate[L]):
    """Closed by a budget of which nothing is left.

    Args:
        spent: how the budget stands.
    """

    __slots__ = ("spent",)

    def __init__(self, spent: Spent) -> None:
        scope = Scope.TENANT if spent.agent == EACH else Scope.AGENT
        limit = Limit(
            id=f"budget {spent.budget}", scope=scope, tenant=spent.tenant, key=spent.agent, at_limit=spent.at_limit
        )
        super().__init__(limit, spent.tenant, spent.agent, spent.period_end)
        self.spent = spent

    @property
    @override
    def use(self) -> str:
        return f"{self.spent.spent}/{self.spent.amount} {self.spent.currency}"

    @override
    def reason(self) -> tuple[Reason, str]:
        return Reason.BUDGET_REACHED, f"{self.limit.id} is spent, {self.use}, until {self.until.isoformat()}"

    @override
    def refusal(self, now: datetime, mean_s: float | None) -> Refusal:
        return (*self.reason(), max((self.until - now).total_seconds(), 1.0))


def same(one: tuple[Spent, ...], other: tuple[Spent, ...]) -> bool:
    """Tell whether two sets of reached budgets hold the same sessions back; that more was spent changes nothing."""
    return [_gate(each) for each in one] == [_gate(each) for each in other]


def _gate(spent: Spent) -> tuple[object, ...]:
    return spent.budget, spent.tenant, spent.agent, spent.amount, spent.period_end, spent.at_limit
