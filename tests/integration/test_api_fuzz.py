"""Whatever is sent, the answer is never an error of ours."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom.api.openapi import render
from tests.support.api_scheduler import LeadingScheduler, leases
from tests.support.api_world import problem_of, running_api

_BLANK, _DELETE = 0x20, 0x7F

texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=15
)
# Mostly right, so that the deeper layers are reached too.
wishes = st.fixed_dictionaries(
    {"agent": st.just("echo") | texts},
    optional={
        "transport": st.just("websocket") | texts,
        "body": st.dictionaries(texts, values, max_size=5) | values,
        "metadata": st.dictionaries(texts, texts, max_size=5) | values,
        "limits": st.dictionaries(st.sampled_from(["queue_timeout_s", "join_timeout_s", "odd"]), scalars) | values,
        "on_loss": st.sampled_from(["never", "always"]) | scalars,
        "pool": texts,
        "wait": st.just("requested") | texts,
        "wait_timeout_s": scalars,
        "requires": st.dictionaries(texts, texts, max_size=3) | values,
        "priority": st.sampled_from(["high", "low"]) | scalars,
        "room": texts | st.just("https://[a/") | scalars,
        "number": texts | st.just("+49 30 123"),
        "accounts": st.lists(texts | st.just("openai/main"), max_size=3) | values,
        "sticky_key": texts,
        "odd": values,
    },
)
bodies = wishes.map(msgspec.json.encode) | values.map(msgspec.json.encode) | st.binary(max_size=200)
# What operators decide, likewise.
amounts = st.integers(-1, 100) | scalars
hours = st.just("08:00") | texts
schedules = st.fixed_dictionaries(
    {
        "days": st.lists(st.integers(-1, 7), max_size=3) | values,
        "begin": hours,
        "end": hours,
        "zone": st.just("Europe/Berlin") | texts,
        "warm": amounts,
    }
)
moments = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.just("2100-01-01T00:00:00+01:00") | texts
changes = st.one_of(
    st.tuples(
        st.just("/v1/limits/l"),
        st.fixed_dictionaries(
            {"scope": st.sampled_from(["tenant", "agent", "number"]) | texts, "max_sessions": amounts},
            optional={"key": st.just("*") | texts, "tenant": st.just("*") | texts, "max_starts_per_s": amounts},
        ),
    ),
    st.tuples(
        st.just("/v1/pools/p"),
        st.fixed_dictionaries(
            {},
            optional={
                "baseline": amounts,
                "maximum": amounts,
                "safety": amounts,
                "schedules": st.lists(schedules, max_size=2) | values,
            },
        ),
    ),
    st.tuples(
        st.just("/v1/reservations"),
        st.fixed_dictionaries(
            {"pool": st.just("p") | texts, "warm": st.integers(0, 9) | scalars, "ends_at": moments},
            optional={"starts_at": moments, "note": texts},
        ),
    ),
    st.tuples(
        st.just("/v1/agents/echo/rollout"),
        st.fixed_dictionaries({"current": amounts}, optional={"canary": amounts, "canary_share": amounts}),
    ),
    st.tuples(st.just("/v1/weights/acme"), st.fixed_dictionaries({"weight": amounts}) | values),
)
segments = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
queries = st.dictionaries(
    st.sampled_from(
        ["state", "agent", "outcome", "since", "until", "limit", "cursor", "after", "offset", "pool", "tenant", "odd"]
    ),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20) | st.integers().map(str),
    max_size=3,
)


class Fuzzed:
    """A client that can be used between other awaits of the test's loop."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.statuses: dict[int, int] = {}

    async def send(self, method: str, path: str, **options: Any) -> None:
        """Send a request and look at its answer."""
        response = await self.client.request(method, path, **options)
        self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (method, path, options, response.text)
        if response.status_code >= 400:
            problem_of(response)


@pytest.fixture
async def fuzzed(nats_url: str, database: str) -> AsyncGenerator[Fuzzed]:
    """A client of a running api, with a scheduler that places whatever is asked for."""
    async with (
        running_api(nats_url, database) as world,
        world.client() as client,
        LeadingScheduler(world.broker, decide=leases),
    ):
        yield Fuzzed(client)


def examples[T](strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Return examples, the same in each run: hypothesis draws them outside of the test's event loop."""
    found: list[T] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


async def test_no_body_breaks_a_request(fuzzed: Fuzzed) -> None:
    """Five hundred bodies, from right to nonsense, are accepted or refused with a problem."""
    for batch in batches(examples(bodies, 500), 20):
        await asyncio.gather(*(fuzzed.send("POST", "/v1/sessions", content=body) for body in batch))
    assert {201, 400, 404, 422} <= fuzzed.statuses.keys()


async def test_no_body_breaks_the_policy(fuzzed: Fuzzed) -> None:
    """Whatever is taken can be stored and read again; the rest is refused with a problem."""
    for path, body in examples(changes, 300):
        method = "POST" if path.endswith("reservations") else "PUT"
        await fuzzed.send(method, path, content=msgspec.json.encode(body))
    assert {200, 422} <= fuzzed.statuses.keys()
    for path in ("/v1/limits", "/v1/pools", "/v1/reservations", "/v1/agents/echo/rollout", "/v1/weights"):
        await fuzzed.send("GET", path)


async def test_no_address_and_no_query_breaks_a_request(fuzzed: Fuzzed) -> None:
    """Whatever stands in the path and behind it, there is an answer."""
    paths = [path for path in msgspec.json.decode(render())["paths"] if "status" not in path]
    for segment, query in examples(st.tuples(segments, queries), 50):
        for path in paths:
            filled = re.sub(r"\{\w+\}", quote(segment, safe="").replace("\\", r"\\"), path)
            await fuzzed.send("GET", filled, params=query)
    assert {200, 400, 404} <= fuzzed.statuses.keys()


async def test_no_name_breaks_any_method(fuzzed: Fuzzed) -> None:
    """What a database, a file or a subject can't hold is no name of anything, whatever is done to it."""
    documented = msgspec.json.decode(render())["paths"]
    for segment in ("\0", "a\0b", "..", "%", "*", ">", "x" * 300, "\U0001f600"):
        for path, methods in documented.items():
            filled = re.sub(r"\{\w+\}", quote(segment, safe="").replace("\\", r"\\"), path)
            if filled == path:
                continue
            for method in methods.keys() & {"get", "put", "post", "patch", "delete"}:
                await fuzzed.send(method.upper(), filled, content=b"" if method in {"get", "delete"} else b"{}")
    assert {404, 422} <= fuzzed.statuses.keys()


async def test_no_header_breaks_a_request(fuzzed: Fuzzed) -> None:
    """Keys, idempotency keys, places to resume, ranges and traces may be anything."""
    names = ["authorization", "idempotency-key", "last-event-id", "range", "traceparent", "x-request-id", "accept"]
    # Control characters never reach us: the HTTP parser refuses them.
    sendable = st.sampled_from([byte for byte in range(_BLANK, 256) if byte != _DELETE])
    raw = st.lists(sendable, max_size=40).map(lambda value: bytes(value).strip())
    for name, value in examples(st.tuples(st.sampled_from(names), raw), 300):
        headers = {name.encode(): value}
        await fuzzed.send("POST", "/v1/sessions", content=b'{"agent":"echo"}', headers=headers)
        await fuzzed.send("GET", "/v1/sessions/x/recording", headers=headers)


def batches[T](items: list[T], size: int) -> list[list[T]]:
    """Return the items, some at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
