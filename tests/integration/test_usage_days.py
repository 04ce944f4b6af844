"""Usage by sums is usage by lines, whatever was done, in whatever order, and while it is being done."""

from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom.api.billing import usage as api
from greenroom.recorder import database as pools
from greenroom.recorder.retention import store as retention
from greenroom.recorder.usage import days as by_day
from greenroom.recorder.usage import store as by_line
from greenroom.recorder.usage.days import UsageDays

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
MONTH = (FIRST - timedelta(days=1), FIRST + timedelta(days=30))
TENANTS, AGENTS, SESSIONS = ("t", "u"), ("x", "y"), tuple(f"s{n}" for n in range(5))
LINES = (("openai", "m1", "llm_in"), ("openai", "m1", "llm_out"), ("openai", "m2", "llm_in"), ("greenroom", "p", "s"))
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns")

# Beside midnights of some zones, and in between, so that days are cut now and then.
moments = st.builds(
    lambda day, seconds, step: FIRST + timedelta(days=day, seconds=seconds, microseconds=step),
    st.integers(0, 3),
    st.sampled_from([0, 12_600, 43_200, 66_600, 82_800, 86_399]),
    st.sampled_from([0, 0, -1, 1]),
)
counts = st.tuples(
    st.just("count"),
    st.sampled_from(SESSIONS),
    moments,
    st.dictionaries(st.sampled_from(LINES), st.decimals("0.001", "999", places=3), max_size=4),
)
prices = st.tuples(
    st.just("price"),
    st.sampled_from(["*", "t"]),
    st.sampled_from(["*", "m1"]),
    st.sampled_from(LINES),
    st.just(FIRST - timedelta(days=9)) | moments,
    st.sampled_from([None, Decimal("0.5"), Decimal(3), Decimal("7e-9")]),
    st.sampled_from(["EUR", "USD"]),
)
steps = st.one_of(
    counts,
    counts,
    prices,
    st.tuples(st.just("erase"), st.sampled_from(SESSIONS)),
    st.just(("add up",)),
    st.tuples(st.just("change while it is added up"), counts, st.booleans()),
    st.just(("die",)),
)
questions = st.tuples(
    st.sampled_from(["agent", "tenant", "day", "provider", "model", "unit"]),
    st.sampled_from(ZONES),
    st.just(MONTH) | st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair) + timedelta(seconds=1))),
    st.sampled_from([None, *TENANTS]),
    st.sampled_from([None, *AGENTS]),
    st.sampled_from([None, "openai"]),
    st.sampled_from([None, ("t", "m"), ("t", "2026-03-02")]),
    st.sampled_from([2, 500]),
)


class Books:
    """A database with two connections: what is done, and what is done beside it."""

    def __init__(self, pool: Any, one: Any, other: Any) -> None:
        self.pool, self.one, self.other = pool, one, other
        self.days = UsageDays(pool)

    async def empty(self) -> None:
        """Take everything away."""
        await self.one.execute("TRUNCATE usage, usage_days, usage_days_due, prices")

    async def do(self, what: str, *how: Any) -> None:
        """Do a step."""
        match what, how:
            case "count", (session, at, lines):
                async with self.one.transaction():
                    await self._count(self.one, session, at, lines)
            case "price", (tenant, model, (provider, _, unit), valid_from, price, currency):
                key = (tenant, provider, model, unit, valid_from)
                await self.one.execute(
                    "DELETE FROM prices WHERE (tenant, provider, model, unit, valid_from) = ($1, $2, $3, $4, $5)", *key
                )
                if price is not None:
                    row = "INSERT INTO prices VALUES ($1, $2, $3, $4, $5, $6, 1000, $7)"
                    await self.one.execute(row, *key, price, currency)
            case "erase", (session,):
                await self.one.execute(retention._statement("usage"), session)
            case "add up", ():
                for tenant, day in await self.due():
                    await self.days.add_up(tenant, day)
            case "change while it is added up", ((_, *change), kept):
                transaction = self.other.transaction()
                await transaction.start()
                await self._count(self.other, *change)
                await self.do("add up")
                await (transaction.commit() if kept else transaction.rollback())
            case _:
                # Killed before the end of it.
                for tenant, day in await self.due():
                    transaction = self.other.transaction()
                    await transaction.start()
                    for statement in (by_day._TAKE, by_day._FORGET, by_day._ADD_UP):
                        await self.other.execute(statement, tenant, day)
                    await transaction.rollback()

    async def due(self) -> list[tuple[str, date]]:
        """Return what is to be added up."""
        return await self.days.due(settle_s=-1, longest_s=600, limit=100)

    async def answers(self, question: Any) -> list[list[Any]]:
        """Return what sums say, and what lines say."""
        group, zone, between, tenant, agent, provider, after, limit = question
        values = (*between, tenant, agent, provider, zone, *(after or (None, None)), limit, None)
        return [
            [tuple(row) for row in await self.one.fetch(statement.format(key=api._KEYS[group]), *values)]
            for statement in (api._GROUPS, api._SESSIONS)
        ]

    async def spendings(self, question: Any) -> tuple[Decimal, Decimal]:
        """Return what was spent of a budget, by sums and by lines."""
        _, _, (since, until), tenant, agent, *_ = question
        asked = (tenant or "t", agent or "*", since, until, "EUR")
        (row,) = await self.one.fetch(by_line._SPENT, *([value] for value in asked))
        plain = (
            "SELECT coalesce(sum(cost), 0) FROM usage_priced WHERE tenant = $1 AND $2 IN (agent, '*')"
            " AND at >= $3 AND at < $4 AND currency = $5"
        )
        return row["spent"], await self.one.fetchval(plain, *asked)

    @staticmethod
    async def _count(connection: Any, session: str, at: datetime, lines: dict[tuple[str, str, str], Decimal]) -> None:
        number = SESSIONS.index(session)
        await connection.execute(by_line._FORGET, session)
        whose = (TENANTS[number % 2], AGENTS[number // 2 % 2])
        names = ([line[place] for line in lines] for place in range(3))
        await connection.execute(by_line._INSERT, session, *whose, at, *names, list(lines.values()))


@pytest.fixture
async def books(database: str) -> AsyncGenerator[Books]:
    """Books with nothing in them."""
    one, other = [await asyncpg.connect(database) for _ in range(2)]
    pool = await pools.open_pool(database, size=2)
    try:
        yield Books(pool, one, other)
    finally:
        await pools.close_pool(pool, timeout_s=2)
        await one.close()
        await other.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=st.lists(steps, max_size=12), asked=st.lists(questions, min_size=2, max_size=2))
async def test_sums_say_what_lines_say(books: Books, done: list[Any], asked: list[Any]) -> None:
    """After each counting, repricing, erasing and adding up, whoever dies or comes between, each answer is exact."""
    await books.empty()
    for step in done:
        await books.do(*step)
        for question in asked:
            by_sums, by_lines = await books.answers(question)
            assert by_sums == by_lines
            spent, plainly = await books.spendings(question)
            assert spent == plainly
    await books.do("add up")
    assert await books.due() == []
    by_sums, by_lines = await books.answers(("tenant", "UTC", MONTH, *[None] * 4, 500))
    assert by_sums == by_lines
