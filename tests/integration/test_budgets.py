"""A budget from the price list to the refusal: api, scheduler, runner and recorder on a real broker and database."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from greenroom.common import messages
from greenroom.common.budgets import Spending
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import Ended, Outcome, State
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as databases
from greenroom.recorder.usage.keeper import STREAM, SUBJECT, UsageKeeper
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.scheduler_field import Field, field_on

# A second of a session costs a EUR.
PRICE = {
    "provider": "greenroom",
    "unit": "session_s",
    "price": "1",
    "currency": "EUR",
    "valid_from": "2026-01-01T00:00:00Z",
}
BUDGET = {"tenant": "acme", "amount": "0.01", "currency": "EUR", "period": "month"}


@pytest.fixture
async def field(nats_url: str, tmp_path: Path) -> AsyncGenerator[Field]:
    """A field on the server of the run, with a runner."""
    async with field_on(nats_url, tmp_path) as field:
        await field.runner("r1", slots=9)
        yield field


@pytest.fixture
async def world(field: Field, database: str) -> AsyncGenerator[ApiWorld]:
    """An api beside it."""
    async with running_api(field.url, database) as running:
        yield running


@contextlib.asynccontextmanager
async def keeper(world: ApiWorld) -> AsyncGenerator[UsageKeeper]:
    """Give what the leading recorder counts and tells by."""
    pool = await databases.open_pool(world.dsn, size=2)
    try:
        yield UsageKeeper(pool=pool, broker=world.broker, metrics=Metrics(), interval_s=60, settle_s=0)
    finally:
        await databases.close_pool(pool, timeout_s=2)


async def ask(client: httpx.AsyncClient, **wish: Any) -> httpx.Response:
    """Ask for a session that is ready."""
    return await client.post("/v1/sessions", json={"agent": "echo", "wait": "ready", "wait_timeout_s": 20, **wish})


async def test_a_budget_stops_new_sessions_and_cuts_none(world: ApiWorld, field: Field) -> None:
    """Refused with the end of the month as when to ask again; who speaks goes on; a raised amount lets in again."""
    await field.scheduler("one")
    async with world.client() as operator, world.client(tenant="acme") as acme, keeper(world) as recorder:
        assert (await operator.put("/v1/prices", json={"prices": [PRICE]})).status_code == 204
        assert (await operator.put("/v1/budgets/b", json=BUDGET)).status_code == 200
        await recorder.tell()
        first, live = [(await ask(acme)).json()["id"] for _ in range(2)]
        await asyncio.sleep(0.05)
        ended = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")
        await world.advance(first, ended, tenant="acme")
        await world.record()
        await recorder.count()
        spending = await recorder.tell()
        assert [each.reached for each in spending.budgets] == [True]

        async def refused() -> httpx.Response:
            return await ask(acme, wait="requested")

        response = await eventually(refused, lambda answer: answer.status_code == 429)
        left_s = (spending.budgets[0].period_end - utcnow()).total_seconds()
        assert problem_of(response)["code"] == "budget-reached"
        assert math.isclose(int(response.headers["retry-after"]), left_s, abs_tol=60)
        assert (await ask(operator)).status_code == 201

        speaking = await world.ledger.last("acme", live)
        assert speaking is not None
        assert speaking.session.state is State.READY
        used = (await acme.get("/v1/usage", params={"group_by": "session", "session_id": first})).json()["groups"]
        # What the one that goes on has cost so far is spent too, and isn't in what was counted.
        (cost,) = [Decimal(each["cost"][0]["amount"]) for each in used]
        assert Decimal("0.01") <= cost < Decimal(spending.budgets[0].spent)

        assert (await operator.put("/v1/budgets/b", json={**BUDGET, "amount": "1000"})).status_code == 200
        await recorder.tell()
        await eventually(lambda: ask(acme), lambda answer: answer.status_code == 201)


async def test_what_was_told_holds_for_whoever_comes_later(world: ApiWorld, field: Field) -> None:
    """A scheduler that starts, and one that takes over, know it from the stream: there is no database behind them."""
    async with world.client() as operator, world.client(tenant="acme") as acme, keeper(world) as recorder:
        await operator.put("/v1/prices", json={"prices": [PRICE]})
        await operator.put("/v1/budgets/b", json=BUDGET)
        await world.execute(
            "INSERT INTO usage VALUES ('s', 'acme', 'echo', now(), 'greenroom', 'default', 'session_s', 60)"
        )
        await recorder.tell()
        message = await world.broker.last(STREAM, SUBJECT)
        assert message is not None
        assert messages.decode(message.data, Spending).budgets[0].spent == "60"
        for name, other in (("one", None), ("two", "one")):
            process = await field.scheduler(name)
            assert await field.leader(other_than=other) == name
            response = await ask(acme)
            assert (response.status_code, problem_of(response)["code"]) == (429, "budget-reached")
            process.kill()
            await process.wait()
