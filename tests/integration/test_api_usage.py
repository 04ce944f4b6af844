"""The routes of usage, prices and budgets on real servers: what is shown to whom, and what can't be meant."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from greenroom.api.billing.budgets import STREAM, SUBJECT
from greenroom.common import messages
from greenroom.common.budgets import Spending, Spent
from greenroom.common.clock import utcnow
from greenroom.common.policy import AtLimit
from tests.support.api_scheduler import LeadingScheduler, refuses
from tests.support.api_world import ApiWorld, problem_of, running_api, until

DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-08T00:00:00+00:00"}
PRICE = {
    "provider": "openai",
    "model": "gpt",
    "unit": "llm_in",
    "price": "0.40",
    "per": 1_000_000,
    "currency": "USD",
    "valid_from": "2026-01-01T00:00:00Z",
}
BUDGET = {"tenant": "acme", "amount": "50.00", "currency": "USD", "period": "day", "zone": "Europe/Berlin"}


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`."""
    async with running_api(nats_url, database) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given:
        yield given


async def use(world: ApiWorld, session: str, unit: str, quantity: str, **fields: Any) -> None:
    """Store a line of usage."""
    row = {"tenant": "acme", "agent": "desk", "at": DAY, "provider": "openai", "model": "gpt", **fields}
    await world.execute(
        "INSERT INTO usage (session_id, unit, quantity, tenant, agent, at, provider, model)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        session,
        unit,
        Decimal(quantity),
        *row.values(),
    )


async def usage(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    """Return a page."""
    response = await client.get("/v1/usage", params={**WINDOW, **query})
    assert response.status_code == 200, response.text
    return response.json()


async def test_what_was_used_is_priced_or_listed_as_unpriced(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Cost is exact, by currency; what has no price is in no cost; a price that comes later doesn't count."""
    prices = [
        PRICE,
        {**PRICE, "unit": "llm_out", "price": "1.60"},
        {
            **PRICE,
            "provider": "twilio",
            "model": "*",
            "unit": "carrier_min",
            "price": "0.01",
            "per": 1,
            "currency": "EUR",
        },
        {**PRICE, "unit": "stt_s", "price": "9", "valid_from": "2026-06-01T00:00:00Z"},
    ]
    assert (await client.put("/v1/prices", json={"prices": prices})).status_code == 204
    await use(world, "s1", "llm_in", "12345")
    await use(world, "s1", "carrier_min", "3", provider="twilio", model="")
    await use(world, "s2", "llm_in", "655")
    await use(world, "s2", "stt_s", "61.5")
    found = await usage(client, group_by="agent")
    assert found["groups"] == [
        {
            "tenant": "acme",
            "key": "desk",
            "sessions": 2,
            "cost": [{"amount": "0.03", "currency": "EUR"}, {"amount": "0.0052", "currency": "USD"}],
            "lines": [
                {
                    "provider": "openai",
                    "model": "gpt",
                    "unit": "llm_in",
                    "quantity": "13000",
                    "cost": "0.0052",
                    "currency": "USD",
                },
                {
                    "provider": "twilio",
                    "model": "",
                    "unit": "carrier_min",
                    "quantity": "3",
                    "cost": "0.03",
                    "currency": "EUR",
                },
            ],
            "unpriced": [{"provider": "openai", "model": "gpt", "unit": "stt_s", "quantity": "61.5"}],
        }
    ]


GROUPS = [
    ("session", ["s1", "s2", "s3"]),
    ("agent", ["desk", "sales"]),
    ("tenant", ["acme"]),
    ("day", ["2026-03-01", "2026-03-02"]),
    ("provider", ["deepgram", "openai"]),
    ("model", ["gpt", "nova"]),
    ("unit", ["llm_in", "stt_s"]),
]


async def test_groups_come_in_pages(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """By key, each once, however small the pages are; days are those of the zone."""
    await use(world, "s1", "llm_in", "1")
    await use(world, "s2", "llm_in", "1", at=DAY + timedelta(hours=11, minutes=30))
    await use(world, "s3", "stt_s", "1", agent="sales", provider="deepgram", model="nova")
    for group_by, keys in GROUPS:
        found: list[str] = []
        query: dict[str, str] = {}
        while True:
            page = await usage(client, group_by=group_by, zone="Europe/Berlin", limit=1, **query)
            found += [group["key"] for group in page["groups"]]
            if page["next"] is None:
                break
            query = {"cursor": page["next"]}
        assert found == keys


async def test_filters_and_times(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """From a moment on, and before another; by agent, provider and session."""
    await use(world, "s1", "llm_in", "1")
    await use(world, "s2", "llm_in", "2", agent="sales", at=DAY + timedelta(days=1))

    async def total(**query: str) -> int:
        groups = (await usage(client, group_by="tenant", **query))["groups"]
        return sum(int(line["quantity"]) for group in groups for line in group["unpriced"])

    assert await total() == 3
    assert await total(**{"from": "2026-03-02T12:00:00Z"}) == 2
    assert await total(to="2026-03-02T12:00:00Z") == 1
    assert (await total(agent="sales"), await total(session_id="s1"), await total(provider="x")) == (2, 1, 0)


async def test_a_tenant_sees_its_own(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Operators see all of it, or one tenant's; prices are for administrators."""
    await use(world, "s1", "llm_in", "1")
    await use(world, "s2", "llm_in", "2", tenant="other")
    assert (await client.put("/v1/prices", json={"prices": [PRICE]})).status_code == 204
    assert (await client.put("/v1/budgets/acme-daily", json=BUDGET)).status_code == 200
    assert [each["tenant"] for each in (await usage(client))["groups"]] == ["acme", "other"]
    assert [each["tenant"] for each in (await usage(client, tenant="other"))["groups"]] == ["other"]
    async with world.client("sessions:read", tenant="other") as other:
        assert [each["tenant"] for each in (await usage(other))["groups"]] == ["other"]
        assert problem_of(await other.get("/v1/usage", params={"tenant": "acme"}))["status"] == 403
        assert (await other.get("/v1/budgets")).json()["budgets"] == []
        assert problem_of(await other.get("/v1/budgets/acme-daily"))["code"] == "budget-not-found"
        for method, path, body in (
            ("GET", "/v1/prices", None),
            ("PUT", "/v1/prices", {"prices": [PRICE]}),
            ("DELETE", "/v1/prices?provider=a&unit=llm_in&valid_from=2026-01-01T00:00:00Z", None),
            ("PUT", "/v1/budgets/x", BUDGET),
            ("DELETE", "/v1/budgets/acme-daily", None),
        ):
            assert (await other.request(method, path, json=body)).status_code == 403
    async with world.client("sessions:write", tenant="other") as blind:
        assert (await blind.get("/v1/usage")).status_code == 403


async def test_prices_are_made_replaced_listed_and_deleted(client: httpx.AsyncClient) -> None:
    """By tenant, provider, model, unit and time, whichever zone the time is given in."""
    again = {**PRICE, "price": "0.5", "valid_from": "2026-01-01T01:00:00+01:00"}
    own = {**PRICE, "tenant": "acme", "price": "0.000000000001"}
    for body in ([PRICE, own], [again]):
        assert (await client.put("/v1/prices", json={"prices": body})).status_code == 204
    listed = (await client.get("/v1/prices")).json()
    assert [(each["tenant"], each["price"]) for each in listed["prices"]] == [("*", "0.5"), ("acme", "0.000000000001")]
    assert [each["tenant"] for each in (await client.get("/v1/prices?tenant=acme")).json()["prices"]] == ["acme"]
    key = {name: PRICE[name] for name in ("provider", "model", "unit", "valid_from")}
    assert (await client.delete("/v1/prices", params=key)).status_code == 204
    assert problem_of(await client.delete("/v1/prices", params=key))["code"] == "price-not-found"
    never = {**key, "valid_from": "9999-12-31T23:59:59-14:00"}
    assert problem_of(await client.delete("/v1/prices", params=never))["status"] == 400
    assert len((await client.get("/v1/prices")).json()["prices"]) == 1


async def test_many_prices_come_in_pages(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Each once."""
    await world.execute(
        "INSERT INTO prices (provider, unit, valid_from, price, currency)"
        " SELECT 'p', 'llm_in', '2026-01-01Z'::timestamptz + make_interval(days => n), 1, 'EUR'"
        " FROM generate_series(1, 1200) AS n"
    )
    found: list[str] = []
    query: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/prices", params=query)).json()
        found += [each["valid_from"] for each in page["prices"]]
        if page["next"] is None:
            break
        query = {"cursor": page["next"]}
    assert (len(found), found) == (1200, sorted(set(found)))


WRONG_PRICES: list[dict[str, Any]] = [
    {"price": 0.4},
    {"price": "-1"},
    {"price": "1e3"},
    {"price": "NaN"},
    {"price": "0.0000000000001"},
    {"per": 60},
    {"unit": "bananas"},
    {"currency": "usd"},
    {"valid_from": "2026-01-01T00:00:00"},
    {"valid_from": "0001-01-01T00:00:00+14:00"},
    {"provider": ""},
    {"tenant": "a.b"},
]


async def test_a_price_that_cannot_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """Above all a float is no amount of money; of several, none is made."""
    for wrong in WRONG_PRICES:
        problem = problem_of(await client.put("/v1/prices", json={"prices": [PRICE, {**PRICE, **wrong}]}))
        assert problem["errors"][0]["pointer"] == f"/prices/1/{next(iter(wrong))}"
    assert (await client.get("/v1/prices")).json()["prices"] == []


WRONG_BUDGETS: list[dict[str, Any]] = [
    {"amount": "0"},
    {"amount": 50},
    {"zone": "Mars/Olympus"},
    {"zone": "../etc/passwd"},
    {"period": "year"},
    {"warn_share": 0},
    {"tenant": "*"},
]


async def test_a_budget_that_cannot_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """With the place of what is wrong."""
    for wrong in WRONG_BUDGETS:
        problem = problem_of(await client.put("/v1/budgets/b", json={**BUDGET, **wrong}))
        assert problem["errors"][0]["pointer"] == f"/{next(iter(wrong))}"


WRONG_QUERIES: list[dict[str, str]] = [
    {"from": "2026-03-08T00:00:00Z"},
    {"from": "2020-01-01T00:00:00Z"},
    {"from": "2026-03-01T00:00:00"},
    {"to": "0001-01-01T00:00:00+14:00"},
    {"zone": "Nowhere"},
    {"cursor": "bm8"},
    {"cursor": "WyJhXHUwMDAwIiwiYiJd"},
    {"group_by": "colour"},
    {"limit": "0"},
    {"agent": "\x00"},
    {"sessions": "1"},
]


async def test_a_question_that_cannot_be_meant_is_refused(client: httpx.AsyncClient) -> None:
    """With a typed error."""
    for query in WRONG_QUERIES:
        assert problem_of(await client.get("/v1/usage", params={**WINDOW, **query}))["status"] == 400, query


async def test_budgets_show_how_they_stand(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """As the recorder has told it, of the amount that it was told for."""
    assert (await client.put("/v1/prices", json={"prices": [PRICE]})).status_code == 204
    made = (await client.put("/v1/budgets/acme-daily", json=BUDGET)).json()
    assert (made["amount"], made["warn_share"], made["at_limit"], made["spent"]) == ("50", 0.8, "refuse", None)
    assert (await client.get("/v1/budgets")).json() == {"budgets": [made], "told_at": None}
    await tell(world, spent(spent="41.27"))
    seen = (await client.get("/v1/budgets/acme-daily")).json()
    assert (seen["spent"], seen["reached"]) == ("41.27", False)
    await client.put("/v1/budgets/acme-daily", json={**BUDGET, "amount": "60"})
    assert (await client.get("/v1/budgets/acme-daily")).json()["spent"] is None
    assert (await client.delete("/v1/budgets/acme-daily")).status_code == 204
    assert problem_of(await client.delete("/v1/budgets/acme-daily"))["code"] == "budget-not-found"


async def test_a_budget_and_its_prices_are_of_one_currency(client: httpx.AsyncClient) -> None:
    """Neither can be set so that what is spent wouldn't count; what is refused changes nothing."""

    async def put(what: str, body: dict[str, Any]) -> str:
        answer = await client.put(f"/v1/{what}", json=body)
        return problem_of(answer)["code"] if answer.is_error else "done"

    euros = {**PRICE, "currency": "EUR"}
    budget = {**BUDGET, "currency": "EUR"}
    assert await put("budgets/b", budget) == "currency-mismatch"  # there are no prices at all
    assert await put("prices", {"prices": [PRICE]}) == "done"
    assert await put("budgets/b", budget) == "currency-mismatch"  # none in euros
    assert await put("prices", {"prices": [{**euros, "unit": "llm_out"}]}) == "done"
    assert await put("budgets/b", budget) == "currency-mismatch"  # and some in dollars
    assert await put("budgets/b", BUDGET) == "currency-mismatch"
    # A tenant's own price stands in the place of the common one.
    assert await put("prices", {"prices": [{**euros, "tenant": "acme", "model": "*"}]}) == "done"
    assert await put("budgets/b", budget) == "done"
    # From now on nothing in another currency can come to bear on it; for others it can.
    for price in (
        {**PRICE, "unit": "tts_chars"},
        {**PRICE, "tenant": "acme"},
        {**PRICE, "tenant": "acme", "valid_from": "2999-01-01T00:00:00Z"},
    ):
        assert await put("prices", {"prices": [{**euros, "unit": "stt_s"}, price]}) == "currency-mismatch"
    assert len((await client.get("/v1/prices")).json()["prices"]) == 3
    for price in ({**PRICE, "price": "0.5"}, {**PRICE, "tenant": "other", "unit": "tts_chars"}):
        assert await put("prices", {"prices": [price]}) == "done"
    assert [each["currency"] for each in (await client.get("/v1/budgets")).json()["budgets"]] == ["EUR"]


async def test_a_currency_that_was_left_keeps_nobody_from_the_new_one(client: httpx.AsyncClient) -> None:
    """Prices of the past stay as they were; of those that follow each other the newest decides."""
    await client.put("/v1/prices", json={"prices": [PRICE]})
    newer = {**PRICE, "currency": "EUR", "valid_from": "2026-06-01T00:00:00Z"}
    await client.put("/v1/prices", json={"prices": [newer]})
    assert (await client.put("/v1/budgets/b", json={**BUDGET, "currency": "EUR"})).status_code == 200
    assert problem_of(await client.put("/v1/budgets/c", json=BUDGET))["code"] == "currency-mismatch"


async def test_a_deleted_price_leaves_its_place_to_none_in_another_currency(client: httpx.AsyncClient) -> None:
    """Neither a common one nor an older one comes to bear on a budget; without the budget, or with the same, it may."""

    async def delete(price: dict[str, Any]) -> str:
        key = {name: price[name] for name in ("tenant", "provider", "model", "unit", "valid_from") if name in price}
        answer = await client.delete("/v1/prices", params=key)
        return problem_of(answer)["code"] if answer.is_error else "done"

    own = {**PRICE, "tenant": "acme", "currency": "EUR"}
    spare = {**own, "unit": "stt_s"}
    newer = {**spare, "valid_from": "2026-06-01T00:00:00Z"}
    old = {**spare, "currency": "USD", "valid_from": "2026-02-01T00:00:00Z"}
    await client.put("/v1/prices", json={"prices": [PRICE, own, old, newer]})
    budget = {**BUDGET, "currency": "EUR"}
    assert (await client.put("/v1/budgets/b", json=budget)).status_code == 200
    assert await delete(own) == "currency-mismatch"
    assert await delete(newer) == "currency-mismatch"
    assert len((await client.get("/v1/prices")).json()["prices"]) == 4
    # What is past bears on nothing, and another one in the same currency may take its place.
    assert await delete(old) == "done"
    assert await delete(newer) == "done"
    assert await delete(newer) == "price-not-found"
    await client.put("/v1/prices", json={"prices": [{**PRICE, "currency": "EUR"}]})
    assert await delete(own) == "done"
    # A common price, too, may have had others in its place.
    common = {**PRICE, "unit": "tts_chars"}
    past = {**common, "valid_from": "2020-01-01T00:00:00Z"}
    assert (await client.delete("/v1/budgets/b")).status_code == 204
    await client.put("/v1/prices", json={"prices": [past, {**common, "currency": "EUR"}]})
    assert (await client.put("/v1/budgets/b", json=budget)).status_code == 200
    assert await delete(common) == "currency-mismatch"
    assert (await client.delete("/v1/budgets/b")).status_code == 204
    assert await delete(common) == "done"


def spent(**fields: Any) -> Spent:
    """Return how a budget of the tenant `acme` stands."""
    now = utcnow()
    known: dict[str, Any] = {"budget": "acme-daily", "tenant": "acme", "amount": "50", "spent": "50", "currency": "USD"}
    known |= {"period_start": now, "period_end": now + timedelta(hours=1)}
    return Spent(**known | fields)


async def tell(world: ApiWorld, *budgets: Spent) -> None:
    """Publish how budgets stand, as the recorder does, and wait until this api knows it."""
    told = Spending(at=utcnow(), budgets=budgets)
    await world.broker.append(SUBJECT, messages.encode(told))
    await until(lambda: world.parts.spending.current == told)


async def test_a_spent_budget_is_429_with_the_end_of_its_period(world: ApiWorld) -> None:
    """At once, though nobody asked to wait; the scheduler decides, and the answer waits for that."""
    await tell(world, spent(reached=True))
    async with (
        world.client(tenant="acme") as acme,
        LeadingScheduler(world.broker, decide=refuses("budget-reached", 3599.2)),
    ):
        response = await acme.post("/v1/sessions", json={"agent": "echo"})
    problem = problem_of(response)
    assert (problem["status"], problem["code"], problem["retryable"]) == (429, "budget-reached", True)
    assert (response.headers["retry-after"], problem["outcome"]) == ("3600", "rejected")


@pytest.mark.parametrize("fields", [{"reached": False}, {"tenant": "other"}, {"at_limit": AtLimit.QUEUE}])
async def test_whom_no_budget_refuses_waits_for_nothing(world: ApiWorld, fields: dict[str, Any]) -> None:
    """What the scheduler decides comes behind the answer: only who waits for it hears that it has refused."""
    await tell(world, spent(**{"reached": True, **fields}))
    async with (
        world.client(tenant="acme") as acme,
        LeadingScheduler(world.broker, decide=refuses("budget-reached")),
    ):
        assert (await acme.post("/v1/sessions", json={"agent": "echo"})).status_code == 201


async def test_what_is_told_in_another_form_changes_nothing(world: ApiWorld) -> None:
    """What was told before stands."""
    await tell(world, spent(reached=True))
    before = world.parts.spending.current
    await world.broker.append(SUBJECT, b"no JSON")
    await world.broker.append(SUBJECT, b'{"at": 1}')
    await tell(world, spent(reached=True, spent="51"))
    assert before is not None
    assert world.parts.spending.current != before
    assert await world.broker.count(STREAM, SUBJECT) == 1
