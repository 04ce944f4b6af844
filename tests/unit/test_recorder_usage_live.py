"""What sessions have used that go on: an estimate that ends where the count begins."""

from datetime import timedelta
from decimal import Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from greenroom.recorder.usage.lines import Happened, Line, usage_of
from greenroom.recorder.usage.live import Live, Running, Whose
from tests.unit.test_recorder_usage import T0, a_session, event, histories, llm

WHOSE = Whose(id="s", tenant="t", agent="a", pool="default", carrier="twilio", requested_at=T0, ended_at=None)
TIME = Line("greenroom", "default", "session_s")


def at(seconds: float) -> Whose:
    """Return the session as if it had ended after so many seconds."""
    return msgspec.structs.replace(WHOSE, ended_at=T0 + timedelta(seconds=seconds))


@given(histories(), st.data())
def test_it_is_what_would_be_counted_if_the_session_ended_now(events: list[Happened], data: st.DataObject) -> None:
    """However the events come, in any number of looks, some of them behind later ones: each is added once."""
    running, stored = Running(WHOSE), list[tuple[int, Happened]]()
    waiting = list(enumerate(events, start=1))
    # What comes late is there at the look that follows the one that has seen what is behind it.
    while waiting:
        some = data.draw(st.integers(1, len(waiting)))
        late = data.draw(st.lists(st.booleans(), min_size=some, max_size=some))
        batch, waiting = waiting[:some], waiting[some:]
        stored += [each for each, is_late in zip(batch, late, strict=True) if not is_late]
        running.add([each for each in stored if each[0] > running.after])
        stored += [each for each, is_late in zip(batch, late, strict=True) if is_late]
        running.add([each for each in stored if each[0] > running.after])
    now_s = data.draw(st.integers(0, 7200))
    expected = usage_of(at(now_s), events)
    assert running.usage(T0 + timedelta(seconds=now_s)) == expected


@given(histories(), st.integers(0, 3600), st.integers(0, 3600))
def test_it_only_grows_with_time(events: list[Happened], first: int, more: int) -> None:
    """While nothing happens: of each line as much or more, and no line is lost."""
    running = Running(WHOSE)
    running.add(enumerate(events, start=1))
    now = T0 + timedelta(hours=1, seconds=first)
    before, after = (running.usage(each).lines for each in (now, now + timedelta(seconds=more)))
    assert all(after[line] >= quantity for line, quantity in before.items())


@given(histories())
def test_once_it_has_ended_it_is_the_count(events: list[Happened]) -> None:
    """To the last digit, whenever it is looked at: so nothing jumps when the session is counted."""
    session = a_session(ended_s=1800, carrier="twilio")
    running = Running(at(1800))
    running.add(enumerate(events, start=1))
    assert running.usage(T0 + timedelta(days=1)) == usage_of(session, events)


def test_a_call_that_goes_on() -> None:
    """Its seconds so far, the minutes of its carrier that have begun, and the tokens that were reported."""
    running = Running(WHOSE)
    running.add([(1, event(1, "session.started", at_s=2)), (2, event(2, "call_connected", at_s=5))])
    running.add([(3, llm(3, 100, 20, 120))])
    running.add([(4, llm(4, 10, 2, 12))])
    assert running.usage(T0 + timedelta(seconds=66)).lines == {
        TIME: Decimal(64),
        Line("twilio", "", "carrier_min"): 2,
        Line("openai", "gpt", "llm_in"): 110,
        Line("openai", "gpt", "llm_out"): 22,
    }


def test_what_is_counted_is_estimated_no_more() -> None:
    """A session that isn't found any more is forgotten, with what was known of it."""
    live = Live()
    started = [(7, event(1, "session.started", at_s=0))]
    other = msgspec.structs.replace(WHOSE, id="o")
    live.look({"s": (WHOSE, started), "o": (other, started)})
    now = T0 + timedelta(seconds=10)
    assert [(whose.id, began, line, used) for whose, began, line, used in live.lines(now)] == [
        ("s", T0, TIME, 10),
        ("o", T0, TIME, 10),
    ]
    live.look({"o": (other, started)})
    assert [(whose.id, used) for whose, _, _, used in live.lines(now)] == [("o", 10)]
    assert live.after() == {"o": 7}
