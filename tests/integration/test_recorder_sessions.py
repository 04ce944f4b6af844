"""The recorder and what happens in sessions, on real NATS and PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from greenroom.common import messages, subjects, topology
from greenroom.common.clock import utcnow
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Leased, Ready, Started, State
from greenroom.common.messages import LedgerEntry
from greenroom.common.metrics import Metrics
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder import database as recorder_database
from greenroom.recorder.app import Recorder
from greenroom.recorder.ingest import Incoming, Ingest, decode
from greenroom.recorder.migrate import migrate
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import Transaction
from tests.support.recorder_world import World, eventually, quick_topology, world
from tests.support.spans import record_spans


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


@asynccontextmanager
async def an_ingest(here: World, store: type[Store] = Store) -> AsyncGenerator[Ingest]:
    """Give the consumer of sessions without anything around it."""
    pool = await recorder_database.open_pool(here.dsn, size=2)
    try:
        yield Ingest(broker=here.broker, store=store(pool), on_ended=lambda _: None, metrics=Metrics(), max_batch=100)
    finally:
        await recorder_database.close_pool(pool, timeout_s=2)


async def incoming(here: World) -> list[Incoming]:
    """Return everything in the stream, as the recorder reads it."""
    reader = await here.broker.read("SESSIONS", ["gr.v1.session.>"], after=0)
    found: list[Incoming] = []
    async for message in reader:
        found.append(decode(message))
        if reader.caught_up.is_set():
            break
    await reader.close()
    return found


async def a_call(here: World, events: int) -> Any:
    """Return a session that has been ready, with events, and has ended."""
    entry = await here.begin()
    for number in range(events):
        await here.publish(entry.session, "user_spoke", id=f"e{number}", data={"number": number})
    await here.end(entry)
    return entry.session


A_CALL = ["session.requested", "session.leased", "session.started", "session.ready"]


async def test_history(here: World) -> None:
    """Transitions and events are stored in stream order, and a session's row is what the ledger says at last."""
    async with here.recorder():
        entry = await here.begin(body={"table": 4}, metadata={"crm": "7"})
        await here.publish(entry.session, "user_spoke", data={"text": "hello"}, source="session", seq=1, epoch=1)
        await here.publish(entry.session, "crm.ticket_opened", data={"ticket": 7})
        ended = await here.end(entry)
        row = await eventually(lambda: here.stored(entry.session), lambda row: row.get("state") == "ended")
        types = await here.event_types(entry.session)
    assert types == [*A_CALL, "user_spoke", "crm.ticket_opened", "session.ended"]
    assert row["ledger_revision"] == ended.revision
    assert (row["outcome"], row["reason"], row["runner_id"]) == ("completed", "goodbye", "runner-1")
    assert row["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert row["ready_at"] == ended.session.ready_at
    assert (json.loads(row["body"]), json.loads(row["metadata"])) == ({"table": 4}, {"crm": "7"})
    assert json.loads(row["limits"])["queue_timeout_s"] == 30.0
    assert messages.decode(row["document"].encode(), type(ended.session)) == ended.session


async def test_duplicates(here: World) -> None:
    """An event that is sent twice under one id, or delivered twice, is stored once."""
    session = await a_call(here, 1)
    await here.publish(session, "user_spoke", id="e0", data={"number": 0})
    async with an_ingest(here) as ingest:
        everything = await incoming(here)
        await ingest.handle(everything)
        await ingest.handle(everything[2:])
    assert await here.event_types(session) == [*A_CALL, "user_spoke", "session.ended"]


async def test_partly_stored(here: World) -> None:
    """A batch that is taken for new, and of which some is stored already, adds the rest; nothing is stored twice."""
    session = await a_call(here, 5)
    async with an_ingest(here) as ingest:
        everything = await incoming(here)
        await ingest.handle(everything[3:6])
        assert not any(item.again for item in everything)
        await ingest.handle(everything)
        await ingest.handle([replace(item, again=True) for item in everything])
    assert await here.event_types(session) == [*A_CALL, *["user_spoke"] * 5, "session.ended"]
    assert (await here.stored(session))["state"] == "ended"


async def test_any_order(here: World) -> None:
    """Steps that come one by one and last first lead to the same history and the same row."""
    session = await a_call(here, 2)
    async with an_ingest(here) as ingest:
        for item in reversed(await incoming(here)):
            await ingest.handle([item])
    assert await here.event_types(session) == [*A_CALL, "user_spoke", "user_spoke", "session.ended"]
    assert (await here.stored(session))["state"] == "ended"


async def test_event_before_its_session(here: World) -> None:
    """An event that has overtaken its session's request doesn't wait for it: the ledger knows the session."""
    entry = await here.request()
    await here.publish(entry.session, "early", data={})
    entry = await here.advance(entry, Leased(runner_id="runner-1", epoch=1, expires_at=utcnow()))
    request, event, lease = await incoming(here)
    async with an_ingest(here) as ingest:
        await ingest.handle([event])
        assert (await here.stored(entry.session))["state"] == "leased"
        await ingest.handle([request])
        await ingest.handle([lease])
    assert await here.event_types(entry.session) == ["session.requested", "early", "session.leased"]
    assert (await here.stored(entry.session))["ledger_revision"] == entry.revision


async def test_poison(here: World) -> None:
    """What can't be stored is parked with its reason, message by message, and nothing else is touched by it."""
    entry = await here.begin()
    other = await here.request(tenant="other")
    nobody = msgspec.structs.replace(entry.session, id=uuid7())
    event = subjects.SESSION_EVENT.format(tenant="t", session_id=entry.session.id, type="crm.bad")
    await here.broker.append(event, b"no json")
    await here.publish(entry.session, "crm.bad", surprise=1)
    await here.publish(nobody, "crm.bad", data={})
    await here.publish(other.session, "crm.bad", tenant="t", data={})
    await here.publish(entry.session, "crm.bad", id="nul \0", data={})
    await here.publish(entry.session, "crm.bad", seq=2**63, data={})
    forged = LedgerEntry(
        id=uuid7(),
        at=utcnow(),
        transition=Ready(epoch=1),
        session=msgspec.structs.replace(entry.session, state=State.STARTED),
    )
    lifecycle = subjects.SESSION_LIFECYCLE.format(tenant="t", session_id=entry.session.id)
    await here.broker.append(lifecycle, messages.encode(forged))
    await here.broker.append(lifecycle, b"{}")
    await here.publish(entry.session, "good", data={"text": "a\0b \\u0000"})
    async with here.recorder():
        types = await eventually(lambda: here.event_types(entry.session), lambda types: "good" in types)
        parked = await eventually(here.parked, lambda parked: len(parked) >= 8)
    assert types == [*A_CALL, "good"]
    assert [each.reason.split(":")[0] for each in parked if each.subject.endswith(".lifecycle")] == ["malformed"] * 2
    assert {each.reason.split(":")[0] for each in parked} == {
        "malformed",
        "there is no such session",
        "the session belongs to another tenant",
        "PostgreSQL refuses it",
    }
    assert len(parked) == 8
    (stored,) = await here.rows("SELECT data ->> 'text' AS text FROM session_events WHERE type = 'good'")
    assert stored["text"] == "a\N{REPLACEMENT CHARACTER}b \\u0000"
    assert (await here.stored(entry.session))["state"] == "ready"


async def test_illegal_step_is_parked(here: World) -> None:
    """A fenced transition that the lifecycle table doesn't allow is parked, and the projection doesn't follow it."""
    entry = await here.request()
    forged = LedgerEntry(
        id=uuid7(),
        at=utcnow(),
        transition=Started(runner_id="r", epoch=0),
        session=msgspec.structs.replace(entry.session, state=State.STARTED),
    )
    subject = subjects.SESSION_LIFECYCLE.format(tenant="t", session_id=entry.session.id)
    await here.broker.append(subject, messages.encode(forged), expected_last=entry.revision)
    async with here.recorder():
        (parked,) = await eventually(here.parked, len)
        row = await here.stored(entry.session)
    assert parked.reason.startswith("illegal-transition")
    assert row["state"] == "requested"


class DiesAfterCommit(Store):
    """A store whose user never learns that the commit went well."""

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Commit, and say nothing."""
        async with super().transaction() as transaction:
            yield transaction
        await asyncio.Event().wait()


async def test_killed_between_commit_and_acknowledgement(here: World) -> None:
    """What a recorder had committed when it was killed comes to the next one again, and is stored once."""
    session = await a_call(here, 20)
    async with an_ingest(here, DiesAfterCommit) as dying:
        work = asyncio.create_task(dying.run())
        await eventually(lambda: here.event_types(session), lambda types: len(types) == 25)
        work.cancel()
        await asyncio.wait({work})
    async with here.recorder():
        rest = await a_call(here, 1)
        await eventually(lambda: here.stored(rest), lambda row: row.get("state") == "ended")
        await eventually(lambda: unsettled(here), lambda left: left == 0)
        types = await here.event_types(session)
    assert types[:25] == [*A_CALL, *["user_spoke"] * 20, "session.ended"]
    assert len(types) == 25
    assert await here.parked() == []


async def unsettled(here: World) -> int:
    """Return how many messages of the ledger's consumer aren't dealt with."""
    info = await here.broker.client.jetstream().consumer_info("SESSIONS", "recorder-sessions")
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def test_postgres_away(nats_url: str, own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """While PostgreSQL is down nothing is acknowledged and nothing lost; afterwards everything is there, once."""
    await migrate(own_postgres.dsn)
    async with world(nats_url, own_postgres.dsn, tmp_path) as here, here.recorder() as recorder:
        before = await here.begin()
        await eventually(lambda: here.stored(before.session), lambda row: row.get("state") == "ready")
        await own_postgres.kill()
        during = await a_call(here, 30)
        for number in range(30):
            await here.publish(before.session, "user_spoke", id=f"e{number}", data={})
        await asyncio.sleep(2)
        with pytest.raises(DatabaseUnavailable):
            await recorder.check_postgres()
        await own_postgres.start()
        await here.end(before)
        for session in (before.session, during):
            await eventually(lambda of=session: here.stored(of), lambda row: row.get("state") == "ended")
            types = await here.event_types(session)
            assert sorted(types) == sorted([*A_CALL, *["user_spoke"] * 30, "session.ended"])
        assert await here.parked() == []


async def test_broker_restarted(own_nats: EmbeddedNats, database: str, tmp_path: Path) -> None:
    """A restart of the broker in the middle of a call costs nothing."""
    async with world(own_nats.url, database, tmp_path) as here, here.recorder():
        entry = await here.begin()
        await eventually(lambda: here.stored(entry.session), bool)
        await own_nats.kill()
        await own_nats.start()
        await eventually(lambda: connected(here), bool)
        await here.publish(entry.session, "user_spoke", data={})
        await here.end(entry)
        await eventually(lambda: here.stored(entry.session), lambda row: row["state"] == "ended")
        types = await here.event_types(entry.session)
        assert types == [*A_CALL, "user_spoke", "session.ended"]


async def connected(here: World) -> bool:
    """Return whether the world's own connection is back."""
    return here.broker.connected


async def test_standby(here: World) -> None:
    """Of two recorders one leads; when it stops, the other takes over at once."""
    async with AsyncExitStack() as first_stays, AsyncExitStack() as stays:
        first = await first_stays.enter_async_context(here.recorder())
        await eventually(lambda: leads(first), bool)
        standby = await stays.enter_async_context(here.recorder())
        call = await a_call(here, 1)
        await eventually(lambda: here.stored(call), lambda row: row.get("state") == "ended")
        assert not standby.leading
        await first_stays.aclose()
        await eventually(lambda: leads(standby), bool, within_s=2)
        call = await a_call(here, 1)
        await eventually(lambda: here.stored(call), lambda row: row.get("state") == "ended")


async def leads(recorder: Recorder) -> bool:
    """Return whether a recorder leads."""
    return recorder.leading


async def test_purge(here: World) -> None:
    """After the time of grace the broker forgets what is stored of an ended session, and only that."""
    alive = await here.begin()
    session = await a_call(here, 3)
    everything = subjects.SESSION_ALL.wildcard(tenant="t", session_id=session.id)
    async with here.recorder(purge_grace_s=0.5):
        await eventually(lambda: here.stored(session), lambda row: row.get("purged_at"))
        assert await here.broker.count("SESSIONS", everything) == 0
        await here.publish(session, "crm.late", data={})
        types = await eventually(lambda: here.event_types(session), lambda types: "crm.late" in types)
        assert len(types) == 9
        await eventually(lambda: here.broker.count("SESSIONS", everything), lambda count: count == 0)
        await eventually(lambda: here.stored(session), lambda row: row.get("purged_at"))
    left = subjects.SESSION_ALL.wildcard(tenant="t", session_id=alive.session.id)
    assert await here.broker.count("SESSIONS", left) == 4


async def test_span(here: World) -> None:
    """The end of a session leaves one span in its trace, as a child of its request, however often it is delivered."""
    spans = record_spans()
    await a_call(here, 2)
    async with an_ingest(here) as ingest:
        everything = await incoming(here)
        await ingest.handle(everything)
        await ingest.handle(everything)
    span = spans.one("session.persist")
    assert span.parent is not None
    assert (
        f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
    )
    assert len(spans.spans) == 1
