"""What still works while NATS or PostgreSQL is away."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest

from greenroom.common.messages import BotOffer
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.migrate import migrate
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api, until


@pytest.fixture
async def world(own_nats: EmbeddedNats, own_postgres: EmbeddedPostgres) -> AsyncGenerator[ApiWorld]:
    """A running api on servers of its own."""
    dsn = own_postgres.dsn_of("postgres")
    await migrate(dsn)
    async with running_api(own_nats.url, dsn) as running:
        yield running


async def test_sessions_go_on_while_postgres_is_away(
    world: ApiWorld, own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known keys and agents, and announced ones, are good for new sessions; history waits, and comes back."""
    monkeypatch.setattr("greenroom.api.auth.KEY_TTL_S", 0.0)
    async with world.client() as client:
        await world.beat(BotOffer(name="echo"), BotOffer(name="announced"))
        await until(lambda: "announced" in world.parts.fleet.offers())
        session = (await client.post("/v1/sessions", json={"agent": "echo"})).json()
        await own_postgres.kill()
        await asyncio.sleep(2.1)  # everything that was looked up is stale by now
        for agent in ("echo", "announced"):
            assert (await client.post("/v1/sessions", json={"agent": agent})).status_code == 201
        assert (await client.get(f"/v1/sessions/{session['id']}")).status_code == 200
        assert (await client.post(f"/v1/sessions/{session['id']}/stop")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        for path in ("/v1/sessions", f"/v1/sessions/{session['id']}/recording"):
            problem = problem_of(await client.get(path))
            assert (problem["status"], problem["code"]) == (503, "database-unavailable")
        status = (await client.get("/v1/status")).json()
        assert (status["sessions"], status["problems"]["database"]) == (None, "database-unavailable")
        unknown = await client.get("/v1/agents", headers={"authorization": "Bearer gr_unknown"})
        assert problem_of(unknown)["code"] == "database-unavailable"
        await own_postgres.start()

        async def listed() -> int:
            return (await client.get("/v1/sessions")).status_code

        await eventually(listed, lambda status: status == 200)


async def test_nothing_is_promised_while_nats_is_away(world: ApiWorld, own_nats: EmbeddedNats) -> None:
    """Requests are refused as `try again`, history is still shown, and afterwards all goes on."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await world.record()
    async with world.client() as client:
        assert (await client.get("/v1/agents")).status_code == 200
        await own_nats.kill()
        await until(lambda: not world.parts.broker.connected)
        response = await client.post("/v1/sessions", json={"agent": "echo"})
        problem = problem_of(response)
        assert (problem["status"], problem["code"], problem["retryable"]) == (503, "broker-unavailable", True)
        assert response.headers["retry-after"] == "1"
        assert (await client.get(f"/v1/sessions/{session_id}")).json()["state"] == "ended"
        assert (await client.get("/v1/sessions")).status_code == 200
        assert (await client.get("/readyz")).json()["reasons"] == {"broker": "broker-unavailable"}
        await own_nats.start()

        async def asked() -> httpx.Response:
            return await client.post("/v1/sessions", json={"agent": "echo"})

        assert (await eventually(asked, lambda answer: answer.is_success)).status_code == 201


async def test_the_policy_holds_while_postgres_is_away(world: ApiWorld, own_postgres: EmbeddedPostgres) -> None:
    """Nobody can change it, what is published goes on, and afterwards changes are applied as before."""
    limit = {"scope": "tenant", "max_sessions": 1, "at_limit": "refuse"}
    async with world.client() as client:
        assert (await client.put("/v1/limits/a", json=limit)).status_code == 200
        await until(lambda: world.parts.policy.current.limits)
        await own_postgres.kill()
        await until(lambda: world.parts.policy.problem == "database-unavailable")
        for response in (await client.put("/v1/limits/b", json=limit), await client.get("/v1/limits")):
            assert problem_of(response)["code"] == "database-unavailable"
        assert [each.id for each in world.parts.policy.current.limits] == ["a"]
        await own_postgres.start()

        async def changed() -> int:
            return (await client.put("/v1/limits/b", json=limit)).status_code

        await eventually(changed, lambda status: status == 200)
        await until(lambda: len(world.parts.policy.current.limits) == 2)


async def test_a_change_is_published_when_nats_is_back(world: ApiWorld, own_nats: EmbeddedNats) -> None:
    """The policy is edited in PostgreSQL, so NATS may be away meanwhile."""
    async with world.client() as client:
        await own_nats.kill()
        await until(lambda: not world.parts.broker.connected)
        wish = {"scope": "tenant", "max_sessions": 1}
        assert (await client.put("/v1/limits/a", json=wish)).status_code == 200
        listed = (await client.get("/v1/limits")).json()
        assert (listed["problem"], len(listed["limits"])) == ("scheduler-unavailable", 1)
        await own_nats.start()
        await until(lambda: world.parts.policy.current.limits)


async def test_a_wait_outlives_a_restart_of_nats(world: ApiWorld, own_nats: EmbeddedNats) -> None:
    """What happened while nothing could be heard is found by looking."""
    async with world.client() as client:
        asking = asyncio.create_task(client.post("/v1/sessions", json={"agent": "echo", "wait": "ready"}))
        reader = await world.ledger.watch()
        session_id = (await anext(aiter(reader))).session.id
        await reader.close()
        await own_nats.restart()
        await until(lambda: world.broker.connected)
        await world.make_ready(session_id)
        assert (await asking).json()["state"] == "ready"
