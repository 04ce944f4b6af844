"""One full turn of a call that nobody makes: what is slow the first time is done before there is a caller.

A pipeline like that of most bots (WebSocket transport, VAD, turn detection, segmented recognition, a language model,
speech synthesis, both context aggregators) hears a sentence and answers it. The services are stand-ins; everything
between them is Pipecat's own, and hundreds of modules are first imported when a frame reaches them.
"""

import asyncio
import math
import struct
from collections.abc import AsyncGenerator
from typing import Any, Final, override

from fastapi import WebSocket
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

RATE: Final = 16_000
_FRAME_SAMPLES: Final = RATE // 50
_SPEECH_FRAMES: Final = 40
_SILENCE_FRAMES: Final = 60
# Faster than real time, but not so fast that the VAD's thread falls behind.
_FRAME_INTERVAL_S: Final = 0.002
_TURN_STOP_S: Final = 0.3
_ANSWER: Final = "This is a rehearsal. Nobody hears it."


async def rehearse(timeout_s: float) -> bool:
    """Play one turn on the running event loop; return whether the bot's answer came out.

    Raises:
        TimeoutError: the turn took longer than `timeout_s`.
    """
    caller = _Caller()
    transport = FastAPIWebsocketTransport(
        websocket=caller.websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
        ),
    )
    context = LLMContext()
    # The turn model may find the sentence incomplete; it is answered all the same.
    listening = LLMUserAggregatorParams(vad_analyzer=_ScriptedVad(), user_turn_stop_timeout=_TURN_STOP_S)
    aggregators = LLMContextAggregatorPair(context, user_params=listening)
    pipeline = Pipeline(
        [
            transport.input(),
            StandInRecognition(),
            aggregators.user(),
            StandInModel(),
            StandInSpeech(),
            transport.output(),
            aggregators.assistant(),
        ]
    )
    params = PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    worker = PipelineWorker(pipeline, params=params, check_dangling_tasks=False)
    worker.set_reached_upstream_filter((BotStoppedSpeakingFrame,))
    worker.set_reached_downstream_filter((BotStoppedSpeakingFrame,))

    async def answered(_worker: PipelineWorker, _frame: Frame) -> None:
        caller.answered = True
        await worker.stop_when_done()

    worker.add_event_handler("on_frame_reached_downstream", answered)
    worker.add_event_handler("on_frame_reached_upstream", answered)
    runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
    await runner.add_workers(worker)
    async with asyncio.timeout(timeout_s):
        try:
            await runner.run()
        except asyncio.CancelledError:
            await worker.cancel()
            raise
    return caller.answered


class _Caller:
    """A WebSocket whose client says one sentence and then only listens."""

    def __init__(self) -> None:
        self.answered = False
        self._serializer = ProtobufFrameSerializer()
        self._sent = -1
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
        }
        self.websocket = WebSocket(scope, self._receive, self._send)
        # The transport takes sockets that were accepted.
        self.websocket.client_state = self.websocket.application_state = type(self.websocket.client_state).CONNECTED

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(_FRAME_INTERVAL_S)
        self._sent += 1
        loud = self._sent % (_SPEECH_FRAMES + _SILENCE_FRAMES) < _SPEECH_FRAMES
        # The serializer writes what a server sends; audio that comes in has the same form.
        frame = OutputAudioRawFrame(audio=_TONE if loud else _SILENCE, sample_rate=RATE, num_channels=1)
        return {"type": "websocket.receive", "bytes": await self._serializer.serialize(frame)}

    async def _send(self, _message: Any) -> None:
        pass


class _ScriptedVad(SileroVADAnalyzer):
    """Runs the model, and believes the script: loud is speech."""

    @override
    def voice_confidence(self, buffer: bytes) -> float:
        super().voice_confidence(buffer)
        return 1.0 if any(buffer) else 0.0


class StandInRecognition(SegmentedSTTService):
    """Understands everything."""

    def __init__(self) -> None:
        super().__init__(ttfs_p99_latency=0.1, settings=STTSettings(model=None, language=None))

    @override
    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        yield TranscriptionFrame("this is a rehearsal", "caller", time_now_iso8601())


class StandInModel(LLMService[Any]):
    """Always says the same."""

    def __init__(self) -> None:
        super().__init__(
            settings=LLMSettings(
                model=None,
                system_instruction=None,
                temperature=None,
                max_tokens=None,
                top_p=None,
                top_k=None,
                frequency_penalty=None,
                presence_penalty=None,
                seed=None,
                filter_incomplete_user_turns=False,
                user_turn_completion_config=None,
            )
        )

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await self.push_frame(LLMFullResponseStartFrame())
            await self.push_frame(LLMTextFrame(_ANSWER))
            await self.push_frame(LLMFullResponseEndFrame())
        else:
            await self.push_frame(frame, direction)


class StandInSpeech(TTSService):
    """Speaks a tenth of a second, whatever the text."""

    def __init__(self) -> None:
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=0.1,
            settings=TTSSettings(model=None, voice=None, language=None),
        )

    @override
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        yield TTSAudioRawFrame(audio=_TONE * 5, sample_rate=RATE, num_channels=1, context_id=context_id)


def _tone() -> bytes:
    samples = (round(12_000 * math.sin(2 * math.pi * 200 * index / RATE)) for index in range(_FRAME_SAMPLES))
    return struct.pack(f"<{_FRAME_SAMPLES}h", *samples)


_TONE: Final = _tone()
_SILENCE: Final = bytes(2 * _FRAME_SAMPLES)
