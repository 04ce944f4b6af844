"""Audio goes no further than somebody listens to it."""

import asyncio
import inspect
import re
from typing import Any, override

import pytest
from pipecat.frames.frames import Frame, InputAudioRawFrame, TextFrame, TTSAudioRawFrame, UserAudioRawFrame
from pipecat.observers.base_observer import BaseObserver
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.audio.audio_buffer_processor import AudioBufferProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.session import shortcuts
from greenroom.runner.session.shortcuts import DEAF, DEAF_TO_BOT, cut_bot_audio, cut_user_audio

_AUDIO = InputAudioRawFrame(audio=bytes(640), sample_rate=16_000, num_channels=1)


class Ears(FrameProcessor):
    """A bot's own processor, that passes everything on and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        await self.push_frame(frame, direction)

    def of(self, kind: type[Frame]) -> int:
        """Return how many of a kind it has seen."""
        return sum(isinstance(frame, kind) for frame in self.seen)


class OwnModel(OpenAILLMService):
    """A bot's own service, that may do anything with frames."""

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)


class OwnOutput(BaseOutputTransport):
    """A transport that may do anything with frames."""

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)


class Deaf(FrameProcessor):
    """What a test has declared not to listen, and counts whether it was given something nevertheless."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0
        self.texts: list[Frame] = []

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.heard += isinstance(frame, InputAudioRawFrame)
        if isinstance(frame, TextFrame):
            self.texts.append(frame)
        await self.push_frame(frame, direction)


class Parts:
    """The parts of a usual bot, which aren't run."""

    def __init__(self) -> None:
        pair = LLMContextAggregatorPair(LLMContext())
        self.user, self.assistant = pair.user(), pair.assistant()
        self.model = OpenAILLMService(api_key="k")
        self.voice = OpenAITTSService(api_key="k")
        self.output = BaseOutputTransport(TransportParams(audio_out_enabled=True))

    def worker(self, *processors: FrameProcessor, **options: Any) -> PipelineWorker:
        """Return a worker with a pipeline of some."""
        return PipelineWorker(Pipeline(list(processors)), **options)


@pytest.fixture
async def parts() -> Parts:
    """A usual bot's."""
    return Parts()


async def test_a_usual_bot_hears_up_to_its_aggregator(parts: Parts) -> None:
    """Behind it come model, voice, output and the other aggregator, of which none listens."""
    worker = parts.worker(Ears(), parts.user, parts.model, parts.voice, parts.output, parts.assistant)
    assert cut_user_audio(worker) is parts.model


async def test_whoever_may_listen_is_heard_to(parts: Parts) -> None:
    """A recorder at the end, a bot's own processor or service, branches: audio goes as far as the last of them."""
    assert cut_user_audio(parts.worker(parts.user, parts.model, parts.output, AudioBufferProcessor())) is None
    parts = Parts()
    assert cut_user_audio(parts.worker(parts.user, parts.model, Ears(), parts.output)) is parts.output
    parts = Parts()
    assert cut_user_audio(parts.worker(parts.user, OwnModel(api_key="k"), parts.voice)) is parts.voice
    parts = Parts()
    assert cut_user_audio(parts.worker(parts.user, ParallelPipeline([parts.model], [parts.voice]))) is None


async def test_whoever_watches_a_processor_sees_what_it_would_see(parts: Parts) -> None:
    """A handler of a processor's events, or an observer of the bot's own, leaves everything as it is."""

    @parts.voice.event_handler("on_before_process_frame")
    async def look(_processor: FrameProcessor, _frame: Frame) -> None:
        pass

    assert cut_user_audio(parts.worker(parts.user, parts.model, parts.voice, parts.output)) is parts.output
    parts = Parts()

    class Observer(BaseObserver):
        @override
        async def on_push_frame(self, data: Any) -> None:
            pass

    assert cut_user_audio(parts.worker(parts.user, parts.model, observers=[Observer()])) is None


async def test_only_the_users_audio_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text reaches the end; so does the user's audio once somebody asks for frames that do."""
    ears, end = Ears(), Deaf()
    reached: list[Frame] = []
    worker = PipelineWorker(
        Pipeline([ears, end]), params=PipelineParams(), cancel_on_idle_timeout=False, enable_rtvi=False
    )
    monkeypatch.setattr(shortcuts, "DEAF", DEAF | {Deaf})
    assert cut_user_audio(worker) is end

    @worker.event_handler("on_frame_reached_downstream")
    async def on_frame_reached_downstream(_worker: PipelineWorker, frame: Frame) -> None:
        reached.append(frame)

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    text = TextFrame("hello")
    async with asyncio.timeout(10):
        await worker.queue_frames([_AUDIO, UserAudioRawFrame(user_id="u", audio=b"", sample_rate=1, num_channels=1)])
        await worker.queue_frame(text)
        while not end.texts:
            await asyncio.sleep(0.01)
        assert end.texts == [text]
        assert ears.of(InputAudioRawFrame) == 2
        assert end.heard == 0
        worker.set_reached_downstream_filter((InputAudioRawFrame,))
        await worker.queue_frame(_AUDIO)
        while not reached:
            await asyncio.sleep(0.01)
    assert end.heard == 1
    await worker.cancel()
    await running


async def test_what_the_bot_has_said_ends_at_the_transport(parts: Parts) -> None:
    """Behind it is the aggregator of what the bot says, which reads; the user's audio may be cut there too."""
    worker = parts.worker(parts.user, parts.model, parts.voice, parts.output, parts.assistant)
    assert cut_user_audio(worker) is parts.model
    assert cut_bot_audio(worker) is parts.assistant
    parts = Parts()
    worker = parts.worker(parts.user, OwnOutput(TransportParams()), parts.assistant)
    assert cut_user_audio(worker) is cut_bot_audio(worker) is parts.assistant


async def test_whoever_may_listen_to_the_bot_hears_it(parts: Parts) -> None:
    """A recorder or a processor of the bot's own behind the transport, and a pipeline without one, are left alone."""
    assert cut_bot_audio(parts.worker(parts.output, AudioBufferProcessor(), parts.assistant)) is None
    parts = Parts()
    assert cut_bot_audio(parts.worker(parts.output, Ears())) is None
    parts = Parts()
    assert cut_bot_audio(parts.worker(parts.output, Ears(), parts.assistant)) is None
    parts = Parts()
    assert cut_bot_audio(parts.worker(parts.voice, parts.assistant)) is None
    parts = Parts()
    assert cut_bot_audio(parts.worker(parts.user, parts.model, parts.voice, parts.output)) is None


async def test_only_the_bots_audio_is_cut_behind_the_transport(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words reach the aggregator, and so does the user's audio."""
    cut_bot_audio(parts.worker(parts.output, parts.assistant))
    came: list[Frame] = []

    async def take(frame: Frame, _direction: FrameDirection, _callback: object) -> None:
        came.append(frame)

    monkeypatch.setattr(parts.assistant.queue_frame, "_queue", take)
    said = TTSAudioRawFrame(audio=bytes(640), sample_rate=16_000, num_channels=1)
    for frame in (said, _AUDIO, word := TextFrame("hello")):
        await parts.assistant.queue_frame(frame, FrameDirection.DOWNSTREAM)
    assert came == [_AUDIO, word]


def test_who_is_known_not_to_listen_does_not() -> None:
    """None of these classes looks at the user's audio where it decides on frames: they name no such frame there."""
    for kind in DEAF:
        for name in ("process_frame", "queue_frame", "push_frame"):
            if method := vars(kind).get(name):
                named = set(re.findall(r"\w*AudioRawFrame", inspect.getsource(method)))
                assert named <= {"OutputAudioRawFrame", "TTSAudioRawFrame"}, kind
                if kind in DEAF_TO_BOT:
                    assert not named, kind
