"""What PostgreSQL missed is put right from the ledger, on real NATS and PostgreSQL."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from greenroom.common import messages, subjects, topology
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Outcome, Started, State
from greenroom.common.messages import LedgerEntry
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as recorder_database
from greenroom.recorder.backlog import backlog
from greenroom.recorder.ingest import Ingest
from greenroom.recorder.reconcile import Reconciler
from greenroom.recorder.store import Store
from tests.support.recorder_world import World, eventually, quick_topology, world

A_CALL = ["session.requested", "session.leased", "session.started", "session.ready"]


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


class Reconciling:
    """A reconciler, and what it counted."""

    def __init__(self, reconciler: Reconciler, metrics: Metrics) -> None:
        self.reconciler = reconciler
        self.metrics = metrics

    def shown(self, name: str) -> float:
        """Return the value of a metric."""
        line = next(line for line in self.metrics.render().decode().splitlines() if line.startswith(name))
        return float(line.split()[-1])


@asynccontextmanager
async def reconciling(here: World) -> AsyncGenerator[Reconciling]:
    """Give a reconciler without a consumer beside it."""
    pool = await recorder_database.open_pool(here.dsn, size=2)
    metrics = Metrics()
    ingest = Ingest(broker=here.broker, store=Store(pool), on_ended=lambda _: None, metrics=metrics, max_batch=10)

    async def settled_to() -> int:
        return (await backlog(here.broker, "SESSIONS", "recorder-sessions")).settled_to

    try:
        yield Reconciling(
            Reconciler(
                broker=here.broker,
                pool=pool,
                settled_to=settled_to,
                handle=ingest.handle,
                metrics=metrics,
                max_batch=10,
            ),
            metrics,
        )
    finally:
        await recorder_database.close_pool(pool, timeout_s=2)


async def call(here: World, events: int = 25) -> Entry:
    """Hold a call and return its last entry."""
    entry = await here.begin()
    for number in range(events):
        await here.publish(entry.session, "user_spoke", id=f"e{number}", data={"n": number})
    return await here.end(entry, Outcome.FAILED, "bot-crashed")


async def unsettled(here: World) -> int:
    """Return how many messages of the ledger's consumer aren't dealt with."""
    state = await backlog(here.broker, "SESSIONS", "recorder-sessions")
    return state.waiting + state.in_hand


async def recorded(here: World) -> None:
    """Have a recorder store everything that there is."""
    async with here.recorder():
        await eventually(lambda: unsettled(here), lambda left: left == 0)


async def everything(here: World) -> list[dict[str, object]]:
    """Return what is stored of sessions and events, without the times at which it was stored."""
    sessions = await here.rows("SELECT id, state, outcome, reason, ledger_revision, document FROM sessions ORDER BY id")
    events = await here.rows("SELECT session_id, stream_seq, id, type, data FROM session_events ORDER BY stream_seq")
    return sessions + events


async def test_a_database_from_a_backup_is_brought_up_to_date(here: World) -> None:
    """What was stored since, and acknowledged, is read again: calls of which it knew the beginning, and new ones.

    Then there is nothing left to be done, and nothing that was right has been touched.
    """
    known = await here.begin()
    live = await here.begin()
    await recorded(here)
    connection = await recorder_database.connect(here.dsn, timeout_s=10)
    await connection.execute("CREATE TABLE old_sessions AS TABLE sessions")
    await connection.execute("CREATE TABLE old_events AS TABLE session_events")
    await here.publish(known.session, "user_spoke", data={"n": 1})
    await here.end(known, Outcome.FAILED, "bot-crashed")
    new = await call(here)
    await recorded(here)
    before = await everything(here)
    await connection.execute("DELETE FROM sessions WHERE id = $1", new.session.id)
    await connection.execute("DELETE FROM session_events WHERE stream_seq > (SELECT max(stream_seq) FROM old_events)")
    await connection.execute(
        """UPDATE sessions SET document = old.document, ledger_revision = old.ledger_revision, state = old.state,
            outcome = NULL, reason = NULL, ended_at = NULL, sealed_at = NULL
        FROM old_sessions AS old WHERE old.id = sessions.id"""
    )
    await connection.close()
    assert (await here.stored(known.session))["state"] == "ready"
    async with reconciling(here) as it:
        assert sorted(await it.reconciler.reconcile()) == sorted([known.session.id, new.session.id])
        assert await everything(here) == before
        assert it.shown("greenroom_recorder_reconciled_sessions_total") == 2
        assert await it.reconciler.reconcile() == []
    assert (await here.stored(live.session))["state"] == "ready"
    row = await here.stored(new.session)
    assert (row["outcome"], row["reason"]) == ("failed", "bot-crashed")
    assert await here.event_types(new.session) == [*A_CALL, *["user_spoke"] * 25, "session.ended"]


async def test_the_recorder_does_it_by_itself(here: World) -> None:
    """With its first round, as soon as it leads; the recording is sealed afterwards."""
    ended = await call(here)
    await recorded(here)
    connection = await recorder_database.connect(here.dsn, timeout_s=10)
    await connection.execute("DELETE FROM sessions WHERE id = $1", ended.session.id)
    await connection.close()
    async with here.recorder():
        row = await here.sealed(ended.session)
    assert (row["state"], row["outcome"]) == ("ended", "failed")


async def test_what_the_consumer_still_brings_is_not_missed(here: World) -> None:
    """A recorder that was away for long is behind, but nothing is lost: it comes in its order, and not by us."""
    await call(here)
    async with reconciling(here) as it:
        assert await it.reconciler.reconcile() == []
    assert await everything(here) == []


async def test_what_the_ledger_does_not_know_is_not_guessed(here: World) -> None:
    """A session that the stream lost before its end: however old it is, it stays open, and is counted."""
    entry = await here.begin()
    await recorded(here)
    everything_of_it = subjects.SESSION_ALL.wildcard(tenant="t", session_id=entry.session.id)
    await here.broker.purge("SESSIONS", everything_of_it)
    connection = await recorder_database.connect(here.dsn, timeout_s=10)
    await connection.execute("UPDATE sessions SET requested_at = '2020-01-01', stored_at = '2020-01-01'")
    await connection.close()
    async with reconciling(here) as it:
        assert await it.reconciler.reconcile() == []
        assert it.shown("greenroom_recorder_unaccounted_sessions") == 1
    assert (await here.stored(entry.session))["state"] == "ready"


async def test_an_entry_that_cannot_be_stored_is_tried_once(here: World) -> None:
    """It was parked, and still contradicts the table: it is left alone, and others are put right all the same."""
    entry = await here.request()
    forged = LedgerEntry(
        id=uuid7(),
        at=utcnow(),
        transition=Started(runner_id="r", epoch=0),
        session=msgspec.structs.replace(entry.session, state=State.STARTED),
    )
    subject = subjects.SESSION_LIFECYCLE.format(tenant="t", session_id=entry.session.id)
    await here.broker.append(subject, messages.encode(forged), expected_last=entry.revision)
    good = await call(here)
    await recorded(here)
    assert len(await here.parked()) == 1
    connection = await recorder_database.connect(here.dsn, timeout_s=10)
    await connection.execute("DELETE FROM sessions WHERE id = $1", good.session.id)
    await connection.close()
    async with reconciling(here) as it:
        assert await it.reconciler.reconcile() == [good.session.id]
        assert await it.reconciler.reconcile() == []
        assert it.shown("greenroom_recorder_reconciled_sessions_total") == 1
    assert (await here.stored(entry.session))["state"] == "requested"
    assert (await here.stored(good.session))["state"] == "ended"
