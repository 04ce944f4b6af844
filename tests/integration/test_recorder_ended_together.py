"""What ended sessions need is done for many of them by one transaction; none of them suffers from another one."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.messages import Event
from greenroom.common.metrics import Metrics
from greenroom.recorder import database as databases
from greenroom.recorder import event_rows, transcripts
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import StoredEvent, StoredSession
from greenroom.recorder.transcripts import Part, Transcriber
from greenroom.recorder.usage import store as usage_store
from greenroom.recorder.usage.keeper import UsageKeeper
from tests.support.recorder_world import PATIENCE_S, World, world

SECOND = timedelta(seconds=1)
SPOKEN = {"text": "good morning", "start_ms": 0, "end_ms": 500}
USED = {"kind": "llm_usage", "model": "gpt", "provider": "openai", "prompt_tokens": 5, "total_tokens": 5}


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


class Leader:
    """What a recorder that leads does for ended sessions, when it is told to."""

    def __init__(self, here: World, pool: Any) -> None:
        self.metrics = Metrics()
        self.store = Store(pool)
        self.transcriber = Transcriber(pool, self.metrics)
        self.usage = UsageKeeper(pool=pool, broker=here.broker, metrics=self.metrics, interval_s=60, settle_s=0)

    def counted(self) -> float | None:
        """Return how many sessions it has counted."""
        return self.metrics.registry.get_sample_value("greenroom_recorder_usage_counted_total")


@contextlib.asynccontextmanager
async def leader(here: World) -> AsyncGenerator[Leader]:
    """Give one with connections of its own."""
    pool = await databases.open_pool(here.dsn, size=3)
    try:
        yield Leader(here, pool)
    finally:
        await databases.close_pool(pool, timeout_s=2)


@contextlib.asynccontextmanager
async def held(here: World, query: str, session: Session) -> AsyncGenerator[None]:
    """Lock a row as somebody else, for the time of the block."""
    connection = await databases.connect(here.dsn, timeout_s=PATIENCE_S)
    try:
        async with connection.transaction():
            assert await connection.fetch(query, session.id)
            yield
    finally:
        await connection.close()


async def add(store: Store, count: int) -> list[Session]:
    """Store sessions that have ended: in each something was said, and something used."""
    now = utcnow()
    sessions = [
        Session(
            id=uuid7(),
            tenant="t",
            agent="frontdesk",
            bot="frontdesk",
            state=State.ENDED,
            requested_at=now - SECOND,
            queue_deadline_at=now,
            ended_at=now,
            outcome=Outcome.COMPLETED,
        )
        for _ in range(count)
    ]
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("session.started", {}),
        ("user_spoke", SPOKEN),
        ("metrics", USED),
        ("metrics", {"kind": "ttfb"}),
        ("metrics", {**USED, "model": "other"}),
    ]
    async with store.transaction() as transaction:
        await transaction.save_sessions([StoredSession(session=session, revision=1) for session in sessions])
        await transaction.add_events(
            [
                StoredEvent(
                    stream_seq=place * len(kinds) + seq,
                    event=Event(
                        id=f"{session.id}-{seq}",
                        tenant="t",
                        session_id=session.id,
                        type=kind,
                        at=now - SECOND,
                        epoch=1,
                        data=data,
                    ),
                )
                for place, session in enumerate(sessions)
                for seq, (kind, data) in enumerate(kinds, start=1)
            ]
        )
    return sessions


async def used(here: World) -> dict[str, list[tuple[str, str, int]]]:
    """Return what was counted, by session."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for row in await here.rows("SELECT session_id, model, unit, quantity FROM usage ORDER BY unit, model"):
        found.setdefault(row["session_id"], []).append((row["model"], row["unit"], row["quantity"]))
    return found


LINES = [("gpt", "llm_in", 5), ("other", "llm_in", 5), ("default", "session_s", 1)]


async def marks(here: World) -> set[str]:
    """Return the sessions that are to be counted."""
    return {row["session_id"] for row in await here.rows("SELECT session_id FROM usage_due")}


@pytest.mark.parametrize("spoilt", ["sessions SET document = '{}' WHERE id", "session_events SET data = '[]' WHERE id"])
async def test_of_a_batch_only_what_cannot_be_counted_is_put_off(here: World, spoilt: str) -> None:
    """A document that can't be read, or an event that isn't one: all others are counted by the same look."""
    async with leader(here) as one:
        sessions = await add(one.store, 7)
        bad = sessions[2].id
        # Data that isn't an object, of an event that is looked at whatever is in it.
        await here.rows(f"UPDATE {spoilt} = $1", bad if "document" in spoilt else f"{bad}-1")
        await here.rows("INSERT INTO usage_due VALUES ('gone')")
        await one.usage.count()
        assert one.counted() == 6
    assert await used(here) == {session.id: LINES for session in sessions if session.id != bad}
    later = "SELECT session_id, marked_at > now() + interval '5 min' AS later FROM usage_due"
    assert await here.rows(later) == [{"session_id": bad, "later": True}]


async def test_a_session_that_somebody_else_counts_holds_up_no_other(here: World) -> None:
    """It keeps its mark, and is counted by the next look."""
    async with leader(here) as one:
        sessions = await add(one.store, 5)
        async with held(here, "SELECT FROM usage_due WHERE session_id = $1 FOR UPDATE", sessions[3]):
            await asyncio.wait_for(one.usage.count(), PATIENCE_S)
            assert await marks(here) == {sessions[3].id}
            assert one.counted() == 4
        await one.usage.count()
    assert await used(here) == {session.id: LINES for session in sessions}


async def test_two_that_count_at_once_count_each_session_once(here: World) -> None:
    """Whoever takes the mark; the other one passes over it."""
    async with leader(here) as one, leader(here) as other:
        sessions = await add(one.store, 120)
        await asyncio.gather(*(each.usage.count() for each in (one, other) for _ in range(2)))
        assert (one.counted() or 0) + (other.counted() or 0) == 120
        # Who has looked before, and comes to them only now.
        assert await other.usage._store.count([session.id for session in sessions]) == (0, [])
    assert await used(here) == {session.id: LINES for session in sessions}
    assert await marks(here) == set()


async def test_what_is_too_much_for_one_transaction_is_counted_by_the_next(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events there are: those of one session are counted together, and none is left."""
    monkeypatch.setattr(event_rows, "MOST_CHARS", 250)
    monkeypatch.setattr(event_rows, "PREFETCH", 2)
    async with leader(here) as one:
        sessions = await add(one.store, 5)
        counted, left = await one.usage._store.count([session.id for session in sessions])
        assert (counted, len(left)) == (2, 3)
        assert await marks(here) == set(left)
        await one.usage.count()
        assert one.counted() == 3
    assert await used(here) == {session.id: LINES for session in sessions}
    assert await marks(here) == set()


async def test_what_is_stored_while_sessions_are_counted_marks_them_anew(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the reading of a session's events its mark can't be written in vain: whoever writes it waits."""
    reading, go_on = asyncio.Event(), asyncio.Event()
    write = usage_store.write_lines

    async def slow(*args: Any) -> None:
        reading.set()
        await go_on.wait()
        await write(*args)

    monkeypatch.setattr(usage_store, "write_lines", slow)
    async with leader(here) as one, leader(here) as other:
        sessions = await add(one.store, 3)
        counting = asyncio.create_task(one.usage.count())
        await reading.wait()
        late = Event(id="late", tenant="t", session_id=sessions[1].id, type="metrics", at=utcnow(), epoch=1, data=USED)

        async def store() -> None:
            async with other.store.transaction() as transaction:
                await transaction.add_events([StoredEvent(stream_seq=1000, event=late)])

        storing = asyncio.create_task(store())
        done, _ = await asyncio.wait({storing}, timeout=0.3)
        assert not done
        go_on.set()
        await asyncio.gather(counting, storing)
        assert await marks(here) == {sessions[1].id}
        await one.usage.count()
    twice = [("gpt", "llm_in", 10), *LINES[1:]]
    assert (await used(here))[sessions[1].id] == twice


async def said(here: World) -> dict[str, str]:
    """Return what can be searched, by session."""
    rows = await here.rows("SELECT session_id, text FROM transcripts")
    return {row["session_id"]: row["text"] for row in rows}


async def sealed(one: Leader, count: int) -> list[Session]:
    """Store sessions that are sealed, and return them."""
    sessions = await add(one.store, count)
    for session in sessions:
        await one.store.mark_sealed(session.id)
    return sessions


@pytest.mark.parametrize("text", ["b\0d", "b\ud800d"])
async def test_of_a_batch_only_what_cannot_be_stored_has_no_transcript(
    here: World, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """What the server refuses, and what can't even be sent: all others are done by the same round."""
    whole = transcripts.parts

    def parts(lines: Any) -> list[Part]:
        return [Part(text=text, starts_ms=(0,))] if lines == [(0, "bad")] else list(whole(lines))

    monkeypatch.setattr(transcripts, "parts", parts)
    async with leader(here) as one:
        sessions = await sealed(one, 7)
        bad = sessions[4].id
        await here.rows('UPDATE session_events SET data = data || \'{"text": "bad"}\' WHERE id = $1', f"{bad}-2")
        assert await one.transcriber.round() == 7
        assert await one.transcriber.round() == 0
        results = ("written", "failed")
        name = "greenroom_recorder_transcripts_total"
        assert [one.metrics.registry.get_sample_value(name, {"result": each}) for each in results] == [6, 1]
    assert await said(here) == {session.id: "good morning" for session in sessions if session.id != bad}


async def test_a_session_that_somebody_else_has_holds_up_no_transcript(here: World) -> None:
    """Whoever is storing an event of it holds its key; it is done by the next round."""
    async with leader(here) as one:
        sessions = await sealed(one, 5)
        async with held(here, "SELECT FROM sessions WHERE id = $1 FOR KEY SHARE", sessions[1]):
            assert await asyncio.wait_for(one.transcriber.round(), PATIENCE_S) == 4
            assert sessions[1].id not in await said(here)
        assert await one.transcriber.round() == 1
    assert await said(here) == {session.id: "good morning" for session in sessions}


async def test_two_that_transcribe_at_once_do_each_session_once(here: World) -> None:
    """Whoever has the row; what is done by then is passed over."""
    async with leader(here) as one, leader(here) as other:
        sessions = await sealed(one, 90)
        rounds = (each.transcriber.round() for each in (one, other) for _ in range(2))
        assert sum(await asyncio.gather(*rounds)) == 90
        # Who has looked before, and comes to them only now.
        assert await other.transcriber._transcribe([session.id for session in sessions]) == ([], [])
    assert await said(here) == {session.id: "good morning" for session in sessions}


async def test_what_is_too_much_for_one_transaction_is_transcribed_by_the_next(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was said: what is read at once is bounded, by sessions that are whole, and none is left."""
    monkeypatch.setattr(event_rows, "MOST_CHARS", 100)
    monkeypatch.setattr(event_rows, "PREFETCH", 1)
    async with leader(here) as one:
        sessions = await sealed(one, 5)
        done, left = await one.transcriber._transcribe([session.id for session in sessions])
        assert (done, len(left)) == ([1, 1], 3)
        assert await one.transcriber.round() == 3
    assert await said(here) == {session.id: "good morning" for session in sessions}


async def seals(here: World) -> dict[str, int]:
    """Return which sessions are sealed, and how many notes of it there are for steps after calls."""
    query = (
        "SELECT id, (SELECT count(*) FROM post_call_sealed WHERE session_id = sessions.id) AS notes"
        " FROM sessions WHERE sealed_at IS NOT NULL"
    )
    return {row["id"]: row["notes"] for row in await here.rows(query)}


async def test_marks_of_many_are_written_together_and_a_locked_session_waits_alone(here: World) -> None:
    """Whoever is storing something of it has it; the others are marked meanwhile."""
    async with leader(here) as one:
        sessions = await add(one.store, 20)
        async with held(here, "SELECT FROM sessions WHERE id = $1 FOR NO KEY UPDATE", sessions[5]):
            marking = {session.id: asyncio.create_task(one.store.mark_sealed(session.id)) for session in sessions}
            waiting = marking.pop(sessions[5].id)
            await asyncio.wait_for(asyncio.gather(*marking.values()), PATIENCE_S)
            assert await seals(here) == dict.fromkeys(marking, 1)
            assert not waiting.done()
        await waiting
    assert await seals(here) == {session.id: 1 for session in sessions}
    together = "SELECT count(DISTINCT sealed_at) AS times FROM sessions"
    assert (await here.rows(together))[0]["times"] < 5


async def test_two_that_mark_at_once_mark_each_session_once(here: World) -> None:
    """A mark that is there isn't written again, and what is stored of the sessions meanwhile waits for nobody long."""
    async with leader(here) as one, leader(here) as other:
        sessions = await add(one.store, 60)

        async def store(seq: int) -> None:
            for number, session in enumerate(sessions[::-1]):
                event = Event(
                    id=f"{seq}-{session.id}", tenant="t", session_id=session.id, type="metrics", at=utcnow(), data=USED
                )
                async with other.store.transaction() as transaction:
                    await transaction.look_up([each.id for each in sessions[number : number + 5]])
                    await transaction.add_events([StoredEvent(stream_seq=seq + number, event=event)])

        marks = [each.store.mark_sealed(session.id) for session in sessions for each in (one, other)]
        await asyncio.gather(*marks, store(1000), store(2000))
    assert await seals(here) == {session.id: 1 for session in sessions}
