"""The user's audio goes no further down a pipeline than somebody listens to it.

Pipecat hands each piece through all processors to the end. Behind the aggregator that looks for the user's voice come
the model, the voice, the transport's output and the other aggregator, none of which does anything with it: two thirds
of what a piece costs. So it is dropped in front of the first processor behind which, the last one included, nobody
listens. Who doesn't is known of Pipecat's own classes by name; any other processor, an override of what is known, a
handler of a processor's events or an observer of the bot's own is taken for somebody who listens.
"""

from collections.abc import Iterator
from typing import Any, Final

from pipecat.frames.frames import Frame, InputAudioRawFrame
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
# Observers that look at the first push of the user's audio at most, or not at all.
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
    observers: Any = worker._observer._observers  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    if not all(_of(INCURIOUS, observer) for observer in observers):
        return None
    line = list(_line(worker.pipeline))
    deaf: list[FrameProcessor] = []
    while line and _is_deaf(line[-1]):
        deaf.append(line.pop())
    if not line or not any(not isinstance(processor, PipelineSource | PipelineSink) for processor in deaf):
        return None
    first = next(processor for processor in reversed(deaf) if not isinstance(processor, PipelineSource | PipelineSink))
    _drop(first, worker)
    return first


def _drop(processor: FrameProcessor, worker: PipelineWorker) -> None:
    queue = processor.queue_frame

    async def queue_frame(
        frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM, callback: FrameCallback | None = None
    ) -> None:
        if (
            isinstance(frame, InputAudioRawFrame)
            and direction is FrameDirection.DOWNSTREAM
            and callback is None
            # Who asks for frames that reach the end may ask for any.
            and not worker.reached_downstream_types
        ):
            return
        await queue(frame, direction, callback)

    owner: Any = processor
    owner.queue_frame = queue_frame


def _line(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    """Return the processors one behind the other; what has branches is one of them."""
    if type(processor) is Pipeline:
        for inner in processor.processors:
            yield from _line(inner)
    else:
        yield processor


def _is_deaf(processor: FrameProcessor) -> bool:
    handlers: Any = processor._event_handlers  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    watched = any(handlers[name].handlers for name in handlers if name.endswith(("_process_frame", "_push_frame")))
    own = any(name in vars(processor) for name in _DECIDES)
    deciding = [kind for kind in type(processor).__mro__ if any(name in vars(kind) for name in _DECIDES)]
    return not watched and not own and all(kind in DEAF or deaf_services.is_one(kind) for kind in deciding)


def _of(kinds: tuple[type, ...], observer: object) -> bool:
    """Tell whether an observer is one of Pipecat's, and looks at pushes as those do."""
    for kind in type(observer).__mro__:
        if "on_push_frame" in vars(kind) or "on_process_frame" in vars(kind):
            return kind in kinds
    return True
