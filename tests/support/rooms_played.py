"""Plays events to the transports of Pipecat that go into rooms, the real classes, and tells what the session hears.

A process of its own, for Daily's library starts threads that nothing stops: it reads scenarios from standard input and
writes what they came to (see `play_rooms`). Nobody joins a room here, for there is none; the events are called as the
provider's library would have them called. Beside the steps of tests/support/session_cases.py there are

    joins, put_out            the bot
    comes, leaves, who        somebody, into the room and out of it
    wait, seconds
    event, method, …          of Pipecat's transport, with what it is called with
    operator, target, seconds somebody begins to have an operator called, whose phone rings for so long
    apart, whether            the operator and the bot are kept from being heard by others, or aren't any more

Who is called out of the room is called by nobody: what Daily's client is asked for is noted, and each call is `call-1`,
`call-2`, …
"""

import asyncio
import functools
import sys
from asyncio import sleep
from typing import Any, Final, cast, override

import msgspec
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.daily.transport import DailyParams
from pipecat.transports.livekit.transport import LiveKitParams

from greenroom.common.broker import Broker
from greenroom.common.errors import GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports.base import SessionTransport
from greenroom.runner.session.transports.rooms import REJOIN_S
from tests.support.leaping_time import run_virtual
from tests.support.session_cases import FarEnd, Scenario, play

_UNTIL_EMPTY_S: Final = REJOIN_S + 0.5

# How each transport's library says the same things.
_JOINS: Final[dict[str, tuple[Any, ...]]] = {
    "daily": ("_on_joined", {"participants": {"local": {"id": "bot"}}}),
    "livekit": ("_on_connected",),
}
_PUT_OUT: Final = {"daily": ("_on_call_state_updated", "left"), "livekit": ("_on_disconnected",)}


def _comes(name: str, who: str) -> tuple[Any, ...]:
    return ("_on_participant_joined", {"id": who}) if name == "daily" else ("_on_participant_connected", who)


def _leaves(name: str, who: str) -> tuple[Any, ...]:
    if name == "daily":
        return "_on_participant_left", {"id": who}, "leftCall"
    return "_on_participant_disconnected", who


class RoomEnd(FarEnd):
    """A room, as the bot's transport hears of it."""

    def __init__(self, session: Session, transport: SessionTransport, edge: Broker) -> None:
        del edge
        self._name = session.transport
        self._transport = transport
        self._params: Any = None
        self._bots: Any = None
        self._asked: list[list[Any]] = []
        self._transfer: asyncio.Task[None] | None = None
        self._transferred = ""

    @override
    async def begin(self, arguments: RunnerArguments) -> BaseTransport:
        given: dict[str, Any] = {"audio_in_enabled": True, "audio_out_enabled": True}
        daily = self._name == "daily"
        self._params = DailyParams(audio_in_user_tracks=False, **given) if daily else LiveKitParams(**given)
        self._bots = await create_transport(arguments, {self._name: lambda: self._params})
        if daily:
            for method in ("start_dialout", "stop_dialout", "update_remote_participants"):
                setattr(self._bots, method, functools.partial(self._ask, method))
        # Of several workers each may hold the transport.
        self._transport.attach(Attachment(PipelineWorker(Pipeline([self._bots.input(), self._bots.output()]))))
        return self._bots

    @override
    async def step(self, name: str, *values: Any) -> None:
        match name, values:
            case "approach" | "joins", ():
                # Of a user who is on his way nothing is seen; the bot is there before him.
                await self._event(*_JOINS[self._name])
            case "arrive", ():
                await self._event(*_comes(self._name, "ada"))
            case "leave", ():
                await self._event(*_leaves(self._name, "ada"))
            case "wait", ():
                await sleep(_UNTIL_EMPTY_S)
            case "wait", (seconds,):
                await sleep(seconds)
            case "put_out", ():
                await self._event(*_PUT_OUT[self._name])
            case "comes", (who,):
                await self._event(*_comes(self._name, who))
            case "leaves", (who,):
                await self._event(*_leaves(self._name, who))
            case "event", _:
                await self._event(*values)
            case _:
                await self._with_operator(name, *values)

    @override
    def more(self) -> dict[str, Any]:
        settings = getattr(self._params, "dialin_settings", None)
        if settings is None:
            return {"asked": self._asked, "transferred": self._transferred} if self._asked else {}
        return {
            "call_id": settings.call_id,
            "call_domain": settings.call_domain,
            "api_key": self._params.api_key,
            "api_url": self._params.api_url,
        }

    @override
    async def end(self) -> None:
        if self._transfer is not None:
            self._transfer.cancel()

    async def _with_operator(self, name: str, *values: Any) -> None:
        match name, values:
            case "operator", (target, seconds):
                self._transfer = asyncio.create_task(self._call_operator(target, seconds))
            case "apart", (apart,):
                await cast("Any", self._transport).set_apart(apart=apart)
            case _:
                raise ValueError(name)

    async def _ask(self, method: str, *values: Any) -> Any:
        self._asked.append([method, *values])
        if method != "start_dialout":
            return None
        dialled = sum(asked[0] == method for asked in self._asked)
        return ("", "no dial-out here") if "refuse" in str(values) else (f"call-{dialled}", None)

    async def _call_operator(self, target: str, seconds: float) -> None:
        try:
            await cast("Any", self._transport).call_operator(target, seconds)
            self._transferred = "answered"
        except GreenroomError as error:
            self._transferred = error.code

    async def _event(self, method: str, *values: Any) -> None:
        await getattr(self._bots, method)(*values)


def main() -> None:
    """Play what standard input says."""
    scenarios = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, Scenario])
    told = {title: run_virtual(play(scenario, RoomEnd)) for title, scenario in scenarios.items()}
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
