"""Finding what was said: words, phrases, marks, times, pages, other tenants, and odd input."""

import html
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom.common.lifecycle import Ended, Outcome, Session
from greenroom.common.metrics import Metrics
from greenroom.recorder import database
from greenroom.recorder.transcripts import Transcriber
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.spoken_calls import speak

REFUSED: list[dict[str, str]] = [
    {},
    {"q": ""},
    {"q": "  "},
    {"q": "?!"},
    {"q": "-hello"},
    {"q": "x" * 257},
    {"q": "nul\0"},
    {"q": "x", "agent": "nul\0"},
    {"q": "x", "cursor": "odd"},
    {"q": "x", "from": "2026-01-01T00:00:00"},
    {"q": "x", "to": "yesterday"},
    {"q": "x", "limit": "0"},
    {"q": "x", "since": "2026-01-01T00:00:00Z"},
]
ENDED = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")


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


async def shelve(world: ApiWorld, *sessions: Session) -> None:
    """End sessions, and have what was said stored to be found, as the recorder does it."""
    for session in sessions:
        await world.advance(session.id, ENDED, tenant=session.tenant)
    await world.record()
    await world.execute("UPDATE sessions SET sealed_at = now()")
    pool = await database.open_pool(world.dsn, size=1)
    try:
        while await Transcriber(pool, Metrics()).round():
            pass
    finally:
        await database.close_pool(pool, timeout_s=2)


async def found(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """Return what is found."""
    response = await client.get("/v1/search", params=params)
    assert response.status_code == 200, response.text
    return response.json()["hits"]


async def test_words_phrases_and_their_marks(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """All words have to be there, a phrase as it stands; `or` and `-not` are understood; capitals don't matter."""
    booking = await speak(world, "How can I help?", "A Table for two & <b>quickly</b>", "For when, Friday?")
    transfer = await speak(world, "How can I help?", "transfer me to a person")
    await shelve(world, booking, transfer)
    for query, wanted in {
        "table": [booking],
        "TABLE friday": [booking],
        '"for two"': [booking],
        '"two for"': [],
        "table or person": [transfer, booking],
        "help -table": [transfer],
        "quickly": [booking],
        "“when,” or xyz": [booking],
        "nobody": [],
    }.items():
        assert [hit["session_id"] for hit in await found(client, q=query)] == [one.id for one in wanted], query
    (hit,) = await found(client, q="table")
    assert "<mark>Table</mark> for two &amp; (b)quickly(/b)" in hit["snippet"]
    assert (hit["agent"], hit["start_ms"]) == ("echo", 1100)
    assert (await found(client, q="friday"))[0]["start_ms"] == 2100


async def test_words_of_any_language(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """They are found as they were said."""
    session = await speak(world, "Grüß Gott", "один столик", "テーブル を お願いします")
    await shelve(world, session)
    for word in ("grüß", "ОДИН", "テーブル"):
        assert [hit["session_id"] for hit in await found(client, q=word)] == [session.id], word


async def test_pages_agents_and_times(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Newest first, page by page, each session once; filtered by agent and time of the request."""
    sessions = [await speak(world, "hello", "hello again", agent="ab"[number % 2]) for number in range(5)]
    await shelve(world, *sessions)
    ids = [session.id for session in reversed(sessions)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/search", params={"q": "hello", "limit": 2, **cursor})).json()
        seen += [hit["session_id"] for hit in page["hits"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == ids
    assert [hit["session_id"] for hit in await found(client, q="hello", agent="b")] == [ids[1], ids[3]]
    since = sessions[2].requested_at.isoformat()
    assert [hit["session_id"] for hit in await found(client, q="hello", **{"from": since})] == ids[:3]
    assert [hit["session_id"] for hit in await found(client, q="hello", to=since)] == ids[3:]


async def test_a_long_call_is_found_once(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """In whichever of its parts the word is, and with the time of its line."""
    lines = [" ".join(f"w{number}x{word}" for word in range(2000)) for number in range(12)]
    session = await speak(world, *lines[:6], "needle in it", *lines[6:], "needle again")
    await shelve(world, session)
    (hit,) = await found(client, q="needle")
    assert (hit["session_id"], hit["start_ms"]) == (session.id, 6100)


async def test_what_others_said_is_not_found(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """A tenant finds its own, whatever it asks for."""
    theirs = await speak(world, "secret plans", tenant="other")
    await shelve(world, theirs)
    assert await found(client, q="secret") == []
    async with world.client(tenant="other") as other, world.client("sessions:write") as writer:
        assert [hit["session_id"] for hit in await found(other, q="secret")] == [theirs.id]
        assert problem_of(await writer.get("/v1/search", params={"q": "x"}))["code"] == "forbidden"


async def test_what_can_not_be_searched_for_is_refused(client: httpx.AsyncClient) -> None:
    """Nothing to look for, or a filter that would filter nothing: 400 with what is wrong."""
    for params in REFUSED:
        problem = problem_of(await client.get("/v1/search", params=params))
        assert (problem["status"], problem["code"]) == (400, "invalid-query"), params


async def test_whatever_is_searched_for_is_no_error_of_ours(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Operators, quotes and brackets in any order are words or nothing; bytes that are no text are refused."""
    await shelve(world, await speak(world, "hello & (world) | !x:*", "it's <-> \\ 'quoted' \" %_"))
    pieces = st.sampled_from(
        ["hello", "world", '"', "'", "&", "|", "!", "(", ")", ":*", "<->", "-", "or", "\\", "x", " "]
    )
    queries = st.lists(pieces, min_size=1, max_size=12).map("".join) | st.text(min_size=1, max_size=30)
    answers: set[int] = set()

    asked: list[str] = []

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(queries)
    def draw(query: str) -> None:
        asked.append(query)

    draw()
    for query in asked:
        answers.add((await client.get("/v1/search", params={"q": query})).status_code)
    for raw in ("%00", "%ff%fe", "%ed%a0%80", "%F0%9F%98%80"):
        answers.add((await client.get(f"/v1/search?q={raw}")).status_code)
    assert answers <= {200, 400}


async def test_a_snippet_is_safe_to_show(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Nobody gets markup into a page by saying it, nor a mark where nothing was found."""
    await shelve(world, await speak(world, "<script>alert(1)</script> hello \x02fake\x03 <mark>x</mark>"))
    (hit,) = await found(client, q="hello")
    assert hit["snippet"].count("<") == hit["snippet"].count("mark>") == 2
    assert "<mark>hello</mark>" in hit["snippet"]
    assert "\x02" not in html.unescape(hit["snippet"])


async def test_a_time_before_and_after_everything(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """An empty range finds nothing."""
    session = await speak(world, "hello")
    await shelve(world, session)
    later = (session.requested_at + timedelta(days=1)).isoformat()
    assert await found(client, q="hello", **{"from": later}) == []
