"""Bots for the tests of the session process, in the shape of Pipecat's quickstart; they know nothing of Greenroom.

Speech is simulated: what is loud is speech, the recognizer understands a fixed sentence, and the voice speaks a tone
of 60 ms a word.
"""

import asyncio
import contextlib
import math
import os
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams
from pipecat.flows import FlowManager, NodeConfig
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.transcriptions.language import Language
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt, traced_tts
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.discovery import BotSpec, load
from tests.support import daily_room
from tests.support.workspace import ROOT

RATE: Final = 16_000
FRAME_SAMPLES: Final = RATE // 50
HEARD: Final = "a table for two please"
GREETING: Final = "Hello, this is the test."
WORD_S: Final = 0.06


def tone(samples: int, hertz: int = 200) -> bytes:
    """Return a sine of half the full scale, 16-bit mono at 16 kHz."""
    return struct.pack(
        f"<{samples}h", *(round(16_000 * math.sin(2 * math.pi * hertz * index / RATE)) for index in range(samples))
    )


_WORD: Final = tone(round(RATE * WORD_S), 300)


class LoudVad(VADAnalyzer):
    """Takes what is loud for speech."""

    def __init__(self) -> None:
        super().__init__(sample_rate=RATE, params=VADParams(start_secs=0.1, stop_secs=0.2, min_volume=0))

    def num_frames_required(self) -> int:
        """Return the window: 20 ms."""
        return FRAME_SAMPLES

    def voice_confidence(self, buffer: bytes) -> float:
        """Return 1 for sound, 0 for silence."""
        return 1.0 if any(buffer) else 0.0


class FixedRecognizer(SegmentedSTTService):
    """Understands `HEARD`."""

    def __init__(self) -> None:
        super().__init__(ttfs_p99_latency=0.1, settings=STTSettings(model=None, language=None))

    def can_generate_metrics(self) -> bool:
        """Measure."""
        return True

    @traced_stt
    async def _trace(self, transcript: str, is_final: bool, language: Language | None = None) -> None:  # noqa: FBT001 Pipecat's signature
        """Make the span that Pipecat's own services make."""

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Recognize a segment."""
        del audio
        await self._trace(HEARD, is_final=True)
        yield TranscriptionFrame(HEARD, "caller", time_now_iso8601(), finalized=True)


class ScriptedModel(LLMService[Any]):
    """Says the next line of its script; before a line that begins with `!name`, it calls that tool."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines
        self._at = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer each context."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        line = self._lines[self._at % len(self._lines)]
        self._at += 1
        if line.startswith("!"):
            name, _, line = line[1:].partition(" ")
            await self._call_tool(name)
        await self.push_frame(LLMFullResponseStartFrame())
        for word in line.split():
            await self.push_frame(LLMTextFrame(word + " "))
        await self.push_frame(LLMFullResponseEndFrame())

    async def _call_tool(self, name: str) -> None:
        arguments = {"party": 2}
        call = FunctionCallFromLLM(name, "call-1", arguments, LLMContext())
        await self.push_frame(FunctionCallsStartedFrame(function_calls=[call]))
        await self.push_frame(FunctionCallInProgressFrame(name, "call-1", arguments))
        await asyncio.sleep(0.02)
        await self.push_frame(FunctionCallResultFrame(name, "call-1", arguments, {"booked": True}, run_llm=False))


class Parrot(LLMService[Any]):
    """Says the last message of its context back."""

    def __init__(self) -> None:
        super().__init__(settings=LLMSettings(model="parrot", temperature=0.5))

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer each context."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        last: Any = frame.context.get_messages()[-1]
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(f"You said {last['content']}."))
        await self.push_frame(LLMFullResponseEndFrame())


class ToneVoice(TTSService):
    """Speaks a tone of 60 ms for each word, a word at a time; `live`: it takes as long to make it as to speak it."""

    def __init__(self, *, live: bool = False) -> None:
        self._live = live
        super().__init__(
            sample_rate=RATE,
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=0.2,
            settings=TTSSettings(model=None, voice=None, language=None),
        )

    def can_generate_metrics(self) -> bool:
        """Measure."""
        return True

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak."""
        await self.start_tts_usage_metrics(text)
        for _ in text.split():
            yield TTSAudioRawFrame(audio=_WORD, sample_rate=RATE, num_channels=1, context_id=context_id)
            if self._live:
                await asyncio.sleep(WORD_S * 0.8)


class Echo(FrameProcessor):
    """Sends back what it hears."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Turn input into output."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            out = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
            await self.push_frame(out)
        else:
            await self.push_frame(frame, direction)


class Point(msgspec.Struct):
    """An argument with parts."""

    x: int
    y: int = 0


def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


async def shift(point: Point, by: Literal["left", "right"]) -> Point:
    """Shift a point."""
    return Point(x=point.x + (1 if by == "right" else -1), y=point.y)


async def sleep(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "awake"


def fail() -> None:
    """Raise what must not be told."""
    raise ValueError("the caller's card is 4111 1111")


def huge() -> str:
    """Return too much."""
    return "x" * 100_000


# Counts how often it was called, in this process.
CALLS: Final[list[str]] = []
# What its `configure` was given.
TAKEN: Final[list[list[Any]]] = []


def count(name: str) -> int:
    """Count."""
    CALLS.append(name)
    return len(CALLS)


def configure(mode: str | None, values: dict[str, Any]) -> None:
    """Take a mode and values."""
    if mode == "impossible":
        raise ValueError(mode)
    TAKEN.append([mode, values])


ON_END: Final[list[Any]] = []

EXPOSED: Final[dict[str, Any]] = {
    "add": add,
    "shift": shift,
    "sleep": sleep,
    "fail": fail,
    "huge": huge,
    "count": count,
    "configure": configure,
}


def _params() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_out_sample_rate=RATE,
        serializer=ProtobufFrameSerializer(),
    )


def _webrtc_params() -> TransportParams:
    return TransportParams(audio_in_enabled=True, audio_out_enabled=True, audio_out_sample_rate=RATE)


async def open_transport(runner_args: RunnerArguments) -> BaseTransport:
    """Return the transport that Pipecat makes of the arguments."""
    return await create_transport(runner_args, {"websocket": _params, "webrtc": _webrtc_params})


async def run_worker(worker: PipelineWorker, runner_args: RunnerArguments) -> None:
    """Run a pipeline until it ends."""
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


async def echo(runner_args: RunnerArguments) -> None:
    """Echo; ends when the client leaves."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    await run_worker(worker, runner_args)


async def careless(runner_args: RunnerArguments) -> None:
    """Echo that doesn't notice when its client leaves."""
    transport = await open_transport(runner_args)
    await run_worker(PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()])), runner_args)


async def talker(runner_args: RunnerArguments) -> None:
    """A whole voice pipeline: greets, answers by `body["lines"]`, says goodbye when its last line was spoken."""
    body: dict[str, Any] = runner_args.body or {}
    transport = await open_transport(runner_args)
    strategies = UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.3)])
    aggregators = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(vad_analyzer=LoudVad(), user_turn_strategies=strategies),
    )
    pipeline = Pipeline(
        [
            transport.input(),
            FixedRecognizer(),
            aggregators.user(),
            ScriptedModel(body.get("lines", ["All right."])),
            ToneVoice(live=body.get("live", False)),
            transport.output(),
            aggregators.assistant(),
        ]
    )
    worker = PipelineWorker(pipeline, params=PipelineParams(enable_metrics=True))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        await worker.queue_frame(TTSSpeakFrame(body.get("greeting", GREETING)))
        if body.get("hang_up"):
            await worker.queue_frame(EndFrame(reason="goodbye"))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    await run_worker(worker, runner_args)


async def minded(runner_args: RunnerArguments) -> None:
    """Answer with the last message of its context; exposes functions of its own call."""
    transport = await open_transport(runner_args)
    context = LLMContext()
    aggregators = LLMContextAggregatorPair(context, user_params=LLMUserAggregatorParams(vad_analyzer=LoudVad()))
    model, voice = Parrot(), ToneVoice()
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                FixedRecognizer(),
                aggregators.user(),
                model,
                voice,
                transport.output(),
                aggregators.assistant(),
            ]
        )
    )

    def set_now() -> list[Any]:
        """Return voice, model and temperature, and what `configure` was given."""
        voices, models = voice.settings.given_fields(), model.settings.given_fields()
        return [voices["voice"], models["model"], models["temperature"], TAKEN]

    async def remembered(*, last: int = 10) -> list[Any]:
        """Return the messages of the context."""
        return [dict(message) for message in context.get_messages() if isinstance(message, dict)][-last:]

    EXPOSED["remembered"] = remembered
    EXPOSED["set_now"] = set_now
    await run_worker(worker, runner_args)


async def tidy(runner_args: RunnerArguments) -> None:
    """Echo that has something to do at its end."""
    ended = asyncio.Event()

    async def save() -> None:
        await asyncio.sleep(0.1)
        ended.set()

    async def fail_at_the_end() -> None:
        raise ValueError(f"saved: {ended.is_set()}, of {runner_args.session_id}")

    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    ON_END.extend([(save, 1.0), (stay, 0.2), (fail_at_the_end, 1.0)])
    await echo(runner_args)


async def flowing(runner_args: RunnerArguments) -> None:
    """A flow that begins when the client is there, and goes on to a second node."""
    transport = await open_transport(runner_args)
    model = ScriptedModel(["Hello."])
    aggregators = LLMContextAggregatorPair(LLMContext())
    worker = PipelineWorker(
        Pipeline(
            [transport.input(), aggregators.user(), model, ToneVoice(), transport.output(), aggregators.assistant()]
        )
    )
    flow = FlowManager(worker=worker, llm=model, context_aggregator=aggregators, transport=transport)
    node: NodeConfig = {"name": "greeting", "task_messages": [{"role": "developer", "content": "Greet."}]}

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        await flow.initialize(node)
        await flow.set_node_from_config({**node, "name": "booking"})

    await run_worker(worker, runner_args)


async def raises(runner_args: RunnerArguments) -> None:
    """Raise what a bot may raise."""
    raise ValueError(f"secret of {runner_args.session_id}")


async def raises_later(runner_args: RunnerArguments) -> None:
    """Raise in the middle of a call."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await asyncio.sleep(1.0)
    running.cancel()
    raise KeyError("in the middle")


async def returns(_runner_args: RunnerArguments) -> None:
    """Run nothing."""


async def stubborn(runner_args: RunnerArguments) -> None:
    """Swallow cancellation, as bad code does."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            running.cancel()


async def guest(arguments: RunnerArguments) -> None:
    """Go into the room that is named, and echo; as quickstarts do it, with Pipecat's own way to a transport."""
    # Only in the session's process: the libraries of rooms don't survive a fork.
    from pipecat.transports.daily.transport import DailyParams  # noqa: PLC0415
    from pipecat.transports.livekit.transport import LiveKitParams  # noqa: PLC0415

    rooms: dict[str, Callable[..., TransportParams]] = {
        "daily": lambda: DailyParams(audio_in_enabled=True, audio_out_enabled=True),
        "livekit": lambda: LiveKitParams(audio_in_enabled=True, audio_out_enabled=True),
    }
    transport = await create_transport(arguments, rooms)
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


async def daily_quickstart(runner_args: RunnerArguments) -> None:
    """Run Daily's quickstart as it is, in a room that isn't Daily's; `body` says what it and the room need."""
    body: dict[str, Any] = runner_args.body or {}
    daily_room.install(Path(body["told"]))
    os.environ.update(body["env"])
    quickstart = load(BotSpec(name="daily", target=f"{ROOT}/tests/support/quickstart_bots/daily_bot.py:bot"))
    assert quickstart.entry is not None, quickstart.offer.error
    await quickstart.entry(runner_args)


async def daily_desk(runner_args: RunnerArguments) -> None:
    """Sit in a room that isn't Daily's and speak when told to; `body` says what the room is like."""
    from pipecat.transports.daily.transport import DailyParams  # noqa: PLC0415 as of `guest`

    body: dict[str, Any] = runner_args.body or {}
    daily_room.install(Path(body["told"]), **body.get("room", {}))
    params = {"daily": lambda: DailyParams(audio_out_enabled=True)}
    transport = await create_transport(runner_args, params)
    await run_worker(PipelineWorker(Pipeline([transport.input(), ToneVoice(), transport.output()])), runner_args)


BOTS: Final = {
    "guest": guest,
    "daily_desk": daily_desk,
    "daily_quickstart": daily_quickstart,
    "echo": echo,
    "careless": careless,
    "talker": talker,
    "minded": minded,
    "flowing": flowing,
    "tidy": tidy,
    "raises": raises,
    "raises_later": raises_later,
    "returns": returns,
    "stubborn": stubborn,
}
