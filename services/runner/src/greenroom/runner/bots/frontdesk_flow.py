"""The front desk's conversation as a Pipecat flow: its nodes, and the tools that lead from one to the next."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pipecat.flows import FlowArgs, FlowManager, FlowsFunctionSchema, NodeConfig
from pipecat.frames.frames import EndFrame

from greenroom.runner.bots.frontdesk_dialogue import Cue, Node, Place, Tool
from greenroom.runner.bots.frontdesk_rules import place_message
from greenroom.runner.bots.frontdesk_words import COUNTS, WEEKDAYS, Booking

# Why the call ends when the caller has said goodbye.
GOODBYE: Final = "goodbye"
_TOOL_TIMEOUT_S: Final = 5.0

_DETAILS: Final[dict[str, Any]] = {
    "party": {"type": "integer", "minimum": 1, "maximum": len(COUNTS), "description": "Number of people."},
    "day": {"type": "string", "enum": [*WEEKDAYS, "today", "tomorrow"], "description": "Day of the visit."},
    "time": {"type": "string", "pattern": r"^\d\d:\d\d$", "description": "Beginning of the visit, 24 hours."},
}


class FrontDeskFlow:
    """Makes the nodes of one call.

    Args:
        house: the name of the restaurant, as it is spoken.
        now: the time at the restaurant.
    """

    def __init__(self, *, house: str, now: Callable[[], datetime]) -> None:
        self._reception = Place(node=Node.RECEPTION, cue=Cue.GREETING, house=house)
        self._now = now

    @property
    def anywhere(self) -> list[Any]:
        """The tools that are at hand in every node."""
        return [
            _tool(Tool.TELL_TIME, "Read the clock.", self._tell_time),
            _tool(Tool.TRANSFER, "Call a person to the phone.", self._transfer),
            _tool(Tool.END_CALL, "Say goodbye and hang up.", self._end_call),
        ]

    def start(self) -> NodeConfig:
        """Return the node in which a call begins: the reception, with a greeting."""
        return self._at_reception(Cue.GREETING)

    def time_up(self) -> NodeConfig:
        """Return the node in which a call ends that has lasted as long as it may."""
        return self._farewell(Cue.TIME_UP)

    def _at_reception(self, cue: Cue, booking: Booking | None = None, node: Node = Node.RECEPTION) -> NodeConfig:
        return _node(
            replace(self._reception, node=node, cue=cue, booking=booking or Booking()),
            _tool(Tool.START_BOOKING, "Begin to book a table.", self._start_booking, optional=_DETAILS),
        )

    def _in_booking(self, booking: Booking) -> NodeConfig:
        return _node(
            replace(self._reception, node=Node.BOOKING, cue=Cue.BOOKING, booking=booking),
            _tool(Tool.BOOK_TABLE, "Book a table that the caller has confirmed.", self._book_table, required=_DETAILS),
            _tool(Tool.DROP_BOOKING, "Forget the booking.", self._drop_booking),
        )

    def _farewell(self, cue: Cue = Cue.BYE) -> NodeConfig:
        node = _node(replace(self._reception, node=Node.FAREWELL, cue=cue))
        node["post_actions"] = [{"type": "hang_up", "handler": _hang_up}]
        return node

    async def _start_booking(self, args: FlowArgs, _flow: FlowManager) -> tuple[Any, NodeConfig]:
        return None, self._in_booking(Booking(**args))

    async def _book_table(self, args: FlowArgs, _flow: FlowManager) -> tuple[Any, NodeConfig]:
        return {"booked": True, **args}, self._at_reception(Cue.BOOKED, Booking(**args))

    async def _drop_booking(self, _args: FlowArgs, _flow: FlowManager) -> tuple[Any, NodeConfig]:
        return {"booked": False}, self._at_reception(Cue.DROPPED)

    async def _tell_time(self, _args: FlowArgs, _flow: FlowManager) -> tuple[Any, None]:
        return {"time": self._now().strftime("%H:%M")}, None

    async def _transfer(self, _args: FlowArgs, _flow: FlowManager) -> tuple[Any, NodeConfig]:
        # Nothing to do here: whoever takes over learns of it from the call of this tool.
        return {"requested": True}, self._at_reception(Cue.TRANSFER, node=Node.HANDOVER)

    async def _end_call(self, _args: FlowArgs, _flow: FlowManager) -> tuple[Any, NodeConfig]:
        return None, self._farewell()


async def _hang_up(_action: dict[str, Any], flow: FlowManager) -> None:
    # Queued behind the goodbye, so it ends the call when that has been spoken.
    await flow.worker.queue_frame(EndFrame(reason=GOODBYE))


def _node(place: Place, *tools: FlowsFunctionSchema) -> NodeConfig:
    return NodeConfig(name=place.node.value, task_messages=[place_message(place)], functions=[*tools])


def _tool(
    tool: Tool,
    description: str,
    handler: Callable[[FlowArgs, FlowManager], Any],
    *,
    required: dict[str, Any] | None = None,
    optional: dict[str, Any] | None = None,
) -> FlowsFunctionSchema:
    return FlowsFunctionSchema(
        name=tool.value,
        description=description,
        properties={**(required or {}), **(optional or {})},
        required=[*(required or {})],
        handler=handler,
        # The reply waits for the result; who speaks meanwhile has changed their mind.
        cancel_on_interruption=True,
        timeout_secs=_TOOL_TIMEOUT_S,
    )
