"""What was said, told from events: one timeline, nothing trusted, readable by people and players."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import transcript as module
from greenroom.common.messages import Event
from greenroom.common.transcript import Speech, Transcript, as_text, as_vtt, transcript_of

BEGAN = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
CUE = re.compile(r"(\d+)\n(\d{2,}:\d\d:\d\d\.\d{3}) --> (\d{2,}:\d\d:\d\d\.\d{3})\n<v (caller|bot)>([^\n]*)\n")


def event(kind: str, at_ms: int = 0, *, seq: int = 1, epoch: int = 1, **data: Any) -> Event:
    """Return an event that was published `at_ms` after the call began."""
    at = BEGAN + timedelta(milliseconds=at_ms)
    return Event(
        id=f"{epoch}-{seq}",
        tenant="t",
        session_id="s",
        type=kind,
        at=at,
        seq=seq,
        epoch=epoch,
        source="session",
        data=data,
    )


def said(who: str, text: str, start: int, end: int, *, seq: int, epoch: int = 1, **data: Any) -> Event:
    """Return the event of an utterance, published as it ended."""
    kind = "user_spoke" if who == "user" else "agent_spoke"
    return event(kind, end, seq=seq, epoch=epoch, text=text, start_ms=start, end_ms=end, **data)


A_CALL = [
    event("call_connected", 0, seq=1),
    event("node_entered", 5, seq=2, node="greeting"),
    said("bot", "How can I help?", 200, 1500, seq=3, interrupted=True),
    said("user", "A table <for> two & a dog", 1400, 3000, seq=4),
    event("node_entered", 3500, seq=5, node="booking"),
    said("bot", "For when?", 4000, 5000, seq=6, interrupted=False),
]


def seconds(clock: str) -> float:
    """Return what a cue's time stands for."""
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def of(events: list[Event]) -> Transcript:
    """Return the transcript of events."""
    return transcript_of("s", events, complete=True)


def test_a_call_reads_as_it_was_heard() -> None:
    """Utterances stand in the order in which they began, each with the step of the flow in which it began."""
    assert [(entry.speaker, entry.start_ms, entry.node, entry.interrupted) for entry in of(A_CALL).entries] == [
        ("bot", 200, "greeting", True),
        ("user", 1400, "greeting", False),
        ("bot", 4000, "booking", False),
    ]
    assert of(A_CALL).duration_ms == 5000


def test_as_text() -> None:
    """A line an utterance: when, who, what, and whether it was cut."""
    assert list(as_text(of(A_CALL))) == [
        "[00:00:00.2]    bot: How can I help?  ⟵ interrupted\n",
        "[00:00:01.4] caller: A table <for> two & a dog\n",
        "[00:00:04.0]    bot: For when?\n",
    ]


def test_as_vtt() -> None:
    """Subtitles with voices; what would be markup is text."""
    assert "".join(as_vtt(of(A_CALL))) == (
        "WEBVTT\n"
        "\n1\n00:00:00.200 --> 00:00:01.500\n<v bot>How can I help?\n"
        "\n2\n00:00:01.400 --> 00:00:03.000\n<v caller>A table &lt;for&gt; two &amp; a dog\n"
        "\n3\n00:00:04.000 --> 00:00:05.000\n<v bot>For when?\n"
    )


def test_a_second_attempt_goes_on_behind_the_first() -> None:
    """An attempt's times count from its own beginning; the transcript has them on the timeline of the recording."""
    again = [
        event("call_connected", 60_000, seq=1, epoch=2),
        said("bot", "Hello again", 100, 900, seq=2, epoch=2),
    ]
    entries = of([*A_CALL, *again]).entries
    assert [(entry.start_ms, entry.epoch, entry.node) for entry in entries[-1:]] == [(60_100, 2, None)]


def test_where_nobody_said_when_the_call_began_it_is_estimated() -> None:
    """An utterance has both a wall time and one on the timeline."""
    lost = [said("bot", "Hello", 100, 900, seq=2), event("user_spoke", 2_000, seq=3, text="hi")]
    assert [entry.start_ms for entry in of(lost).entries] == [100, 2_000]


def test_what_has_no_words_is_no_entry() -> None:
    """A bot that only made a sound has said nothing that can be read."""
    assert of([said("bot", "  ", 0, 900, seq=1), event("user_spoke", seq=2, text=7)]).entries == ()


def test_memory_is_bounded(monkeypatch: Any) -> None:
    """What is too much to show is left out, and the transcript says so."""
    monkeypatch.setattr(module, "BUDGET_BYTES", 1000)
    found = of([said("user", "x" * 100, number, number, seq=number) for number in range(1, 10)])
    assert (len(found.entries), found.truncated) == (3, True)
    assert list(as_text(found))[-1].startswith("[…]")


junk = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
moments = st.integers(0, 100_000)
utterances = st.builds(
    lambda who, text, start, took, epoch, cut: (who, text, start, start + took, epoch, cut),
    st.sampled_from(["user", "bot"]),
    st.text(max_size=30),
    moments,
    moments,
    st.integers(1, 3),
    st.booleans(),
)
calls = st.lists(utterances, max_size=12).map(
    lambda given: [
        *(event("call_connected", 10_000 * epoch, seq=1, epoch=epoch) for epoch in range(1, 4)),
        *(
            said(who, text, start, end, seq=number, epoch=epoch, interrupted=cut)
            for number, (who, text, start, end, epoch, cut) in enumerate(given, start=2)
        ),
    ]
)


def published(kind: str, at: datetime, seq: int, epoch: int, data: dict[str, Any]) -> Event:
    """Return an event as anybody may publish it."""
    return Event(
        id=f"{seq}-{epoch}-{kind}", tenant="t", session_id="s", type=kind, at=at, seq=seq, epoch=epoch, data=data
    )


odd_events = st.builds(
    published,
    st.sampled_from(["user_spoke", "agent_spoke", "node_entered", "call_connected", "metrics"]),
    st.datetimes(timezones=st.just(UTC)),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31 - 1),
    st.dictionaries(st.sampled_from(["text", "start_ms", "end_ms", "interrupted", "node", "at_ms"]), junk, max_size=6),
)


@given(calls, st.randoms())
def test_order_and_repetition_change_nothing(events: list[Event], random: Any) -> None:
    """Events may come again and in any order: the transcript is the same."""
    shuffled = [*events, *events[: len(events) // 2]]
    random.shuffle(shuffled)
    assert of(shuffled) == of(events)


@given(calls)
def test_every_word_is_there_once_and_in_time_order(events: list[Event]) -> None:
    """Nothing that was said is lost or said twice; nothing ends before it begins; entries stand by their beginning."""
    entries = of(events).entries
    spoken = [e.data["text"] for e in events if e.type.endswith("_spoke") and e.data["text"].strip()]
    assert sorted(entry.text for entry in entries) == sorted(spoken)
    assert all(entry.start_ms <= entry.end_ms for entry in entries)
    assert [entry.start_ms for entry in entries] == sorted(entry.start_ms for entry in entries)


@given(calls)
def test_what_is_said_so_far_stays_said(events: list[Event]) -> None:
    """A live transcript only grows: what it showed is in the later one, unchanged."""
    early, late = of(events[: len(events) // 2 + 3]).entries, of(events).entries
    assert set(early) <= set(late)


@given(st.lists(odd_events, max_size=12))
def test_nothing_that_is_published_breaks_it(events: list[Event]) -> None:
    """Whatever is in the data, there is a transcript, and its subtitles are well formed."""
    found = of(events)
    assert all(0 <= entry.start_ms <= entry.end_ms for entry in found.entries)
    vtt = "".join(as_vtt(found))
    head, *cues = vtt.split("\n\n")
    assert head.strip() == "WEBVTT"
    matches = [match for cue in cues if (match := CUE.fullmatch(cue.rstrip("\n") + "\n"))]
    assert [int(match[1]) for match in matches] == list(range(1, len(found.entries) + 1))
    assert all(seconds(match[2]) < seconds(match[3]) for match in matches)
    assert len(list(as_text(found))) == len(found.entries)


@given(calls)
def test_gathering_and_telling_are_the_same(events: list[Event]) -> None:
    """Event by event or all at once comes to the same."""
    speech = Speech()
    for one in events:
        speech.add(one)
    assert module.transcript("s", speech, complete=False).entries == of(events).entries
