"""The front desk of a restaurant: books tables, tells the time, passes callers on. Needs no network and no key.

Voice activity by Silero, recognition by pocketsphinx with a grammar, speech by espeak-ng, and instead of a language
model a set of rules that drives a Pipecat flow.
"""

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.flows import FlowManager
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.processors.frameworks.rtvi.models import ClientMessage
from pipecat.runner.types import RunnerArguments
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.empty_user_turn import EmptyUserTurnConfig
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from greenroom.runner.bots._transport import RATE, TAKEN, make_worker, open_transport, run
from greenroom.runner.bots.frontdesk_flow import FrontDeskFlow
from greenroom.runner.bots.frontdesk_rules import UNCLEAR_MESSAGE, reply
from greenroom.runner.bots.rule_llm import RuleLLMService
from greenroom.runner.speech import espeak
from greenroom.runner.speech.espeak_tts import EspeakTTSService
from greenroom.runner.speech.pocketsphinx_stt import PocketsphinxSTTService
from greenroom.runner.speech.recognizer import GrammarRecognizer, recognizer

DESCRIPTION: Final = "Front desk of a restaurant: books tables and passes callers on. Works offline."
TRANSPORTS: Final = TAKEN
REHEARSE: Final = True
HOUSE: Final = "the Green Room restaurant"
BODY_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "house": {
            "type": "string",
            "description": "Name of the restaurant, as it is to be spoken.",
            "minLength": 1,
            "maxLength": 80,
            "pattern": "^[^{}]*$",
            "default": HOUSE,
        },
        "voice": {
            "type": "string",
            "description": "Voice of espeak-ng.",
            "pattern": r"^[a-z]{2,3}(-[a-z0-9]+)*(\+[A-Za-z0-9]+)?$",
            "maxLength": 40,
            "default": espeak.BOT_VOICE,
        },
        "rate_wpm": {
            "type": "integer",
            "description": "Words a minute.",
            "minimum": espeak.MIN_RATE_WPM,
            "maximum": espeak.MAX_RATE_WPM,
            "default": espeak.BOT_RATE_WPM,
        },
        "timezone": {
            "type": "string",
            "description": "Time zone of the restaurant, as IANA names it; without one, that of the host.",
            "maxLength": 64,
        },
    },
    "additionalProperties": False,
}

# The message, as a client would send it, that the call has nearly lasted as long as it may.
ENDING_SOON: Final = "call-ending-soon"
# Offline recognition needs whole sentences: the pause that ends a turn is longer than any within one.
_END_OF_TURN_S: Final = 0.6


async def bot(runner_args: RunnerArguments) -> None:
    """Hold one call: greet who connects, and hang up after the goodbye.

    Raises:
        UnknownVoice: there is no such voice.
        ZoneInfoNotFoundError: there is no such time zone.
    """
    body: dict[str, Any] = runner_args.body or {}
    voice = body.get("voice", espeak.BOT_VOICE)
    espeak.check_voice(voice)
    transport = await open_transport(runner_args)
    context = LLMContextAggregatorPair(LLMContext(), user_params=_turns())
    llm = RuleLLMService(reply)
    tts = EspeakTTSService(
        settings=EspeakTTSService.Settings(
            voice=voice,
            rate_wpm=body.get("rate_wpm", espeak.BOT_RATE_WPM),
        )
    )
    pipeline = Pipeline(
        [
            transport.input(),
            PocketsphinxSTTService(_recognizer()),
            context.user(),
            llm,
            tts,
            transport.output(),
            context.assistant(),
        ]
    )
    worker = make_worker(pipeline, runner_args)
    conversation = FrontDeskFlow(
        house=body.get("house", HOUSE),
        now=_clock(body.get("timezone")),
    )
    flow = FlowManager(
        llm=llm,
        context_aggregator=context,
        worker=worker,
        transport=transport,
        global_functions=conversation.anywhere,
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        await flow.initialize(conversation.start())

    @worker.rtvi.event_handler("on_client_message")
    async def on_client_message(_rtvi: RTVIProcessor, message: ClientMessage) -> None:
        # Whoever runs the bot says it in this way; so may a client, who then gets the goodbye that he asked for.
        if message.type == ENDING_SOON:
            await flow.set_node_from_config(conversation.time_up())

    await run(worker, transport, runner_args)


def warm() -> None:
    """Load models and voices, so that processes forked from this one share them; it leaves no thread behind.

    Raises:
        EspeakUnavailable: the extra `frontdesk` isn't installed.
    """
    espeak.warm()
    _recognizer().transcribe(bytes(2 * RATE))
    vad = SileroVADAnalyzer(sample_rate=RATE)
    vad.set_sample_rate(RATE)
    vad.voice_confidence(bytes(2 * vad.num_frames_required()))


@functools.cache
def _recognizer() -> GrammarRecognizer:
    return recognizer(resources.files(__package__ or __name__).joinpath("frontdesk.jsgf").read_text())


def _turns() -> LLMUserAggregatorParams:
    return LLMUserAggregatorParams(
        vad_analyzer=SileroVADAnalyzer(),
        user_turn_strategies=UserTurnStrategies(
            # A synthetic caller's sentences sound unfinished to the model that Pipecat has for this.
            stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=_END_OF_TURN_S)]
        ),
        empty_user_turn=EmptyUserTurnConfig(interrupted_prompt=UNCLEAR_MESSAGE, idle_prompt=UNCLEAR_MESSAGE),
    )


def _clock(timezone: str | None) -> Callable[[], datetime]:
    zone = ZoneInfo(timezone) if timezone else None
    return lambda: datetime.now(UTC).astimezone(zone)
