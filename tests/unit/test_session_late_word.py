"""Words that come behind their audio, as the call's watch waits for them."""

import asyncio
from typing import Any

from pipecat.frames.frames import (
    AggregatedTextFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    TTSTextFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from greenroom.common.messages import EventType
from greenroom.common.spool import Spool
from greenroom.common.telemetry import context_from_traceparent
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.turns import TurnSpans
from greenroom.runner.session.watch import CallWatch
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session


class World:
    """The watch over a call, whose bot says two words that have times of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        clock = CallClock(lambda: round(self.loop.time() * 1e9) + 1, lambda: 10**18)
        session = new_session("echo")
        emitter = Emitter(Spool(MemoryServer().connect()), session)
        emitter.on_event = self._on_event
        self.said: list[tuple[float, str]] = []
        spans = TurnSpans(context_from_traceparent(None), session.id)
        self.watch = CallWatch(clock, emitter, Recorder(clock, emitter), spans, lambda _: None)
        self.output: Any = FrameProcessor()
        self.routes = self.watch.routes([], [self.output], has_turns=True)
        clock.begin()

    def _on_event(self, kind: EventType, data: dict[str, Any]) -> None:
        if kind is EventType.AGENT_SPOKE:
            self.said.append((self.loop.time(), data["text"]))

    async def push(self, frame: Frame) -> None:
        """Have the transport's output push a frame on."""
        push = FramePushed(self.output, self.output, frame, FrameDirection.DOWNSTREAM, timestamp=0, first_push=True)
        pending = self.routes[type(frame)](push)
        if pending is not None:
            await pending

    async def word(self, text: str) -> None:
        """A word has been heard."""
        frame = TTSTextFrame(text, "word")
        frame.pts = 1
        await self.push(frame)

    async def speak(self) -> None:
        """Announce two words, and say the first of them."""
        sentence = AggregatedTextFrame("hello there", "sentence")
        sentence.will_be_spoken = True
        await self.push(BotStartedSpeakingFrame())
        await self.push(sentence)
        await self.word("hello")


def test_a_word_that_comes_behind_the_voice_belongs_to_it() -> None:
    """It is waited for, no longer than it may take, and nobody has to look again and again."""

    async def scenario() -> None:
        world = World()
        await world.speak()
        await asyncio.sleep(1.0)
        await world.push(BotStoppedSpeakingFrame())
        await asyncio.sleep(0.2)
        await world.word("there")
        assert world.said == []
        await asyncio.sleep(0.2)
        [(at, text)] = world.said
        assert text == "hello there"
        assert 1.3 <= at <= 1.32

    run_virtual(scenario())


def test_a_call_that_ends_waits_for_no_word() -> None:
    """What was gathered is said then, once."""

    async def scenario() -> None:
        world = World()
        await world.speak()
        await world.push(BotStoppedSpeakingFrame())
        await world.watch.close()
        await asyncio.sleep(1.0)
        assert [text for _, text in world.said] == ["hello"]

    run_virtual(scenario())
