"""A range of sessions as a file: whole, in pieces, cut off, as Parquet."""

import asyncio
import importlib
import io
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pyarrow.parquet as pq
import pytest

from greenroom.api.reading import shelves
from greenroom.common.errors import DatabaseUnavailable
from tests.support.api_world import ApiWorld, problem_of, running_api

DAY = datetime(2026, 3, 2, tzinfo=UTC)
RANGE = {"from": DAY.isoformat(), "to": (DAY + timedelta(days=1)).isoformat()}
REFUSED: list[dict[str, str]] = [
    {},
    {"to": RANGE["to"]},
    {"from": RANGE["to"], "to": RANGE["from"]},
    {"from": "2026-03-02T00:00:00"},
    {**RANGE, "format": "xlsx"},
    {**RANGE, "agent": "nul\0"},
    {**RANGE, "day": "2026-03-02"},
]


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`."""
    async with running_api(nats_url, database) as running:
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that may do everything."""
    async with world.client() as given_client:
        yield given_client


async def keep(world: ApiWorld, count: int, *, tenant: str = "default", body: str = "x") -> list[str]:
    """Store `count` sessions of the day, one a second but the last two at once, and return their ids."""
    connection = await asyncpg.connect(world.dsn)
    try:
        rows = await connection.fetch(
            """
            INSERT INTO sessions (id, tenant, agent, agent_version, bot, pool, transport, on_loss, state, epoch,
                attempt, media_connected, requested_at, queue_deadline_at, document, ledger_revision)
            SELECT id, $1, agent, 1, 'echo', 'default', 'websocket', 'never', 'ready', 1, 1, false, at, at,
                jsonb_build_object('id', id, 'tenant', $1, 'agent', agent, 'bot', 'echo', 'state', 'ready',
                    'requested_at', at, 'queue_deadline_at', at, 'body', jsonb_build_object('b', $4::text)),
                1
            FROM (
                SELECT $1 || lpad(n::text, 8, '0') AS id, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END AS agent,
                    $3::timestamptz + make_interval(secs => least(n, $2 - 1)) AS at
                FROM generate_series(1, $2) AS n
            ) AS made
            ORDER BY id RETURNING id
            """,
            tenant,
            count,
            DAY,
            body,
        )
    finally:
        await connection.close()
    return [row["id"] for row in rows]


async def exported(client: httpx.AsyncClient, **params: str) -> list[dict[str, Any]]:
    """Return the lines of an export."""
    response = await client.get("/v1/exports/sessions", params={**RANGE, **params})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/jsonl")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_every_session_of_the_range_once(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Oldest first, over many pages, also where several were requested at the same moment; with their recordings."""
    ids = await keep(world, 1203)
    await keep(world, 3, tenant="other")
    await world.execute(
        "INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,"
        " manifest) VALUES ($1, 'default', 'a', 'wav', 2.5, 2, 16000, 7, 'digest', '[]', '{}')",
        ids[0],
    )
    lines = await exported(client)
    assert [line["session"]["id"] for line in lines] == ids
    assert (lines[0]["recording"]["duration_s"], lines[1]["recording"]) == (2.5, None)
    listed = await client.get("/v1/sessions", params={"until": (DAY + timedelta(seconds=3)).isoformat()})
    assert [line["session"] for line in lines[1::-1]] == listed.json()["sessions"]


async def test_a_part_of_a_range(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """From a moment on and before another one, and of one agent."""
    ids = await keep(world, 10)
    since, until = (DAY + timedelta(seconds=3)).isoformat(), (DAY + timedelta(seconds=6)).isoformat()
    assert [line["session"]["id"] for line in await exported(client, **{"from": since, "to": until})] == ids[2:5]
    assert [line["session"]["id"] for line in await exported(client, agent="odd")] == ids[::2]
    assert await exported(client, agent="nobody's") == []


async def test_one_that_breaks_is_seen_to_be_broken(
    world: ApiWorld, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL goes away between two pages: no client takes that for the whole. At the first page it is 503."""
    await keep(world, 1203)
    whole, asked = shelves.Shelves.page, 0
    fails_at = 2

    async def page(self: shelves.Shelves, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == fails_at:
            raise DatabaseUnavailable
        return await whole(self, *args)

    monkeypatch.setattr(shelves.Shelves, "page", page)
    for kind in ("jsonl", "parquet"):
        asked = 0
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/v1/exports/sessions", params={**RANGE, "format": kind})
    asked, fails_at = 0, 1
    assert problem_of(await client.get("/v1/exports/sessions", params=RANGE))["code"] == "database-unavailable"
    assert world.counted("api_downloads") == 0


async def test_as_parquet(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """The same sessions, in row groups; times are times, what has a form of its own is JSON."""
    ids = await keep(world, 4100)
    response = await client.get("/v1/exports/sessions", params={**RANGE, "format": "parquet"})
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    assert response.headers["content-disposition"].endswith('.parquet"')
    file = pq.ParquetFile(io.BytesIO(response.content))
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert [row["id"] for row in rows] == ids
    first = rows[0]
    assert (first["requested_at"], first["state"], first["outcome"]) == (DAY + timedelta(seconds=1), "ready", None)
    assert (json.loads(first["body"]), first["recording_bytes"]) == ({"b": "x"}, None)


async def test_an_empty_range_is_an_empty_file(client: httpx.AsyncClient) -> None:
    """In both formats it can be read."""
    assert await exported(client) == []
    response = await client.get("/v1/exports/sessions", params={**RANGE, "format": "parquet"})
    assert pq.read_table(io.BytesIO(response.content)).num_rows == 0


async def test_without_pyarrow_it_is_said(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet is an extra; JSON lines never need it."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    problem = problem_of(await client.get("/v1/exports/sessions", params={**RANGE, "format": "parquet"}))
    assert (problem["status"], problem["code"]) == (501, "parquet-missing")
    monkeypatch.undo()
    assert await exported(client) == []


async def test_ranges_that_make_no_sense(client: httpx.AsyncClient) -> None:
    """400 with what is wrong, before anything is sent."""
    for params in REFUSED:
        problem = problem_of(await client.get("/v1/exports/sessions", params=params))
        assert (problem["status"], problem["code"]) == (400, "invalid-query"), params


async def test_no_more_is_read_than_the_client_takes(
    world: ApiWorld, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a client doesn't read, a page or two of a hundred megabytes are in memory; then it gets all of them."""
    ids = await keep(world, 4000, body="x" * 25_000)
    whole, asked = shelves.Shelves.page, 0

    async def page(self: shelves.Shelves, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await whole(self, *args)

    monkeypatch.setattr(shelves.Shelves, "page", page)
    size = 0
    async with client.stream("GET", "/v1/exports/sessions", params=RANGE) as response:
        before = -1
        while before != asked:
            before = asked
            await asyncio.sleep(0.3)
        assert asked <= 3
        async for chunk in response.aiter_raw():
            size += chunk.count(b"\n")
    assert (size, asked) == (len(ids), 9)


async def test_who_may_export(world: ApiWorld) -> None:
    """A key that may read, and only its own tenant's."""
    await keep(world, 3)
    async with world.client(tenant="other") as other, world.client("sessions:write") as writer:
        assert await exported(other) == []
        assert problem_of(await writer.get("/v1/exports/sessions", params=RANGE))["code"] == "forbidden"


def test_lines_are_lines() -> None:
    """Line breaks in what a session carries are escaped."""
    assert msgspec.json.Encoder().encode_lines([{"a": "x\ny"}]) == b'{"a":"x\\ny"}\n'
