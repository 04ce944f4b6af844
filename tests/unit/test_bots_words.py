"""What the front desk understands of a sentence."""

import random
import re
from collections.abc import Callable, Iterator
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.bots.frontdesk_words import COUNTS, WEEKDAYS, Booking, Request, understand


@pytest.mark.parametrize(
    ("text", "request_", "details"),
    [
        ("i would like to book a table", Request.BOOK, Booking()),
        (
            "book a table for four people on friday at seven pm",
            Request.BOOK,
            Booking(party=4, day="friday", time="19:00"),
        ),
        ("Book a table for 4 on Friday, at 7:30 p.m.!", Request.BOOK, Booking(party=4, day="friday", time="19:30")),
        ("at seven for four people", None, Booking(party=4, time="19:00")),
        ("tomorrow at half past eight", None, Booking(day="tomorrow", time="20:30")),
        ("for two people tonight", None, Booking(party=2, day="today")),
        ("at noon", None, Booking(time="12:00")),
        ("at twelve", None, Booking(time="12:00")),
        ("at one in the afternoon", None, Booking(time="13:00")),
        ("at nine in the morning", None, Booking(time="09:00")),
        ("at twelve am", None, Booking(time="00:00")),
        ("four", None, Booking(party=4)),
        ("no at eight pm", Request.NO, Booking(time="20:00")),
        ("what time is it", Request.TIME, Booking()),
        ("what are your opening hours", Request.HOURS, Booking()),
        ("tell me about the menu", Request.MENU, Booking()),
        ("please transfer me to a person", Request.TRANSFER, Booking()),
        ("can i speak to someone please", Request.TRANSFER, Booking()),
        ("can you say that again", Request.REPEAT, Booking()),
        ("yes please", Request.YES, Booking()),
        ("no thank you", Request.NO, Booking()),
        ("no thank you goodbye", Request.BYE, Booking()),
        ("good evening", Request.HELLO, Booking()),
        ("the weather is terrible", None, Booking()),
        ("", None, Booking()),
    ],
)
def test_a_sentence_is_understood(text: str, request_: Request | None, details: Booking) -> None:
    """A sentence means a request, details of a booking, both, or neither."""
    heard = understand(text)
    assert (heard.request, heard.details) == (request_, details)


@given(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    """Any text is understood somehow, and details are within their bounds."""
    details = understand(text).details
    assert details.party is None or 1 <= details.party <= len(COUNTS)
    assert details.day is None or details.day in {*WEEKDAYS, "today", "tomorrow"}
    assert details.time is None or re.fullmatch(r"([01]\d|2[0-3]):[03]0", details.time)


@given(st.lists(st.builds(Booking, party=st.none() | st.integers(1, 12), day=st.none() | st.sampled_from(WEEKDAYS))))
def test_the_newest_details_count(bookings: list[Booking]) -> None:
    """Of all that was said about a booking, the last word on each detail is kept."""
    known = Booking()
    for booking in bookings:
        known = known.updated(booking)
    assert known.party == next((b.party for b in reversed(bookings) if b.party), None)
    assert known.day == next((b.day for b in reversed(bookings) if b.day), None)


@given(st.randoms(use_true_random=False))
def test_all_that_can_be_recognised_is_understood(random: random.Random) -> None:
    """Every sentence of the recognizer's grammar means something to the dialogue."""
    sentence = " ".join(_EXPAND(random))
    heard = understand(sentence)
    assert heard.request is not None or not heard.details.empty, sentence


def _expander(grammar: str) -> Callable[[random.Random], list[str]]:
    """Return a function that says a random sentence of a JSGF grammar (alternatives, groups, options and rules)."""
    plain = re.sub(r"//[^\n]*", "", grammar)
    rules = {
        name: re.findall(r"<\w+>|[\w']+|[|()\[\]]", body) for name, body in re.findall(r"<(\w+)>\s*=([^;]*);", plain)
    }

    def rule(name: str, random: random.Random) -> list[str]:
        return choices(iter(rules[name]), random)

    def choices(tokens: Iterator[str], random: random.Random) -> list[str]:
        alternatives: list[list[str]] = [[]]
        for token in tokens:
            match token:
                case "|":
                    alternatives.append([])
                case "(":
                    alternatives[-1] += choices(tokens, random)
                case "[":
                    option = choices(tokens, random)
                    alternatives[-1] += option if random.random() < 0.5 else []
                case ")" | "]":
                    break
                case _ if token.startswith("<"):
                    alternatives[-1] += rule(token.strip("<>"), random)
                case _:
                    alternatives[-1].append(token)
        return random.choice(alternatives)

    return lambda random: rule("utterance", random)


_EXPAND = _expander(resources.files("greenroom.runner.bots").joinpath("frontdesk.jsgf").read_text())
