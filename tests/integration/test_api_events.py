"""What happened in a session: pages from PostgreSQL, and server-sent events from the stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from greenroom.common import subjects
from tests.support.api_world import PATIENCE_S, ApiWorld, problem_of, running_api, until


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


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A server-sent event."""

    id: int
    type: str
    data: dict[str, Any]


@contextlib.asynccontextmanager
async def stream(
    client: httpx.AsyncClient, session_id: str, *, last: int | None = None, **params: Any
) -> AsyncGenerator[AsyncIterator[Sent]]:
    """Follow a session."""
    headers = {"accept": "text/event-stream", **({"last-event-id": str(last)} if last is not None else {})}
    path = f"/v1/sessions/{session_id}/events"
    async with client.stream("GET", path, headers=headers, params=params) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parsed(response)


async def parsed(response: httpx.Response) -> AsyncIterator[Sent]:
    """Yield the events of a stream, as a browser would see them."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            data = msgspec.json.decode(fields["data"], type=dict[str, Any])
            yield Sent(id=int(fields.get("id", 0)), type=fields["event"], data=data)
            fields = {}
        else:
            fields = {}


async def taken(events: AsyncIterator[Sent], count: int) -> list[Sent]:
    """Return the next `count` events."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(events) for _ in range(count)]


async def rest(events: AsyncIterator[Sent]) -> list[Sent]:
    """Return all events up to the end of the stream."""
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in events]


def types(events: list[Sent]) -> list[str]:
    """Return what happened."""
    return [event.type for event in events]


async def ended(world: ApiWorld) -> str:
    """Return the id of a session in which something was said, and whose recording is saved."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.publish(session_id, "user_spoke", b'{"data":{"text":"hello"}}')
    await world.end(session_id)
    await world.publish(session_id, "recording_saved")
    return session_id


LIFE = ["session.requested", "session.leased", "session.started", "session.ready"]
WHOLE = [*LIFE, "user_spoke", "session.ended", "recording_saved"]


async def test_pages_show_everything_once_in_order(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Following `next` shows the lifecycle and the events between, in the order of the stream."""
    session_id = await ended(world)
    await world.record()
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = (await client.get(f"/v1/sessions/{session_id}/events", params={"after": after, "limit": 3})).json()
        found += page["events"]
        after = page["next"]
    assert [event["type"] for event in found] == WHOLE
    assert [event["stream_seq"] for event in found] == sorted(event["stream_seq"] for event in found)
    assert found[4]["data"] == {"text": "hello"}


async def test_a_stream_begins_with_what_was_and_goes_on_with_what_comes(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """The past comes first, each new event as it happens, and the end is said."""
    session_id = (await world.request()).session.id
    async with stream(client, session_id) as events:
        assert types(await taken(events, 1)) == ["session.requested"]
        await world.make_ready(session_id)
        assert types(await taken(events, 3)) == LIFE[1:]
        await world.publish(session_id, "user_spoke", b'{"data":{"text":"hello"}}')
        spoken = (await taken(events, 1))[0]
        assert (spoken.type, spoken.data["data"]) == ("user_spoke", {"text": "hello"})
        await world.end(session_id)
        await world.publish(session_id, "recording_saved")
        assert types(await rest(events)) == ["session.ended", "recording_saved", "end"]


async def test_a_client_that_comes_back_misses_nothing(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """`Last-Event-ID` and `after` resume behind an event, without a gap and without a repetition."""
    session_id = await ended(world)
    async with stream(client, session_id) as events:
        first = await taken(events, 3)
    async with stream(client, session_id, last=first[-1].id) as events:
        assert types(await rest(events)) == [*WHOLE[3:], "end"]
    async with stream(client, session_id, after=first[-1].id) as events:
        assert types(await rest(events)) == [*WHOLE[3:], "end"]


async def test_the_stream_and_the_database_tell_the_same(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Before and after the broker has forgotten a session, its stream of events is the same."""
    session_id = await ended(world)
    async with stream(client, session_id) as events:
        live = await rest(events)
    await world.record()
    await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
    async with stream(client, session_id) as events:
        assert await rest(events) == live
    page = (await client.get(f"/v1/sessions/{session_id}/events")).json()["events"]
    assert page == [event.data for event in live[:-1]]


async def test_malformed_events_are_passed_over(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """What doesn't fit its envelope is no event for anybody."""
    session_id = (await world.request()).session.id
    for body in (b"{", b'{"data":1}', b'{"session_id":"other"}', b'{"at":"2026-01-01T00:00:00"}', b'{"dta":{}}'):
        await world.publish(session_id, "crm.ticket_opened", body)
    await world.publish(session_id, "crm.ticket_opened", b'{"data":{"ticket":7}}')
    async with stream(client, session_id) as events:
        found = await taken(events, 2)
    assert types(found) == ["session.requested", "crm.ticket_opened"]
    assert found[1].data["source"] == "external"


async def test_a_client_that_has_everything_is_not_called_back(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Browsers come back for ever; a 204 tells them to stop."""
    session_id = await ended(world)
    await world.record()
    async with stream(client, session_id) as events:
        last = (await rest(events))[-2].id
    await world.execute(
        "UPDATE sessions SET ended_at = now() - interval '1 h',"
        " document = jsonb_set(document, '{ended_at}', '\"2026-01-01T00:00:00Z\"')"
    )
    await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
    headers = {"accept": "text/event-stream", "last-event-id": str(last)}
    response = await client.get(f"/v1/sessions/{session_id}/events", headers=headers)
    assert (response.status_code, response.content) == (204, b"")


async def test_a_wrong_place_to_resume_is_refused(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """An id that no stream gave out isn't taken for the beginning."""
    session_id = (await world.request()).session.id
    for last in ("x", "-1", "9" * 30, ""):
        headers = {"accept": "text/event-stream", "last-event-id": last}
        problem = problem_of(await client.get(f"/v1/sessions/{session_id}/events", headers=headers))
        assert problem["code"] == "invalid-query"
    for params in ({"after": "-1"}, {"after": "x"}, {"limit": "0"}, {"limit": "1001"}, {"aftre": "1"}):
        problem = problem_of(await client.get(f"/v1/sessions/{session_id}/events", params=params))
        assert problem["code"] == "invalid-query"


async def test_a_quiet_stream_shows_that_it_is_there(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """While nothing happens a comment keeps proxies from closing the connection."""
    world.parts.streams.heartbeat_s = 0.05
    session_id = (await world.request()).session.id
    headers = {"accept": "text/event-stream"}
    async with client.stream("GET", f"/v1/sessions/{session_id}/events", headers=headers) as response:
        async for line in response.aiter_lines():
            if line == ": still here":
                break


async def test_a_session_that_is_forgotten_while_it_is_followed_goes_on_from_the_database(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """A purge under a reader's feet loses nothing."""
    world.parts.streams.heartbeat_s = 0.05
    session_id = (await world.request()).session.id
    async with stream(client, session_id) as events:
        assert types(await taken(events, 1)) == ["session.requested"]
        hold = asyncio.create_task(taken(events, 1))
        await world.make_ready(session_id)
        await hold
        await world.end(session_id)
        await world.publish(session_id, "recording_saved")
        await world.record()
        await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
        assert types(await rest(events)) == [*LIFE[2:], "session.ended", "recording_saved", "end"]


async def test_a_live_stream_needs_no_database(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """With PostgreSQL away sessions are followed as before; pages have to wait."""
    session_id = (await world.request()).session.id
    assert (await client.get(f"/v1/sessions/{session_id}")).status_code == 200
    async with without_database(world):
        async with stream(client, session_id) as events:
            assert types(await taken(events, 1)) == ["session.requested"]
        problem = problem_of(await client.get(f"/v1/sessions/{session_id}/events"))
        assert (problem["status"], problem["code"]) == (503, "database-unavailable")


async def test_streams_end_when_the_instance_drains(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A draining instance lets its followers go, to resume elsewhere; new ones are sent away."""
    session_id = (await world.request()).session.id
    async with stream(client, session_id) as events:
        await taken(events, 1)
        await world.parts.streams.drain()
        assert await rest(events) == []
    headers = {"accept": "text/event-stream"}
    problem = problem_of(await client.get(f"/v1/sessions/{session_id}/events", headers=headers))
    assert problem["code"] == "draining"


async def test_streams_are_counted_and_bounded(nats_url: str, database: str) -> None:
    """One more than the bound is refused, and a client that leaves makes room."""
    async with running_api(nats_url, database, api_max_streams=1) as world, world.client() as client:
        session_id = (await world.request()).session.id
        async with stream(client, session_id) as events:
            await taken(events, 1)
            headers = {"accept": "text/event-stream"}
            problem = problem_of(await client.get(f"/v1/sessions/{session_id}/events", headers=headers))
            assert (problem["status"], problem["code"]) == (503, "edge-full")
        await until(lambda: world.parts.streams.open == 0)
        async with stream(client, session_id) as events:
            await taken(events, 1)


@contextlib.asynccontextmanager
async def without_database(world: ApiWorld) -> AsyncGenerator[None]:
    """Keep everybody out of the database for the time of the block."""
    name = world.dsn.rpartition("/")[2]
    connection = await asyncpg.connect(world.dsn.removesuffix(name) + "postgres")
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await connection.close()
