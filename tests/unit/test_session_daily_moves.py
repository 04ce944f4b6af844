"""What `daily_moves` uses of Pipecat's transport at Daily beyond its interface: it is there, and does what it did."""

import inspect
from collections.abc import Callable
from typing import Any, Final

import pytest
from pipecat.transports.daily.transport import DailyTransport, DailyTransportClient, _CallState, completion_callback

_CLIENT: Final = DailyTransportClient


def _source(function: Callable[..., Any]) -> str:
    return inspect.getsource(inspect.unwrap(function))


@pytest.mark.parametrize("name", ["join", "leave"])
def test_there_is_a_way_past_the_count_of_owners(name: str) -> None:
    """The two are wrapped, and what is inside is a coroutine function of the client alone."""
    inside = inspect.unwrap(getattr(_CLIENT, name))
    assert getattr(_CLIENT, name).__wrapped__ is inside
    assert inspect.iscoroutinefunction(inside)
    assert list(inspect.signature(inside).parameters) == ["self"]


def test_a_client_joins_the_room_that_its_fields_name() -> None:
    """When it joins, not when it is made; and it is in a call exactly from the library's yes on."""
    assert "self._room_url,\n            self._token,\n" in _source(_CLIENT._join)
    joins = _source(_CLIENT.join)
    assert joins.index("if error:") < joins.index("return") < joins.index("self._call_state = _CallState.JOINED")
    assert joins.index("on_joined(data)") < joins.index("self._joined_event.set()")
    assert "return self._call_state in (_CallState.JOINED, _CallState.INTERRUPTED)" in _source(_CLIENT._in_call)


def test_a_client_that_has_left_may_join_again() -> None:
    """It holds events back from then on, and has said so to the library before the callbacks."""
    leaves = _source(_CLIENT.leave)
    assert "self._call_state = _CallState.LEFT" in leaves
    assert "self._joined_event.clear()" in leaves
    assert leaves.index("on_before_leave") < leaves.index("self._leave()") < leaves.index("on_left")
    assert {each.name for each in _CallState} == {"NOT_JOINED", "JOINED", "INTERRUPTED", "LEFT"}


def test_what_the_library_says_goes_through_one_queue() -> None:
    """Which is looked up each time; a call's state is the only thing behind its handler, and `left` is one."""
    assert "self._call_async_callback(self._event_queue, callback, *args)" in _source(_CLIENT._call_event_callback)
    assert "queue.put((callback, *args))" in _source(_CLIENT._call_async_callback)
    assert "_handle_call_state_updated, state)" in _source(_CLIENT.on_call_state_updated)
    assert 'state == "left" and self._in_call()' in _source(_CLIENT._handle_call_state_updated)
    assert "queue.task_done()" in _source(_CLIENT._callback_task_handler)


def test_a_call_that_nobody_waits_for_any_more_may_be_answered() -> None:
    """So waiting for the library can be given up."""
    assert "except asyncio.InvalidStateError" in inspect.getsource(completion_callback)


def test_the_fields_are_there() -> None:
    """By name."""
    made = _source(_CLIENT.__init__) + _source(_CLIENT.setup)
    fields = ("_room_url", "_token", "_event_queue", "_custom_audio_tracks", "_custom_video_tracks")
    assert [name for name in fields if f"self.{name}" not in made] == []
    assert "self._client = DailyTransportClient(" in _source(DailyTransport.__init__)
