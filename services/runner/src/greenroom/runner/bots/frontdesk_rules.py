"""The front desk's mind, in the shape of a language model: messages in, reply out. Pure.

The flow's nodes put where the conversation stands into the context as a developer message, written in JSON; what
follows it has been said and done since.
"""

import json
from collections.abc import Sequence
from typing import Any, Final, cast

from greenroom.runner.bots.frontdesk_dialogue import (
    Cue,
    Node,
    Place,
    Reply,
    Say,
    Tool,
    answer,
    ask_again,
    open_node,
    tell_time,
)
from greenroom.runner.bots.frontdesk_words import Booking
from greenroom.runner.bots.rule_llm import Message, Text, ToolCall

# The developer message after a turn in which somebody was heard, but nothing was recognised.
UNCLEAR_MESSAGE: Final = json.dumps({"unclear": True})


class NoPlace(Exception):
    """The context doesn't say where the conversation stands: no node of the flow has been entered."""


def place_message(place: Place) -> dict[str, str]:
    """Return the developer message that tells `reply` where the conversation stands."""
    booking = {"party": place.booking.party, "day": place.booking.day, "time": place.booking.time}
    content = {"node": place.node, "cue": place.cue, "house": place.house, "booking": booking}
    return {"role": "developer", "content": json.dumps(content)}


def reply(messages: Sequence[Message]) -> Text | ToolCall:
    """Return the front desk's reply.

    Raises:
        NoPlace: there is no message of `place_message` among them.
    """
    place, since = _place(messages)
    found = _reply(place, since)
    return Text(found.text) if isinstance(found, Say) else ToolCall(found.tool.value, found.arguments)


def _reply(place: Place, since: Sequence[Message]) -> Reply:
    if not since:
        return open_node(place)
    heard = [str(message.get("content", "")) for message in since if message.get("role") == "user"]
    last = since[-1]
    if last.get("role") == "user":
        return answer(place, heard)
    if last.get("role") == "tool" and _tool_of(since, last) == Tool.TELL_TIME:
        time = _object(last.get("content")).get("time")
        if isinstance(time, str):
            return tell_time(place, heard, time)
    return ask_again(place, heard)


def _place(messages: Sequence[Message]) -> tuple[Place, Sequence[Message]]:
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.get("role") == "developer" and "node" in (content := _object(message.get("content"))):
            place = Place(
                node=Node(content["node"]),
                cue=Cue(content["cue"]),
                house=content["house"],
                booking=Booking(**content["booking"]),
            )
            return place, messages[index + 1 :]
    raise NoPlace


def _tool_of(messages: Sequence[Message], result: Message) -> str | None:
    """Return the name of the tool that gave a result."""
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    return next((call["function"]["name"] for call in calls if call["id"] == result.get("tool_call_id")), None)


def _object(content: object) -> dict[str, Any]:
    """Return what JSON text says, if it is an object; messages may hold any text."""
    try:
        decoded: Any = json.loads(content) if isinstance(content, str) else None
    except json.JSONDecodeError:
        decoded = None
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}
