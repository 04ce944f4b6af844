"""`greenroom webhooks` against a running api, and a deliverer behind it."""

import asyncio
from collections.abc import AsyncGenerator
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from greenroom.devtools import webhooks
from greenroom.devtools.cli import cli
from greenroom.devtools.webhooks import WebhookNotChosen, WebhookNotTried
from tests.support.api_world import ApiWorld, until
from tests.support.recorder_world import World
from tests.support.shell import commanded_api
from tests.support.webhook_world import delivering, hooks


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """A running api that the commands talk to."""
    async with commanded_api(
        nats_url, database, monkeypatch, webhook_allow=("127.0.0.1",), webhook_allow_http=True
    ) as running:
        yield running


async def command(*arguments: str) -> Result:
    """Run a command as from a shell."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ("webhooks", *arguments), standalone_mode=False)


async def test_list_and_test(world: ApiWorld, tmp_path: Path) -> None:
    """A test says whether the endpoint has taken it, with an exit code; it carries the secret's signature."""
    assert "no webhook endpoints" in (await command()).output
    async with (
        hooks() as there,
        world.client() as client,
        delivering(World(world.broker, world.dsn, tmp_path)),
    ):
        made = (await client.post("/v1/webhook-endpoints", json={"url": there.url, "events": ["budget.*"]})).json()
        good = await command("test")
        assert (good.return_value, good.exception) == (0, None)
        assert "delivered: HTTP 204" in good.output
        assert there.types() == ["webhook.test"]
        assert there.seen[0].signed_by(made["secret"])
        there.answer = lambda _: 500
        bad = await command("test", made["endpoint"]["id"])
        assert bad.return_value == 1
        assert "not delivered: HTTP 500" in bad.output
        assert len(there.seen) == 2
        for kind in ("budget.warning", "budget.reached", "limit.reached"):
            await command("test", "--type", kind)
            sample = there.seen.pop()
            assert (sample.type, sample.json["test"]) == (kind, True)
            assert {"budget.warning": "budget", "budget.reached": "budget"}.get(kind, "limit") in sample.json["data"]
        listed = (await command("list")).output
        there.answer = lambda _: 200
        again = await client.post(
            f"/v1/webhook-endpoints/{made['endpoint']['id']}/deliveries/{there.seen[1].id}/replay"
        )
        await until(lambda: len(there.seen) == 3)
        assert (again.status_code, there.seen[2].id) == (202, there.seen[1].id)
    assert there.url in listed
    assert "budget.*" in listed
    assert "failing (4 in a row)" in listed


async def test_nobody_delivers(world: ApiWorld) -> None:
    """Without a recorder that is said; without an endpoint one is asked for."""
    console = Console(file=StringIO())
    with pytest.raises(WebhookNotChosen):
        await webhooks.try_out(console, None)
    async with world.client() as client:
        await client.post("/v1/webhook-endpoints", json={"url": "https://a.example/"})
    with pytest.raises(WebhookNotTried):
        await webhooks.try_out(console, None, patience_s=0.1)
