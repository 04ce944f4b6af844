"""The routes of webhook endpoints on real servers: who may have what told to whom."""

import re
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.api_world import ApiWorld, problem_of, running_api

PATH = "/v1/webhook-endpoints"
URL = "https://crm.example.org/hooks"


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api."""
    async with running_api(nats_url, database) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may write webhooks and nothing else."""
    async with world.client("webhooks:write") as given:
        yield given


async def add(client: httpx.AsyncClient, **wish: Any) -> dict[str, Any]:
    """Add an endpoint; return the answer."""
    response = await client.post(PATH, json={"url": URL, **wish})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


async def delivery_ids(client: httpx.AsyncClient, endpoint_id: str, **query: Any) -> list[str]:
    """Return the ids of the deliveries that are listed, page after page of two."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(f"{PATH}/{endpoint_id}/deliveries", params={**query, **cursor, "limit": 2})).json()
        found += [delivery["id"] for delivery in page["deliveries"]]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


async def test_an_endpoint_is_made_changed_and_deleted(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Its secret is shown once and never again."""
    made = await add(client, description="CRM")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made["secret"])
    endpoint = made["endpoint"]
    assert (endpoint["enabled"], endpoint["failures"], endpoint["old_secret_until"]) == (True, 0, None)
    assert "session.*" in endpoint["events"]
    one = f"{PATH}/{endpoint['id']}"
    assert (await client.get(one)).json() == endpoint
    assert (await client.get(PATH)).json() == {"endpoints": [endpoint]}
    changed = (await client.patch(one, json={"events": ["budget.*", "crm.ticket_opened"], "enabled": False})).json()
    assert (changed["events"], changed["enabled"]) == (["budget.*", "crm.ticket_opened"], False)
    assert (changed["url"], changed["description"]) == (URL, "CRM")
    for answer in (await client.get(one), await client.get(PATH)):
        assert "whsec_" not in answer.text
    assert (await client.delete(one)).status_code == 204
    assert problem_of(await client.get(one))["code"] == "webhook-endpoint-not-found"
    assert problem_of(await client.delete(one))["code"] == "webhook-endpoint-not-found"
    assert (await client.get(PATH)).json() == {"endpoints": []}
    assert await world_rows(world, "SELECT secret, old_secret FROM webhook_endpoints") == [
        {"secret": "", "old_secret": None}
    ]


async def test_tenants_are_apart(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Nobody sees, changes, tests or deletes what is another tenant's; the right scope is needed."""
    endpoint_id = (await add(client))["endpoint"]["id"]
    one = f"{PATH}/{endpoint_id}"
    async with world.client(tenant="other") as stranger:
        assert (await stranger.get(PATH)).json() == {"endpoints": []}
        for answer in (
            await stranger.get(one),
            await stranger.patch(one, json={"enabled": False}),
            await stranger.delete(one),
            await stranger.post(f"{one}/rotate"),
            await stranger.post(f"{one}/test"),
            await stranger.get(f"{one}/deliveries"),
            await stranger.get(f"{one}/deliveries/msg_1"),
            await stranger.post(f"{one}/deliveries/msg_1/replay"),
        ):
            assert problem_of(answer)["code"] == "webhook-endpoint-not-found"
    async with world.client("webhooks:read") as reader:
        assert (await reader.get(one)).status_code == 200
        assert problem_of(await reader.post(f"{one}/rotate"))["code"] == "forbidden"
    async with world.client("sessions:write") as nobody:
        assert problem_of(await nobody.get(one))["code"] == "forbidden"


async def test_rotation(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """There is a new secret, and the one before is kept for 24 h beside it."""
    made = await add(client)
    response = await client.post(f"{PATH}/{made['endpoint']['id']}/rotate")
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    again = response.json()
    assert again["secret"] != made["secret"]
    assert again["endpoint"]["old_secret_until"] is not None
    query = """SELECT secret, old_secret, old_secret_until - now() BETWEEN '23 hours' AND '24 hours' AS kept
               FROM webhook_endpoints"""
    assert await world_rows(world, query) == [
        {"secret": again["secret"], "old_secret": made["secret"], "kept": True},
    ]


async def world_rows(world: ApiWorld, query: str) -> list[dict[str, Any]]:
    """Return what the database answers."""
    connection = await asyncpg.connect(world.dsn)
    try:
        return [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"url": "http://crm.example.org/"}, "url-refused"),
        ({"url": "https://169.254.169.254/latest"}, "url-refused"),
        ({"url": "https://user:secret@crm.example.org/"}, "url-refused"),
        ({"events": []}, "invalid-body"),
        ({"events": ["session.*.x"]}, "invalid-body"),
        ({"events": ["a" * 200]}, "invalid-body"),
        ({"secret": "whsec_mine"}, "unknown-field"),
        ({"description": "a\nb"}, "invalid-body"),
    ],
)
async def test_what_can_not_be_meant_is_refused(client: httpx.AsyncClient, wish: dict[str, Any], code: str) -> None:
    """When it is made and when it is changed; a secret in a URL isn't repeated."""
    answer = await client.post(PATH, json={"url": URL, **wish})
    assert problem_of(answer)["code"] == code
    assert "user:secret" not in answer.text
    endpoint_id = (await add(client))["endpoint"]["id"]
    assert problem_of(await client.patch(f"{PATH}/{endpoint_id}", json=wish))["code"] == code


async def test_there_is_an_end_to_endpoints(client: httpx.AsyncClient) -> None:
    """A tenant has 20 at most; a deleted one doesn't count."""
    first = (await add(client))["endpoint"]["id"]
    for _ in range(19):
        await add(client)
    assert problem_of(await client.post(PATH, json={"url": URL}))["code"] == "too-many-webhook-endpoints"
    await client.delete(f"{PATH}/{first}")
    await add(client)


async def test_tests_and_replays(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A test is queued at once; what is settled can be replayed under its id, what is pending can't."""
    endpoint_id = (await add(client))["endpoint"]["id"]
    one = f"{PATH}/{endpoint_id}"
    tested = [await client.post(f"{one}/test") for _ in range(5)]
    assert {answer.status_code for answer in tested} == {202}
    delivery = tested[0].json()
    assert (delivery["type"], delivery["state"], delivery["attempts"]) == ("webhook.test", "pending", 0)
    assert delivery["next_at"] is not None
    ids = [answer.json()["id"] for answer in tested]
    assert await delivery_ids(client, endpoint_id) == ids[::-1]
    replay = f"{one}/deliveries/{ids[0]}/replay"
    assert problem_of(await client.post(replay))["code"] == "webhook-delivery-pending"
    settle = "UPDATE webhook_deliveries SET state = 'dead', settled_at = now(), attempts = 3 WHERE id = $1"
    await world.execute(settle, ids[0])
    assert await delivery_ids(client, endpoint_id, state="dead") == [ids[0]]
    again = await client.post(replay)
    assert again.status_code == 202
    assert (again.json()["id"], again.json()["state"], again.json()["attempts"]) == (ids[0], "pending", 0)
    assert problem_of(await client.post(f"{one}/deliveries/msg_0/replay"))["code"] == "webhook-delivery-not-found"
    await client.patch(one, json={"enabled": False})
    for path in ("test", f"deliveries/{ids[1]}/replay"):
        assert problem_of(await client.post(f"{one}/{path}"))["code"] == "webhook-endpoint-disabled"
    assert problem_of(await client.post(f"{one}/test?type=session.ended"))["code"] == "invalid-query"
    assert problem_of(await client.get(f"{one}/deliveries?state=lost"))["code"] == "invalid-query"
    assert problem_of(await client.get(f"{one}/deliveries?cursor=x"))["code"] == "invalid-query"
