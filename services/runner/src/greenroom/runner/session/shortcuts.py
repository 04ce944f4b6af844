"""Audio goes no further down a pipeline than somebody listens to it.

Pipecat hands each piece of the user's through all processors to the end. Behind the aggregator that looks for his voice
come the model, the bot's voice, the transport's output and the other aggregator, none of which does anything with it:
two thirds of what a piece costs. So it is dropped in front of the first processor behind which, the last one included,
nobody listens. Who doesn't is known of Pipecat's own classes by name; any other processor, an override of what is
known, a handler of a processor's events or an observer of the bot's own is taken for somebody who listens.

So it is with what the bot has said: the transport pushes each piece on when it has been sent, and behind it is seldom
more than the aggregator of the bot's words.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any, Final

from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.observers.turn_tracking_observer import TurnTrackingObserver
from pipecat.observers.user_bot_latency_observer import UserBotLatencyObserver
from pipecat.pipeline.pipeline import Pipeline, PipelineSink, PipelineSource
from pipecat.pipeline.worker import IdleFrameObserver, PipelineWorker
from pipecat.processors.aggregators.llm_response_universal import LLMAssistantAggregator, LLMContextAggregator
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserver
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.openai.base_llm import BaseOpenAILLMService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.websocket.fastapi import FastAPIWebsocketOutputTransport
from pipecat.turns.user_turn_completion_mixin import UserTurnCompletionLLMServiceMixin
from pipecat.utils.tracing.turn_trace_observer import TurnTraceObserver

from greenroom.runner.session import deaf_services

# Classes whose frame handling does nothing with the user's audio but pass it on; a conformance test looks at them.
DEAF: Final[frozenset[type]] = frozenset(
    {
        FrameProcessor,
        PipelineSource,
        PipelineSink,
        AIService,
        LLMService,
        UserTurnCompletionLLMServiceMixin,
        BaseOpenAILLMService,
        TTSService,
        BaseOutputTransport,
        FastAPIWebsocketOutputTransport,
        LLMContextAggregator,
        LLMAssistantAggregator,
    }
)
# Those that do nothing with the bot's audio either.
DEAF_TO_BOT: Final[frozenset[type]] = frozenset(
    {FrameProcessor, PipelineSource, PipelineSink, LLMContextAggregator, LLMAssistantAggregator}
)
# Observers that look at the first push of audio at most, or not at all.
INCURIOUS: Final[tuple[type, ...]] = (
    RTVIObserver,
    TurnTrackingObserver,
    UserBotLatencyObserver,
    TurnTraceObserver,
    IdleFrameObserver,
)
# Where a class decides on what becomes of a frame.
_DECIDES: Final = ("process_frame", "queue_frame", "push_frame")


def cut_user_audio(worker: PipelineWorker) -> FrameProcessor | None:
    """Drop the user's audio where nobody listens any more; return in front of whom, None: it is needed to the end."""
    before, deaf = _parted(worker, lambda kind: kind in DEAF or deaf_services.is_one(kind))
    return _cut(worker, InputAudioRawFrame, deaf) if before else None


def cut_bot_audio(worker: PipelineWorker) -> FrameProcessor | None:
    """Drop what the bot has said behind the transport; return in front of whom, None: there somebody listens."""
    before, deaf = _parted(worker, DEAF_TO_BOT.__contains__)
    return _cut(worker, OutputAudioRawFrame, deaf) if before and isinstance(before[-1], BaseOutputTransport) else None


def _parted(
    worker: PipelineWorker, is_deaf: Callable[[type], bool]
) -> tuple[list[FrameProcessor], list[FrameProcessor]]:
    """Return the processors up to the last that listens, and those behind it."""
    line, deaf = list(_line(worker.pipeline)), list[FrameProcessor]()
    observers: Any = worker._observer._observers  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if all(_of(INCURIOUS, observer) for observer in observers):
        while line and _is_deaf(line[-1], is_deaf):
            deaf.append(line.pop())
    return line, deaf[::-1]


def _cut(worker: PipelineWorker, kind: type[Frame], deaf: Collection[FrameProcessor]) -> FrameProcessor | None:
    first = next((each for each in deaf if not isinstance(each, PipelineSource | PipelineSink)), None)
    if first is not None:
        owner: Any = first
        owner.queue_frame = _Cut(first.queue_frame, kind, worker)
    return first


class _Cut:
    """Stands for a processor's `queue_frame`, and drops frames of a kind."""

    def __init__(self, queue: Callable[..., Awaitable[None]], kind: type[Frame], worker: PipelineWorker) -> None:
        self._queue = queue
        self._kind = kind
        self._worker = worker

    async def __call__(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM, callback: FrameCallback | None = None
    ) -> None:
        if (
            isinstance(frame, self._kind)
            and direction is FrameDirection.DOWNSTREAM
            and callback is None
            # Who asks for frames that reach the end may ask for any.
            and not self._worker.reached_downstream_types
        ):
            return
        await self._queue(frame, direction, callback)


def _line(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    """Return the processors one behind the other; what has branches is one of them."""
    if type(processor) is Pipeline:
        for inner in processor.processors:
            yield from _line(inner)
    else:
        yield processor


def _is_deaf(processor: FrameProcessor, is_deaf: Callable[[type], bool]) -> bool:
    handlers: Any = processor._event_handlers  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    watched = any(handlers[name].handlers for name in handlers if name.endswith(("_process_frame", "_push_frame")))
    own = any(name in vars(processor) and not isinstance(vars(processor)[name], _Cut) for name in _DECIDES)
    deciding = [kind for kind in type(processor).__mro__ if any(name in vars(kind) for name in _DECIDES)]
    return not watched and not own and all(is_deaf(kind) for kind in deciding)


def _of(kinds: tuple[type, ...], observer: object) -> bool:
    """Tell whether an observer is one of Pipecat's, and looks at pushes as those do."""
    for kind in type(observer).__mro__:
        if "on_push_frame" in vars(kind) or "on_process_frame" in vars(kind):
            return kind in kinds
    return True
