"""Secrets of webhooks encrypted at rest: made by the api, signed with by the recorder."""

import base64
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from greenroom.common.webhook_secrets import ENCRYPTED, WebhookSecrets
from greenroom.recorder.webhooks import deliverer
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.recorder_world import World, eventually
from tests.support.webhook_world import SECRET, deliveries, delivering, hooks, hurry, subscribe

PATH = "/v1/webhook-endpoints"
KEPT = "SELECT secret, old_secret FROM webhook_endpoints ORDER BY created_at"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with a key of the tenants of these tests."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for tenant in ("default", "t"):
        (folder / f"{tenant}.1.key").write_bytes(base64.b64encode(os.urandom(32)))
    return folder


@pytest.fixture
async def api(nats_url: str, database: str, keys: Path) -> AsyncGenerator[ApiWorld]:
    """An api that has the keys."""
    fields: dict[str, Any] = {
        "webhook_allow": ("127.0.0.1",),
        "webhook_allow_http": True,
        "webhook_keys_dir": str(keys),
    }
    async with running_api(nats_url, database, **fields) as running:
        yield running


async def test_a_secret_lies_encrypted_and_signs(api: ApiWorld, keys: Path, tmp_path: Path) -> None:
    """Also after a change, when the one before it signs too; neither can be read in the database."""
    here = World(api.broker, api.dsn, tmp_path)
    async with hooks() as there, api.client() as client, delivering(here, secrets=WebhookSecrets.of(str(keys))):
        made = (await client.post(PATH, json={"url": there.url})).json()
        one = f"{PATH}/{made['endpoint']['id']}"
        changed = (await client.post(f"{one}/rotate")).json()
        await client.post(f"{one}/test")
        await eventually(lambda: deliveries(here, made["endpoint"]["id"]), lambda rows: rows[0]["state"] == "delivered")
    assert there.seen[0].signed_by(made["secret"])
    assert there.seen[0].signed_by(changed["secret"])
    (row,) = await here.rows(KEPT)
    assert all(kept.startswith(ENCRYPTED) for kept in row.values())
    assert not any(text in str(row) for text in (made["secret"], changed["secret"]))


async def test_what_was_stored_before_there_were_keys_is_encrypted(
    api: ApiWorld, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the recorder, by itself, both secrets; what is of a tenant without a key stays as it is, and all go on."""
    monkeypatch.setattr(deliverer, "TIDY_S", 0.1)
    here = World(api.broker, api.dsn, tmp_path)
    async with hooks() as there:
        endpoint = await subscribe(here, there.url)
        await subscribe(here, there.url, tenant="keyless")
        await here.rows(
            "UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + interval '1 hour'"
            " WHERE id = $1",
            endpoint,
        )
        async with delivering(here, secrets=WebhookSecrets.of(str(keys))):
            first, second = await eventually(
                lambda: here.rows(KEPT), lambda rows: rows[0]["secret"].startswith(ENCRYPTED)
            )
            await here.rows(
                "INSERT INTO webhook_deliveries (endpoint_id, lane, position, event_id, type)"
                " VALUES ($1, 'test-1', 0, 'test-1', 'webhook.test')",
                endpoint,
            )
            await here.rows("INSERT INTO webhook_lanes (endpoint_id, lane) VALUES ($1, 'test-1')", endpoint)
            await eventually(lambda: deliveries(here, endpoint), lambda rows: rows[0]["state"] == "delivered")
        assert there.seen[0].signed_by(SECRET)
    assert first["old_secret"].startswith(ENCRYPTED)
    assert second == {"secret": SECRET, "old_secret": None}


async def test_without_its_key_a_delivery_waits(api: ApiWorld, keys: Path, tmp_path: Path) -> None:
    """Nothing is sent unsigned, and nothing lost: it is delivered once the key is there."""
    here = World(api.broker, api.dsn, tmp_path)
    key = next(keys.glob("default.*"))
    async with hooks() as there, api.client() as client:
        endpoint = (await client.post(PATH, json={"url": there.url})).json()["endpoint"]["id"]
        away = key.rename(tmp_path / "away")
        # A test is tried once; this one has a day, before anybody tries it.
        await client.post(f"{PATH}/{endpoint}/test")
        await here.rows("UPDATE webhook_deliveries SET give_up_at = now() + interval '1 day'")
        async with delivering(here, secrets=WebhookSecrets.of(str(keys))):
            await eventually(lambda: deliveries(here, endpoint), lambda rows: rows[0]["last_error"] == "key-missing")
            assert there.seen == []
            away.rename(key)

            async def tried() -> str:
                await here.rows(
                    "INSERT INTO webhook_lanes SELECT endpoint_id, lane FROM webhook_deliveries"
                    " WHERE state = 'pending' ON CONFLICT DO NOTHING"
                )
                await hurry(here)
                return (await deliveries(here, endpoint))[0]["state"]

            await eventually(tried, lambda state: state == "delivered")
    assert len(there.seen) == 1


async def test_a_broken_key_makes_no_endpoint(api: ApiWorld, keys: Path) -> None:
    """It isn't kept unencrypted instead."""
    next(keys.glob("default.*")).write_bytes(b"no key")
    async with api.client() as client:
        refused = await client.post(PATH, json={"url": "https://a.example/"})
        assert problem_of(refused)["code"] == "webhook-key-missing"
        assert (await client.get(PATH)).json()["endpoints"] == []
