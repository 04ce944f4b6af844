"""Budgets: their periods, how they stand, and what is said of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.budgets import Spending, plain, reached
from greenroom.common.lifecycle import Session
from greenroom.recorder.usage.spending import Budget, notices, period_of, stands

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Cairo", "Pacific/Apia", "America/Havana"]
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001
MONEY = st.decimals(0, 10**9, places=6)


def budget(**fields: Any) -> Budget:
    """Return a budget of 50 EUR a day."""
    known: dict[str, Any] = {"id": "b", "tenant": "t", "amount": Decimal(50), "currency": "EUR", "period": "day"}
    return Budget(**known | fields)


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "hours"),
    [
        ("day", "UTC", "2026-03-15T12:00", "2026-03-15T00:00", 24),
        ("day", "Europe/Berlin", "2026-03-28T23:30", "2026-03-28T23:00", 23),
        ("day", "Europe/Berlin", "2026-10-25T10:00", "2026-10-24T22:00", 25),
        ("month", "Europe/Berlin", "2026-03-31T21:59", "2026-02-28T23:00", 31 * 24 - 1),
        ("month", "Asia/Kolkata", "2026-12-31T18:30", "2026-12-31T18:30", 31 * 24),
        ("day", "Mars/Olympus", "2026-03-15T12:00", "2026-03-15T00:00", 24),
    ],
)
def test_a_period_is_a_day_or_month_of_its_zone(period: Any, zone: str, now: str, start: str, hours: int) -> None:
    """As long as clocks make it; a zone that isn't known is UTC."""
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    first, following = period_of(budget(period=period, zone=zone), moment)
    assert first == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert following - first == timedelta(hours=hours)


@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(["day", "month"]))
def test_periods_follow_each_other_without_a_gap(now: datetime, zone: str, period: Any) -> None:
    """Each moment is in exactly one, whatever clocks do in the zone."""
    one = budget(zone=zone, period=period)
    start, end = period_of(one, now)
    assert start <= now < end
    assert period_of(one, start) == (start, end)
    assert period_of(one, end)[0] == end
    assert period_of(one, start - timedelta(microseconds=1))[1] == start
    assert start.astimezone(ZoneInfo(zone)).date() <= now.astimezone(ZoneInfo(zone)).date()


@given(MONEY.filter(bool), MONEY, st.sampled_from(["*", "a", "b"]), st.integers(0, 1), MOMENTS, st.integers(0, 40))
def test_a_budget_never_refuses_below_its_amount(  # noqa: PLR0917 hypothesis gives them
    amount: Decimal, spent: Decimal, agent: str, epoch: int, now: datetime, hours: int
) -> None:
    """It holds back while what was spent is the amount or more, in its period, and whom it is for: nobody else."""
    one = budget(amount=amount, agent=agent)
    state = stands(one, spent, now)
    session = Session(id="s", tenant="t", agent="a", bot="a", requested_at=now, queue_deadline_at=now, epoch=epoch)
    later = now + timedelta(hours=hours)
    begins = spent >= amount and later < state.period_end and agent in {"*", "a"} and epoch == 0
    assert state.holds_back(session, later) == begins
    assert bool(reached(Spending(at=now, budgets=(state,)))) == (spent >= amount)
    assert (Decimal(state.amount), Decimal(state.spent)) == (amount, spent)


@pytest.mark.parametrize(
    ("spent", "kinds"),
    [
        ("39.99", []),
        ("40", ["budget.warning"]),
        ("49.999999", ["budget.warning"]),
        ("50", ["budget.warning", "budget.reached"]),
    ],
)
def test_somebody_is_told_at_a_share_and_at_the_end(spent: str, kinds: list[str]) -> None:
    """Who jumps over the warning is told both."""
    said = notices(budget(), Decimal(spent), NOON)
    assert [each.kind for each in said] == kinds


def test_the_same_is_said_under_the_same_id() -> None:
    """Of one period and amount; of another period or amount it is news."""

    def ids(now: datetime, **fields: Any) -> set[str]:
        return {each.id for each in notices(budget(**fields), Decimal(100), now)}

    first = ids(NOON)
    assert ids(NOON + timedelta(hours=1)) == first
    assert len(first | ids(NOON + timedelta(days=1)) | ids(NOON, amount=Decimal(60))) == 6


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=0, max_value=10**12))
def test_money_is_told_in_plain_notation(amount: Decimal) -> None:
    """No exponent, nothing lost."""
    assert Decimal(plain(amount)) == amount
    assert set(plain(amount)) <= set("0123456789.")
