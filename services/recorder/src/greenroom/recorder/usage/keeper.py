"""Counts what ended sessions used, and tells how budgets stand. Run by the recorder that leads.

What fails is tried again: marks stay where they are, and notices are kept before they are published. While nobody
counts, or PostgreSQL is away, what was published last holds until its periods end; then nothing is held back.
"""

import asyncio
from collections.abc import Sequence
from itertools import batched
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.budgets import BudgetNotice, Spending
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import GreenroomError
from greenroom.common.metrics import Metrics
from greenroom.recorder.database import Pool, UnstorableRow
from greenroom.recorder.events_first import EventsFirst
from greenroom.recorder.together import in_halves
from greenroom.recorder.usage.days import UsageDays
from greenroom.recorder.usage.live import Live
from greenroom.recorder.usage.spending import notices, period_of, stands
from greenroom.recorder.usage.store import UsageStore

_log = structlog.get_logger()

STREAM: Final = "POLICY"
SUBJECT: Final = subjects.POLICY.format(name="spending")
# How often it is looked for sessions to count.
LOOK_S: Final = 1.0
# What is published behind a session's end is stored by then: so a session is counted once as a rule.
SETTLE_S: Final = 1.0
# A document that can't be read may be read by the next version.
_POSTPONE_S: Final = 600.0
_AT_ONCE: Final = 200
# So many sessions are counted by one transaction.
_TOGETHER: Final = 50
# How often days are looked for that are to be added up, how long nothing may have changed of one, and after how long
# that doesn't matter: a day of 1400 sessions takes 60 ms.
DAYS_LOOK_S: Final = 5.0
_DAYS_SETTLE_S: Final = 60.0
_DAYS_LONGEST_S: Final = 600.0


class UsageKeeper:
    """See the module.

    Args:
        pool: connections to PostgreSQL.
        broker: takes how budgets stand, and notices.
        metrics: sessions counted, budgets by how they stand.
        interval_s: how often budgets are looked at.
        settle_s: how long after something was stored of a session it is counted; None: as long as is usual.
        clock: time.
        events_first: what sessions are counted behind; None: nothing.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        broker: Broker,
        metrics: Metrics,
        interval_s: float,
        settle_s: float | None = None,
        clock: Clock | None = None,
        events_first: EventsFirst | None = None,
    ) -> None:
        self._events_first = events_first
        self._store = UsageStore(pool)
        self._days = UsageDays(pool)
        self._live = Live()
        self._broker = broker
        self._interval_s = interval_s
        self._settle_s = SETTLE_S if settle_s is None else settle_s
        self._clock = clock or SystemClock()
        self._counted = metrics.counter("recorder_usage_counted", "Sessions whose usage was counted")
        self._failures = metrics.counter("recorder_usage_failures", "What failed of counting and telling", ["what"])
        self._reached = metrics.gauge("recorder_budgets_reached", "Budgets of which nothing is left")

    async def run(self) -> None:
        """Count and tell until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._count_on(), name="usage")
            tasks.create_task(self._tell_on(), name="budgets")
            tasks.create_task(self._add_up_on(), name="usage-days")

    async def count(self) -> int:
        """Count the sessions that are due, and return how many that were.

        Raises:
            DatabaseUnavailable: the others are counted the next time.
        """
        due = await self._store.due(settle_s=self._settle_s, limit=_AT_ONCE)
        hopeless = (UnstorableRow, msgspec.MsgspecError)
        for batch in batched(due, _TOGETHER):
            await in_halves(batch, self._count, hopeless=hopeless, give_up=self._postpone)
        return len(due)

    async def _count(self, session_ids: Sequence[str]) -> None:
        while session_ids:
            counted, session_ids = await self._store.count(session_ids)
            self._counted.inc(counted)

    async def _postpone(self, session_id: str, error: Exception) -> None:
        # Whatever it is about this one, the others must not suffer from it.
        _log.error("usage_not_counted", session_id=session_id, again_in_s=_POSTPONE_S, exc_info=error)
        self._failures.inc(what="session")
        await self._store.postpone(session_id, by_s=_POSTPONE_S)

    async def add_up(self, *, settle_s: float = _DAYS_SETTLE_S) -> int:
        """Add up the days that are due, and return how many that were.

        Args:
            settle_s: how long nothing may have changed of a day.

        Raises:
            DatabaseUnavailable: the others are added up the next time.
        """
        due = await self._days.due(settle_s=settle_s, longest_s=_DAYS_LONGEST_S, limit=_AT_ONCE)
        for tenant, day in due:
            await self._days.add_up(tenant, day)
        return len(due)

    async def tell(self) -> Spending:
        """Publish how all budgets stand, and what is to be said of them.

        Raises:
            BrokerUnavailable, DatabaseUnavailable: the rest is told the next time.
        """
        # Before it is looked at what was spent: of two that tell, the later one knows as much.
        last = await self._broker.last(STREAM, SUBJECT)
        now = self._clock.now()
        budgets = await self._store.budgets()
        spent = await self._store.spent([(budget, *period_of(budget, now)) for budget in budgets], self._live, now)
        spending = Spending(
            at=now,
            budgets=tuple(stands(budget, amount, now) for budget, amount in zip(budgets, spent, strict=True)),
        )
        self._reached.set(sum(each.reached for each in spending.budgets))
        if spending.budgets or last is not None:
            try:
                await self._broker.append(
                    SUBJECT, messages.encode(spending), expected_last=last.stream_seq if last else 0
                )
            except WrongLastSequence:
                _log.info("spending_told_by_another")
        for budget, amount in zip(budgets, spent, strict=True):
            for notice in notices(budget, amount, now):
                if await self._store.note(notice):
                    _log_notice(notice)
        for notice in await self._store.unpublished(limit=_AT_ONCE):
            subject = subjects.NOTICE.format(tenant=notice.tenant, kind=notice.kind)
            await self._broker.append(subject, messages.encode(notice), msg_id=notice.id)
            await self._store.published(notice)
        return spending

    async def _count_on(self) -> None:
        while True:
            if self._events_first is not None:
                await self._events_first.wait()
            done = 0
            try:
                done = await self.count()
            except GreenroomError as error:
                self._failed("count", error)
            if done < _AT_ONCE:
                await self._clock.sleep(LOOK_S)

    async def _add_up_on(self) -> None:
        while True:
            done = 0
            try:
                done = await self.add_up()
            except (GreenroomError, UnstorableRow) as error:
                self._failed("days", error)
            if done < _AT_ONCE:
                await self._clock.sleep(DAYS_LOOK_S)

    async def _tell_on(self) -> None:
        while True:
            try:
                await self.tell()
            except (GreenroomError, UnstorableRow, msgspec.MsgspecError) as error:
                self._failed("tell", error)
            await self._clock.sleep(self._interval_s)

    def _failed(self, what: str, error: Exception) -> None:
        self._failures.inc(what=what)
        code = error.code if isinstance(error, GreenroomError) else type(error).__name__
        _log.warning("usage_failed", what=what, code=code)


def _log_notice(notice: BudgetNotice) -> None:
    _log.warning(
        notice.kind,
        budget=notice.budget,
        tenant=notice.tenant,
        agent=notice.agent,
        spent=notice.spent,
        amount=notice.amount,
        currency=notice.currency,
        until=notice.period_end.isoformat(),
    )
