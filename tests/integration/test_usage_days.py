"""Usage by sums is usage by lines, whatever was done, in whatever order, and while it is being done."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from greenroom.api.billing import usage as api
from greenroom.common.clock import utcnow
from greenroom.recorder import database as pools
from greenroom.recorder.migrate import migrate, migrations
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
        whose = (session, TENANTS[number % 2], AGENTS[number // 2 % 2], at)
        rows = [(*whose, *line, quantity) for line, quantity in lines.items()]
        await by_line.write_lines(connection, [session], rows)


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


def count(session: str, hours: float, **units: int) -> tuple[Any, ...]:
    """Return the step that counts a session that started so long after the first day began."""
    lines = {line: Decimal(units[name]) for line in LINES if (name := f"{line[2]}_{line[1]}") in units}
    return ("count", session, FIRST + timedelta(hours=hours), lines)


def priced(hours: float, price: str) -> tuple[Any, ...]:
    """Return the step that sets a price from then on."""
    return ("price", "*", "*", LINES[0], FIRST + timedelta(hours=hours), Decimal(price), "EUR")


def question(group: str = "day", zone: str = "UTC", between: Any = MONTH) -> tuple[Any, ...]:
    """Return a question about everybody."""
    return (group, zone, between, None, None, None, None, 500)


ADD_UP = ("add up",)
HALF_A_DAY, NEARLY_A_DAY = ((FIRST, FIRST + timedelta(hours=hours)) for hours in (12, 23.5))
TWO = [count("s0", 3, llm_in_m1=1000), count("s2", 23.5, llm_in_m1=2000)]


# What chance may not come by: a price that changes at noon, days of another zone, half a day, lines that are gone, the
# same number of other things, a day that is added up again, and changes that come between.
@example(done=[priced(-9, "0.5"), priced(12, "3"), *TWO, ADD_UP], asked=[question(), question("agent")])
@example(done=[*TWO, ADD_UP], asked=[question(zone="Europe/Berlin"), question(zone="Asia/Kolkata")])
@example(done=[*TWO, ADD_UP], asked=[question(between=HALF_A_DAY), question(between=NEARLY_A_DAY)])
@example(done=[*TWO, ADD_UP, count("s0", 3)], asked=[question()])
@example(done=[count("s0", 3, llm_in_m1=1), count("s4", 3, llm_out_m1=1), ADD_UP], asked=[question("provider")])
@example(done=[*TWO, ADD_UP, count("s4", 4, llm_in_m1=7), ("erase", "s0"), ADD_UP], asked=[question()])
@example(done=[*TWO, ("change while it is added up", count("s4", 4, llm_in_m1=7), True)], asked=[question()])
@example(done=[*TWO, ADD_UP, ("die",), count("s0", 5, llm_in_m1=7), ("die",)], asked=[question()])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=st.lists(steps, max_size=10), asked=st.lists(questions, min_size=2, max_size=2))
async def test_sums_say_what_lines_say(books: Books, done: list[Any], asked: list[Any]) -> None:
    """After each counting, repricing, erasing and adding up, whoever dies or comes between, each answer is exact."""
    await books.empty()
    for step in done:
        await books.do(*step)
        for each in asked:
            by_sums, by_lines = await books.answers(each)
            assert by_sums == by_lines
            spent, plainly = await books.spendings(each)
            assert spent == plainly
    await books.do(*ADD_UP)
    assert await books.due() == []
    by_sums, by_lines = await books.answers(question("tenant"))
    assert by_sums == by_lines


async def test_whole_days_are_read_by_their_sums(books: Books) -> None:
    """Of what was added up the lines aren't looked at, unless the day is cut, or marked again."""
    for step in (priced(-9, "0.5"), *TWO, ADD_UP):
        await books.do(*step)
    before, _ = await books.answers(question())
    assert before
    async with books.one.transaction():
        # Behind the back of whoever marks.
        await books.one.execute("SET LOCAL session_replication_role = replica")
        await books.one.execute("DELETE FROM usage")
    assert await books.answers(question()) == [before, []]
    assert await books.spendings(question()) == (Decimal("1.5"), 0)
    assert await books.answers(question(between=HALF_A_DAY)) == [[], []]
    assert await books.answers(question(zone="Europe/Berlin")) == [[], []]
    await books.one.execute("INSERT INTO usage_days_due VALUES ('t', '2026-03-01')")
    assert await books.answers(question()) == [[], []]


async def test_a_day_that_is_not_over_is_left_alone(books: Books) -> None:
    """Its lines are read, and it is added up once it is over."""
    # Today's or, an hour before midnight, tomorrow's.
    today = utcnow() + timedelta(hours=1)
    line = {LINES[0]: Decimal(3)}
    await books.do("count", "s0", today, line)
    assert await books.due() == []
    window = (today - timedelta(days=1), today + timedelta(days=1))
    by_sums, by_lines = await books.answers(question("tenant", between=window))
    assert by_sums == by_lines != []
    assert await books.one.fetchval("SELECT count(*) FROM usage_days_due") == 1


async def test_a_day_settles_before_it_is_added_up(books: Books) -> None:
    """One of which something changed lately waits, but not for ever."""
    await books.do(*TWO[0])
    days = books.days
    assert await days.due(settle_s=60, longest_s=600, limit=9) == []
    await books.one.execute("UPDATE usage_days_due SET marked_at = marked_at - interval '2 minutes'")
    assert await days.due(settle_s=60, longest_s=600, limit=9) == [("t", date(2026, 3, 1))]
    await books.do(*TWO[1])
    assert await days.due(settle_s=60, longest_s=600, limit=9) == []
    await books.one.execute("UPDATE usage_days_due SET marked_at = marked_at - interval '9 minutes'")
    assert await days.due(settle_s=999, longest_s=600, limit=9) == [("t", date(2026, 3, 1))]


async def test_several_add_up_the_same_day(books: Books) -> None:
    """They come one after the other, and the sums are those of the lines."""
    for number, session in enumerate(SESSIONS):
        await books.do(*count(session, number, llm_in_m1=number + 1, llm_out_m1=2))
    await asyncio.gather(*(books.days.add_up("t", date(2026, 3, 1)) for _ in range(4)))
    by_sums, by_lines = await books.answers(question("unit"))
    assert by_sums == by_lines
    sessions = "SELECT sum(sessions) FROM usage_days WHERE tenant = 't' AND unit = 'llm_out'"
    assert await books.one.fetchval(sessions) == 3


async def test_an_erased_session_stays_in_the_sums(books: Books) -> None:
    """Under one id that leads nowhere: it still counts as one session, in lines and in sums, marked or added up."""
    for step in (*TWO, count("s4", 3, llm_in_m1=1, llm_out_m1=2, s_p=3), ADD_UP):
        await books.do(*step)
    before = await books.answers(question("provider"))
    for step in (("erase", "s4"), ADD_UP):
        await books.do(*step)
        assert await books.answers(question("provider")) == before
    assert await books.one.fetchval("SELECT count(DISTINCT session_id) FROM usage") == 3


async def test_what_was_counted_before_is_added_up(empty_database: str) -> None:
    """A database from before there were sums answers by lines at once, and by sums when a recorder has led a while."""
    files = migrations()
    await migrate(empty_database, files=[file for file in files if file.name < "0018"])
    connection = await asyncpg.connect(empty_database)
    pool = await pools.open_pool(empty_database, size=2)
    try:
        await connection.execute("INSERT INTO tenants (name) VALUES ('t')")
        await connection.execute(
            "INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity)"
            " SELECT 's' || n, 't', 'x', $1::timestamptz + n * interval '7 hours', 'openai', 'm1', 'llm_in', n"
            " FROM generate_series(1, 9) AS n",
            FIRST,
        )
        await migrate(empty_database)
        books = Books(pool, connection, connection)
        by_sums, by_lines = await books.answers(question())
        assert by_sums == by_lines
        assert len(await books.due()) == 3
        await books.do(*ADD_UP)
        assert await books.due() == []
        assert (await books.answers(question()))[0] == by_lines
        assert await connection.fetchval("SELECT sum(quantity) FROM usage_days") == 45
    finally:
        await pools.close_pool(pool, timeout_s=2)
        await connection.close()
