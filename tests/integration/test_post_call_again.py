"""Steps whose calls turn out to have said more, and notes that are written at the same time as they are read."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest

from greenroom.common import messages, topology
from greenroom.common.clock import utcnow
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event
from greenroom.common.post_call_messages import PostCall
from greenroom.recorder.database import open_pool
from greenroom.recorder.post_call import Call, step_runner
from greenroom.recorder.post_call import store as post_call_store
from greenroom.recorder.post_call.store import StepStore
from greenroom.recorder.settings import WORK
from greenroom.recorder.store import Store
from greenroom.recorder.transaction import StoredEvent
from tests.support.post_calls import a_call, chat_api, finished, install, steps, summarising
from tests.support.recorder_world import World, eventually, quick_topology
from tests.support.webhook_world import Hooks

NOTES = "SELECT session_id FROM post_call_sealed"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())
    monkeypatch.setattr(step_runner, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(step_runner, "MAX_ATTEMPTS", 3)


@pytest.fixture
async def model() -> AsyncGenerator[Hooks]:
    """An API like OpenAI's."""
    async with chat_api() as running:
        yield running


@pytest.fixture
async def pool(here: World) -> AsyncGenerator[Any]:
    """Connections as a recorder has them."""
    made = await open_pool(here.dsn, size=4)
    yield made
    await made.close()


async def say(here: World, session: Session, text: str) -> None:
    """Have something stored behind the seal, and all notes of it read."""
    await here.publish(session, "user_spoke", id=f"late-{text}", data={"text": text, "start_ms": 0})
    query = "SELECT FROM session_events WHERE data ->> 'text' = $1"
    await eventually(lambda: here.rows(query, text), bool)
    await eventually(lambda: here.rows(NOTES), lambda rows: not rows)


async def settled(here: World) -> None:
    """Wait until all that was queued is done."""
    await eventually(lambda: here.broker.count("POSTCALL", "gr.v1.postcall.>"), lambda left: left == 0)


async def test_a_summary_is_made_again_when_more_was_said(here: World, model: Hooks) -> None:
    """Late speech replaces the summary, once, by one of all that was said; that is told as an event of its own."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "A table.")
        assert (await finished(here, session, "summary"))["lines"] == 1
        await say(here, session, "For four.")
        row = (await eventually(lambda: steps(here, session), lambda found: found["summary"]["lines"] == 2))["summary"]
        await settled(here)
        told = (
            "SELECT data FROM session_events WHERE session_id = $1 AND type = 'post_call.summary' ORDER BY stream_seq"
        )
        events = await eventually(lambda: here.rows(told, session.id), lambda rows: len(rows) > 1)
    assert (row["state"], row["attempts"]) == ("done", 1)
    said = [asked.json["messages"][1]["content"] for asked in model.seen]
    assert said == ["Caller: A table.", "Caller: A table.\nCaller: For four."]
    assert [json.loads(event["data"])["lines"] for event in events] == [1, 2]


async def test_what_was_made_stays_until_there_is_better(here: World, model: Hooks) -> None:
    """Where making it again fails for good, the step says so, and the result of before is still there."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "A table.")
        before = (await finished(here, session, "summary"))["result"]
        model.answer = lambda _: 500
        await say(here, session, "For four.")
        row = await finished(here, session, "summary", "failed")
    assert (row["result"], row["lines"], row["error"]) == (before, 1, "ChatFailed")


async def test_a_push_is_not_pushed_twice(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that doesn't say that it can be made again isn't; one that does is, in the same call."""
    seen: list[tuple[str, int]] = []

    class Push:
        async def run(self, call: Call) -> dict[str, Any] | None:
            seen.append(("push", len(call.lines)))
            return {"lines": len(call.lines)}

    class Notes:
        repeatable = True

        async def run(self, call: Call) -> dict[str, Any] | None:
            seen.append(("notes", len(call.lines)))
            return {"lines": len(call.lines)}

    install(monkeypatch, push=Push, notes=Notes)
    async with here.recorder(recorder_work=WORK, post_call_steps=("push", "notes")):
        session = await a_call(here, "A table.")
        await finished(here, session, "push")
        await finished(here, session, "notes")
        await say(here, session, "For four.")
        await settled(here)
        found = await steps(here, session)
    assert sorted(seen) == [("notes", 1), ("notes", 2), ("push", 1)]
    assert {name: json.loads(row["result"])["lines"] for name, row in found.items()} == {"push": 1, "notes": 2}


async def test_nothing_is_made_again_when_nothing_more_was_said(here: World, model: Hooks) -> None:
    """A step that is queued again without a reason is done already."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "A table.")
        await finished(here, session, "summary")
        wanted = PostCall(tenant="t", session_id=session.id, step="summary", at=utcnow(), again=True)
        await here.broker.append(f"gr.v1.postcall.t.{session.id}.summary", messages.encode(wanted))
        await settled(here)
    assert len(model.seen) == 1


async def test_a_recorder_without_the_step_leaves_what_was_made(
    here: World, monkeypatch: pytest.MonkeyPatch, model: Hooks
) -> None:
    """What is to be made again waits for a recorder that has the step; the result isn't lost meanwhile, nor after."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "A table.")
        await finished(here, session, "summary")
    async with here.recorder(recorder_work=WORK):
        await here.rows("INSERT INTO post_call_choices VALUES ('t', '*', '{summary}')")
        await say(here, session, "For four.")
        assert await here.broker.count("POSTCALL", "gr.v1.postcall.>") == 1
        monkeypatch.setattr(step_runner, "AGAIN_WITHIN", step_runner.AGAIN_WITHIN * 0)
        await settled(here)
    assert (await steps(here, session))["summary"]["state"] == "done"


async def test_a_result_of_more_is_not_replaced_by_one_of_less(here: World, pool: Any) -> None:
    """Of two attempts that run at the same time the one that saw more counts, in whichever order they end."""
    async with here.recorder():
        session = await a_call(here, "A table.")
        await here.sealed(session)
    store = StepStore(pool)
    await store.begin(session.id, "summary", "t")
    assert await store.note(session.id, "summary", "done", result={"of": 2}, lines=2)
    assert not await store.note(session.id, "summary", "done", result={"of": 1}, lines=1)
    assert not await store.note(session.id, "summary", "failed", error="late")
    assert await store.note(session.id, "summary", "done", result={"of": 3}, lines=3)
    row = (await steps(here, session))["summary"]
    assert (row["state"], json.loads(row["result"]), row["lines"], row["error"]) == ("done", {"of": 3}, 3, None)


def speech(session: Session, number: int) -> StoredEvent:
    """Return something that was said."""
    return StoredEvent(
        event=Event(
            id=f"late{number}",
            tenant=session.tenant,
            session_id=session.id,
            type="user_spoke",
            at=utcnow(),
            source="session",
            data={"text": "Hello?", "start_ms": 0},
        ),
        stream_seq=1_000_000 + number,
    )


@pytest.fixture
async def silent(here: World) -> Session:
    """A call in which nothing was said, whose seal was undone."""
    async with here.recorder(recorder_work=("keep",)):
        session = await a_call(here)
        await here.sealed(session)
    await here.rows("DELETE FROM post_call_sealed")
    await here.rows("UPDATE sessions SET sealed_at = NULL WHERE id = $1", session.id)
    return session


async def test_whoever_stores_while_it_is_sealed_is_waited_for(silent: Session, pool: Any) -> None:
    """A transaction that didn't see the seal has its speech counted: until it is over the session isn't taken up."""
    store, notes = Store(pool), StepStore(pool)
    async with store.transaction() as transaction:
        await transaction.add_events([speech(silent, 0)])
        await store.mark_sealed(silent.id)
        for _ in range(3):
            async with notes.next_sealed(()) as found:
                assert found is None
    found = await eventually(lambda: taken(notes), lambda found: found is not None)
    assert found == (silent.id, 1)
    assert await taken(notes) is None


async def test_whoever_stores_while_it_is_looked_at_leaves_a_note(silent: Session, pool: Any) -> None:
    """Speech that is stored between the count and the end of it is counted the next time, and nobody waits."""
    store, notes = Store(pool), StepStore(pool)
    await store.mark_sealed(silent.id)
    await eventually(lambda: stored_notes(pool), lambda count: count == 1)

    async def one() -> tuple[str, int] | None:
        async with notes.next_sealed(()) as found:
            if found is None:
                return None
            async with store.transaction() as transaction:
                await transaction.look_up([silent.id])
                await transaction.add_events([speech(silent, 0)])
            return found.session_id, found.lines

    assert await eventually(one, lambda found: found is not None) == (silent.id, 0)
    assert await eventually(lambda: taken(notes), lambda found: found is not None) == (silent.id, 1)
    assert await stored_notes(pool) == 0


async def test_a_stranger_is_not_waited_for_without_end(
    here: World, silent: Session, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of somebody else on the same server that doesn't end holds up steps no longer than ours last."""
    store, notes = Store(pool), StepStore(pool)
    stranger: Any = await asyncpg.connect(here.dsn)
    try:
        async with stranger.transaction():
            await stranger.fetchval("SELECT pg_current_xact_id()")
            await store.mark_sealed(silent.id)
            assert await taken(notes) is None
            monkeypatch.setattr(post_call_store, "SETTLED_AFTER_S", 0.0)
            assert await taken(notes) == (silent.id, 0)
    finally:
        await stranger.close()


async def taken(notes: StepStore) -> tuple[str, int] | None:
    """Take up a session that was sealed; return which, and how much was said in it."""
    async with notes.next_sealed(()) as found:
        return (found.session_id, found.lines) if found else None


async def stored_notes(pool: Any) -> int:
    """Return how many sessions wait to be taken up."""
    return await pool.fetchval("SELECT count(*) FROM post_call_sealed")
