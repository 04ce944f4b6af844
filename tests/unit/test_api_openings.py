"""What is kept of a client's beginning, for a process that takes its session over."""

from itertools import takewhile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.openings import MAX_BYTES, MAX_MESSAGES, Opening
from tests.support.carriers.dialect import Leg
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER, dialect_of

_OTHER = st.one_of(
    st.text(max_size=30).filter(lambda text: "start" not in text),
    st.sampled_from(['{"event":"connected"}', '{"event":"media"}', '{"event":7}', "[]", '{"event":"start', "null"]),
)
_START = st.sampled_from(['{"event":"start","streamSid":"s"}', '{"start":{"callId":"c"},"event":"start"}'])


def kept_of(texts: list[str]) -> Opening:
    """Return the opening of a client that says all of that."""
    opening = Opening(kept=True)
    for text in texts:
        opening.hear(text)
    return opening


@given(st.lists(_OTHER, max_size=MAX_MESSAGES + 2), _START, st.lists(st.one_of(_OTHER, _START), max_size=3))
def test_it_is_kept_up_to_the_start(before: list[str], start: str, after: list[str]) -> None:
    """All messages up to the first start are kept as they came, if it is among the first; nothing else ever is."""
    opening = kept_of([*before, start, *after])
    whole = (*before, start)
    assert opening.messages == (whole if len(whole) <= MAX_MESSAGES else ())
    assert not opening.waits


@given(st.lists(st.one_of(_OTHER, _START), max_size=8))
def test_half_an_opening_is_none(texts: list[str]) -> None:
    """While the start hasn't come there is nothing that another process could begin with."""
    before = list(takewhile(lambda text: '"event":"start"' not in text or not text.endswith("}"), texts))
    assert kept_of(before).messages == ()


def test_what_is_too_long_is_not_kept() -> None:
    """A client that says more than any carrier does before its start costs no memory."""
    opening = kept_of(["x" * MAX_BYTES, "y"])
    assert (opening.messages, opening.waits) == ((), False)


def test_of_other_clients_nothing_is_kept() -> None:
    """Only carriers say something once."""
    opening = Opening(kept=False)
    opening.hear('{"event":"start"}')
    assert (opening.messages, opening.waits) == ((), False)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_each_carriers_own_is_kept(carrier: str) -> None:
    """Stream, call and parameters are in it, whatever comes after."""
    leg, dialect = Leg(call_id="call-1", stream_id="stream-1", caller=CALLER, called=NUMBER), dialect_of(carrier)
    said = [*dialect.opening(leg), dialect.media(leg, 0, b"\xff" * 160), dialect.dtmf(leg, "4")]
    opening = kept_of([msgspec.json.encode(message).decode() for message in said])
    assert [msgspec.json.decode(text) for text in opening.messages] == dialect.opening(leg)
