"""Rooms at Daily. Its library starts ten threads when a transport is made: nobody but a session's process imports this.

Pipecat's transport says in the events used here:

    on_client_connected, on_client_disconnected   who comes and goes, with the participant's `id`
    on_joined, on_error                           an error before the bot has joined: it never will
    on_call_state_updated `left`                  the bot was put out, or the room is gone
    on_dialin_error, on_dialin_stopped            the caller has hung up, perhaps before he was connected
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, override

from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import DailyRunnerArguments
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.daily.transport import DailyInputTransport, DailyOutputTransport

from greenroom.runner.session.transports import daily_moves, room_events
from greenroom.runner.session.transports.rooms import RoomTransport

# What Pipecat's runner puts into the body of a call that Daily holds.
_DIALIN: Final = ("dialin_settings", "daily_api_key", "daily_api_url")


class DailyRoom(RoomTransport):
    """A room at Daily. See `rooms.RoomTransport`."""

    ends: ClassVar[tuple[type[FrameProcessor], ...]] = (DailyInputTransport, DailyOutputTransport)
    needs: ClassVar[tuple[str, ...]] = ("room_url",)
    news: ClassVar[Mapping[str, Callable[..., dict[str, Any]]]] = room_events.DAILY

    _joined = False

    @override
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._transports: list[BaseTransport] = []

    @override
    def arguments(self, body: dict[str, Any]) -> DailyRunnerArguments:
        token = self.token
        if all(name in self.secrets for name in _DIALIN):
            settings, key, url = (self.secrets[name] for name in _DIALIN)
            body = {**body, "dialin_settings": json.loads(settings), "daily_api_key": key, "daily_api_url": url}
        return DailyRunnerArguments(room_url=self.info["room_url"], token=token, body=body, session_id=self.session.id)

    @override
    def hook(self, transport: BaseTransport) -> None:
        super().hook(transport)
        self._transports.append(transport)
        transport.add_event_handler("on_joined", self._on_bot_joined)
        transport.add_event_handler("on_error", self._on_error)
        transport.add_event_handler("on_call_state_updated", self._on_state)
        transport.add_event_handler("on_dialin_error", self._on_dialin_over)
        transport.add_event_handler("on_dialin_stopped", self._on_dialin_over)

    @override
    def refuse_change(self) -> str | None:
        if len(self._transports) != 1 or not self._joined:
            return "the bot isn't in one room"
        if any(name in self.secrets for name in _DIALIN):
            return "a call by phone stays in its room"
        return daily_moves.refuse(self._transports[0])

    @override
    async def change(self, info: dict[str, str], token: str) -> None:
        (transport,) = self._transports
        await daily_moves.leave(transport)
        self._joined = False
        self.left()
        await daily_moves.join(transport, info["room_url"], token)
        self._joined = True

    def _on_bot_joined(self, _transport: BaseTransport, _data: Any) -> None:
        self._joined = True

    def _on_error(self, _transport: BaseTransport, _error: Any) -> None:
        # Its text is in the bot's log; it may have the room's URL in it, but nothing says that it hasn't more.
        if not self._joined:
            self.lost("the bot couldn't join the room")

    def _on_state(self, _transport: BaseTransport, state: str) -> None:
        if state == "left" and self._joined:
            self.lost("the bot was put out of the room")

    def _on_dialin_over(self, _transport: BaseTransport, _data: Any) -> None:
        # Of somebody who is in the room, his leaving tells.
        if not self.connected:
            self.gone("the caller has hung up")
