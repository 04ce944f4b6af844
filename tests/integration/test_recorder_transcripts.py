"""What was said is made searchable once a session is sealed: once, again when speech comes late, and for old ones."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.messages import Event, EventType
from greenroom.common.metrics import Metrics
from greenroom.recorder import database, transcripts
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import StoredEvent, StoredSession
from greenroom.recorder.transcripts import Transcriber
from tests.support.recorder_world import World, eventually, world


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


@asynccontextmanager
async def a_store(dsn: str) -> AsyncGenerator[tuple[Store, Transcriber, Metrics]]:
    """Give a recorder's store, and what transcribes from it."""
    pool = await database.open_pool(dsn, size=3)
    metrics = Metrics()
    try:
        yield Store(pool), Transcriber(pool, metrics), metrics
    finally:
        await database.close_pool(pool, timeout_s=2)


def events_of(session: Session, *events: tuple[int, str, dict[str, Any]]) -> list[StoredEvent]:
    """Return events of a session, each with its stream sequence."""
    return [
        StoredEvent(
            stream_seq=seq,
            event=Event(
                id=f"e{seq}",
                tenant=session.tenant,
                session_id=session.id,
                type=kind,
                at=session.requested_at,
                seq=seq,
                epoch=1,
                source="session",
                data=data,
            ),
        )
        for seq, kind, data in events
    ]


async def add(store: Store, session: Session, *events: tuple[int, str, dict[str, Any]]) -> None:
    """Store a session and events of it as the recorder does."""
    async with store.transaction() as transaction:
        await transaction.save_sessions([StoredSession(session=session, revision=1)])
        await transaction.add_events(events_of(session, *events))


def ended(**fields: Any) -> Session:
    """Return a session that has ended."""
    now = utcnow()
    values: dict[str, Any] = {"tenant": "t", "agent": "frontdesk", "bot": "frontdesk", **fields}
    return Session(
        id=uuid7(),
        state=State.ENDED,
        requested_at=now,
        queue_deadline_at=now,
        ended_at=now,
        outcome=Outcome.COMPLETED,
        **values,
    )


def said(seq: int, text: str, start: int, kind: str = EventType.USER_SPOKE) -> tuple[int, str, dict[str, Any]]:
    """Return an utterance."""
    return seq, kind, {"text": text, "start_ms": start, "end_ms": start + 500}


async def kept(here: World, session: Session) -> list[tuple[int, str, list[int]]]:
    """Return what is stored to be searched of a session."""
    query = "SELECT part, text, starts_ms FROM transcripts WHERE session_id = $1 ORDER BY part"
    return [(row["part"], row["text"], row["starts_ms"]) for row in await here.rows(query, session.id)]


async def test_a_sealed_session_is_searchable(here: World) -> None:
    """A running recorder does it by itself, when the session is sealed; also of one without a word."""
    async with here.recorder():
        entry = await here.begin()
        await here.publish(entry.session, "call_connected", at=entry.session.requested_at, epoch=1)
        for number, text in enumerate(("hello", "a table\nfor two")):
            data = {"text": text, "start_ms": 1000 * number, "end_ms": 1000 * number + 10}
            await here.publish(entry.session, "user_spoke", epoch=1, seq=number, data=data)
        silent = await here.begin()
        assert (await here.stored(entry.session)).get("transcribed_at") is None
        for one in (entry, silent):
            await here.end(one)
            await eventually(lambda one=one: here.stored(one.session), lambda row: row.get("transcribed_at"))
    assert await kept(here, entry.session) == [(1, "hello\na table for two", [0, 1000])]
    assert await kept(here, silent.session) == []


async def test_sessions_of_before_are_taken_up(here: World) -> None:
    """Whatever is sealed and has no transcript gets one, the newest first; what isn't sealed waits."""
    async with a_store(here.dsn) as (store, transcriber, metrics):
        old, live = ended(), ended()
        await add(store, old, said(1, "hello", 0))
        await add(store, live, said(2, "not yet", 0))
        await store.mark_sealed(old.id)
        assert await transcriber.round() == 1
        assert await transcriber.round() == 0
        assert metrics.registry.get_sample_value("greenroom_recorder_transcripts_total", {"result": "written"}) == 1
    assert [text for _, text, _ in await kept(here, old)] == ["hello"]
    assert await kept(here, live) == []


async def test_late_speech_makes_it_anew(here: World) -> None:
    """What was redelivered after the transcript was written is in it in the end; other events change nothing."""
    async with a_store(here.dsn) as (store, transcriber, _):
        session = ended()
        await add(store, session, said(1, "hello", 0), said(3, "goodbye", 2000))
        await store.mark_sealed(session.id)
        await transcriber.round()
        await add(store, session, (4, EventType.RECORDING_SAVED, {}), (3, "metrics", {}))
        assert await transcriber.round() == 0
        await add(store, session, said(2, "for two", 1000))
        assert await transcriber.round() == 1
    assert await kept(here, session) == [(1, "hello\nfor two\ngoodbye", [0, 1000, 2000])]


@pytest.mark.parametrize("sealed_first", [False, True])
async def test_speech_that_is_being_stored_is_waited_for(here: World, sealed_first: bool) -> None:  # noqa: FBT001
    """A session isn't transcribed between what is stored of it and the commit of that; others are."""
    async with a_store(here.dsn) as (store, transcriber, _):
        session, other = ended(), ended()
        await add(store, session, said(1, "hello", 0))
        await add(store, other, said(2, "hello", 0))
        await store.mark_sealed(other.id)
        if sealed_first:
            await store.mark_sealed(session.id)
        async with store.transaction() as transaction:
            await transaction.add_events(events_of(session, said(3, "there", 1000)))
            if not sealed_first:
                await store.mark_sealed(session.id)
            assert await transcriber.round() == 1
        assert await transcriber.round() == 1
    assert [text for _, text, _ in await kept(here, session)] == ["hello\nthere"]


async def test_recorders_at_once_share_the_work(here: World) -> None:
    """Each session is done by one of them."""
    async with a_store(here.dsn) as (store, first, _), a_store(here.dsn) as (_, second, _):
        sessions = [ended() for _ in range(20)]
        for number, session in enumerate(sessions):
            await add(store, session, said(number + 1, f"word{number}", 0))
            await store.mark_sealed(session.id)
        assert sum(await asyncio.gather(first.round(), second.round())) == 20
    assert [len(await kept(here, session)) for session in sessions] == [1] * 20


async def test_a_long_call_is_kept_in_parts(here: World) -> None:
    """However many different words are said, PostgreSQL takes them."""
    async with a_store(here.dsn) as (store, transcriber, _):
        session = ended()
        words = [" ".join(f"{number * 1000 + word:x}" for word in range(1000)) for number in range(60)]
        await add(store, session, *(said(number + 1, text, number * 1000) for number, text in enumerate(words)))
        await store.mark_sealed(session.id)
        await transcriber.round()
    found = await kept(here, session)
    assert len(found) > 1
    assert "\n".join(text for _, text, _ in found).split("\n") == words
    assert [start for _, _, starts in found for start in starts] == [number * 1000 for number in range(60)]


async def test_a_text_that_can_not_be_stored_stops_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, counted, and not tried for ever; the next session is done."""
    async with a_store(here.dsn) as (store, transcriber, metrics):
        bad, good = ended(), ended()
        await add(store, bad, said(1, "bad", 0))
        await add(store, good, said(2, "good", 0))
        for session in (bad, good):
            await store.mark_sealed(session.id)
        whole = transcripts.parts

        def parts(lines: Any) -> Any:
            return (msgspec.structs.replace(part, text=part.text.replace("bad", "b\0d")) for part in whole(lines))

        monkeypatch.setattr(transcripts, "parts", parts)
        assert await transcriber.round() == 2
        assert await transcriber.round() == 0
        assert metrics.registry.get_sample_value("greenroom_recorder_transcripts_total", {"result": "failed"}) == 1
    assert (await kept(here, bad), len(await kept(here, good))) == ([], 1)


async def test_a_transcript_goes_with_its_session(here: World) -> None:
    """Nothing of an erased session can be found."""
    async with a_store(here.dsn) as (store, transcriber, _):
        session = ended()
        await add(store, session, said(1, "secret", 0))
        await store.mark_sealed(session.id)
        await transcriber.round()
    await here.rows("DELETE FROM sessions WHERE id = $1", session.id)
    assert await here.rows("SELECT * FROM transcripts") == []
