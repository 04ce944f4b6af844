"""A general assistant over OpenAI's speech, chat and transcription APIs, or any server that speaks the same.

`OPENAI_API_KEY` is the key; `OPENAI_BASE_URL`, if set, the server (e.g. `http://localhost:8000/v1`).
"""

import os
import time
from typing import Any, Final, override

import openai
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, ErrorFrame, FunctionCallResultProperties, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.types import RunnerArguments
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import VALID_VOICES, OpenAITTSService
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy, TurnAnalyzerUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from greenroom.runner.bots._transport import make_worker, open_transport, run

DESCRIPTION: Final = "General assistant over OpenAI's APIs, or a compatible server; needs OPENAI_API_KEY."
INSTRUCTIONS: Final = (
    "You are on the phone. Answer in one or two short sentences of plain words, without lists, headings or emoji: "
    "what you write is spoken. When the caller says goodbye, say goodbye and then call end_call."
)
GREETING: Final = "Hello! How can I help you?"
APOLOGY: Final = "Sorry, I couldn't work that out just now. Could you say it again?"
# Why the call ends when the model has called end_call.
GOODBYE: Final = "goodbye"

BODY_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "instructions": {"type": "string", "maxLength": 8000, "description": "The model's instructions."},
        "greeting": {
            "type": "string",
            "maxLength": 500,
            "default": GREETING,
            "description": "What is said first; empty: nothing.",
        },
        "llm_model": {"type": "string", "minLength": 1, "maxLength": 100, "description": "Model that answers."},
        "stt_model": {"type": "string", "minLength": 1, "maxLength": 100, "description": "Model that transcribes."},
        "tts_model": {"type": "string", "minLength": 1, "maxLength": 100, "description": "Model that speaks."},
        "voice": {"type": "string", "enum": sorted(VALID_VOICES), "default": "alloy"},
        "end_of_turn": {
            "type": "string",
            "enum": ["model", "pause"],
            "default": "model",
            "description": "Whether a model judges that the caller has finished, or a pause of 0.6 s says so.",
        },
    },
    "additionalProperties": False,
}

# OpenAI's client would wait for 10 minutes; a caller hangs up earlier.
_CONNECT_TIMEOUT_S: Final = 3.0
# To the first token, and between two of them.
_LLM_TIMEOUT_S: Final = 10.0
# A transcript comes as a whole; speech comes as it is made.
_AUDIO_TIMEOUT_S: Final = 15.0
_RETRIES: Final = 1
_TOOL_TIMEOUT_S: Final = 10.0
_END_OF_TURN_S: Final = 0.6
# What speech of OpenAI's is made of, in Hz; the transport resamples it.
_TTS_RATE: Final = 24_000
# One apology for all errors that come of one failure.
_APOLOGY_INTERVAL_S: Final = 5.0


class MissingKey(Exception):
    """`OPENAI_API_KEY` isn't set where this bot runs."""


async def bot(runner_args: RunnerArguments) -> None:
    """Hold one call.

    Raises:
        MissingKey: there is no key.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise MissingKey("OPENAI_API_KEY isn't set: the assistant can neither hear, think nor speak without it")
    base_url = os.environ.get("OPENAI_BASE_URL") or None
    body: dict[str, Any] = runner_args.body or {}
    transport = await open_transport(runner_args)
    tools: list[Any] = [end_call]
    context = LLMContextAggregatorPair(LLMContext(tools=tools), user_params=_turns(body.get("end_of_turn", "model")))
    stt = OpenAISTTService(
        api_key=key,
        base_url=base_url,
        http_client=_http_client(),
        settings=OpenAISTTService.Settings(**_given(model=body.get("stt_model"))),
    )
    llm = PhoneLLMService(
        api_key=key,
        base_url=base_url,
        function_call_timeout_secs=_TOOL_TIMEOUT_S,
        settings=OpenAILLMService.Settings(
            system_instruction=body.get("instructions") or INSTRUCTIONS, **_given(model=body.get("llm_model"))
        ),
    )
    tts = OpenAITTSService(
        api_key=key,
        base_url=base_url,
        http_client=_http_client(),
        sample_rate=_TTS_RATE,
        settings=OpenAITTSService.Settings(**_given(model=body.get("tts_model"), voice=body.get("voice"))),
    )
    pipeline = Pipeline(
        [transport.input(), stt, context.user(), llm, tts, transport.output(), context.assistant()],
    )
    worker = make_worker(pipeline, runner_args)
    apologise = Apologies(worker, tts)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        if greeting := body.get("greeting", GREETING):
            await worker.queue_frame(TTSSpeakFrame(greeting))

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(_worker: PipelineWorker, error: ErrorFrame) -> None:
        await apologise.about(error)

    await run(worker, transport, runner_args)


def warm() -> None:
    """Load the models that are local, so that processes forked from this one share them; no thread is left behind."""
    SileroVADAnalyzer()
    LocalSmartTurnAnalyzerV3()


async def end_call(params: FunctionCallParams) -> None:
    """End the call, after the caller has said goodbye and been answered."""
    await params.result_callback({"ended": True}, properties=FunctionCallResultProperties(run_llm=False))
    # Queued behind what is still being said.
    await params.pipeline_worker.queue_frame(EndFrame(reason=GOODBYE))


class PhoneLLMService(OpenAILLMService):
    """OpenAI's chat models, without its client's patience."""

    @override
    def create_client(self, *args: Any, **kwargs: Any) -> openai.AsyncOpenAI:
        """Return a client that gives up in time."""
        client = super().create_client(*args, **kwargs)
        return client.with_options(
            timeout=openai.Timeout(_LLM_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S), max_retries=_RETRIES
        )


class Apologies:
    """Says sorry when an answer fails: without that, a caller hears nothing and doesn't know why."""

    def __init__(self, worker: PipelineWorker, voice: OpenAITTSService) -> None:
        self._worker = worker
        self._voice = voice
        self._last_at = -_APOLOGY_INTERVAL_S

    async def about(self, error: ErrorFrame) -> None:
        """Apologise for an error, if there is a voice to do so and it hasn't just been done."""
        failed = error.processor
        now = time.monotonic()
        if failed is self._voice or (failed is not None and not failed.is_usable):
            return
        if now - self._last_at >= _APOLOGY_INTERVAL_S:
            self._last_at = now
            await self._worker.queue_frame(TTSSpeakFrame(APOLOGY))


def _turns(end_of_turn: str) -> LLMUserAggregatorParams:
    stop = (
        SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=_END_OF_TURN_S)
        if end_of_turn == "pause"
        else TurnAnalyzerUserTurnStopStrategy(turn_analyzer=LocalSmartTurnAnalyzerV3())
    )
    return LLMUserAggregatorParams(
        vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=UserTurnStrategies(stop=[stop])
    )


def _http_client() -> openai.DefaultAsyncHttpxClient:
    return openai.DefaultAsyncHttpxClient(timeout=openai.Timeout(_AUDIO_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S))


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that have a value; all others keep Pipecat's defaults."""
    return {name: value for name, value in settings.items() if value is not None}
