"""What the front desk says and does."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.bots import frontdesk_dialogue as dialogue
from greenroom.runner.bots.frontdesk_dialogue import Call, Cue, Node, Place, Reply, Say, Tool, answer, open_node
from greenroom.runner.bots.frontdesk_rules import UNCLEAR_MESSAGE, NoPlace, place_message, reply
from greenroom.runner.bots.frontdesk_words import Booking
from greenroom.runner.bots.rule_llm import Message, Text, ToolCall

_RECEPTION = Place(node=Node.RECEPTION, cue=Cue.GREETING, house="the Test Kitchen")
_BOOKING = Place(node=Node.BOOKING, cue=Cue.BOOKING, house="the Test Kitchen")
_DETAILS = Booking(party=4, day="friday", time="19:00")
_FULL = Place(node=Node.BOOKING, cue=Cue.BOOKING, house="the Test Kitchen", booking=_DETAILS)

_places = st.builds(
    Place,
    node=st.sampled_from(Node),
    cue=st.sampled_from([Cue.GREETING, Cue.BOOKING, Cue.DROPPED, Cue.TRANSFER, Cue.BYE]),
    house=st.just("the Test Kitchen"),
    booking=st.builds(
        Booking,
        party=st.none() | st.integers(1, 12),
        day=st.none() | st.sampled_from(["monday", "today"]),
        time=st.none() | st.sampled_from(["12:00", "19:30"]),
    ),
)
_sentences = st.lists(
    st.sampled_from(
        [
            *("i would like to book a table", "for four people", "on friday", "at seven pm", "at eleven pm"),
            *("yes please", "no thank you", "what time is it", "what are your opening hours", "hello", "goodbye"),
            *("please transfer me to a person", "please repeat that", "the weather is terrible", ""),
        ]
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        (_RECEPTION, "i would like to book a table", Call(Tool.START_BOOKING)),
        (_RECEPTION, "for four people on friday", Call(Tool.START_BOOKING, {"party": 4, "day": "friday"})),
        (_RECEPTION, "book a table at eleven pm", Call(Tool.START_BOOKING)),
        (_RECEPTION, "what time is it", Call(Tool.TELL_TIME)),
        (_RECEPTION, "please transfer me to a person", Call(Tool.TRANSFER)),
        (_RECEPTION, "no thank you", Call(Tool.END_CALL)),
        (_RECEPTION, "yes please", Say("What can I do for you?")),
        (_RECEPTION, "what are your opening hours", Say(f"{dialogue.HOURS} How can I help you?")),
        (_RECEPTION, "hello", Say(f"Hello! {dialogue.HELP}")),
        (_RECEPTION, "the weather is terrible", Say(f"{dialogue.UNCLEAR} {dialogue.HELP}")),
        (_BOOKING, "for four people", Say("On which day?")),
        (_BOOKING, "for four people on friday", Say("At what time?")),
        (_BOOKING, "what is on the menu", Say(f"{dialogue.MENU} For how many people?")),
        (_BOOKING, "the weather is terrible", Say(f"{dialogue.UNCLEAR} For how many people?")),
        (_BOOKING, "yes please", Say("For how many people?")),
        (_BOOKING, "goodbye", Call(Tool.END_CALL)),
        (_FULL, "yes please", Call(Tool.BOOK_TABLE, {"party": 4, "day": "friday", "time": "19:00"})),
        (_FULL, "no thank you", Call(Tool.DROP_BOOKING)),
        (
            _FULL,
            "no at half past eight",
            Say("That is a table for four people on Friday at 8:30 pm. Shall I book it?"),
        ),
        (_FULL, "please repeat that", Say("That is a table for four people on Friday at 7 pm. Shall I book it?")),
        (_FULL, "for one today at noon", Say("That is a table for one person today at noon. Shall I book it?")),
    ],
)
def test_the_reply_to_a_sentence(place: Place, text: str, expected: Reply) -> None:
    """A sentence is answered by what is still to be asked, by what was asked for, or by a tool."""
    assert answer(place, [text]) == expected


def test_a_booking_is_filled_in_whatever_order() -> None:
    """Each answer is kept, questions in between change nothing, and what is missing is asked for."""
    heard = ["at seven pm", "what time is it", "on friday"]
    assert answer(_BOOKING, heard) == Say("For how many people?")
    heard.append("for four people")
    assert answer(_BOOKING, heard) == Say("That is a table for four people on Friday at 7 pm. Shall I book it?")
    heard.append("yes please")
    assert answer(_BOOKING, heard) == Call(Tool.BOOK_TABLE, {"party": 4, "day": "friday", "time": "19:00"})


def test_there_are_no_tables_when_the_kitchen_is_closed() -> None:
    """A time without tables is refused with the reason, and isn't kept."""
    said = answer(_BOOKING, ["for four people", "on friday", "at eleven pm"])
    assert said == Say("I'm sorry, tables start at noon, the last ones at 10 pm. At what time?")
    assert answer(_BOOKING, ["for four people", "on friday", "at eleven pm", "yes please"]) == Say("At what time?")


@given(_places, _sentences)
def test_there_is_always_an_answer(place: Place, heard: list[str]) -> None:
    """Whatever was said wherever, the bot says something or calls a tool of the node it is in."""
    match answer(place, heard):
        case Say(text):
            assert text.strip()
        case Call(tool, arguments):
            anywhere = {Tool.TELL_TIME, Tool.TRANSFER, Tool.END_CALL}
            here = {Tool.BOOK_TABLE, Tool.DROP_BOOKING} if place.node is Node.BOOKING else {Tool.START_BOOKING}
            assert tool in anywhere | here
            if tool is Tool.BOOK_TABLE:
                assert {*arguments} == {"party", "day", "time"}
                assert dialogue.FIRST_TABLE <= arguments["time"] <= dialogue.LAST_TABLE


@given(_places, _sentences)
def test_nothing_is_booked_without_a_yes(place: Place, heard: list[str]) -> None:
    """A table is booked only when the caller has just said yes."""
    said = answer(place, heard)
    if isinstance(said, Call) and said.tool is Tool.BOOK_TABLE:
        assert heard[-1] == "yes please"


@pytest.mark.parametrize("cue", Cue)
def test_each_node_has_an_opening(cue: Cue) -> None:
    """Whichever way a node is entered, the bot begins by saying something."""
    place = Place(node=Node.RECEPTION, cue=cue, house="the Test Kitchen", booking=_DETAILS)
    assert re.search(r"[.!?]$", open_node(place).text)


@pytest.mark.parametrize(
    ("time", "spoken"),
    [("00:00", "midnight"), ("12:00", "noon"), ("00:30", "12:30 am"), ("12:30", "12:30 pm"), ("07:05", "7:05 am")],
)
def test_the_time_is_told(time: str, spoken: str) -> None:
    """The clock is read in twelve hours."""
    assert dialogue.tell_time(_RECEPTION, ["what time is it"], time) == Say(f"It is {spoken}. How can I help you?")


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _tool_result(name: str, result: Any) -> list[Message]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": json.dumps(result)},
    ]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ([], Text("Hello, this is the Test Kitchen. How can I help you?")),
        ([_user("what time is it")], ToolCall("tell_time")),
        (
            [_user("what time is it"), *_tool_result("tell_time", {"time": "15:30"})],
            Text("It is 3:30 pm. How can I help you?"),
        ),
        (
            [_user("book a table"), *_tool_result("start_booking", {"error": "no"})],
            Text(f"{dialogue.UNCLEAR} How can I help you?"),
        ),
        ([{"role": "developer", "content": UNCLEAR_MESSAGE}], Text(f"{dialogue.UNCLEAR} How can I help you?")),
        ([{"role": "assistant", "content": "Hello, this"}, _user("goodbye")], ToolCall("end_call")),
    ],
)
def test_the_reply_to_a_context(since: Sequence[Message], expected: Text | ToolCall) -> None:
    """The rules read from a model's context where the conversation stands and what came since."""
    before: list[Message] = [place_message(_FULL), _user("no thank you")]
    assert reply([*before, place_message(_RECEPTION), *since]) == expected


@given(_places)
def test_a_place_survives_the_context(place: Place) -> None:
    """What a node writes into the context is what the rules read."""
    said = reply([place_message(place)])
    assert said == Text(open_node(place).text)


def test_a_context_without_a_node_is_an_error() -> None:
    """Without a node of the flow there is nothing to say."""
    with pytest.raises(NoPlace):
        reply([_user("hello"), {"role": "developer", "content": "be nice"}])
