"""How much of budgets is spent, as the recorder publishes it for the api and the schedulers. Data only.

Amounts of money are decimal numbers in plain notation, as texts: a float is never one.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from greenroom.common.lifecycle import Session
from greenroom.common.policy import EACH, AtLimit

type NoticeKind = Literal["budget.warning", "budget.reached"]


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """How one budget stands in its present period.

    Attributes:
        budget: its id.
        tenant: whose sessions it is for.
        agent: which agent's; `*`: all of the tenant's together.
        amount: how much there is.
        spent: how much of that is gone, by what has been counted and priced in its currency.
        currency: of both.
        period_start: UTC.
        period_end: UTC; from then on it says nothing any more.
        at_limit: what becomes of sessions that are asked for while it is reached.
        reached: whether there is nothing left.
    """

    budget: str
    tenant: str
    agent: str = EACH
    amount: str
    spent: str
    currency: str
    period_start: datetime
    period_end: datetime
    at_limit: AtLimit = AtLimit.REFUSE
    reached: bool = False

    def holds_back(self, session: Session, now: datetime) -> bool:
        """Tell whether a session may not begin because of it. One that ever had a slot goes on, and is tried again."""
        concerned = session.tenant == self.tenant and self.agent in {EACH, session.agent} and not session.epoch
        return self.reached and concerned and now < self.period_end


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """How all budgets stand, as of one moment: each message is the whole of it."""

    at: datetime
    budgets: tuple[Spent, ...] = ()


class BudgetNotice(msgspec.Struct, frozen=True, kw_only=True):
    """A budget has come to the share at which somebody is told (`budget.warning`), or to its end (`budget.reached`).

    Said once for each period, and again where the amount was changed; the same `id` is the same notice.
    """

    id: str
    kind: NoticeKind
    at: datetime
    tenant: str
    agent: str = EACH
    budget: str
    amount: str
    spent: str
    currency: str
    period_start: datetime
    period_end: datetime


def reached(spending: Spending | None) -> tuple[Spent, ...]:
    """Return the budgets of which nothing is left."""
    return tuple(each for each in spending.budgets if each.reached) if spending is not None else ()


def is_zone(name: str) -> bool:
    """Tell whether there is such a time zone, by its IANA name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def plain(amount: Decimal) -> str:
    """Return a decimal without exponent and trailing zeros, e.g. `0.0125`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
