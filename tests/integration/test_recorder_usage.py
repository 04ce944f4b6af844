"""Usage, prices and budgets on a real broker and a real database, with a running recorder."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.common import messages, subjects, topology
from greenroom.common.budgets import BudgetNotice, Spending
from greenroom.common.clock import utcnow
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requeued, Session, Started
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as databases
from greenroom.recorder.ingest import Incoming, Ingest, decode
from greenroom.recorder.migrate import migrate, migrations
from greenroom.recorder.store import Store
from greenroom.recorder.usage import keeper as keeper_module
from greenroom.recorder.usage.keeper import STREAM, SUBJECT, UsageKeeper
from greenroom.recorder.usage.store import UsageStore
from greenroom.recorder.usage.store import mark as mark_of
from tests.support.recorder_world import PATIENCE_S, World, eventually, quick_topology, world

LLM = {"kind": "llm_usage", "prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
GPT = {**LLM, "provider": "openai", "model": "gpt"}
VALID = datetime.fromisoformat("2020-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.1)
    monkeypatch.setattr(keeper_module, "SETTLE_S", 0.1)


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def keeper(here: World) -> AsyncGenerator[UsageKeeper]:
    """Give a keeper of its own, which does what a test tells it to."""
    pool = await databases.open_pool(here.dsn, size=2)
    try:
        yield UsageKeeper(pool=pool, broker=here.broker, metrics=Metrics(), interval_s=60, settle_s=0)
    finally:
        await databases.close_pool(pool, timeout_s=2)


async def price(here: World, unit: str, price: str, **fields: Any) -> None:
    """Set a price."""
    row: dict[str, Any] = {"tenant": "*", "provider": "openai", "model": "*", "per": 1, "currency": "EUR"}
    row |= {"valid_from": VALID, **fields}
    await here.rows(
        "INSERT INTO prices (unit, price, tenant, provider, model, per, currency, valid_from)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        unit,
        Decimal(price),
        *row.values(),
    )


async def budget(here: World, amount: str, **fields: Any) -> None:
    """Set a budget of the tenant `t`, of a month."""
    row: dict[str, Any] = {"id": "b", "tenant": "t", "agent": "*", "currency": "EUR", "period": "month", **fields}
    await here.rows(
        "INSERT INTO budgets (amount, id, tenant, agent, currency, period) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (id) DO UPDATE SET amount = excluded.amount",
        Decimal(amount),
        *row.values(),
    )


async def over(here: World, entry: Entry) -> None:
    """End a session that has lasted for a moment: what is shorter than a millisecond is no use of anything."""
    await asyncio.sleep(0.005)
    await here.end(entry)


async def used(here: World, session: Session) -> dict[str, Decimal]:
    """Return what a session used, by unit."""
    rows = await here.rows("SELECT unit, quantity FROM usage WHERE session_id = $1", session.id)
    return {row["unit"]: row["quantity"] for row in rows}


async def counted(here: World, session: Session, unit: str, quantity: int) -> dict[str, Decimal]:
    """Return what a session used once that is so much of a unit."""
    return await eventually(lambda: used(here, session), lambda found: found.get(unit) == quantity)


async def test_a_session_is_counted_once_however_often_its_events_come(here: World) -> None:
    """The same event twice under one id, and one in each attempt: the lines are there soon after the end."""
    async with here.recorder():
        entry = await here.begin()
        session = entry.session
        for _ in range(2):
            await here.publish(session, "metrics", id="one", epoch=1, data=GPT)
        again = await here.advance(
            entry,
            Requeued(epoch=1, reason="runner-lost"),
            Leased(runner_id="r2", epoch=2, expires_at=utcnow()),
            Started(runner_id="r2", epoch=2),
            Ready(epoch=2),
        )
        await here.publish(session, "metrics", id="two", epoch=2, data=GPT)
        await over(here, again)
        found = await counted(here, session, "llm_in", 2000)
    assert (found["llm_out"], found["session_s"] > 0) == (400, True)
    rows = await here.rows("SELECT DISTINCT tenant, agent, provider FROM usage ORDER BY provider")
    assert [tuple(row.values()) for row in rows] == [("t", "frontdesk", "greenroom"), ("t", "frontdesk", "openai")]


async def test_a_late_event_corrects_what_was_counted(here: World) -> None:
    """Also one that comes when another recorder leads; what is counted twice comes to the same."""
    async with here.recorder():
        entry = await here.begin()
        await here.publish(entry.session, "metrics", id="one", data=GPT)
        await over(here, entry)
        before = await counted(here, entry.session, "llm_in", 1000)
    await here.publish(entry.session, "metrics", id="late", data=GPT)
    async with here.recorder():
        after = await counted(here, entry.session, "llm_in", 2000)
        await here.rows("INSERT INTO usage_due VALUES ($1)", entry.session.id)
        await eventually(lambda: here.rows("SELECT * FROM usage_due"), lambda rows: not rows)
    assert await used(here, entry.session) == after
    assert after["session_s"] == before["session_s"]


async def test_whoever_marks_a_session_that_is_being_counted_waits(here: World) -> None:
    """Between the reading of its events and the commit of its lines nothing can be marked in vain."""
    async with here.recorder():
        entry = await here.begin()
        await over(here, entry)
        await eventually(lambda: used(here, entry.session), bool)
        await eventually(lambda: here.rows("SELECT * FROM usage_due"), lambda rows: not rows)
    await here.rows("INSERT INTO usage_due VALUES ($1)", entry.session.id)
    counting, marking = [await databases.connect(here.dsn, timeout_s=PATIENCE_S) for _ in range(2)]
    try:
        await counting.execute("BEGIN")
        await counting.execute("DELETE FROM usage_due WHERE session_id = $1", entry.session.id)
        mark = asyncio.create_task(mark_of(marking, [entry.session.id]))
        done, _ = await asyncio.wait({mark}, timeout=0.2)
        assert not done
        await counting.execute("COMMIT")
        await mark
    finally:
        await counting.close()
        await marking.close()
    assert len(await here.rows("SELECT * FROM usage_due")) == 1


async def test_what_cannot_be_counted_holds_up_nobody(here: World) -> None:
    """A mark of a session that is gone, and one whose document can't be read."""
    async with here.recorder():
        broken, fine = [await here.begin() for _ in range(2)]
        await over(here, broken)
        await eventually(lambda: used(here, broken.session), bool)
        await here.rows("UPDATE sessions SET document = '{}' WHERE id = $1", broken.session.id)
        await here.rows("INSERT INTO usage_due VALUES ('gone'), ($1)", broken.session.id)
        await over(here, fine)
        await eventually(lambda: used(here, fine.session), bool)
        marks = "SELECT session_id, marked_at > now() + interval '5 min' AS later FROM usage_due"
        left = [{"session_id": broken.session.id, "later": True}]
        await eventually(lambda: here.rows(marks), lambda found: found == left)


async def test_a_session_that_cannot_be_read_stops_nobody_from_leading(here: World) -> None:
    """Whoever looks for what is to be sealed passes over it, however often, and seals and counts the others."""
    async with here.recorder():
        entry = await here.begin()
        await over(here, entry)
        await here.sealed(entry.session)
        await eventually(lambda: used(here, entry.session), bool)
    await here.rows("UPDATE sessions SET document = '{}', sealed_at = NULL WHERE id = $1", entry.session.id)
    async with here.recorder() as recorder:
        fine = await here.begin()
        await over(here, fine)
        await here.sealed(fine.session)
        await eventually(lambda: used(here, fine.session), bool)
        for _ in range(2):
            assert await recorder._store.unsealed(besides=(), limit=10) == []
    assert (await here.stored(entry.session))["sealed_at"] is None


async def test_cost_is_exact_and_by_the_price_that_was_valid_at_the_start(here: World) -> None:
    """A tenant's own price before the common one, a model's before its provider's; what has none is unpriced."""
    now = utcnow()
    await price(here, "llm_in", "9", currency="USD")
    await price(here, "llm_in", "0.15", model="gpt", per=1_000_000)
    await price(here, "llm_in", "0.10", model="gpt", per=1_000_000, valid_from=now - timedelta(days=1))
    await price(here, "llm_in", "7", model="gpt", valid_from=now + timedelta(days=1))
    await price(here, "llm_out", "3", model="gpt")
    await price(here, "llm_out", "0.000000000001", tenant="t")
    row = ("s", "t", "a", now, "openai", "gpt")
    for unit, quantity in (("llm_in", 3), ("llm_out", 10**9 + 1), ("llm_cached", 5)):
        await here.rows("INSERT INTO usage VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row, unit, Decimal(quantity))
    found = {row["unit"]: (row["cost"], row["currency"]) for row in await here.rows("SELECT * FROM usage_priced")}
    assert found == {
        "llm_in": (Decimal("0.0000003"), "EUR"),
        "llm_out": (Decimal("0.001000000001"), "EUR"),
        "llm_cached": (None, None),
    }


async def test_the_recorder_that_leads_adds_up_days(here: World) -> None:
    """Of what was changed a while ago, though nobody was there then."""
    before = utcnow() - timedelta(days=40)
    row = ("s1", "t", "a", before, "openai", "gpt", "llm_in", Decimal(7))
    await here.rows("INSERT INTO usage VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row)
    await here.rows("UPDATE usage_days_due SET marked_at = marked_at - interval '1 hour'")
    async with here.recorder(), here.recorder():
        found = await eventually(lambda: here.rows("SELECT day, sessions, quantity FROM usage_days"), bool)
    assert found == [{"day": before.date(), "sessions": 1, "quantity": 7}]
    assert await here.rows("SELECT * FROM usage_days_due") == []


async def test_budgets_warn_and_are_reached_once(here: World) -> None:
    """What was spent is told whole each time, what is to be said of it once; a raised amount opens it again."""
    await price(here, "llm_in", "0.01")
    await budget(here, "100")
    await budget(here, "1000", id="c", agent="other")
    async with keeper(here) as telling:

        async def spend(session_id: str, quantity: int) -> list[tuple[str, bool]]:
            row = (session_id, "t", "a", utcnow(), "openai", "gpt", "llm_in", Decimal(quantity))
            await here.rows("INSERT INTO usage VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row)
            spending = await telling.tell()
            return [(each.spent, each.reached) for each in spending.budgets]

        assert await spend("s1", 7999) == [("79.99", False), ("0", False)]
        assert await said(here) == []
        assert await spend("s2", 1) == [("80", False), ("0", False)]
        assert await spend("s3", 1999) == [("99.99", False), ("0", False)]
        assert await said(here) == ["budget.warning"]
        assert await spend("s4", 1) == [("100", True), ("0", False)]
        await telling.tell()
        assert await said(here) == ["budget.warning", "budget.reached"]
        await budget(here, "200")
        assert [each.reached for each in (await telling.tell()).budgets] == [False, False]
        assert len(await said(here)) == 2
    last = await here.broker.last(STREAM, SUBJECT)
    assert last is not None
    assert [each.budget for each in messages.decode(last.data, Spending).budgets] == ["b", "c"]


async def test_a_budget_is_passed_by_calls_that_have_not_ended(here: World) -> None:
    """By their seconds and what they have reported; when they end, nothing is counted twice or forgotten."""
    await price(here, "session_s", "1000", provider="greenroom")
    await price(here, "llm_out", "0.5")
    await budget(here, "100")
    await budget(here, "100", id="c", agent="other")
    await budget(here, "100", id="d", currency="USD")

    async def spends(telling: UsageKeeper) -> dict[str, Decimal]:
        return {each.budget: Decimal(each.spent) for each in (await telling.tell()).budgets}

    async with keeper(here) as telling, keeper(here) as counting:
        async with here.recorder():
            calls = [await here.begin() for _ in range(2)]
            await here.begin(agent="third", tenant="u")
            for number, call in enumerate(calls):
                await here.publish(call.session, "metrics", id=f"m{number}", epoch=1, data=GPT)
            stored = "SELECT id FROM session_events WHERE type = 'metrics'"
            await eventually(lambda: here.rows(stored), lambda rows: len(rows) == 2)
        # Nobody counts from here on but those whom this test tells to.
        first = await spends(telling)
        assert await here.rows("SELECT * FROM usage") == []
        assert first["b"] > 200 * Decimal("0.5") * 2
        assert (first["c"], first["d"]) == (0, 0)
        assert await said(here) == ["budget.warning", "budget.reached"]
        assert (await spends(telling))["b"] > first["b"]
        for call in calls:
            await here.end(call)
        pool = await databases.open_pool(here.dsn, size=2)
        try:
            await stored_by_hand(here, pool)
            ended, marked = await spends(telling), await spends(counting)
            assert ended == marked
            assert ended["b"] > first["b"]
            assert await counting.count() == 2
            assert await spends(telling) == await spends(counting) == ended
        finally:
            await databases.close_pool(pool, timeout_s=2)
    assert await said(here) == ["budget.warning", "budget.reached"]


async def test_a_late_event_of_a_live_call_is_added_once(here: World) -> None:
    """Whether it was stored behind others or before them."""
    await price(here, "llm_out", "1")
    await budget(here, "100000")
    async with keeper(here) as telling:
        async with here.recorder():
            entry = await here.begin()
            await eventually(lambda: here.stored(entry.session), lambda row: row.get("state") == "ready")

        async def store(place: int) -> str:
            await here.rows(
                "INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)"
                " VALUES ($1, $2, 't', $3, 1, 1, 'x', 'metrics', now(), $4)",
                entry.session.id,
                place,
                f"m{place}",
                msgspec.json.encode(GPT).decode(),
            )
            return (await telling.tell()).budgets[0].spent

        assert [await store(place) for place in (1002, 1001, 1004, 1003)] == ["200", "400", "600", "800"]
        assert (await telling.tell()).budgets[0].spent == "800"


async def stored_by_hand(here: World, pool: Any) -> None:
    """Have everything that is in the stream stored, as the recorder does it."""
    reader = await here.broker.read("SESSIONS", ["gr.v1.session.>"], after=0)
    batch: list[Incoming] = []
    async for message in reader:
        batch.append(decode(message))
        if reader.caught_up.is_set():
            break
    await reader.close()
    ingest = Ingest(
        broker=here.broker, store=Store(pool), on_ended=lambda _: None, metrics=Metrics(), max_batch=len(batch)
    )
    await ingest.handle(batch)


async def test_a_notice_that_could_not_be_published_is_published_later(here: World) -> None:
    """It is kept before it is told to anybody."""
    await price(here, "session_s", "1", provider="greenroom")
    await budget(here, "0.000001")
    async with here.recorder(budget_interval_s=0.2):
        entry = await here.begin()
        await asyncio.sleep(0.01)
        await here.end(entry, Outcome.COMPLETED)
        await eventually(lambda: said(here), lambda kinds: len(kinds) == 2)
        await here.rows("UPDATE budget_notices SET published_at = NULL")
        left = "SELECT * FROM budget_notices WHERE published_at IS NULL"
        await eventually(lambda: here.rows(left), lambda rows: not rows)
    assert await said(here) == ["budget.warning", "budget.reached"]


async def test_of_two_that_tell_the_one_that_looked_first_is_passed_over(here: World) -> None:
    """So what is published never goes back to what was known before."""
    await budget(here, "10")
    async with keeper(here) as slow, keeper(here) as quick:
        store = slow._store
        looked, go_on = asyncio.Event(), asyncio.Event()

        class Slow(UsageStore):
            async def budgets(self) -> Any:
                found = await store.budgets()
                looked.set()
                await go_on.wait()
                return found

        slow._store = Slow(store._pool)
        telling = asyncio.create_task(slow.tell())
        await looked.wait()
        await budget(here, "20")
        newer = await quick.tell()
        go_on.set()
        await telling
    last = await here.broker.last(STREAM, SUBJECT)
    assert last is not None
    assert messages.decode(last.data, Spending) == newer


async def said(here: World) -> list[str]:
    """Return the kinds of notices that were published, in order."""
    if not await here.broker.count("NOTICES", subjects.NOTICE.wildcard()):
        return []
    reader = await here.broker.read("NOTICES", [subjects.NOTICE.wildcard()], after=0)
    found: list[str] = []
    async for message in reader:
        found.append(messages.decode(message.data, BudgetNotice).kind)
        if reader.caught_up.is_set():
            break
    await reader.close()
    return found


async def test_what_never_ran_is_counted_to_nothing(here: World) -> None:
    """Its mark goes, and there is no line."""
    async with here.recorder():
        entry = await here.request()
        ended = Ended(by="scheduler", epoch=0, outcome=Outcome.EXPIRED, reason="queue-expired")
        await here.advance(entry, ended)
        await eventually(lambda: here.stored(entry.session), lambda row: row.get("state") == "ended")
        await eventually(lambda: here.rows("SELECT * FROM usage_due"), lambda rows: not rows)
    assert await used(here, entry.session) == {}


async def test_what_was_stored_before_usage_was_counted_is_counted(empty_database: str) -> None:
    """A database of an earlier version has sessions that have ended: all of them are due once it is migrated."""
    files = migrations()
    before = [file for file in files if file.name < "0007"]
    await migrate(empty_database, files=before)
    connection = await databases.connect(empty_database, timeout_s=PATIENCE_S)
    try:
        for state in ("ended", "ready"):
            await connection.execute(
                "INSERT INTO sessions (id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch,"
                " attempt, media_connected, requested_at, queue_deadline_at, ended_at, document, ledger_revision)"
                " VALUES ($1, 't', 'a', 1, 'b', 'default', 'websocket', 'never', $1, 1, 1, false, now(), now(),"
                " CASE WHEN $1 = 'ended' THEN now() END, '{}', 1)",
                state,
            )
        await migrate(empty_database, files=files)
        assert [row["session_id"] for row in await connection.fetch("SELECT * FROM usage_due")] == ["ended"]
    finally:
        await connection.close()
