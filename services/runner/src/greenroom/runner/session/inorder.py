"""Pipecat's own observers, told of frames directly and reporting in order.

Pipecat runs every event handler in a task of its own, which may come late, out of order, or not at all when the
pipeline ends. Registered as synchronous, the same handlers run where the event happens.
"""

from pipecat.observers.error_observer import ErrorObserver
from pipecat.observers.function_call_observer import FunctionCallObserver
from pipecat.observers.turn_tracking_observer import TurnTrackingObserver
from pipecat.observers.user_bot_latency_observer import UserBotLatencyObserver
from pipecat.utils.base_object import BaseObject


class _InOrder(BaseObject):
    def _register_event_handler(self, event_name: str, sync: bool = False) -> None:  # noqa: FBT001, FBT002 Pipecat's signature
        del sync
        super()._register_event_handler(event_name, sync=True)


class Errors(_InOrder, ErrorObserver):
    """Reports each failure where it is raised, those that were recovered from included."""


class FunctionCalls(_InOrder, FunctionCallObserver):
    """Reports each function call from start to outcome."""


class Latency(_InOrder, UserBotLatencyObserver):
    """Measures from the caller's last word to the bot's first, and what the time was spent on."""


class Turns(_InOrder, TurnTrackingObserver):
    """Rules on where turns begin and end."""
