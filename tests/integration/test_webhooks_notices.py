"""What is said of budgets and limits comes to webhook endpoints, on a real broker and a real database."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import timedelta

from greenroom.common import messages, subjects
from greenroom.common.budgets import BudgetNotice, NoticeKind
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.notices import LIMIT_REACHED, LimitNotice
from greenroom.common.policy import Scope
from greenroom.recorder import database as databases
from greenroom.recorder.webhooks.notices import Notices
from tests.support.recorder_world import World, eventually
from tests.support.webhook_world import SECRET, Hooks, deliveries, delivering, hurry, subscribe


@contextlib.asynccontextmanager
async def telling(here: World) -> AsyncGenerator[None]:
    """Have notices stored and delivered for the time of the block."""
    pool = await databases.open_pool(here.dsn, size=2)
    work = asyncio.create_task(Notices(here.broker, pool).run())
    try:
        async with delivering(here):
            yield
    finally:
        work.cancel()
        await asyncio.wait({work})
        await databases.close_pool(pool, timeout_s=2)


async def say(here: World, notice: BudgetNotice | LimitNotice, *, subject_tenant: str | None = None) -> None:
    """Publish a notice as services do."""
    subject = subjects.NOTICE.format(tenant=subject_tenant or notice.tenant, kind=notice.kind)
    await here.broker.append(subject, messages.encode(notice), msg_id=notice.id)


def of_budget(kind: NoticeKind, budget: str = "b", tenant: str = "t") -> BudgetNotice:
    """Return a notice about a budget."""
    now = utcnow()
    return BudgetNotice(
        id=uuid7(),
        kind=kind,
        at=now,
        tenant=tenant,
        budget=budget,
        amount="50",
        spent="41.27",
        currency="EUR",
        period_start=now,
        period_end=now + timedelta(days=1),
    )


def of_limit(limit: str = "twenty", tenant: str = "t") -> LimitNotice:
    """Return a notice about a limit."""
    return LimitNotice(
        id=uuid7(),
        kind=LIMIT_REACHED,
        at=utcnow(),
        tenant=tenant,
        limit=limit,
        scope=Scope.TENANT,
        key=tenant,
        reason="tenant-limit",
        active=20,
        max_sessions=20,
    )


async def stored(here: World, count: int) -> None:
    """Wait until there are so many notices."""
    await eventually(lambda: here.rows("SELECT id FROM notices"), lambda rows: len(rows) == count)


async def test_a_tenant_is_told_of_its_budgets_and_limits(here: World, there: Hooks) -> None:
    """Signed, with what it is about; only what an endpoint wants, and nothing of another tenant."""
    both = await subscribe(here, there.url, "budget.*", "limit.reached")
    await subscribe(here, f"{there.url}/sessions", "session.*")
    await subscribe(here, f"{there.url}/other", "*", tenant="u")
    warning, limit = of_budget("budget.warning"), of_limit()
    async with telling(here):
        await say(here, warning)
        await say(here, limit)
        await eventually(
            lambda: deliveries(here, both), lambda rows: [row["state"] for row in rows] == ["delivered"] * 2
        )
    assert {hook.path for hook in there.seen} == {"/hooks"}
    assert all(hook.signed_by(SECRET) for hook in there.seen)
    told = {hook.type: hook.json for hook in there.seen}
    assert set(told) == {"budget.warning", "limit.reached"}
    said = told["budget.warning"]
    assert (said["tenant"], said["event_id"], said["source"]) == ("t", warning.id, "recorder")
    assert (said["data"]["budget"], said["data"]["spent"], said["data"]["currency"]) == ("b", "41.27", "EUR")
    said = told["limit.reached"]
    assert (said["source"], said["data"]["limit"], said["data"]["scope"]) == ("scheduler", "twenty", "tenant")
    assert (said["data"]["active"], said["data"]["max_sessions"]) == (20, 20)
    assert not {"id", "kind", "at", "tenant"} & set(said["data"])


async def test_what_is_said_of_one_budget_is_told_in_order(here: World, there: Hooks) -> None:
    """The next waits until the former is delivered; what is said of another one doesn't."""
    there.answer = lambda hook: 500 if hook.type == "budget.warning" else 204
    endpoint = await subscribe(here, there.url)
    async with telling(here):
        await say(here, of_budget("budget.warning"))
        await say(here, of_budget("budget.reached"))
        await stored(here, 2)
        await eventually(lambda: asyncio.sleep(0, there.types()), lambda types: types == ["budget.warning"])
        await say(here, of_budget("budget.reached", "other"))
        await stored(here, 3)
        await hurry(here)
        await eventually(lambda: asyncio.sleep(0, there.types()), lambda types: "budget.reached" in types)
        assert [hook.json["data"]["budget"] for hook in there.seen if hook.type == "budget.reached"] == ["other"]
        there.answer = lambda _: 204

        async def all_of_it() -> list[str]:
            await hurry(here)
            return [row["state"] for row in await deliveries(here, endpoint)]

        await eventually(all_of_it, lambda states: states == ["delivered"] * 3)
    of_b = [hook for hook in there.seen if hook.json["data"]["budget"] == "b"]
    assert [hook.type for hook in of_b[-2:]] == ["budget.warning", "budget.reached"]
    # The same thing has the same id and the same bytes at every attempt.
    warnings = {(hook.id, hook.body) for hook in of_b if hook.type == "budget.warning"}
    assert len(warnings) == 1


async def test_a_notice_that_comes_twice_is_told_once(here: World, there: Hooks) -> None:
    """Known by its id, also when the broker has forgotten that it had it."""
    endpoint = await subscribe(here, there.url)
    notice = of_limit()
    async with telling(here):
        subject = subjects.NOTICE.format(tenant="t", kind=notice.kind)
        for _ in range(2):
            await here.broker.append(subject, messages.encode(notice), msg_id=uuid7())
        await say(here, of_limit("other"))
        await stored(here, 2)
        await eventually(
            lambda: deliveries(here, endpoint), lambda rows: [row["state"] for row in rows] == ["delivered"] * 2
        )
    assert len(there.seen) == 2


async def test_what_cannot_be_read_is_parked(here: World, there: Hooks) -> None:
    """With the reason; what comes behind it is told."""
    await subscribe(here, there.url)
    async with telling(here):
        await here.broker.append(subjects.NOTICE.format(tenant="t", kind="budget.warning"), b"{}")
        await here.broker.append(subjects.NOTICE.format(tenant="t", kind="limit.reached"), b"no json")
        await say(here, of_limit(tenant="u"), subject_tenant="t")
        await say(here, of_limit())
        await eventually(lambda: asyncio.sleep(0, there.types()), lambda types: types == ["limit.reached"])
        parked = await eventually(here.parked, lambda found: len(found) == 3)
    assert {(each.stream, each.reason.split(":")[0]) for each in parked} == {("NOTICES", "malformed")}


async def test_the_recorder_tells_by_itself(here: World, there: Hooks) -> None:
    """From a budget that is spent to a request at the endpoint, with nothing but a recorder running."""
    await subscribe(here, there.url, "budget.*")
    await here.rows(
        "INSERT INTO prices (provider, unit, valid_from, price, currency)"
        " VALUES ('greenroom', 'session_s', '2020-01-01', 1, 'EUR')"
    )
    await here.rows("INSERT INTO budgets (id, tenant, amount, currency, period) VALUES ('b', 't', 0.001, 'EUR', 'day')")
    settings = {"webhook_allow": ("127.0.0.0/8",), "webhook_allow_http": True, "recorder_work": ("keep", "webhooks")}
    async with here.recorder(budget_interval_s=0.2, **settings):
        entry = await here.begin()
        await asyncio.sleep(0.01)
        await here.end(entry)
        await eventually(
            lambda: asyncio.sleep(0, there.types()), lambda types: types == ["budget.warning", "budget.reached"]
        )
