"""Bodies of sessions that are too large for the ledger, with a whole Greenroom: they reach the bot, and go."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from greenroom.common import subjects
from greenroom.common.bodies import STREAM
from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.client import ApiClient, ApiProblem
from tests.support.given_bots import digest
from tests.support.stack import PATIENCE_S, RunningStack, running_stack, wait_for_session

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"customers": [{"name": f"Grüße {number}", "notes": "x" * 80} for number in range(8000)]}
READY = {"wait": "ready", "wait_timeout_s": 20}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A stack whose bot tells what it was given."""
    bots = {"GREENROOM_BOTS": "given=tests.support.given_bots:given"}
    async with running_stack(tmp_path_factory.mktemp("bodies"), **bots) as running:
        async with running.client() as client, asyncio.timeout(PATIENCE_S):
            while "given" not in {agent["name"] for agent in (await client.get("/v1/agents"))["agents"]}:
                await asyncio.sleep(0.1)
        yield running


@asynccontextmanager
async def broker_of(stack: RunningStack) -> AsyncGenerator[NatsBroker]:
    """Give a connection to the stack's broker."""
    broker = await NatsBroker.connect(stack.stack.nats_url, name="test")
    try:
        yield broker
    finally:
        await broker.close()


async def told(client: ApiClient, session_id: str) -> dict[str, Any]:
    """Return what the session's bot says of its body."""
    command = {"command": {"type": "call", "function": "given"}}
    return (await client.post(f"/v1/sessions/{session_id}/commands", command))["result"]["returned"]


async def listed(client: ApiClient) -> set[str]:
    """Return the sessions that are stored."""
    return {session["id"] for session in (await client.get("/v1/sessions"))["sessions"]}


async def kept(broker: NatsBroker, session_id: str) -> int:
    """Return how many bytes lie in the stream for a session."""
    stored = await broker.last(STREAM, subjects.BODY.format(tenant="default", session_id=session_id))
    return len(stored.data) if stored is not None else 0


@pytest.mark.timeout(180)
async def test_a_large_body_reaches_the_bot_twice_and_goes(stack: RunningStack) -> None:
    """Over 900 kB, as they were sent; again in another process when the runner is lost; the end leaves nothing."""
    assert digest(BODY)["size_bytes"] > 900_000
    async with stack.client() as client, broker_of(stack) as broker:
        session = await client.post("/v1/sessions", {"agent": "given", "body": BODY, "on_loss": "always", **READY})
        assert (session["state"], session["body"], session["body_ref"]) == ("ready", {}, digest(BODY))
        assert await told(client, session["id"]) == digest(BODY)
        assert await kept(broker, session["id"]) > 900_000
        for entry in await Ledger(broker).history("default", session["id"]):
            assert entry.session.body == {}

        await stack.kill("runner")
        await stack.start_again("runner")
        async with asyncio.timeout(PATIENCE_S):
            while (again := await client.get(f"/v1/sessions/{session['id']}"))["attempt"] == 1:
                await asyncio.sleep(0.1)
        again = await wait_for_session(client, session["id"], state="ready")
        assert again["attempt"] == 2
        assert await told(client, session["id"]) == digest(BODY)

        await client.post(f"/v1/sessions/{session['id']}/stop")
        ended = await wait_for_session(client, session["id"])
        assert ended["body_ref"] == digest(BODY)
        async with asyncio.timeout(PATIENCE_S):
            while await kept(broker, session["id"]):
                await asyncio.sleep(0.2)
        database = await asyncpg.connect(stack.stack.database_url)
        async with asyncio.timeout(PATIENCE_S):
            while (row := await database.fetchrow(_STORED, session["id"])) is None or row["state"] != "ended":
                await asyncio.sleep(0.1)
        await database.close()
        assert row["size"] < 64 * 1024
        assert row["sha256"] == digest(BODY)["sha256"]


_STORED = """
SELECT state, length(document::text) AS size, document -> 'body_ref' ->> 'sha256' AS sha256
FROM sessions WHERE id = $1
"""


async def test_pipecats_start_takes_a_large_body(stack: RunningStack) -> None:
    """The same limits for what Pipecat's clients send."""
    async with stack.client() as client:
        wish = {"agent": "given", "transport": "websocket", "body": BODY}
        before = await listed(client)
        assert (await client.post("/start", wish))["wsUrl"]
        # Its answer doesn't name the session.
        async with asyncio.timeout(PATIENCE_S):
            while not (new := await listed(client) - before):
                await asyncio.sleep(0.1)
        (session_id,) = new
        await wait_for_session(client, session_id, state="ready")
        assert await told(client, session_id) == digest(BODY)
        await client.post(f"/v1/sessions/{session_id}/stop")
        await wait_for_session(client, session_id)


async def test_a_body_that_is_gone_ends_the_session_with_its_reason(stack: RunningStack) -> None:
    """The bot isn't called with less than it was to be given."""
    async with stack.client() as client, broker_of(stack) as broker:
        # It waits for a slot until its body is gone.
        wish = {"agent": "given", "body": BODY, "limits": {"queue_timeout_s": 60}}
        held = [await client.post("/v1/sessions", {"agent": "given", **READY}) for _ in range(4)]
        session = await client.post("/v1/sessions", wish)
        await broker.append(subjects.BODY.format(tenant="default", session_id=session["id"]), b"")
        for each in held:
            await client.post(f"/v1/sessions/{each['id']}/stop")
        ended = await wait_for_session(client, session["id"])
    assert (ended["outcome"], ended["reason"]) == ("failed", "body-unavailable")
    assert "isn't there any more" in ended["detail"]


@pytest.mark.parametrize("path", ["/v1/sessions", "/start", "/v1/public/given/start"])
async def test_more_than_a_million_bytes_are_refused_before_anything_is_begun(stack: RunningStack, path: str) -> None:
    """With the typed problem; there is no session, and nothing lies in the stream."""
    async with stack.client() as client, broker_of(stack) as broker:
        before = await broker.count(STREAM, subjects.BODY.wildcard())
        sessions = await listed(client)
        wish: dict[str, Any] = {} if "public" in path else {"agent": "given"}
        for size in (1_000_000, 1_100_000):
            with pytest.raises(ApiProblem) as refused:
                await client.post(path, {**wish, "transport": "websocket", "body": {"text": "x" * size}})
            assert (refused.value.problem_body["status"], refused.value.api_code) == (413, "body-too-large")
        assert await broker.count(STREAM, subjects.BODY.wildcard()) == before
        assert await listed(client) == sessions
