"""`Idempotency-Key` against a real broker: what is one request stays one, whatever happens in between."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from greenroom.common import subjects
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.lifecycle import Ended, Outcome
from tests.support.api_world import ApiWorld, problem_of, running_api


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


async def ask(client: httpx.AsyncClient, key: str, **wish: Any) -> httpx.Response:
    """Ask for a session."""
    return await client.post("/v1/sessions", json={"agent": "echo", **wish}, headers={"idempotency-key": key})


async def sessions_of(world: ApiWorld) -> int:
    """Return how many sessions there are in the ledger."""
    return await world.broker.count("SESSIONS", subjects.SESSION_LIFECYCLE.wildcard())


async def test_the_same_request_again_has_the_same_answer(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """To the byte, ticket included, whatever has become of the session and the agent; and it says so."""
    first = await ask(client, "key-1", body={"b": 1, "a": 2})
    assert "idempotent-replayed" not in first.headers
    await world.end((await world.make_ready(first.json()["id"])).session.id)
    await world.execute("DELETE FROM agents")
    # The same request: other order of members, defaults written out.
    again = await ask(client, "key-1", body={"a": 2, "b": 1}, transport="websocket", metadata={})
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


async def test_another_request_with_the_same_key_is_refused(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A key belongs to one request."""
    assert (await ask(client, "key-1")).status_code == 201
    problem = problem_of(await ask(client, "key-1", metadata={"a": "b"}))
    assert (problem["status"], problem["code"]) == (422, "idempotency-mismatch")
    assert await sessions_of(world) == 1


async def test_keys_of_tenants_have_nothing_to_do_with_each_other(world: ApiWorld) -> None:
    """The same text of another tenant is another key."""
    async with world.client(tenant="a") as one, world.client(tenant="b") as other:
        ids = {(await ask(client, "key-1")).json()["id"] for client in (one, other)}
    assert len(ids) == 2


async def test_an_unusable_key_is_refused(client: httpx.AsyncClient) -> None:
    """A key is 1 to 255 printable characters of ASCII."""
    for key in (b"", b"x" * 256, b"tab\tinside", "ümlaut".encode()):
        headers = {b"idempotency-key": key}
        problem = problem_of(await client.post("/v1/sessions", json={"agent": "echo"}, headers=headers))
        assert (problem["status"], problem["code"]) == (400, "invalid-idempotency-key")
    assert (await ask(client, "x" * 255)).status_code == 201


async def test_duplicates_at_the_same_time_share_one_session(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Ten at once are one session and one answer."""
    responses = await asyncio.gather(*(ask(client, "key-1") for _ in range(10)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.content for response in responses}) == 1
    assert await sessions_of(world) == 1


async def test_a_request_that_fails_before_it_begins_leaves_the_key_free(client: httpx.AsyncClient) -> None:
    """Whoever mends the body may use the key again."""
    assert (await ask(client, "key-1", agent="nobody")).status_code == 404
    assert (await ask(client, "key-1", transport="fax")).status_code == 422
    assert (await ask(client, "key-1")).status_code == 201


@pytest.mark.parametrize("died_before", ["ticket", "session", "answer"])
async def test_a_crash_in_the_middle_is_mended_by_the_retry(
    world: ApiWorld, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, died_before: str
) -> None:
    """Wherever the first try ended, the second one finishes it, with the same session."""
    place = {
        "ticket": "greenroom.api.tickets.Tickets.issue",
        "session": "greenroom.common.ledger.Ledger.create",
        "answer": "greenroom.api.idempotency.Idempotency.finish",
    }[died_before]

    async def die(*_args: Any, **_kwargs: Any) -> None:
        raise BrokerUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(place, die)
        problem = problem_of(await ask(client, "key-1"))
        assert (problem["code"], problem["retryable"]) == ("broker-unavailable", True)
    made = await sessions_of(world)
    assert made == (1 if died_before == "answer" else 0)
    response = await ask(client, "key-1")
    assert response.status_code == 201
    assert await sessions_of(world) == 1
    assert (await ask(client, "key-1")).content == response.content


async def test_a_problem_is_an_answer_too(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A session that ended before the wait was over stays that for whoever asks again."""
    asking = asyncio.create_task(ask(client, "key-1", wait="ready"))
    reader = await world.ledger.watch()
    session_id = (await anext(aiter(reader))).session.id
    await reader.close()
    await world.advance(session_id, Ended(by="scheduler", epoch=0, outcome=Outcome.EXPIRED, reason="queue-expired"))
    first = await asking
    assert problem_of(first)["code"] == "queue-expired"
    again = await ask(client, "key-1", wait="ready")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"


async def test_another_key_of_the_tenant_gets_a_ticket_of_its_own(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The answer is the tenant's, the ticket is derived from the caller's key and works."""
    first = await ask(client, "key-1")
    async with world.client() as colleague:
        again = await ask(colleague, "key-1")
    assert again.json()["id"] == first.json()["id"]
    urls = [response.json()["transport"]["url"] for response in (first, again)]
    assert urls[0] != urls[1]
    assert await world.broker.count("TICKETS", subjects.TICKET.wildcard()) == 2


async def test_no_secret_is_stored_with_the_answer(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Neither the ticket nor the key of the API is in what the broker keeps."""
    response = await ask(client, "key-1")
    ticket = response.json()["transport"]["url"].rpartition("/")[2]
    secret = client.headers["authorization"].removeprefix("Bearer ")
    for stream in ("IDEMPOTENCY", "TICKETS", "SESSIONS"):
        reader = await world.broker.read(stream, [">"], after=0)
        async for message in reader:
            stored = f"{message.subject} {message.headers} {message.data.decode()}"
            assert ticket not in stored
            assert secret not in stored
            if reader.caught_up.is_set():
                break
        await reader.close()
