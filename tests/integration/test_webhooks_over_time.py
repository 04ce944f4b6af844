"""Webhooks over hours and days: rotation, what is given up, what is forgotten, endpoints that fail."""

from collections.abc import AsyncGenerator

import pytest

from greenroom.recorder import database as recorder_database
from greenroom.recorder.webhooks import deliverer
from greenroom.recorder.webhooks.store import WebhookStore
from tests.support.recorder_world import World, eventually
from tests.support.webhook_world import SECRET, Hooks, deliveries, delivering, hooks, hurry, subscribe

OLD = "whsec_b2xkZXIgdGhhbiB0aGUgb3RoZXIgb25lLCBpc24ndCBpdA=="


@pytest.fixture
async def store(here: World) -> AsyncGenerator[WebhookStore]:
    """The deliveries."""
    pool = await recorder_database.open_pool(here.dsn, size=1)
    yield WebhookStore(pool)
    await recorder_database.close_pool(pool, timeout_s=2)


async def queue(here: World, endpoint_id: str, count: int) -> None:
    """Queue deliveries that need no session, each in a lane of its own."""
    await here.rows(
        """WITH queued AS (
            INSERT INTO webhook_deliveries (endpoint_id, lane, position, event_id, type)
            SELECT $1, 'lane-' || number, 0, 'event-' || number, 'webhook.test'
            FROM generate_series(1, $2::int) AS number
            RETURNING endpoint_id, lane
        )
        INSERT INTO webhook_lanes (endpoint_id, lane) SELECT * FROM queued""",
        endpoint_id,
        count,
    )


async def settled(here: World, endpoint_id: str) -> list[str]:
    """Return the states of the deliveries to an endpoint once none is pending."""
    rows = await eventually(
        lambda: deliveries(here, endpoint_id), lambda rows: all(row["state"] != "pending" for row in rows)
    )
    return [row["state"] for row in rows]


async def test_both_secrets_sign_for_a_while(here: World, there: Hooks) -> None:
    """After a rotation the old one and the new one, until the old one's time is up."""
    endpoint = await subscribe(here, there.url)
    rotate = "UPDATE webhook_endpoints SET old_secret = $2, old_secret_until = now() + make_interval(secs => $3)"
    for index, left_s in enumerate((3600.0, -1.0)):
        await here.rows(f"{rotate} WHERE id = $1", endpoint, OLD, left_s)
        await here.rows("DELETE FROM webhook_deliveries")
        await queue(here, endpoint, 1)
        async with delivering(here):
            await settled(here, endpoint)
        assert there.seen[index].signed_by(SECRET)
        assert there.seen[index].signed_by(OLD) is (left_s > 0)


async def test_a_failing_endpoint_is_asked_less(here: World, there: Hooks) -> None:
    """One request at once, and a pause after some; when it is well again, everything goes through."""
    endpoint = await subscribe(here, there.url)
    await here.rows("UPDATE webhook_endpoints SET failures = 1 WHERE id = $1", endpoint)
    there.answer = lambda _: 500
    await queue(here, endpoint, 12)
    paused = "SELECT failures, paused_until > now() AS paused FROM webhook_endpoints WHERE id = $1"
    async with delivering(here):
        await eventually(lambda: here.rows(paused, endpoint), lambda rows: rows[0]["paused"])
        assert there.most_at_once == 1
        assert len(there.seen) < 12
        there.answer = lambda _: 200
        await hurry(here)
        assert await settled(here, endpoint) == ["delivered"] * 12
    assert await here.rows(paused, endpoint) == [{"failures": 0, "paused": False}]


async def test_what_is_overdue_is_dead(here: World, there: Hooks, store: WebhookStore) -> None:
    """What nobody could try in time is given up, an hour after its day; what has time left isn't."""
    endpoint = await subscribe(here, there.url)
    await queue(here, endpoint, 3)
    late = "UPDATE webhook_deliveries SET give_up_at = now() - make_interval(mins => $2) WHERE lane = $1"
    await here.rows(late, "lane-1", 61)
    await here.rows(late, "lane-2", 59)
    assert await store.expire(grace_s=deliverer.EXPIRE_GRACE_S, limit=10) == 1
    rows = {row["lane"]: row for row in await deliveries(here, endpoint)}
    assert (rows["lane-1"]["state"], rows["lane-1"]["last_error"]) == ("dead", "not-tried-in-time")
    assert (rows["lane-2"]["state"], rows["lane-3"]["state"]) == ("pending", "pending")
    assert await store.pending() == 2
    async with delivering(here):  # and the lane of what is dead is nobody's
        await settled(here, endpoint)
        await eventually(lambda: here.rows("SELECT * FROM webhook_lanes"), lambda rows: rows == [])
    assert len(there.seen) == 2


async def test_what_is_old_is_forgotten(here: World, there: Hooks, store: WebhookStore) -> None:
    """Delivered ones after a week, dead ones after a month, everything of a deleted endpoint, and then itself."""
    endpoint, deleted = await subscribe(here, there.url), await subscribe(here, there.url)
    await queue(here, endpoint, 5)
    await queue(here, deleted, 3)
    age = """UPDATE webhook_deliveries SET state = $3, settled_at = now() - make_interval(days => $4)
             WHERE endpoint_id = $1 AND lane = $2"""
    for lane, state, days in (("1", "delivered", 8), ("2", "delivered", 6), ("3", "dead", 31), ("4", "dead", 29)):
        await here.rows(age, endpoint, f"lane-{lane}", state, days)
    await here.rows("UPDATE webhook_endpoints SET deleted_at = now() - interval '2 minutes' WHERE id = $1", deleted)
    for _ in range(2):
        await store.forget(
            delivered_s=deliverer.KEEP_DELIVERED_S, dead_s=deliverer.KEEP_DEAD_S, limit=deliverer.TIDY_LIMIT
        )
    assert [row["lane"] for row in await deliveries(here, endpoint)] == ["lane-2", "lane-4", "lane-5"]
    assert await deliveries(here, deleted) == []
    assert [row["id"] for row in await here.rows("SELECT id FROM webhook_endpoints")] == [endpoint]


async def test_a_disabled_endpoint_is_left_alone(here: World, there: Hooks) -> None:
    """Until it is enabled again: then what waited is told."""
    endpoint = await subscribe(here, there.url)
    await queue(here, endpoint, 1)
    await here.rows("UPDATE webhook_endpoints SET enabled = false WHERE id = $1", endpoint)
    async with hooks() as elsewhere, delivering(here):
        other = await subscribe(here, elsewhere.url)
        await queue(here, other, 1)
        await settled(here, other)
        assert there.seen == []
        await here.rows("UPDATE webhook_endpoints SET enabled = true WHERE id = $1", endpoint)
        assert await settled(here, endpoint) == ["delivered"]


async def test_the_database_goes_away(here: World, there: Hooks) -> None:
    """A deliverer whose connections are cut goes on when there are new ones; nothing is lost."""
    endpoint = await subscribe(here, there.url)
    cut = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()"""
    there.gate.clear()
    async with delivering(here, lease_s=1.0):
        await queue(here, endpoint, 3)
        await eventually(lambda: deliveries(here, endpoint), lambda _: len(there.seen) == 3)
        await here.rows(cut)
        there.gate.set()
        assert await settled(here, endpoint) == ["delivered"] * 3
    assert len({hook.id for hook in there.seen}) == 3
