"""Rules at work on real PostgreSQL and NATS: the daily run, what it leaves, and what a crash in it leaves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from greenroom.common import subjects, topology
from greenroom.common.broker import Broker
from greenroom.common.clock import utcnow
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.metrics import Metrics
from greenroom.recorder import database
from greenroom.recorder.audio import AudioIngest
from greenroom.recorder.parts import Parts
from greenroom.recorder.retention import sweep
from greenroom.recorder.retention.daily import Daily
from greenroom.recorder.retention.eraser import Eraser
from greenroom.recorder.retention.recordings import LocalRecordings, RecordingOf
from greenroom.recorder.retention.store import Erasure, RetentionStore
from greenroom.recorder.store import Store
from tests.support.evidence import found_in_files, found_in_streams, found_in_tables
from tests.support.recorder_world import PATIENCE_S, RATE, World, eventually, quick_topology, samples, world

BERLIN = ZoneInfo("Europe/Berlin")
AT = time(3, 30)


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


class Later:
    """A clock that is ahead."""

    def __init__(self, ahead: timedelta = timedelta()) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        """Return the time then."""
        return utcnow() + self.ahead

    def monotonic(self) -> float:
        """Return the seconds of the loop."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class Desk:
    """The daily run and what carries it out, without the rest of a recorder: nothing runs by itself."""

    def __init__(self, here: World, pool: Any, clock: Later) -> None:
        self.store = RetentionStore(pool)
        self.recordings = LocalRecordings(here.folder)
        parts = Parts(here.parts, max_open=0)
        metrics = Metrics()
        audio = AudioIngest(
            broker=here.broker,
            ledger=Ledger(here.broker),
            store=Store(pool),
            parts=parts,
            metrics=metrics,
            max_batch=10,
        )
        self.eraser = Eraser(
            broker=here.broker,
            store=self.store,
            recordings=self.recordings,
            parts=parts,
            audio=audio,
            settled_to=self._everything,
            metrics=metrics,
        )
        self.daily = Daily(store=self.store, eraser=self.eraser, at=AT, zone=BERLIN, metrics=metrics, clock=clock)

    async def _everything(self) -> int:
        return 2**62


@contextlib.asynccontextmanager
async def a_desk(here: World, ahead: timedelta = timedelta()) -> AsyncGenerator[Desk]:
    """Give a desk, `ahead` of time."""
    pool = await database.open_pool(here.dsn, size=4)
    try:
        # What sessions used has been counted: that is waited for, and somebody else's work.
        await here.rows("DELETE FROM usage_due RETURNING session_id")
        yield Desk(here, pool, Later(ahead))
    finally:
        await database.close_pool(pool, timeout_s=2)


async def execute(here: World, query: str, *values: object) -> None:
    """Change the database."""
    connection = await asyncpg.connect(here.dsn)
    try:
        await connection.execute(query, *values)
    finally:
        await connection.close()


async def rule(here: World, tenant: str = "*", agent: str = "*", **days: int) -> None:
    """Make a rule."""
    columns = ", ".join(days)
    values = ", ".join(str(number) for number in days.values())
    await execute(
        here,
        f"INSERT INTO retention_rules (tenant, agent, {columns}) VALUES ($1, $2, {values})",  # noqa: S608 our own
        tenant,
        agent,
    )


async def a_call(here: World, **fields: Any) -> Session:
    """Have a call with an event and a second of audio that is over."""
    entry = await here.begin(**fields)
    await here.publish(entry.session, "user_transcript", id=uuid7(), data={"text": "hello"})
    await here.speak(entry.session, "user", 1, samples(5, RATE))
    return (await here.end(entry)).session


async def kept_calls(here: World, *calls: dict[str, Any]) -> list[Session]:
    """Have calls recorded, and return them once nothing of them is in the broker any more."""
    async with here.recorder(purge_grace_s=0.0):
        sessions = [await a_call(here, **fields) for fields in calls]
        for session in sessions:
            await eventually(lambda session=session: here.stored(session), lambda row: row.get("purged_at"))
    return sessions


async def what_is_left(here: World, session: Session) -> set[str]:
    """Return which of row, events, recording row and files there are."""
    query = """
    SELECT 'session' AS what FROM sessions WHERE id = $1
    UNION SELECT 'events' FROM session_events WHERE session_id = $1
    UNION SELECT 'recording' FROM recordings WHERE session_id = $1
    """
    left = {row["what"] for row in await here.rows(query, session.id)}
    return left | ({"files"} if found_in_files(here.folder, [session.id.encode()]) else set())


EVERYTHING = {"session", "events", "recording", "files"}


async def test_each_by_its_rule(here: World) -> None:
    """Each session is kept as its most specific rule says, held ones are kept, and all of it is audited and counted."""
    plain, short, forever, held = await kept_calls(
        here, {}, {"tenant": "short"}, {"agent": "archive"}, {"tenant": "held"}
    )
    await rule(here, recordings_days=10, events_days=20)
    await rule(here, "short", sessions_days=5)
    await rule(here, "t", "archive", recordings_days=1000)
    await execute(here, "INSERT INTO retention_holds (tenant) VALUES ('held')")
    # What is made of events goes with them, whoever made it.
    await execute(here, "CREATE TABLE IF NOT EXISTS post_call_steps (session_id text, step text, tenant text)")
    await execute(here, "INSERT INTO post_call_steps (session_id, step, tenant) VALUES ($1, 'summary', 't')", plain.id)

    async with a_desk(here, timedelta(days=1)) as desk:
        assert (await desk.daily.catch_up()) is not None
        for session in (plain, short, forever, held):
            assert await what_is_left(here, session) == EVERYTHING
    async with a_desk(here, timedelta(days=11)) as desk:
        run = await desk.daily.catch_up()
        assert run is not None
    assert await what_is_left(here, plain) == {"session", "events"}
    assert await what_is_left(here, short) == set()
    async with a_desk(here, timedelta(days=21)) as desk:
        assert (await desk.daily.catch_up()) is not None
        # Done for the day.
        assert (await desk.daily.catch_up()) is None
    assert await what_is_left(here, plain) == {"session"}
    assert await here.rows("SELECT * FROM post_call_steps WHERE session_id = $1", plain.id) == []
    assert await what_is_left(here, forever) == EVERYTHING
    assert await what_is_left(here, held) == EVERYTHING

    audited = await here.rows("SELECT action, subject FROM audit WHERE action <> 'cleanup_completed'")
    assert {(row["action"], row["subject"]) for row in audited} == {
        ("recording.deleted", plain.id),
        ("events.deleted", plain.id),
        ("session.erased", short.id),
    }
    runs = await here.rows("SELECT action FROM audit WHERE action = 'cleanup_completed'")
    # The recorder that took the calls has done the first one.
    assert len(runs) == len(await here.rows("SELECT * FROM retention_runs")) == 4


async def test_a_hold_that_comes_in_between(here: World) -> None:
    """What a rule wants and a hold forbids before it has begun isn't deleted, and that is audited."""
    (session,) = await kept_calls(here, {})
    await rule(here, sessions_days=0)
    async with a_desk(here, timedelta(days=1)) as desk:
        until = utcnow() + timedelta(days=1)
        found = await desk.store.ended(until, (datetime(1, 1, 1, tzinfo=UTC), ""), 10)
        await execute(
            here, "INSERT INTO erasures SELECT id, 'session', tenant, agent, now(), 'retention' FROM sessions"
        )
        assert [each.kept.session_id for each in found] == [session.id]
        await execute(here, "INSERT INTO session_holds (session_id, tenant) VALUES ($1, 't')", session.id)
        await desk.daily.catch_up()
    assert await what_is_left(here, session) == EVERYTHING
    assert await here.rows("SELECT * FROM erasures") == []
    audited = await here.rows("SELECT action FROM audit WHERE subject = $1", session.id)
    assert [row["action"] for row in audited] == ["deletion.withheld"]


async def test_missed_days_are_made_up_for_once(here: World) -> None:
    """Whoever leads after days away does one run, for the latest time that one was due."""
    async with a_desk(here) as desk:
        assert (await desk.daily.catch_up()) is not None
    async with a_desk(here, timedelta(days=9)) as desk:
        assert (await desk.daily.catch_up()) is not None
        assert (await desk.daily.catch_up()) is None
    first, second = [row["due_at"] for row in await here.rows("SELECT due_at FROM retention_runs ORDER BY due_at")]
    assert timedelta(days=8) < second - first < timedelta(days=10)
    assert second.astimezone(BERLIN).time() == AT


class Killed(BaseException):
    """The process is killed here."""


def kill_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill whoever has deleted one of a recording's files."""

    def remove(self: LocalRecordings, recording: RecordingOf) -> int:
        folder = self._root / recording.tenant
        next(folder.rglob(f"{recording.session_id}*")).unlink()
        raise Killed

    monkeypatch.setattr(LocalRecordings, "_remove", remove)


def kill_behind_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill whoever begins with the broker."""

    async def forget(_broker: Broker, _sessions: object) -> int:
        raise Killed

    monkeypatch.setattr(sweep, "forget", forget)


def kill_behind_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill whoever begins with the rows."""

    async def finish(_self: RetentionStore, _erasure: Erasure, *, files: int) -> bool:
        raise Killed(files)

    monkeypatch.setattr(RetentionStore, "finish", finish)


def kill_in_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill whoever has just passed the point of no return."""

    async def barrier(_self: RetentionStore) -> None:
        raise Killed

    monkeypatch.setattr(RetentionStore, "barrier", barrier)


@pytest.mark.parametrize("kill", [kill_in_barrier, kill_in_files, kill_behind_files, kill_behind_broker])
async def test_killed_in_the_middle(
    here: World, monkeypatch: pytest.MonkeyPatch, kill: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Killed at any point, a deletion leaves a row that leads to what is left; whoever is next finishes it, once."""
    (session,) = await kept_calls(here, {})
    await rule(here, sessions_days=0)
    with monkeypatch.context() as patched:
        kill(patched)
        async with a_desk(here, timedelta(days=1)) as desk:
            with pytest.raises(Killed):
                await desk.daily.catch_up()
    # Nothing is unreachable: what is left hangs on a row, and the wish is still there.
    assert "session" in await what_is_left(here, session)
    assert [row["begun_at"] is not None for row in await here.rows("SELECT begun_at FROM erasures")] == [True]
    # A hold comes too late for what has begun.
    await execute(here, "INSERT INTO retention_holds DEFAULT VALUES")

    async with a_desk(here, timedelta(days=1)) as desk:
        assert (await desk.daily.catch_up()) is not None
    words = [session.id.encode()]
    tables = await found_in_tables(here.dsn, words)
    assert tables == {"audit": 1, "tombstones": 1}
    assert await found_in_streams(here.broker, words) == {}
    assert found_in_files(here.folder, words) == {}


async def test_storage_that_fails(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files can't be deleted, the rows that lead to them stay, the reason is written down, and others go on."""
    broken, fine = await kept_calls(here, {"tenant": "broken"}, {"tenant": "fine"})
    await rule(here, recordings_days=0)
    remove = LocalRecordings.remove

    async def sometimes(self: LocalRecordings, recording: RecordingOf) -> int:
        if recording.tenant == "broken":
            raise OSError(5, "Input/output error")
        return await remove(self, recording)

    with monkeypatch.context() as patched:
        patched.setattr(LocalRecordings, "remove", sometimes)
        async with a_desk(here, timedelta(days=1)) as desk:
            await desk.daily.catch_up()
    assert await what_is_left(here, fine) == {"session", "events"}
    assert await what_is_left(here, broken) == EVERYTHING
    assert [row["waits_for"] for row in await here.rows("SELECT waits_for FROM erasures")] == ["storage"]
    await execute(here, "UPDATE erasures SET next_try_at = now()")
    async with a_desk(here) as desk:
        assert await desk.eraser.round() == 1
    assert await what_is_left(here, broken) == {"session", "events"}


async def test_what_was_used_stays_to_be_paid_for(here: World) -> None:
    """A session isn't erased before its use is counted; what it used is kept, under an id that leads nowhere."""
    (session,) = await kept_calls(here, {})
    await execute(
        here,
        "INSERT INTO usage (session_id, tenant, agent, at, provider, model, unit, quantity)"
        " VALUES ($1, 't', 'frontdesk', now(), 'openai', 'm', 'tokens', 7)",
        session.id,
    )
    await rule(here, sessions_days=0)
    async with a_desk(here, timedelta(days=1)) as desk:
        await execute(here, "INSERT INTO usage_due (session_id) VALUES ($1) ON CONFLICT DO NOTHING", session.id)
        await desk.daily.catch_up()
        assert await what_is_left(here, session) == EVERYTHING
        await execute(here, "DELETE FROM usage_due")
        await execute(here, "UPDATE erasures SET next_try_at = now()")
        assert await desk.eraser.round() == 1
    assert await what_is_left(here, session) == set()
    used = await here.rows("SELECT session_id, quantity FROM usage WHERE model = 'm'")
    assert [int(row["quantity"]) for row in used] == [7]
    assert session.id not in used[0]["session_id"]


async def test_empty_months_are_dropped(here: World) -> None:
    """Of partitions by month those are dropped that are long over and empty; the default one and others stay."""
    await execute(
        here,
        """
        ALTER TABLE session_events RENAME TO session_events_before;
        CREATE TABLE session_events (LIKE session_events_before INCLUDING DEFAULTS) PARTITION BY RANGE (session_id);
        CREATE TABLE session_events_2020_01 PARTITION OF session_events FOR VALUES FROM ('a1') TO ('a2');
        CREATE TABLE session_events_2020_02 PARTITION OF session_events FOR VALUES FROM ('a2') TO ('a3');
        CREATE TABLE session_events_2999_01 PARTITION OF session_events FOR VALUES FROM ('a3') TO ('a4');
        CREATE TABLE session_events_rest PARTITION OF session_events DEFAULT;
        INSERT INTO session_events (session_id, stream_seq, tenant, id, seq, epoch, source, type, at, data)
            VALUES ('a2', 1, 't', 'e', 0, 0, 's', 'x', now(), '{}');
        """,
    )
    query = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'session_events'::regclass"
    async with a_desk(here) as desk:
        assert (await desk.daily.catch_up()) is not None
        left = {row["name"] for row in await here.rows(query)}
        assert left == {"session_events_2020_02", "session_events_2999_01", "session_events_rest"}
        await execute(here, "DELETE FROM session_events")
        # Somebody is reading: they aren't waited for.
        connection = await asyncpg.connect(here.dsn)
        async with connection.transaction():
            await connection.fetch("SELECT count(*) FROM session_events")
            with pytest.raises(DatabaseUnavailable):
                await desk.store.drop_empty_partitions(31)
        await connection.close()
        assert await desk.store.drop_empty_partitions(31) == ["session_events_2020_02"]


async def test_the_audit_stands(here: World) -> None:
    """Nobody changes or deletes a line of the audit, not even by hand."""
    await execute(here, "INSERT INTO audit (actor, action, tenant, subject) VALUES ('a', 'b', 't', 's')")
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await execute(here, statement)
    assert len(await here.rows("SELECT * FROM audit")) == 1


async def test_whoever_asked_before_is_waited_for(here: World) -> None:
    """A transaction that has asked for tombstones is waited for; while it goes on, nothing is taken for final."""
    connection = await asyncpg.connect(here.dsn)
    async with a_desk(here) as desk:
        async with connection.transaction():
            await connection.fetch("SELECT session_id FROM tombstones WHERE session_id = 's'")
            with pytest.raises(DatabaseUnavailable):
                await desk.store.barrier()
        await desk.store.barrier()
    await connection.close()


async def test_a_recorder_does_it_by_itself(here: World) -> None:
    """A recorder that leads does the run that is due and says that it is over."""
    await rule(here, sessions_days=1)
    async with here.recorder():

        async def runs() -> list[dict[str, Any]]:
            return await here.rows("SELECT recordings, events, sessions FROM retention_runs")

        assert await eventually(runs, bool, within_s=PATIENCE_S) == [{"recordings": 0, "events": 0, "sessions": 0}]


async def test_what_comes_late_and_cannot_be_read(here: World) -> None:
    """Messages of an erased session that are no events or no audio are parked; the daily run has them forgotten."""
    session, other = await kept_calls(here, {}, {"tenant": "other"})
    await rule(here, "t", sessions_days=0)
    async with a_desk(here, timedelta(days=1)) as desk:
        await desk.daily.catch_up()
    async with here.recorder():
        for each in (session, other):
            subject = subjects.SESSION_EVENT.format(tenant=each.tenant, session_id=each.id, type="user_transcript")
            await here.broker.append(subject, b"no event")
            subject = subjects.SESSION_AUDIO.format(tenant=each.tenant, session_id=each.id, track="user")
            await here.broker.append(subject, b"no chunk")
        await eventually(here.parked, lambda parked: len(parked) == 4)
    assert (await found_in_streams(here.broker, [session.id.encode()])).keys() == {"SESSIONS", "PARKED"}
    async with a_desk(here, timedelta(days=2)) as desk:
        await desk.daily.catch_up()
    assert await found_in_streams(here.broker, [session.id.encode()]) == {}
    assert (await found_in_streams(here.broker, [other.id.encode()])).keys() == {"SESSIONS", "PARKED"}


async def test_the_broker_is_away(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker can't be reached a deletion stays to be done, rows and all."""
    (session,) = await kept_calls(here, {})
    await rule(here, sessions_days=0)

    async def away(_broker: Broker, _sessions: object) -> int:
        raise BrokerUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "forget", away)
        async with a_desk(here, timedelta(days=1)) as desk:
            with pytest.raises(BrokerUnavailable):
                await desk.daily.catch_up()
    assert await what_is_left(here, session) == {"session", "events", "recording"}
    async with a_desk(here, timedelta(days=1)) as desk:
        assert (await desk.daily.catch_up()) is not None
    assert await what_is_left(here, session) == set()
