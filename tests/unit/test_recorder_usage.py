"""What a session used, from its events alone."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.lifecycle import Session, State
from greenroom.recorder.usage.lines import Happened, Line, provider_of, usage_of

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
GPT = {"provider": "openai", "model": "gpt"}


def a_session(*, ended_s: float = 60, **fields: Any) -> Session:
    """Return a session that has ended."""
    ended_at = T0 + timedelta(seconds=ended_s)
    values: dict[str, Any] = {"agent": "a", "bot": "a", "state": State.ENDED, "ended_at": ended_at, **fields}
    return Session(id="s", tenant="t", requested_at=T0, queue_deadline_at=T0, **values)


def event(number: int, of: str, /, *, at_s: float = 1, epoch: int = 1, **data: Any) -> Happened:
    """Return an event."""
    return Happened(id=f"e{number}", type=of, at=T0 + timedelta(seconds=at_s), epoch=epoch, data=data)


def llm(number: int, prompt: int, completion: int, total: int, **more: Any) -> Happened:
    """Return the tokens of one answer."""
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    data: dict[str, Any] = {**tokens, **GPT, **more}
    return event(number, "metrics", kind="llm_usage", **data)


def test_each_kind_has_its_unit_provider_and_model() -> None:
    """Seconds, tokens, characters and minutes come from a whole call, each by whom it was."""
    events = [
        event(1, "session.started", at_s=2),
        event(2, "call_connected", at_s=5),
        event(3, "metrics", kind="stt_usage", audio_s=12.5, provider="deepgram", model="nova"),
        event(4, "metrics", kind="tts_usage", characters=80, provider="cartesia", model="sonic"),
        llm(5, 100, 20, 120, cache_read_input_tokens=60),
        event(6, "metrics", kind="ttfb", ms=120, provider="openai"),
        event(7, "session.ended", at_s=60.5),
    ]
    found = usage_of(a_session(ended_s=60.5, carrier="twilio", pool="gpu"), events)
    assert found.at == T0 + timedelta(seconds=2)
    assert found.lines == {
        Line("greenroom", "gpu", "session_s"): Decimal("58.5"),
        Line("deepgram", "nova", "stt_s"): Decimal("12.5"),
        Line("cartesia", "sonic", "tts_chars"): 80,
        Line("openai", "gpt", "llm_in"): 40,
        Line("openai", "gpt", "llm_cached"): 60,
        Line("openai", "gpt", "llm_out"): 20,
        Line("twilio", "", "carrier_min"): 1,
    }


@pytest.mark.parametrize(
    ("prompt", "total", "read"), [(100, 120, 30), (100, 190, 100), (10, 30, 0)], ids=["gross", "net", "impossible"]
)
def test_no_token_is_in_two_lines(prompt: int, total: int, read: int) -> None:
    """Whether a provider counts its cache into what it read is told by the total; nothing becomes negative."""
    tokens = llm(1, prompt, 20, total, cache_read_input_tokens=60, cache_creation_input_tokens=10)
    found = usage_of(a_session(), [tokens]).lines
    assert found.get(Line("openai", "gpt", "llm_in"), 0) == read
    assert (found[Line("openai", "gpt", "llm_cached")], found[Line("openai", "gpt", "llm_cache_write")]) == (60, 10)


@pytest.mark.parametrize(
    ("data", "provider"),
    [
        ({"processor": "OpenAILLMService#0"}, "openai"),
        ({"processor": "DeepgramSTTService#12"}, "deepgram"),
        ({"processor": "OpenAIRealtimeLLMService#1"}, "openai"),
        ({"processor": "EspeakTTS"}, "espeak"),
        ({"processor": "OpenAILLMService#0", "provider": "groq"}, "groq"),
        ({"processor": "", "provider": 7}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_provider_is_told_or_read_off_the_processors_name(data: dict[str, Any], provider: str) -> None:
    """What the runner says comes first."""
    assert provider_of(data) == provider


def test_attempts_add_up() -> None:
    """A session that was lost and tried again has used both times, and not the time in the queue between them."""
    events = [
        event(1, "session.started", at_s=0),
        llm(2, 10, 5, 15),
        event(3, "session.requeued", at_s=30),
        event(4, "session.started", at_s=40, epoch=2),
        llm(5, 10, 5, 15),
        event(6, "session.ended", at_s=100, epoch=2),
    ]
    found = usage_of(a_session(ended_s=100), events)
    assert found.lines[Line("greenroom", "default", "session_s")] == 90
    assert found.lines[Line("openai", "gpt", "llm_in")] == 20
    assert found.at == T0


def test_an_attempt_whose_end_is_unknown_ends_where_the_next_begins() -> None:
    """No second is counted twice."""
    events = [event(1, "session.started", at_s=0), event(2, "session.started", at_s=40, epoch=2)]
    assert usage_of(a_session(ended_s=100), events).lines == {Line("greenroom", "default", "session_s"): 100}


@pytest.mark.parametrize(("duration_s", "minutes"), [(None, 2), (60, 1), (61, 2), (0, 2)])
def test_minutes_of_a_carrier_are_those_begun(duration_s: int | None, minutes: int) -> None:
    """By the carrier's own duration; where it says none, from the connection to the end."""
    said = {} if duration_s is None else {"duration_s": duration_s}
    events = [
        event(1, "call_connected", at_s=0),
        event(2, "call_status", carrier="telnyx", status="answered"),
        event(3, "call_status", carrier="telnyx", status="completed", **said),
    ]
    assert usage_of(a_session(ended_s=61), events).lines == {Line("telnyx", "", "carrier_min"): minutes}


def test_a_call_that_nobody_took_and_a_session_that_never_ran_used_nothing() -> None:
    """There are no lines of nothing."""
    rang = [event(1, "call_status", carrier="telnyx", status="no-answer")]
    assert usage_of(a_session(), rang).lines == {}
    assert usage_of(a_session(), []).at == T0


WRONG = st.one_of(st.none(), st.booleans(), st.text(), st.just(float("nan")), st.just(float("inf")), st.just(-1.0))
MEASURED = st.one_of(
    st.builds(
        dict,
        kind=st.just("llm_usage"),
        prompt_tokens=st.integers(0, 10**6) | WRONG,
        completion_tokens=st.integers(0, 10**6) | WRONG,
        total_tokens=st.integers(0, 2 * 10**6) | WRONG,
        cache_read_input_tokens=st.integers(0, 10**6) | WRONG,
        provider=st.sampled_from(["a", "b"]) | WRONG,
        model=st.sampled_from(["m", "n"]) | WRONG,
    ),
    st.builds(dict, kind=st.just("stt_usage"), audio_s=st.floats(0, 10**5) | WRONG, processor=st.text() | WRONG),
    st.builds(dict, kind=st.just("tts_usage"), characters=st.integers(0, 10**6) | WRONG, model=st.text() | WRONG),
    st.dictionaries(st.sampled_from(["kind", "model", "characters"]), WRONG, max_size=3),
)
HAPPENED = st.one_of(
    st.tuples(st.just("metrics"), MEASURED),
    st.tuples(st.just("call_status"), st.builds(dict, duration_s=st.integers(0, 10**5) | WRONG)),
    st.tuples(
        st.sampled_from(["session.started", "session.requeued", "session.ended", "call_connected", "crm.x"]),
        st.just({}),
    ),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Happened]:
    """Return events of a session, of any kind at any time in any epoch."""
    rows = draw(st.lists(st.tuples(HAPPENED, st.integers(0, 3600), st.integers(0, 3)), max_size=20))
    return [event(n, kind, at_s=at_s, epoch=epoch, **data) for n, ((kind, data), at_s, epoch) in enumerate(rows)]


@given(histories(), st.data())
def test_what_comes_twice_or_late_counts_once(events: list[Happened], data: st.DataObject) -> None:
    """Any order, each event any number of times: the same lines."""
    session = a_session(ended_s=1800, carrier="twilio")
    expected = usage_of(session, events)
    again = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    shuffled = data.draw(st.permutations([*events, *again]))
    assert usage_of(session, shuffled) == expected


@given(histories())
def test_every_quantity_is_a_positive_number_of_at_most_three_decimals(events: list[Happened]) -> None:
    """Whatever is in the events: what isn't a measurement is nothing, names can be stored, and time is never more."""
    found = usage_of(a_session(ended_s=1800, carrier="twilio"), events).lines
    for line, quantity in found.items():
        assert quantity.is_finite()
        assert quantity > 0
        assert quantity == round(quantity, 3)
        assert "\x00" not in line.provider + line.model
        assert line.provider
    assert found.get(Line("greenroom", "default", "session_s"), 0) <= 3600


@given(st.lists(MEASURED, max_size=10), st.lists(MEASURED, max_size=10))
def test_what_two_attempts_measure_is_the_sum(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """Epochs add up, exactly: there is no float on the way."""
    one = [event(n, "metrics", epoch=1, **data) for n, data in enumerate(first)]
    two = [event(100 + n, "metrics", epoch=2, **data) for n, data in enumerate(second)]
    both, a, b = (usage_of(a_session(), events).lines for events in (one + two, one, two))
    assert both == {line: a.get(line, Decimal(0)) + b.get(line, Decimal(0)) for line in a.keys() | b.keys()}
