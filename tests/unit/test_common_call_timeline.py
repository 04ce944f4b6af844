"""What happened in a session and how long it took, told from its events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import call_timeline as module
from greenroom.common.call_timeline import CallTimeline, Moment, timeline_of
from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.messages import Event

BEGAN = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
SESSION = Session(
    id="s",
    tenant="t",
    agent="frontdesk",
    bot="frontdesk",
    state=State.ENDED,
    outcome=Outcome.COMPLETED,
    reason="goodbye",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    requested_at=BEGAN,
    queue_deadline_at=BEGAN,
)


def event(kind: str, at_ms: int, seq: int = 0, /, *, source: str = "session", epoch: int = 1, **data: Any) -> Event:
    """Return an event that was published `at_ms` after the call began."""
    at = BEGAN + timedelta(milliseconds=at_ms)
    return Event(
        id=f"{source}-{kind}-{seq or at_ms}-{epoch}",
        tenant="t",
        session_id="s",
        type=kind,
        at=at,
        seq=seq,
        epoch=epoch,
        source=source,
        data=data,
    )


def moved(transition: str, at_ms: int, state: str, *, attempt: int = 1, epoch: int = 1) -> Event:
    """Return a transition."""
    return event(f"session.{transition}", at_ms, source="ledger", epoch=epoch, state=state, attempt=attempt)


def latency(at_ms: int, ms: float, kind: str = "user_bot_latency") -> Event:
    """Return what the pipeline measured when the bot began to speak."""
    parts = [{"part": "llm", "owner": "OpenAI", "ms": ms - 100}, {"part": "tts", "owner": "Piper", "ms": 100}]
    measured: dict[str, Any] = {"kind": kind, f"{kind}_ms": ms, "parts": parts}
    return event("metrics", at_ms, **measured)


def spoke(who: str, text: str, start: int, end: int, **data: Any) -> Event:
    """Return an utterance."""
    return event(f"{who}_spoke", end, text=text, start_ms=start, end_ms=end, **data)


A_CALL = [
    moved("requested", -900, "requested", epoch=0),
    moved("leased", -800, "leased"),
    moved("started", -750, "started"),
    moved("ready", -500, "ready"),
    event("call_connected", 0),
    moved("media_connected", 10, "ready"),
    event("node_entered", 20, node="greeting"),
    latency(300, 300, "first_speech"),
    spoke("agent", "Hello, how can I", 300, 2000, interrupted=True),
    spoke("user", "a table", 1800, 3000),
    event("tool_called", 3600, name="book", status="completed", duration_ms=400),
    latency(4002, 1000),
    event("metrics", 4003, kind="ttfb", ms=3),
    spoke("agent", "For when?", 4000, 5000),
    spoke("user", "on friday", 6000, 7000),
    event("command", 7100, command="mute", by="k1", at_ms=7090, outcome="done"),
    event("error", 7200, message="no voice"),
    event("crm.ticket_opened", 7300, source="crm", epoch=0, ticket=7),
    moved("ending", 8000, "ending"),
    moved("ended", 8250, "ended"),
    event("recording_saved", 9000, source="recorder", gaps=[{"track": "user", "from_s": 2.5, "to_s": 3.0}, 7]),
]


def moments(timeline: CallTimeline, kind: str) -> list[Moment]:
    """Return the moments of a kind."""
    return [moment for moment in timeline.moments if moment.kind == kind]


def test_stages_have_durations() -> None:
    """Each state that the session was in, from when to when; somebody's connecting is no new one."""
    stages = [(stage.state, stage.duration_ms) for stage in timeline_of(SESSION, A_CALL).stages]
    assert stages == [
        ("requested", 100),
        ("leased", 50),
        ("started", 250),
        ("ready", 8500),
        ("ending", 250),
        ("ended", 0),
    ]


def test_a_live_session_is_in_its_last_stage() -> None:
    """What isn't over has no duration yet."""
    last = timeline_of(SESSION, A_CALL[:12]).stages[-1]
    assert (last.state, last.until, last.duration_ms) == ("ready", None, None)


def test_turns_have_latencies_and_their_parts() -> None:
    """Question and answer are one turn; what lies between them was measured twice: by the pipeline and by ear."""
    turns = timeline_of(SESSION, A_CALL).turns
    assert [(turn.number, turn.user and turn.user.text, turn.bot and turn.bot.text) for turn in turns] == [
        (1, None, "Hello, how can I"),
        (2, "a table", "For when?"),
        (3, "on friday", None),
    ]
    assert [turn.response_ms for turn in turns] == [None, 1000, None]
    assert [turn.latency and (turn.latency.kind, turn.latency.ms) for turn in turns] == [
        ("first_speech", 300.0),
        ("user_bot_latency", 1000.0),
        None,
    ]
    assert turns[1].latency is not None
    assert [(part.part, part.owner, part.ms) for part in turns[1].latency.parts] == [
        ("llm", "OpenAI", 900.0),
        ("tts", "Piper", 100.0),
    ]


def test_the_answer_that_is_being_given_has_its_latency_already() -> None:
    """Live: the bot speaks, but what it says is told when it has said it."""
    turns = timeline_of(SESSION, [*A_CALL[:17], latency(8000, 1000)]).turns
    assert (turns[-1].bot, turns[-1].latency and turns[-1].latency.ms) == (None, 1000.0)


def test_moments_know_their_turn() -> None:
    """A tool stands in the turn in which it was called, a gap where audio is missing, an interruption where it was."""
    timeline = timeline_of(SESSION, A_CALL)
    assert [(moment.kind, moment.at_ms, moment.turn) for moment in timeline.moments] == [
        ("event", 0, None),
        ("node", 20, None),
        ("interruption", 2000, 1),
        ("gap", 2500, 2),
        ("tool", 3600, 2),
        ("command", 7090, 3),
        ("error", 7200, 3),
        ("event", 7300, 3),
        ("event", 9000, 3),
    ]
    assert moments(timeline, "gap")[0].data == {"track": "user", "from_ms": 2500, "to_ms": 3000}
    assert moments(timeline, "tool")[0].data["name"] == "book"
    assert moments(timeline, "event")[1].source == "crm"


def test_the_whole() -> None:
    """How the session ended, its trace, and when the call began."""
    timeline = timeline_of(SESSION, A_CALL)
    assert (timeline.trace_id, timeline.outcome, timeline.reason) == (
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "completed",
        "goodbye",
    )
    assert (timeline.began_at, timeline.duration_ms, timeline.truncated) == (BEGAN, 7000, False)


def test_a_second_attempt_has_stages_and_turns_of_its_own() -> None:
    """A session that was put back is placed again; its second greeting is no answer to the first caller."""
    again = [
        moved("requeued", 10_000, "requested", attempt=2),
        moved("leased", 10_100, "leased", attempt=2, epoch=2),
        event("call_connected", 20_000, epoch=2),
        event("agent_spoke", 21_000, epoch=2, text="Hello again", start_ms=100, end_ms=900),
    ]
    timeline = timeline_of(SESSION, [*A_CALL[:15], *again])
    assert [(stage.state, stage.attempt, stage.epoch) for stage in timeline.stages[-2:]] == [
        ("requested", 2, 1),
        ("leased", 2, 2),
    ]
    assert [(turn.epoch, turn.start_ms, turn.response_ms) for turn in timeline.turns[-2:]] == [
        (1, 6000, None),
        (2, 20_100, None),
    ]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much to show is left out, and the timeline says so."""
    monkeypatch.setattr(module, "BUDGET_BYTES", 2000)
    found = timeline_of(SESSION, [event("error", number, number, message="x" * 100) for number in range(1, 20)])
    assert found.truncated
    assert len(found.moments) == 4


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from_s", "ms", "part"]), inner),
    max_leaves=5,
)
NAMES = ["text", "start_ms", "end_ms", "node", "at_ms", "duration_ms", "kind", "user_bot_latency_ms", "parts", "gaps"]
KINDS = ["user_spoke", "agent_spoke", "node_entered", "call_connected", "metrics", "tool_called", "error", "a.b"]
odd_events = st.builds(
    lambda kind, at, seq, epoch, source, data: Event(
        id=f"{seq}{kind}", tenant="t", session_id="s", type=kind, at=at, seq=seq, epoch=epoch, source=source, data=data
    ),
    st.sampled_from([*KINDS, "recording_saved", "session.leased", "command"]),
    st.datetimes(timezones=st.just(UTC)),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31 - 1),
    st.sampled_from(["ledger", "session", "x"]),
    st.dictionaries(st.sampled_from([*NAMES, "state", "attempt"]), junk | st.just("user_bot_latency"), max_size=8),
)


@given(st.lists(odd_events, max_size=12))
def test_nothing_that_is_published_breaks_it(events: list[Event]) -> None:
    """Whatever is in the data, there is a timeline that can be sent."""
    timeline = timeline_of(SESSION, events)
    assert msgspec.json.decode(msgspec.json.encode(timeline))["session_id"] == "s"
    assert [turn.number for turn in timeline.turns] == list(range(1, len(timeline.turns) + 1))
    assert all(moment.turn is None or 1 <= moment.turn <= len(timeline.turns) for moment in timeline.moments)
    assert all((stage.duration_ms or 0) >= 0 for stage in timeline.stages)


@given(st.lists(st.tuples(st.sampled_from(["user", "agent"]), st.integers(0, 9999), st.integers(0, 999)), max_size=20))
def test_turns_hold_all_that_was_said(given_speech: list[tuple[str, int, int]]) -> None:
    """Every utterance is in exactly one turn, and turns begin one after the other."""
    events = [event("call_connected", 0)] + [
        spoke(who, f"w{number}", start, start + took) for number, (who, start, took) in enumerate(given_speech)
    ]
    events = [msgspec.structs.replace(one, id=str(number)) for number, one in enumerate(events)]
    turns = timeline_of(SESSION, events).turns
    words = [word for turn in turns for side in (turn.user, turn.bot) if side for word in side.text.split()]
    assert sorted(words) == sorted(f"w{number}" for number in range(len(given_speech)))
    assert [turn.start_ms for turn in turns] == sorted(turn.start_ms for turn in turns)
