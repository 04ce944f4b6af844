"""`greenroom usage` against a running api, and the worked example of docs/usage.md."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from greenroom.common import messages, subjects
from greenroom.common.budgets import Spending, Spent
from greenroom.common.clock import utcnow
from greenroom.devtools.cli import cli
from greenroom.recorder.usage.lines import Happened, Line, usage_of
from tests.support.api_world import ApiWorld, running_api, until
from tests.unit.test_recorder_usage import T0, a_session

PAGE = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """A running api that the command talks to."""
    async with running_api(nats_url, database) as running:
        monkeypatch.setenv("GREENROOM_API_URL", running.url)
        monkeypatch.setenv("GREENROOM_API_KEY", await running.key())
        monkeypatch.setenv("COLUMNS", "200")
        yield running


async def usage(*arguments: str) -> str:
    """Return what the command prints."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["usage", *arguments])
    assert result.exit_code == 0, result.exception
    return result.output


async def use(world: ApiWorld, line: Line, quantity: Any, session: str = "s") -> None:
    """Store a line of usage."""
    await world.execute(
        "INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity)"
        " VALUES ($1, 'acme', 'desk', '2026-03-02T12:00:00Z', $2, $3, $4, $5)",
        session,
        *line,
        quantity,
    )


def example() -> tuple[bytes, list[Happened]]:
    """Return the prices and the events of the page."""
    prices = re.search(r"```json\n(\{\"prices\".*?)```", PAGE, re.DOTALL)
    assert prices is not None
    events = re.findall(r"^\| `(metrics|call_status)` \| `(\{.*?\})` \|$", PAGE, re.MULTILINE)
    return prices[1].encode(), [
        Happened(id=str(number), type=kind, at=T0, data=msgspec.json.decode(data, type=dict))
        for number, (kind, data) in enumerate(events)
    ]


async def test_the_worked_example_is_true(world: ApiWorld) -> None:
    """Quantities, costs, and what is unpriced are as the page says."""
    prices, events = example()
    assert len(events) == 3
    for line, quantity in usage_of(a_session(), events).lines.items():
        await use(world, line, quantity)
    async with world.client() as client:
        assert (await client.put("/v1/prices", content=prices)).status_code == 204
        query = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z", "group_by": "session"}
        group = (await client.get("/v1/usage", params=query)).json()["groups"][0]
    assert group["cost"] == [{"amount": "0.001", "currency": "USD"}]
    rows = {row["unit"]: (row["quantity"], row.get("cost")) for row in (*group["lines"], *group["unpriced"])}
    assert rows == {
        "llm_in": ("1700", "0.00068"),
        "llm_out": ("200", "0.00032"),
        "llm_cached": ("1000", None),
        "carrier_min": ("2", None),
    }
    for quantity, cost in rows.values():
        assert re.search(rf"^\| .*\b{quantity} \| .*{f'{cost} USD' if cost else 'unpriced'} \|$", PAGE, re.MULTILINE)


async def test_usage_is_shown_with_its_cost_and_its_budgets(world: ApiWorld) -> None:
    """A line for each group, one for what is in it, what has no price, and how budgets stand."""
    window = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-04-01T00:00:00Z")
    assert "nothing was used" in await usage(*window)
    await use(world, Line("openai", "gpt", "llm_in"), 1000)
    await use(world, Line("twilio", "", "carrier_min"), 2, session="other")
    price = {"provider": "openai", "unit": "llm_in", "price": "0.5", "currency": "EUR"}
    budget = {"tenant": "acme", "amount": "50", "currency": "EUR", "period": "day"}
    async with world.client() as client:
        await client.put("/v1/prices", json={"prices": [{**price, "valid_from": "2026-01-01T00:00:00Z"}]})
        await client.put("/v1/budgets/daily", json=budget)
    shown = await usage("--by", "agent", *window)
    assert re.search(r"acme +desk +2 sessions +500 EUR", shown)
    assert re.search(r"openai gpt +1000 llm_in +500 EUR", shown)
    assert re.search(r"twilio +2 carrier_min +no price", shown)
    assert "what has no price is in no cost" in shown
    assert "no recorder has told yet" in shown
    now = utcnow()
    state = Spent(
        budget="daily",
        tenant="acme",
        amount="50",
        spent="50.5",
        currency="EUR",
        period_start=now,
        period_end=now + timedelta(hours=1),
        reached=True,
    )
    told = messages.encode(Spending(at=now, budgets=(state,)))
    await world.broker.append(subjects.POLICY.format(name="spending"), told)
    await until(lambda: world.parts.spending.current)
    assert "budget daily (acme): spent: 50.5 of 50 EUR a day" in await usage(*window)


async def test_usage_goes_through_all_pages_as_json(world: ApiWorld) -> None:
    """A line for each group; with a limit it is said that there are more."""
    for number in range(3):
        await use(world, Line("openai", "gpt", "llm_in"), 1, session=f"s{number}")
    window = ("--by", "session", "--from", "2026-03-01T00:00:00Z", "--to", "2026-04-01T00:00:00Z")
    lines = (await usage(*window, "--json")).splitlines()
    assert [msgspec.json.decode(line)["key"] for line in lines] == ["s0", "s1", "s2"]
    assert "only the first 2 groups" in await usage(*window, "--limit", "2")
