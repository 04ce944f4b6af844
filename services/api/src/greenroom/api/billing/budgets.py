"""Budgets: edited here; how they stand is told by the recorder and followed here."""

import asyncio
from decimal import Decimal
from typing import Any, Final

import msgspec
import structlog

from greenroom.api.billing.currencies import check_budget
from greenroom.api.billing.schemas import BudgetList, BudgetView, BudgetWish
from greenroom.api.store import Store
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.budgets import Spending, plain, reached
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, TopologyMissing
from greenroom.common.lifecycle import Session
from greenroom.common.metrics import Metrics
from greenroom.common.policy import AtLimit

_log = structlog.get_logger()

STREAM: Final = "POLICY"
SUBJECT: Final = subjects.POLICY.format(name="spending")
# How they stand travels as one message, which NATS takes up to 1 MiB of; one is 400 bytes.
MAX_BUDGETS: Final = 1000
_AGAIN_S: Final = 0.5

_COLUMNS: Final = "id, tenant, agent, amount, currency, period, zone, warn_share, at_limit"
# All budgets, or a tenant's.
_LIST: Final = f"SELECT {_COLUMNS} FROM budgets WHERE $1::text IS NULL OR tenant = $1 ORDER BY id"  # noqa: S608 constants
# A budget, instead of the one of its id.
_PUT: Final = f"""
INSERT INTO budgets ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (id) DO UPDATE
SET (tenant, agent, amount, currency, period, zone, warn_share, at_limit) =
    (excluded.tenant, excluded.agent, excluded.amount, excluded.currency, excluded.period, excluded.zone,
     excluded.warn_share, excluded.at_limit)
"""  # noqa: S608 constants
_FULL: Final = "SELECT count(*) > $1 FROM budgets"
_DELETE: Final = "DELETE FROM budgets WHERE id = $1 RETURNING id"


class BudgetNotFound(GreenroomError):
    """There is no budget of this id, or it is another tenant's; `GET /v1/budgets` lists them."""

    code = "budget-not-found"
    status = 404
    title = "There is no such budget"


class BudgetsFull(GreenroomError):
    """There are 1000 budgets. Delete some: one with agent `*` is for all of a tenant's agents."""

    code = "budgets-full"
    status = 409
    title = "There are as many budgets as there may be"


class SpendingFeed:
    """Follows how budgets stand, as the recorder tells it.

    Args:
        broker: has it.
        metrics: how old it is.
        clock: time.

    Attributes:
        current: what was told last; None: nothing so far.
    """

    def __init__(self, broker: Broker, metrics: Metrics, *, clock: Clock | None = None) -> None:
        self.current: Spending | None = None
        self._broker = broker
        self._clock = clock or SystemClock()
        self._reached = metrics.gauge("api_budgets_reached", "Budgets of which nothing is left, as told last")

    def refuses(self, session: Session) -> bool:
        """Tell whether the scheduler's first decision will be to refuse a session because of a budget."""
        now = self._clock.now()
        spent = (each for each in reached(self.current) if each.at_limit is AtLimit.REFUSE)
        return any(each.holds_back(session, now) for each in spent)

    async def run(self) -> None:
        """Follow until canceled, over outages."""
        while True:
            try:
                await self._follow()
            except (BrokerUnavailable, TopologyMissing) as error:
                _log.warning("spending_not_followed", code=error.code, again_in_s=_AGAIN_S)
            await self._clock.sleep(_AGAIN_S)

    async def _follow(self) -> None:
        reader = await self._broker.read(STREAM, [SUBJECT], last_per_subject=True)
        try:
            async for message in reader:
                try:
                    self.current = messages.decode(message.data, Spending)
                except msgspec.MsgspecError as error:
                    # What was told before stands.
                    _log.error("spending_malformed", error=str(error))
                else:
                    self._reached.set(len(reached(self.current)))
        finally:
            await asyncio.shield(reader.close())


class Budgets:
    """The budgets of all tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
        spending: how they stand.
    """

    def __init__(self, store: Store, spending: SpendingFeed) -> None:
        self._store = store
        self._spending = spending

    async def all(self, tenant: str | None) -> BudgetList:
        """Return a tenant's budgets, or all."""
        async with self._store.connection("budgets") as connection:
            rows = await connection.fetch(_LIST, tenant)
        told = self._spending.current
        return BudgetList(budgets=[self._view(row) for row in rows], told_at=told.at if told else None)

    async def put(self, budget_id: str, wish: BudgetWish) -> BudgetView:
        """Make a budget, or replace the one of this id as a whole.

        Raises:
            BudgetsFull: there are too many.
            CurrencyMismatch: the tenant isn't billed in its currency.
            InvalidBody: it can't be meant.
        """
        wish.check()
        row = {"id": budget_id, **{name: getattr(wish, name) for name in wish.__struct_fields__}}
        row |= {"amount": Decimal(wish.amount), "warn_share": Decimal(str(wish.warn_share))}
        async with self._store.connection("put_budget") as connection, connection.transaction():
            await check_budget(connection, wish.tenant, wish.currency)
            await connection.execute(_PUT, *row.values())
            if await connection.fetchval(_FULL, MAX_BUDGETS):
                raise BudgetsFull
        return _plain_view(row)

    async def delete(self, budget_id: str) -> None:
        """Delete a budget.

        Raises:
            BudgetNotFound: there is none of this id.
        """
        async with self._store.connection("delete_budget") as connection:
            if await connection.fetchval(_DELETE, budget_id) is None:
                raise BudgetNotFound

    def _view(self, row: Any) -> BudgetView:
        view = _plain_view(row)
        told = self._spending.current
        state = next((each for each in told.budgets if each.budget == view.id), None) if told else None
        if state is None or (state.amount, state.currency) != (view.amount, view.currency):
            return view
        return msgspec.structs.replace(
            view,
            spent=state.spent,
            reached=state.reached,
            period_start=state.period_start,
            period_end=state.period_end,
        )


def _plain_view(row: Any) -> BudgetView:
    fields: dict[str, Any] = {**row, "amount": plain(row["amount"]), "warn_share": float(row["warn_share"])}
    fields["at_limit"] = AtLimit(fields["at_limit"])
    return BudgetView(**fields)
