"""Webhooks on a real database: what is told, in which order, and what becomes of it when something fails."""

import asyncio
from typing import Any

import pytest

from greenroom.common.lifecycle import Session
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as recorder_database
from greenroom.recorder.ingest import Incoming, Ingest, decode
from greenroom.recorder.settings import WORK
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import StoredSession
from tests.support.recorder_world import World, eventually
from tests.support.webhook_world import (
    Hooks,
    deliveries,
    delivering,
    hooks,
    hurry,
    subscribe,
)

LIFE = ["session.requested", "session.leased", "session.started", "session.ready", "session.ended"]


async def store(here: World) -> None:
    """Have everything that is in the stream stored, in one transaction, as the recorder does it."""
    reader = await here.broker.read("SESSIONS", ["gr.v1.session.>"], after=0)
    batch: list[Incoming] = []
    async for message in reader:
        batch.append(decode(message))
        if reader.caught_up.is_set():
            break
    await reader.close()
    pool = await recorder_database.open_pool(here.dsn, size=1)
    ingest = Ingest(
        broker=here.broker, store=Store(pool), on_ended=lambda _: None, metrics=Metrics(), max_batch=len(batch)
    )
    await ingest.handle(batch)
    await recorder_database.close_pool(pool, timeout_s=2)


async def a_call(here: World, *events: str, **fields: Any) -> Session:
    """Return a stored session that has ended."""
    entry = await here.begin(**fields)
    for kind in events:
        await here.publish(entry.session, kind, id=f"{kind}-1", data={"kind": kind})
    await here.end(entry)
    await store(here)
    return entry.session


async def settled(here: World, endpoint_id: str) -> list[dict[str, Any]]:
    """Return the deliveries to an endpoint once none is pending."""
    return await eventually(
        lambda: deliveries(here, endpoint_id), lambda rows: rows and all(row["state"] != "pending" for row in rows)
    )


async def attempted(here: World, endpoint_id: str, attempts: int) -> dict[str, Any]:
    """Return the first delivery to an endpoint once it was tried so often."""
    rows = await eventually(lambda: deliveries(here, endpoint_id), lambda rows: rows[0]["attempts"] == attempts)
    return rows[0]


async def test_a_session_is_told_in_order(here: World, there: Hooks) -> None:
    """Each event that the endpoint wants comes once, signed, in the order of the session, with what it is about."""
    endpoint = await subscribe(here, there.url, "session.*", "recording.ready", "crm.*")
    session = await a_call(here, "recording_saved", "user_spoke", "crm.ticket.opened", metadata={"crm": "7"})
    async with delivering(here):
        rows = await settled(here, endpoint)
    assert there.types() == [*LIFE[:4], "recording.ready", "crm.ticket.opened", "session.ended"]
    assert [(row["state"], row["attempts"], row["last_status"]) for row in rows] == [("delivered", 1, 204)] * 7
    assert [hook.id for hook in there.seen] == [row["id"] for row in rows]
    assert all(hook.signed_by("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") for hook in there.seen)
    assert [hook.json["seq"] for hook in there.seen] == sorted(hook.json["seq"] for hook in there.seen)
    last = there.seen[-1].json
    assert (last["tenant"], last["data"]["outcome"], last["session"]["id"]) == ("t", "completed", session.id)
    assert (last["session"]["agent"], last["session"]["metadata"]) == ("frontdesk", {"crm": "7"})
    assert last["session"]["duration_s"] >= 0
    assert there.seen[4].json["data"] == {"kind": "recording_saved"}
    assert await here.rows("SELECT * FROM webhook_lanes") == []


async def test_nobody_else_is_told(here: World, there: Hooks) -> None:
    """Not another tenant's endpoint, none that is disabled or deleted, and none of what was before it."""
    await a_call(here)
    other = await subscribe(here, there.url, tenant="u")
    disabled, deleted = await subscribe(here, there.url), await subscribe(here, there.url)
    await here.rows("UPDATE webhook_endpoints SET enabled = false WHERE id = $1", disabled)
    await here.rows("UPDATE webhook_endpoints SET deleted_at = now() WHERE id = $1", deleted)
    mine = await subscribe(here, there.url)
    await store(here)  # what is stored already is stored again
    assert await here.rows("SELECT * FROM webhook_deliveries") == []
    await a_call(here)
    assert await deliveries(here, other) == await deliveries(here, disabled) == await deliveries(here, deleted) == []
    assert [row["type"] for row in await deliveries(here, mine)] == LIFE


async def test_stored_and_queued_are_one(here: World, there: Hooks) -> None:
    """A batch that is rolled back queues nothing; stored the second time, each of its events is queued once."""
    endpoint = await subscribe(here, there.url)
    entry = await here.begin()
    pool = await recorder_database.open_pool(here.dsn, size=1)
    reader = await here.broker.read("SESSIONS", ["gr.v1.session.>"], after=0)
    batch = [decode(await anext(aiter(reader)))]
    await reader.close()

    async def store_in_vain() -> None:
        async with Store(pool).transaction() as transaction:
            await transaction.save_sessions([StoredSession(session=entry.session, revision=entry.revision)])
            assert (await transaction.add_events(batch)).rows == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await store_in_vain()
    assert await deliveries(here, endpoint) == []
    await recorder_database.close_pool(pool, timeout_s=2)
    await store(here)
    await store(here)
    assert [row["type"] for row in await deliveries(here, endpoint)] == LIFE[:4]


async def test_the_next_waits_for_the_former(here: World, there: Hooks) -> None:
    """What fails is tried again under the same id and holds up its session, and no other one."""
    endpoint = await subscribe(here, there.url, "session.requested", "session.ended")
    first, second = await a_call(here), await a_call(here)
    there.answer = lambda hook: 503 if hook.json["session"]["id"] == first.id else 200
    async with delivering(here):
        done = "SELECT count(*) AS n FROM webhook_deliveries WHERE session_id = $1 AND state = 'delivered'"
        await eventually(lambda: here.rows(done, second.id), lambda rows: rows[0]["n"] == 2)
        row = await attempted(here, endpoint, 1)
        assert (row["state"], row["last_status"]) == ("pending", 503)
        await hurry(here)
        await attempted(here, endpoint, 2)
        there.answer = lambda _: 200
        await hurry(here)
        await settled(here, endpoint)
    of_first = [hook for hook in there.seen if hook.json["session"]["id"] == first.id]
    assert [hook.type for hook in of_first] == ["session.requested"] * 3 + ["session.ended"]
    assert len({hook.id for hook in of_first[:3]}) == 1
    assert len({hook.body for hook in of_first[:3]}) == 1


async def test_given_up_after_a_day(here: World, there: Hooks) -> None:
    """When the time is up it is dead, with what it failed of, and the next one's turn comes."""
    endpoint = await subscribe(here, there.url, "session.requested", "session.ended")
    await a_call(here)
    there.answer = lambda hook: 500 if hook.type == "session.requested" else 200
    await here.rows("UPDATE webhook_deliveries SET give_up_at = now() WHERE type = 'session.requested'")
    async with delivering(here):
        rows = await settled(here, endpoint)
    assert [(row["state"], row["last_status"]) for row in rows] == [("dead", 500), ("delivered", 200)]


async def test_gone_is_not_asked_again(here: World, there: Hooks) -> None:
    """410 disables the endpoint: nothing more is sent, and nothing more is queued."""
    endpoint = await subscribe(here, there.url, "session.requested", "session.ended")
    there.answer = lambda _: 410
    await a_call(here)
    query = "SELECT enabled, disabled_reason FROM webhook_endpoints WHERE id = $1"
    async with delivering(here):
        found = await eventually(lambda: here.rows(query, endpoint), lambda rows: not rows[0]["enabled"])
        await a_call(here)
    assert found == [{"enabled": False, "disabled_reason": "gone"}]
    assert [row["state"] for row in await deliveries(here, endpoint)] == ["dead", "pending"]
    assert len(there.seen) == 1


async def test_only_success_is_success(here: World, there: Hooks) -> None:
    """A redirect isn't followed, silence is cut off, and both are tried again."""
    endpoint = await subscribe(here, there.url, "session.requested")
    await a_call(here)
    async with hooks() as elsewhere, delivering(here, timeout_s=0.5):
        there.extra = f"location: {elsewhere.url}\r\n"
        there.answer = lambda _: 302
        assert (await attempted(here, endpoint, 1))["last_status"] == 302
        there.answer = lambda _: None
        await hurry(here)
        row = await attempted(here, endpoint, 2)
        assert (row["state"], row["last_status"], row["last_error"]) == ("pending", None, "timeout")
        assert elsewhere.seen == []


async def test_recorders_share_and_one_dies(here: World, there: Hooks) -> None:
    """Of several none sends what another has in hand; what a killed one had is sent again under the same id."""
    endpoint = await subscribe(here, there.url)
    sessions = [await a_call(here) for _ in range(4)]
    there.gate.clear()
    async with delivering(here, lease_s=1.0) as doomed:
        await eventually(lambda: asyncio.sleep(0, there.seen), lambda seen: len(seen) == 4)
        doomed.cancel()
        await asyncio.wait({doomed})
    in_hand = {hook.id for hook in there.seen}
    there.gate.set()
    async with delivering(here), delivering(here), delivering(here):
        await settled(here, endpoint)
    again = there.seen[4:]
    assert in_hand <= {hook.id for hook in again}
    assert len(again) == len({hook.id for hook in again}) == 20
    for session in sessions:
        assert [hook.type for hook in again if hook.json["session"]["id"] == session.id] == LIFE


async def test_a_slow_endpoint_holds_up_nobody(here: World, there: Hooks) -> None:
    """It has so many requests at once, however much waits for it; another one is told meanwhile."""
    async with hooks() as quick:
        slow = await subscribe(here, there.url, "session.requested")
        other = await subscribe(here, quick.url, "session.requested")
        there.gate.clear()
        for _ in range(12):
            await here.begin()
        await store(here)
        async with delivering(here):
            await settled(here, other)
            await eventually(lambda: asyncio.sleep(0, there.at_once), lambda n: n == 8)
            assert there.most_at_once == 8
            there.gate.set()
            await settled(here, slow)


async def test_erased_sessions_are_not_told(here: World, there: Hooks) -> None:
    """With a session its deliveries are gone; of an event that is gone alone the delivery is dead."""
    endpoint = await subscribe(here, there.url, "session.requested")
    gone, kept = await a_call(here), await a_call(here)
    await here.rows("DELETE FROM sessions WHERE id = $1", gone.id)
    for query in ("SELECT * FROM webhook_deliveries", "SELECT * FROM webhook_lanes"):
        assert gone.id not in str(await here.rows(query))
    await here.rows("DELETE FROM session_events WHERE session_id = $1", kept.id)
    async with delivering(here):
        (row,) = await settled(here, endpoint)
        await eventually(lambda: here.rows("SELECT * FROM webhook_lanes"), lambda rows: rows == [])
    assert (row["session_id"], row["state"], row["last_error"]) == (kept.id, "dead", "event-erased")
    assert there.seen == []


async def test_the_recorder_delivers(here: World, there: Hooks) -> None:
    """A recorder stores what happens and tells it, and nothing of it is private networks' unless that is set."""
    endpoint = await subscribe(here, there.url, "session.*")
    async with here.recorder(recorder_work=WORK, webhook_allow=("127.0.0.1",), webhook_allow_http=True):
        entry = await here.begin()
        await here.end(entry)
        await eventually(lambda: deliveries(here, endpoint), lambda rows: len(rows) == 5)
        await settled(here, endpoint)
    assert there.types() == LIFE
    async with here.recorder(recorder_work=WORK):
        await here.begin()
        rows = await eventually(
            lambda: deliveries(here, endpoint), lambda rows: any(row["last_error"] == "url-refused" for row in rows)
        )
    assert len(there.seen) == len(LIFE)
    assert len(rows) > len(LIFE)
