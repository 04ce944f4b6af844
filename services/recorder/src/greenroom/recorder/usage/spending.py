"""From budgets and what was spent to how they stand and what is to be said of it. Pure.

A period is a day or a month of the budget's zone, from the first moment of it to the first moment of the next, however
long that is where clocks change. A session counts for the period in which it started.
"""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from greenroom.common.budgets import BudgetNotice, NoticeKind, Spent, is_zone, plain
from greenroom.common.ids import derived_id
from greenroom.common.policy import EACH, AtLimit


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be spent in each period; fields as the columns of `budgets`."""

    id: str
    tenant: str
    agent: str = EACH
    amount: Decimal
    currency: str
    period: Literal["day", "month"]
    zone: str = "UTC"
    warn_share: Decimal = Decimal("0.8")
    at_limit: AtLimit = AtLimit.REFUSE


def period_of(budget: Budget, now: datetime) -> tuple[datetime, datetime]:
    """Return the first moment of the period that `now` is in, and that of the next one; UTC."""
    zone = _zone(budget.zone)
    day = now.astimezone(zone).date()
    if budget.period == "month":
        first = day.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
    else:
        first, following = day, day + timedelta(days=1)
    return _begin(first, zone), _begin(following, zone)


def stands(budget: Budget, spent: Decimal, now: datetime) -> Spent:
    """Return how a budget stands of which `spent` is gone in the period that `now` is in."""
    start, end = period_of(budget, now)
    return Spent(
        budget=budget.id,
        tenant=budget.tenant,
        agent=budget.agent,
        amount=plain(budget.amount),
        spent=plain(spent),
        currency=budget.currency,
        period_start=start,
        period_end=end,
        at_limit=budget.at_limit,
        reached=spent >= budget.amount,
    )


def notices(budget: Budget, spent: Decimal, now: datetime) -> list[BudgetNotice]:
    """Return all that is to be said of a budget by now, the same ids each time."""
    state = stands(budget, spent, now)
    kinds: list[NoticeKind] = []
    if spent >= budget.amount * budget.warn_share:
        kinds.append("budget.warning")
    if state.reached:
        kinds.append("budget.reached")
    return [
        BudgetNotice(
            id=derived_id(budget.id, state.period_start.isoformat(), state.amount, kind),
            kind=kind,
            at=now,
            tenant=budget.tenant,
            agent=budget.agent,
            budget=budget.id,
            amount=state.amount,
            spent=state.spent,
            currency=budget.currency,
            period_start=state.period_start,
            period_end=state.period_end,
        )
        for kind in kinds
    ]


def _zone(name: str) -> ZoneInfo:
    # One that is gone from the system's tables must not leave the budget without periods.
    return ZoneInfo(name if is_zone(name) else "UTC")


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """Return the first moment of a day: of a midnight that comes twice the first, of one that is skipped its change."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
