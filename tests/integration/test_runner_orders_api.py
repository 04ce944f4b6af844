"""Drain, resume and standby from the api and the shell, to a live runner."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from greenroom.common import audit
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import Outcome
from greenroom.common.messages import StartRefused
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.runner_rig import Rig, running_runner, until
from tests.support.shell import command

type Both = tuple[ApiWorld, Rig]


@pytest.fixture
async def both(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Both]:
    """An api and a runner that it has heard of."""
    async with running_api(nats_url, database, first=False) as world, running_runner(nats_url) as rig:
        monkeypatch.setenv("GREENROOM_API_URL", world.url)
        monkeypatch.setenv("GREENROOM_API_KEY", await world.key())

        async def heard() -> list[str]:
            return [runner.heartbeat.runner_id for runner in world.parts.fleet.runners()]

        await eventually(heard)
        yield world, rig


async def test_a_runner_is_drained_and_resumed_from_the_shell(both: Both) -> None:
    """Calls that overlap go on to their own ends; new ones are refused in between and taken afterwards."""
    _, rig = both
    name = rig.settings.runner_id
    short, long = await rig.start(finish_after_s=0.5), await rig.start(finish_after_s=4.0)
    told = await command("fleet", "drain", name, "--reason", "new kernel")
    assert told.exit_code == 0
    assert told.output.endswith(f"{rig.settings.pool}/{name}: drain\n")
    await until(lambda: rig.now.draining)
    assert isinstance(await rig.send_start(await rig.lease()), StartRefused)
    assert (await rig.ended(short)).outcome is Outcome.COMPLETED
    assert (await command("fleet", "resume", name)).exit_code == 0
    await until(lambda: not rig.now.draining)
    third = await rig.start(finish_after_s=0.2)
    for session_id in (third, long):
        assert (await rig.ended(session_id)).outcome is Outcome.COMPLETED


async def test_processes_wait_as_an_operator_says(both: Both) -> None:
    """Fewer or more than the settings say, until that runs out."""
    _, rig = both
    assert (await command("fleet", "standby", rig.settings.runner_id, "0", "--for", "300")).exit_code == 0
    await until(lambda: rig.now.standby == 0)


async def test_a_version_is_withdrawn_and_offered_again(both: Both) -> None:
    """Bots have version 1 unless the runner was told otherwise; without any the runner drains as a whole."""
    world, rig = both
    base = f"/v1/runners/{rig.settings.runner_id}"
    async with world.client("policy:write") as client:
        ordered = await client.post(f"{base}/drain", params={"pool": rig.settings.pool}, json={"agent_version": 999})
        assert (ordered.status_code, ordered.json()["order"]) == (200, "drain")
        assert rig.runner.heartbeat().bots
        version = rig.runner.heartbeat().bots[0].version
        await client.post(f"{base}/drain", json={"agent_version": version})
        await until(lambda: not any(bot.version == version for bot in rig.now.bots))
        await client.post(f"{base}/resume", json={})
        await until(lambda: any(bot.version == version for bot in rig.now.bots))
    assert (await command("fleet", "drain", rig.settings.runner_id, "--version", str(version))).exit_code == 0
    await until(lambda: not any(bot.version == version for bot in rig.now.bots))


async def test_what_cannot_be_told_is_said(both: Both) -> None:
    """Nobody of that name, one that refuses, one that is gone, values that make no sense, a key that may not."""
    world, rig = both
    base = f"/v1/runners/{rig.settings.runner_id}"
    async with world.client("policy:write") as client:
        assert problem_of(await client.post("/v1/runners/nobody/drain", json={}))["code"] == "runner-not-found"
        wrong = await client.post(f"{base}/drain", params={"pool": "elsewhere"}, json={})
        assert problem_of(wrong)["code"] == "runner-not-found"
        assert problem_of(await client.post(f"{base}/standby", json={"target": 65}))["code"] == "invalid-body"
        await rig.runner.drain(1.0)
        refused = problem_of(await client.post(f"{base}/resume", json={}))
        assert (refused["code"], refused["detail"]) == ("order-refused", "the runner is being stopped")
        await world.beat(runner_id="ghost")

        async def silent() -> str:
            return problem_of(await client.post("/v1/runners/ghost/drain", json={}))["code"]

        assert await eventually(silent, lambda code: code != "runner-not-found") == "runner-silent"
        await world.beat(runner_id="ghost", pool="gpu")
        assert await eventually(silent, lambda code: code != "runner-silent") == "runner-ambiguous"
    async with world.client("sessions:read", "sessions:write", "policy:read") as client:
        assert problem_of(await client.post(f"{base}/drain", json={}))["code"] == "forbidden"


async def audited(world: ApiWorld, subject: str) -> list[dict[str, Any]]:
    """Return the lines of the audit on a runner, oldest first."""
    connection = await asyncpg.connect(world.dsn)
    try:
        rows = await connection.fetch("SELECT * FROM audit WHERE subject = $1 ORDER BY id", subject)
    finally:
        await connection.close()
    return [{**row, "detail": msgspec.json.decode(row["detail"])} for row in rows]


async def test_each_order_is_in_the_audit(both: Both) -> None:
    """Who told which runner what, when and why is a line each, by the shell and by the route; refusals are none."""
    world, rig = both
    name, since = rig.settings.runner_id, utcnow() - timedelta(minutes=1)
    await command("fleet", "drain", name, "--reason", "new kernel")
    await command("fleet", "resume", name)
    async with world.client("policy:write") as client:
        await client.post(f"/v1/runners/{name}/drain", json={"agent_version": 3, "bot": "plain"})
        await client.post(f"/v1/runners/{name}/standby", json={"target": 1, "for_s": 30})
        await rig.runner.drain(1.0)
        await client.post(f"/v1/runners/{name}/resume", json={})
    lines = await audited(world, f"{rig.settings.pool}/{name}")
    assert [(line["action"], line["detail"]) for line in lines] == [
        ("runner.drained", {"reason": "new kernel", "agent_version": None, "bot": None}),
        ("runner.resumed", {"reason": ""}),
        ("runner.drained", {"reason": "", "agent_version": 3, "bot": "plain"}),
        ("runner.standby_set", {"target": 1, "for_s": 30}),
    ]
    assert {line["tenant"] for line in lines} == {"*"}
    assert all(since < line["at"] < utcnow() + timedelta(minutes=1) for line in lines)
    # The first two were given with one key, the others with another; both are the api's own.
    shell, _, route, last = (line["actor"] for line in lines)
    assert shell != route == last
    connection = await asyncpg.connect(world.dsn)
    try:
        keys = {audit.key_actor(row["id"]) for row in await connection.fetch("SELECT id FROM api_keys")}
    finally:
        await connection.close()
    assert {shell, route} <= keys


async def test_who_was_not_answered_is_in_the_audit(nats_url: str, database: str) -> None:
    """A runner that is gone may have obeyed before: the line says that it didn't answer."""
    async with running_api(nats_url, database, first=False) as world, world.client("policy:write") as client:

        async def silent() -> str:
            await world.beat(runner_id="ghost")
            return problem_of(await client.post("/v1/runners/ghost/drain", json={}))["code"]

        await eventually(silent, lambda code: code == "runner-silent")
        (line,) = await audited(world, "default/ghost")
    assert (line["action"], line["detail"]["answered"]) == ("runner.drained", False)


async def test_without_the_audit_nobody_is_told_anything(both: Both) -> None:
    """While a line can't be written the order isn't given: the answer is a problem, and the runner goes on."""
    world, rig = both
    await world.execute("ALTER TABLE audit RENAME TO audit_away")
    async with world.client("policy:write") as client:
        answer = await client.post(f"/v1/runners/{rig.settings.runner_id}/drain", json={})
    assert answer.is_server_error
    assert not rig.now.draining
