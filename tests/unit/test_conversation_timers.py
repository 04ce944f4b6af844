"""The timers in a pipeline of Pipecat's, in virtual time, as the page about bots has them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    TTSSpeakFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.conversation import ConversationTimers
from tests.support.document import blocks
from tests.support.leaping_time import run_virtual
from tests.support.workspace import ROOT


class _Transport(BaseTransport):
    def __init__(self) -> None:
        super().__init__()
        for name in ("on_client_connected", "on_client_disconnected"):
            self._register_event_handler(name)

    def input(self) -> FrameProcessor:
        """Nothing comes in."""
        raise NotImplementedError

    def output(self) -> FrameProcessor:
        """Nothing goes out."""
        raise NotImplementedError

    async def tell(self, name: str) -> None:
        """Tell that a client is there, or isn't."""
        await self._call_event_handler(name, "client-1")


class _Ear(FrameProcessor):
    """Notes what is said and when."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[float, str]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note it."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSSpeakFrame):
            self.said.append((round(asyncio.get_running_loop().time(), 1), frame.text))
        await self.push_frame(frame, direction)


class _World:
    """The bot of the page, as far as its timers go."""

    def __init__(self) -> None:
        (example,) = (block for block in blocks(ROOT / "docs/bring-your-own-bot.md") if block.file == "patient.py")
        names: dict[str, Any] = {}
        exec(compile(example.text, "patient.py", "exec"), names)  # noqa: S102 - the page's own code
        self.transport, self.context, self.ear = _Transport(), LLMContext(), _Ear()
        self.timers: ConversationTimers = names["make_timers"](self.transport, self.context)
        # As in the bot of the page; a turn ends half a second after its words, which takes no model.
        turns = UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy()])
        user = LLMContextAggregatorPair(
            self.context, user_params=LLMUserAggregatorParams(user_turn_strategies=turns, user_turn_stop_timeout=0.5)
        ).user()
        self.worker = PipelineWorker(Pipeline([user, self.timers, self.ear]), idle_timeout_secs=None)

    async def until(self, at: float) -> None:
        """Let time pass."""
        await asyncio.sleep(at - asyncio.get_running_loop().time())

    async def happens(self, at: float, *frames: Frame) -> None:
        """Have frames come at a time."""
        await self.until(at)
        await self.worker.queue_frames(frames)
        await asyncio.sleep(0.01)


def _play(scenario: Callable[[_World], Awaitable[None]]) -> _World:
    async def played() -> _World:
        world = _World()
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(world.worker)
        running = asyncio.create_task(runner.run())
        await asyncio.sleep(1.0)
        await scenario(world)
        await world.worker.queue_frame(EndFrame())
        await running
        return world

    return run_virtual(played())


def test_the_example_of_the_page_greets_asks_and_ends() -> None:
    """A client comes at 10 s, says nothing, then something, then nothing for half an hour."""

    async def scenario(world: _World) -> None:
        await world.until(10.0)
        await world.transport.tell("on_client_connected")
        await world.happens(11.1, BotStartedSpeakingFrame())
        await world.happens(13.0, BotStoppedSpeakingFrame())
        await world.happens(30.0, VADUserStartedSpeakingFrame())
        await world.happens(60.0, VADUserStoppedSpeakingFrame())
        await world.until(1900.0)
        await world.transport.tell("on_client_disconnected")
        await world.until(4000.0)

    world = _play(scenario)
    greeting, still_there, stays = "Hello! How can I help you?", "Are you still there?", "I'll stay on the line."
    assert world.ear.said == [(11.0, greeting), (28.0, still_there), (75.5, still_there), (90.5, stays)]
    (asked,) = world.context.get_messages()
    assert isinstance(asked, dict)
    assert asked.get("content") == "Bring the conversation to an end."


def test_whoever_wants_to_say_something_waits_for_his_turn() -> None:
    """While the user speaks, and for a moment after; not where nobody speaks."""
    spoke_at: list[float] = []

    async def scenario(world: _World) -> None:
        await world.timers.may_speak()
        spoke_at.append(asyncio.get_running_loop().time())
        await world.happens(5.0, VADUserStartedSpeakingFrame())
        waiting = asyncio.create_task(world.timers.may_speak())
        await world.happens(8.0, VADUserStoppedSpeakingFrame())
        await waiting
        spoke_at.append(asyncio.get_running_loop().time())

    _play(scenario)
    assert [round(at, 2) for at in spoke_at] == [1.0, 9.25]
