"""Steps after calls, on real NATS and PostgreSQL: run for what is sealed, until they have succeeded or are given up."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from greenroom.common import topology
from greenroom.recorder.post_call import Call, StepRefused, loading, step_runner
from greenroom.recorder.post_call.loading import StepUnknown
from greenroom.recorder.settings import WORK, RecorderSettings
from tests.support.post_calls import ANSWER, a_call, chat_api, finished, install, steps, summarising
from tests.support.recorder_world import World, eventually, quick_topology
from tests.support.webhook_world import Hook, Hooks, deliveries, hooks, subscribe


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


async def test_a_call_is_summarised(here: World, model: Hooks) -> None:
    """The model gets what was said, with its key; the summary is kept as a row and told as an event."""
    async with here.recorder(**summarising(model, summary_key="sk-1")):
        session = await a_call(here, "A table, please.", "For how many?", "Four.")
        row = await finished(here, session, "summary")
        types = await eventually(lambda: here.event_types(session), lambda types: "post_call.summary" in types)
    assert json.loads(row["result"]) == {
        "summary": "A table for four.",
        "model": "small-1",
        "tokens_in": 30,
        "tokens_out": 5,
    }
    assert types[-2:] == ["transcript.ready", "post_call.summary"]
    (asked,) = model.seen
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", "Bearer sk-1")
    assert asked.json["messages"][1]["content"] == "Caller: A table, please.\nAgent: For how many?\nCaller: Four."
    assert asked.json["model"] == "small"
    assert await here.broker.count("POSTCALL", "gr.v1.postcall.>") == 0


async def test_notes_are_made_of_a_conversation(here: World, model: Hooks) -> None:
    """Beside a summary, by the same model, as another prompt says."""
    both = summarising(model, post_call_steps=("summary", "meeting_notes"), meeting_notes_prompt="Who does what?")
    async with here.recorder(**both):
        session = await a_call(here, "You send the list.", "By Friday.")
        rows = [await finished(here, session, step) for step in ("summary", "meeting_notes")]
        await eventually(lambda: here.event_types(session), lambda types: "post_call.meeting_notes" in types)
    summary, notes = (json.loads(row["result"]) for row in rows)
    assert notes == {"meeting_notes": "A table for four.", "model": "small-1", "tokens_in": 30, "tokens_out": 5}
    assert notes.keys() - summary.keys() == {"meeting_notes"}
    prompts = {asked.json["messages"][0]["content"] for asked in model.seen}
    assert len(prompts) == 2
    assert "Who does what?" in prompts
    assert {asked.json["messages"][1]["content"] for asked in model.seen} == {
        "Caller: You send the list.\nAgent: By Friday."
    }


async def test_silence_is_not_summarised(here: World, model: Hooks) -> None:
    """Where nothing was said nothing is asked, nothing is told of a transcript, and the step is done."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here)
        row = await finished(here, session, "summary")
        types = await eventually(lambda: here.event_types(session), lambda types: "post_call.summary" in types)
    assert (row["result"], model.seen) == (None, [])
    assert "transcript.ready" not in types


async def test_steps_are_those_that_were_chosen(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's choice, else its tenant's, else the settings'; a choice of none is one too."""

    class Noting:
        async def run(self, call: Call) -> dict[str, object] | None:
            return {"agent": call.agent}

    install(monkeypatch, crm=Noting(), notes=Noting(), other=Noting())
    for tenant, agent, chosen in (("t", "*", ["notes"]), ("t", "desk", ["notes", "other"]), ("t", "fax", [])):
        await here.rows("INSERT INTO post_call_choices VALUES ($1, $2, $3)", tenant, agent, chosen)
    wanted = {("t", "desk"): {"notes", "other"}, ("t", "sales"): {"notes"}, ("t", "fax"): set(), ("u", "desk"): {"crm"}}
    sealed = "SELECT session_id FROM post_call_sealed"
    async with here.recorder(recorder_work=WORK, post_call_steps=("crm",), post_call_offered=("notes", "other")):
        for (tenant, agent), names in wanted.items():
            entry = await here.begin(tenant=tenant, agent=agent)
            await here.end(entry)
            await here.sealed(entry.session)
            await eventually(lambda: here.rows(sealed), lambda rows: not rows)
            for name in names:
                await finished(here, entry.session, name)
            assert set(await steps(here, entry.session)) == names


async def test_what_was_said_comes_after_the_seal(here: World, model: Hooks) -> None:
    """Speech that is stored late, as after a recorder's death, is told of all the same, and only once."""
    async with here.recorder(**summarising(model)):
        session = await a_call(here)
        await finished(here, session, "summary")
        assert "transcript.ready" not in await here.event_types(session)
        for number in range(2):
            await here.publish(session, "user_spoke", id=f"late{number}", data={"text": "A table.", "start_ms": 0})
            await eventually(lambda: here.event_types(session), lambda types: "transcript.ready" in types)
            await eventually(lambda: here.rows("SELECT FROM post_call_sealed"), lambda rows: not rows)
        types = await here.event_types(session)
    assert types.count("transcript.ready") == 1


async def test_trouble_passes(here: World, model: Hooks) -> None:
    """An error of the API, an answer that is none, and one that doesn't come: each is tried again."""
    trouble = [503, None]

    def answer(_: Hook) -> int | None:
        model.reply = b"{}" if len(model.seen) < 2 else msgspec.json.encode(ANSWER)
        return trouble.pop(0) if trouble else 200

    model.answer = answer
    async with here.recorder(**summarising(model, post_call_timeout_s=1.5)):
        session = await a_call(here, "Hello.")
        row = await finished(here, session, "summary")
    assert (row["attempts"], len(model.seen)) == (3, 3)


async def test_given_up_and_parked(here: World, model: Hooks) -> None:
    """After the last attempt it has failed, which is told, and its message is parked; the next session goes on."""
    model.answer = lambda _: 500
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "Hello.")
        row = await finished(here, session, "summary", "failed")
        assert (row["attempts"], row["error"], row["result"]) == (3, "ChatFailed", None)
        (parked,) = await eventually(here.parked, bool)
        assert (parked.stream, parked.reason) == ("POSTCALL", "summary: ChatFailed, after 3 attempts")
        model.answer = lambda _: 200
        await finished(here, await a_call(here, "Hello."), "summary")
        # Whoever replays it publishes it anew.
        await here.broker.append(parked.subject, parked.payload)
        assert (await finished(here, session, "summary"))["attempts"] == 1
    assert len(model.seen) == 5


async def test_a_refusal_is_final(here: World, model: Hooks) -> None:
    """A key that isn't taken isn't tried again and again."""
    model.answer = lambda _: 401
    async with here.recorder(**summarising(model)):
        session = await a_call(here, "Hello.")
        row = await finished(here, session, "summary", "failed")
    assert (row["attempts"], row["error"]) == (1, "refused: the API answered 401")


async def test_plugins(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class or an object with `run` is a step; one that raises holds up no other."""
    seen: list[Call] = []

    class Crm:
        async def run(self, call: Call) -> dict[str, Any] | None:
            seen.append(call)
            return {"ticket": 7}

    class Refuses:
        async def run(self, call: Call) -> dict[str, Any] | None:
            raise StepRefused(call.outcome)

    class Talks:
        async def run(self, call: Call) -> dict[str, Any] | None:
            return {"text": call.lines[0].text * 100_000}

    install(monkeypatch, crm=Crm, refuses=Refuses(), talks=Talks)
    async with here.recorder(recorder_work=WORK, post_call_steps=("refuses", "talks", "crm")):
        session = await a_call(here, "Hello.", "Hi.")
        crm = await finished(here, session, "crm")
        refused = await finished(here, session, "refuses", "failed")
        talks = await finished(here, session, "talks", "failed")
    assert json.loads(crm["result"]) == {"ticket": 7}
    assert (refused["error"], talks["error"]) == ("refused: completed", "the result has more than 65536 bytes")
    (call,) = seen
    assert (call.session_id, call.tenant, call.metadata, call.outcome) == (session.id, "t", {"crm": "7"}, "completed")
    assert [(line.who, line.text, line.start_ms) for line in call.lines] == [
        ("caller", "Hello.", 0),
        ("bot", "Hi.", 1000),
    ]


async def test_killed_while_it_runs(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder that goes away in the middle of a step doesn't wait for it, and the next one runs it again."""
    began = asyncio.Event()
    ends = asyncio.Event()

    class Slow:
        async def run(self, call: Call) -> dict[str, Any] | None:
            began.set()
            await ends.wait()
            return {"session": call.session_id}

    install(monkeypatch, slow=Slow)
    async with asyncio.timeout(20):
        async with here.recorder(recorder_work=WORK, post_call_steps=("slow",)):
            session = await a_call(here, "Hello.")
            await began.wait()
        assert (await steps(here, session))["slow"]["state"] == "pending"
        ends.set()
        async with here.recorder(recorder_work=WORK, post_call_steps=("slow",)):
            row = await finished(here, session, "slow")
    assert (row["attempts"], json.loads(row["result"])) == (2, {"session": session.id})


# A recorder as a process, with the topology of these tests.
RECORDER = """
import msgspec
from greenroom.common import topology
topology.CONSUMERS = tuple(msgspec.structs.replace(consumer, ack_wait_s=1.0) for consumer in topology.CONSUMERS)
from greenroom.recorder.__main__ import main
main()
"""


async def test_killed_with_sigkill_while_it_runs(here: World, model: Hooks) -> None:
    """What a killed recorder had in hand is run again by the next one, and its attempt was counted."""
    model.gate.clear()
    settings = summarising(model)
    environment = {
        "DATABASE_URL": here.dsn,
        "NATS_URL": await here.nats_url(),
        "GREENROOM_RECORDINGS_DIR": str(here.folder),
        "GREENROOM_POST_CALL_STEPS": "summary",
        "GREENROOM_SUMMARY_URL": settings["summary_url"],
        "GREENROOM_SUMMARY_MODEL": settings["summary_model"],
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RECORDER, env=os.environ | environment)
    try:
        session = await a_call(here, "Hello.")
        await eventually(lambda: asyncio.sleep(0, model.seen), bool, within_s=40)
        assert (await steps(here, session))["summary"]["state"] == "pending"
    finally:
        process.kill()
        await process.wait()
    model.gate.set()
    async with here.recorder(**settings):
        row = await finished(here, session, "summary")
    assert (row["attempts"], len(model.seen)) == (2, 2)


async def test_a_worker_of_its_own(here: World, model: Hooks) -> None:
    """Recorders may leave steps to one that does nothing else; sealing doesn't wait for it."""
    async with here.recorder(recorder_work=("keep",)):
        session = await a_call(here, "Hello.")
        await here.sealed(session)
    assert await steps(here, session) == {}
    async with here.recorder(**summarising(model, recorder_work=("post-call",))) as worker:
        await finished(here, session, "summary")
        assert not worker.leading


async def test_results_are_told_by_webhook(here: World, model: Hooks) -> None:
    """What a step found out goes to endpoints that want it, as anything else that happens."""
    async with hooks() as there:
        endpoint = await subscribe(here, there.url, "post_call.*", "transcript.ready")
        allowed = {"webhook_allow": ("127.0.0.1",), "webhook_allow_http": True}
        async with here.recorder(**summarising(model, **allowed)):
            await a_call(here, "Hello.")
            await eventually(
                lambda: deliveries(here, endpoint), lambda rows: [row["state"] for row in rows] == ["delivered"] * 2
            )
    assert there.types() == ["transcript.ready", "post_call.summary"]
    assert there.seen[0].json["data"] == {"lines": 1}
    assert there.seen[1].json["data"]["result"]["summary"] == "A table for four."


class NotAStep:
    """Has a `run` that can't be waited for."""

    def run(self, _call: Call) -> None:
        """Do nothing."""


@pytest.mark.parametrize("name", ["missing", "wrong", "broken"])
async def test_unknown_steps_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One that isn't installed, one that isn't a step, and one that can't be made."""
    install(monkeypatch, wrong=NotAStep, broken=lambda: 1 / 0)
    settings = RecorderSettings(database_url="postgresql://", post_call_steps=(name,))
    async with contextlib.AsyncExitStack() as parts:
        with pytest.raises(StepUnknown):
            await loading.load_steps(settings, parts)


def test_settings_that_contradict_each_other() -> None:
    """A summary needs a model, and a recorder does only what there is to do."""
    with pytest.raises(ValueError, match="GREENROOM_SUMMARY_MODEL"):
        RecorderSettings(database_url="postgresql://", post_call_steps=("summary",))
    with pytest.raises(ValueError, match="'nothing' isn't one of keep, webhooks, post-call"):
        RecorderSettings(database_url="postgresql://", recorder_work=("nothing",))
