"""A general assistant over OpenAI's speech, chat and transcription APIs, or any server that speaks the same.

`OPENAI_API_KEY` is the key; `OPENAI_BASE_URL`, if set, the server (e.g. `http://localhost:8000/v1`).
"""

import os
import re
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
from pipecat.utils.errors import classify_http_exception, classify_http_status_code

from greenroom.runner.bots._transport import TAKEN, make_worker, open_transport, run

SECRETS: Final = ("OPENAI_API_KEY",)
DESCRIPTION: Final = "General assistant over OpenAI's APIs, or a compatible server; needs OPENAI_API_KEY."
TRANSPORTS: Final = TAKEN
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
# Callers listen and think for longer than the 5 s after which the client would hang up on an idle server: the next
# answer would wait for handshakes. What the server has closed meanwhile isn't used again.
_KEEPALIVE_S: Final = 300.0
_TOOL_TIMEOUT_S: Final = 10.0
_END_OF_TURN_S: Final = 0.6
# What speech of OpenAI's is made of, in Hz; the transport resamples it.
_TTS_RATE: Final = 24_000
# One apology for all errors that come of one failure.
_APOLOGY_INTERVAL_S: Final = 5.0
# How OpenAI's client begins the text of an error.
_STATUS: Final = re.compile(r"Error code: (\d{3})\b")


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
    # Pipecat's services leave connections open when they end; what is one client here is closed here.
    async with make_client() as http_client:
        access = {"api_key": key, "base_url": os.environ.get("OPENAI_BASE_URL") or None, "http_client": http_client}
        await _hold_call(runner_args, access)


def make_client() -> openai.DefaultAioHttpClient:
    """Return a client for all that a call asks for, which stays connected while the caller speaks.

    It reads and writes HTTP with aiohttp, whose parser is in C: that takes half of what the usual one takes.
    """
    usual = openai.DEFAULT_CONNECTION_LIMITS
    limits = type(usual)(
        max_connections=usual.max_connections,
        max_keepalive_connections=usual.max_keepalive_connections,
        keepalive_expiry=_KEEPALIVE_S,
    )
    return openai.DefaultAioHttpClient(timeout=_timeout(_AUDIO_TIMEOUT_S), limits=limits)


async def _hold_call(runner_args: RunnerArguments, access: dict[str, Any]) -> None:
    body: dict[str, Any] = runner_args.body or {}
    transport = await open_transport(runner_args)
    tools: list[Any] = [end_call]
    context = LLMContextAggregatorPair(LLMContext(tools=tools), user_params=_turns(body.get("end_of_turn", "model")))
    stt = OpenAISTTService(
        **access,
        settings=OpenAISTTService.Settings(**_given(model=body.get("stt_model"))),
    )
    llm = PhoneLLMService(
        **access,
        function_call_timeout_secs=_TOOL_TIMEOUT_S,
        settings=OpenAILLMService.Settings(
            system_instruction=body.get("instructions") or INSTRUCTIONS, **_given(model=body.get("llm_model"))
        ),
    )
    tts = OpenAITTSService(
        **access,
        sample_rate=_TTS_RATE,
        settings=OpenAITTSService.Settings(**_given(model=body.get("tts_model"), voice=body.get("voice"))),
    )
    pipeline = Pipeline(
        [transport.input(), stt, context.user(), llm, tts, transport.output(), context.assistant()],
    )
    worker = make_worker(pipeline, runner_args)
    failures = Failures(worker, tts)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        if greeting := body.get("greeting", GREETING):
            await worker.queue_frame(TTSSpeakFrame(greeting))

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(_worker: PipelineWorker, error: ErrorFrame) -> None:
        await failures.handle(error)

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
    """OpenAI's chat models, without the patience of OpenAI's client.

    Args:
        http_client: closed by whoever made it.
    """

    def __init__(self, *, http_client: openai.DefaultAioHttpClient, **kwargs: Any) -> None:
        # The base class asks for the client while it is being made.
        self._http_client = http_client
        super().__init__(**kwargs)

    @override
    def create_client(
        self, api_key: str | None = None, base_url: str | None = None, *_args: Any, **_kwargs: Any
    ) -> openai.AsyncOpenAI:
        """Return a client that gives up before the caller does."""
        return openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            http_client=self._http_client,
            timeout=_timeout(_LLM_TIMEOUT_S),
            max_retries=_RETRIES,
        )


class Failures:
    """Decides what becomes of a call when a service fails.

    What may pass is apologised for: without that, a caller hears nothing and doesn't know why. What won't pass (a key
    or a model that is refused) ends the call.
    """

    def __init__(self, worker: PipelineWorker, voice: OpenAITTSService) -> None:
        self._worker = worker
        self._voice = voice
        self._apologised_at = -_APOLOGY_INTERVAL_S

    async def handle(self, error: ErrorFrame) -> None:
        """Apologise, or end the call; nothing is said if it is the voice that failed, or if it was said just now."""
        failed = error.processor
        if _is_permanent(error):
            await self._worker.cancel(reason=f"{failed} can no longer do its job")
            return
        now = time.monotonic()
        if failed is not self._voice and now - self._apologised_at >= _APOLOGY_INTERVAL_S:
            self._apologised_at = now
            await self._worker.queue_frame(TTSSpeakFrame(APOLOGY))


def _is_permanent(error: ErrorFrame) -> bool:
    """Whether the next request will be refused as this one was.

    Pipecat knows this of the model, but not of OpenAI's ears and voice: of these only the error's text tells.
    """
    if error.category is not None and error.category.is_permanent:
        return True
    if error.exception is not None:
        return classify_http_exception(error.exception).is_permanent
    status = _STATUS.search(error.error)
    return status is not None and classify_http_status_code(int(status[1])).is_permanent


def _turns(end_of_turn: str) -> LLMUserAggregatorParams:
    stop = (
        SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=_END_OF_TURN_S)
        if end_of_turn == "pause"
        else TurnAnalyzerUserTurnStopStrategy(turn_analyzer=LocalSmartTurnAnalyzerV3())
    )
    return LLMUserAggregatorParams(
        vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=UserTurnStrategies(stop=[stop])
    )


def _timeout(seconds: float) -> openai.Timeout:
    # With aiohttp `pool` is for the whole way to a connection, names included, and `connect` for a socket's.
    return openai.Timeout(seconds, connect=_CONNECT_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S)


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that have a value; all others keep Pipecat's defaults."""
    return {name: value for name, value in settings.items() if value is not None}
