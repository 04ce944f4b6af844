"""The front desk's side of the conversation: where it stands and what was heard give what is said or done. Pure.

The nodes are those of the flow (`frontdesk_flow`): at the reception anything can be asked for, and also while the
caller waits for a person (the handover); a booking is filled in and confirmed; then there is the farewell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from greenroom.runner.bots.frontdesk_words import COUNTS, WEEKDAYS, Booking, Request, understand

# The kitchen's hours, `HH:MM`.
FIRST_TABLE: Final = "12:00"
LAST_TABLE: Final = "22:00"
_NOON_HOUR: Final = 12

HOURS: Final = (
    "We are open every day from noon until eleven at night, and you can come in without a booking until six. "
    "The kitchen takes its first orders at noon and its last ones at ten. "
    "On Sundays there is live music from eight in the evening, so please book early for those days. "
    "On public holidays we keep the same hours."
)
MENU: Final = (
    "We cook what the season gives. This week there is pumpkin soup, trout from the lake with almonds, "
    "mushroom risotto, and braised beef with root vegetables. For dessert we have apple tart and lemon sorbet."
)
HELP: Final = "I can book a table, tell you our opening hours or what is on the menu, or pass you on to a person."
UNCLEAR: Final = "Sorry, I didn't get that."


class Node(StrEnum):
    """Where a conversation stands; the values are the names of the flow's nodes."""

    RECEPTION = "reception"
    BOOKING = "booking"
    HANDOVER = "handover"
    FAREWELL = "farewell"


class Cue(StrEnum):
    """Why a node was entered, which decides how it opens."""

    GREETING = "greeting"
    BOOKING = "booking"
    BOOKED = "booked"
    DROPPED = "dropped"
    TRANSFER = "transfer"
    BYE = "bye"
    TIME_UP = "time_up"


class Tool(StrEnum):
    """What the front desk can do; the values are the names of the functions."""

    START_BOOKING = "start_booking"
    BOOK_TABLE = "book_table"
    DROP_BOOKING = "drop_booking"
    TELL_TIME = "tell_time"
    TRANSFER = "transfer_to_person"
    END_CALL = "end_call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the conversation stands.

    Attributes:
        node: the node of the flow.
        cue: why it was entered.
        house: the name of the restaurant, as it is spoken.
        booking: what was known of the booking when the node was entered.
    """

    node: Node
    cue: Cue
    house: str
    booking: Booking = field(default_factory=Booking)


@dataclass(frozen=True, slots=True)
class Say:
    """The reply is spoken; it may be several sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """The reply is a call of a tool."""

    tool: Tool
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


type Reply = Say | Call

# What can be asked for at any time.
_CALLS: Final[Mapping[Request | None, Tool]] = {
    Request.BYE: Tool.END_CALL,
    Request.TRANSFER: Tool.TRANSFER,
    Request.TIME: Tool.TELL_TIME,
}
_TEXTS: Final[Mapping[Request | None, str]] = {Request.HOURS: HOURS, Request.MENU: MENU}

# How a node opens whose first words are always the same.
_OPENINGS: Final[Mapping[Cue, str]] = {
    Cue.DROPPED: "All right, I haven't booked anything. Can I do anything else for you?",
    Cue.TRANSFER: "I have told a colleague, who will be with you shortly. Can I do anything else until then?",
    Cue.BYE: "Thank you for calling. Goodbye!",
    Cue.TIME_UP: "I'm sorry, our time is up. Please call again. Goodbye!",
}


def open_node(place: Place) -> Say:
    """Return what is said on entering a node."""
    match place.cue:
        case Cue.GREETING:
            return Say(f"Hello, this is {place.house}. How can I help you?")
        case Cue.BOOKING:
            return Say(f"With pleasure. {_next_question(place.booking)}")
        case Cue.BOOKED:
            return Say(f"Done: {_spoken(place.booking)}. Can I do anything else for you?")
        case cue:
            return Say(_OPENINGS[cue])


def answer(place: Place, heard: Sequence[str]) -> Reply:
    """Return the reply to the last sentence.

    Args:
        place: where the conversation stands.
        heard: all sentences since the node was entered, oldest first; at least one.
    """
    before = _booking(place, heard[:-1])
    now = understand(heard[-1])
    if (tool := _CALLS.get(now.request)) is not None:
        return Call(tool)
    if (text := _TEXTS.get(now.request)) is not None:
        return Say(_with_question(text, place, before))
    if now.request is Request.REPEAT:
        return Say(_pending(place, before))
    if place.node is Node.BOOKING:
        return _answer_booking(before, now.request, now.details)
    return _answer_reception(now.request, now.details)


def tell_time(place: Place, heard: Sequence[str], time: str) -> Say:
    """Return how the time (`HH:MM`) is told, once the clock has been read."""
    return Say(_with_question(f"It is {_clock(time)}.", place, _booking(place, heard)))


def ask_again(place: Place, heard: Sequence[str]) -> Say:
    """Return what is said when something was heard, but not understood."""
    return Say(f"{UNCLEAR} {_pending(place, _booking(place, heard))}")


def _answer_reception(request: Request | None, details: Booking) -> Reply:
    if request is Request.BOOK or not details.empty:
        return Call(Tool.START_BOOKING, _known(_acceptable(details)))
    match request:
        case Request.NO:
            return Call(Tool.END_CALL)
        case Request.YES:
            return Say("What can I do for you?")
        case Request.HELLO:
            return Say(f"Hello! {HELP}")
        case _:
            return Say(f"{UNCLEAR} {HELP}")


def _answer_booking(before: Booking, request: Request | None, details: Booking) -> Reply:
    if details.time is not None and not _in_hours(details.time):
        known = before.updated(_acceptable(details))
        return Say(
            f"I'm sorry, tables start at {_clock(FIRST_TABLE)}, the last ones at {_clock(LAST_TABLE)}. "
            f"{_next_question(known)}"
        )
    if not details.empty:
        return Say(_next_question(before.updated(details)))
    match request:
        case Request.YES if before.complete:
            return Call(Tool.BOOK_TABLE, _known(before))
        case Request.NO:
            return Call(Tool.DROP_BOOKING)
        case Request.YES | Request.BOOK | Request.HELLO:
            return Say(_next_question(before))
        case _:
            return Say(f"{UNCLEAR} {_next_question(before)}")


def _booking(place: Place, heard: Sequence[str]) -> Booking:
    """Return what is known of the booking after all these sentences."""
    booking = place.booking
    if place.node is Node.BOOKING:
        for text in heard:
            booking = booking.updated(_acceptable(understand(text).details))
    return booking


def _pending(place: Place, booking: Booking) -> str:
    """Return the question that waits for an answer."""
    if place.node is Node.BOOKING:
        return _next_question(booking)
    return "How can I help you?" if place.cue is Cue.GREETING else "Can I do anything else for you?"


def _with_question(text: str, place: Place, booking: Booking) -> str:
    return f"{text} {_pending(place, booking)}"


def _next_question(booking: Booking) -> str:
    if booking.party is None:
        return "For how many people?"
    if booking.day is None:
        return "On which day?"
    if booking.time is None:
        return "At what time?"
    return f"That is {_spoken(booking)}. Shall I book it?"


def _acceptable(details: Booking) -> Booking:
    if details.time is None or _in_hours(details.time):
        return details
    return Booking(party=details.party, day=details.day)


def _in_hours(time: str) -> bool:
    return FIRST_TABLE <= time <= LAST_TABLE


def _known(booking: Booking) -> dict[str, Any]:
    facts = {"party": booking.party, "day": booking.day, "time": booking.time}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _spoken(booking: Booking) -> str:
    """Return a complete booking in words."""
    party, day, time = booking.party or 0, booking.day or "", booking.time or ""
    people = "one person" if party == 1 else f"{COUNTS[party - 1]} people"
    when = f"on {day.capitalize()}" if day in WEEKDAYS else day
    return f"a table for {people} {when} at {_clock(time)}"


def _clock(time: str) -> str:
    """Return `19:30` as "7:30 pm", noon and midnight by name."""
    hour, minute = (int(part) for part in time.split(":"))
    if minute == 0 and hour % _NOON_HOUR == 0:
        return "noon" if hour == _NOON_HOUR else "midnight"
    shown = f":{minute:02}" if minute else ""
    return f"{hour % _NOON_HOUR or _NOON_HOUR}{shown} {'pm' if hour >= _NOON_HOUR else 'am'}"
