"""From frames to what happens in a call: speech, tools, metrics, errors, turns, and the end."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any, Final

from pipecat.frames.frames import (
    AggregatedTextFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    LLMFullResponseStartFrame,
    LLMMarkerFrame,
    LLMTextFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    StartFrame,
    StopFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.observers.error_observer import ErrorEvent
from pipecat.observers.function_call_observer import FunctionCallEvent, FunctionCallEventKind
from pipecat.observers.user_bot_latency_observer import LatencyBreakdown
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from greenroom.common.messages import EventType
from greenroom.runner.control import Answered
from greenroom.runner.session import facts
from greenroom.runner.session.audio import WIDTH
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.inorder import Errors, FunctionCalls, Latency, Turns
from greenroom.runner.session.observer import Route
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.speech import LATE_WORD_MS, AgentSpeech, UserSpeech, Utterance
from greenroom.runner.session.turns import TurnSpans

# Calls whose arguments are remembered until they settle.
_MAX_OPEN_CALLS: Final = 100
# A timer may be early.
_TIMER_MS: Final = 10
_OPENS: Final = frozenset({FunctionCallEventKind.STARTED, FunctionCallEventKind.IN_PROGRESS})


class CallWatch:
    """Sees what happens in the pipelines of one session and publishes it.

    Args:
        clock: the call's timeline.
        emitter: takes the events.
        recorder: takes the audio.
        spans: of the turns.
        on_end: called with the frame that ends the pipeline which holds the transport.
        on_heard: called when audio of the caller has come.
        on_answer: called when the bot has begun to speak.
    """

    def __init__(
        self,
        clock: CallClock,
        emitter: Emitter,
        recorder: Recorder,
        spans: TurnSpans,
        on_end: Callable[[Frame], None],
        *,
        on_heard: Callable[[], Awaitable[None] | None] = lambda: None,
        on_answer: Callable[[Answered], object] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._emitter = emitter
        self._recorder = recorder
        self._spans = spans
        self._on_end = on_end
        self._on_heard = on_heard
        self._on_answer = on_answer
        self._late_word: asyncio.TimerHandle | None = None
        self._inputs: Collection[FrameProcessor] = ()
        self._outputs: Collection[FrameProcessor] = ()
        self._user = UserSpeech(self._user_spoke, has_turns=True)
        self._agent = AgentSpeech(self._agent_spoke)
        self._arguments: dict[str, Any] = {}
        self._latency_s = 0.0
        self._turns = Turns()
        self._turns.add_event_handler("on_turn_started", self._on_turn_started)
        self._turns.add_event_handler("on_turn_ended", self._on_turn_ended)
        self._latency = Latency()
        self._latency.add_event_handler("on_latency_measured", self._on_latency)
        self._latency.add_event_handler("on_first_bot_speech_latency", self._on_latency)
        self._latency.add_event_handler("on_latency_breakdown", self._on_breakdown)
        self._calls = FunctionCalls(include_results=True)
        self._calls.add_event_handler("on_function_call_event", self._on_call)
        self._errors = Errors()
        self._errors.add_event_handler("on_error", self._on_error)

    def side_routes(self) -> dict[type[Frame], Route]:
        """Return the routes for a pipeline that works for the one with the transport."""
        return {
            MetricsFrame: self._metrics,
            ErrorFrame: self._once(self._errors.on_push_frame),
            FunctionCallsStartedFrame: self._once(self._calls.on_push_frame),
            FunctionCallInProgressFrame: self._once(self._calls.on_push_frame),
            FunctionCallResultFrame: self._once(self._calls.on_push_frame),
            FunctionCallCancelFrame: self._once(self._calls.on_push_frame),
        }

    def routes(
        self, inputs: Collection[FrameProcessor], outputs: Collection[FrameProcessor], *, has_turns: bool
    ) -> dict[type[Frame], Route]:
        """Return the routes for the pipeline that holds the transport.

        Args:
            inputs: the transport's input sides.
            outputs: its output sides.
            has_turns: whether a processor there rules on the caller's turns.
        """
        self._inputs, self._outputs = inputs, outputs
        self._user = UserSpeech(self._user_spoke, has_turns=has_turns)
        latency = self._once(self._latency.on_push_frame)
        return {
            InputAudioRawFrame: self._audio_in,
            OutputAudioRawFrame: self._audio_out,
            TTSAudioRawFrame: self._voice_out,
            AggregatedTextFrame: self._announcement,
            TTSTextFrame: self._spoken,
            TTSStoppedFrame: self._voice_stopped,
            BotStartedSpeakingFrame: self._bot_started,
            BotStoppedSpeakingFrame: self._bot_stopped,
            InputDTMFFrame: self._dtmf,
            OutputDTMFFrame: self._dtmf,
            OutputDTMFUrgentFrame: self._dtmf,
            InterruptionFrame: self._interruption,
            VADUserStartedSpeakingFrame: self._vad_started,
            VADUserStoppedSpeakingFrame: self._vad_stopped,
            UserStartedSpeakingFrame: self._user_started,
            UserStoppedSpeakingFrame: self._user_stopped,
            TranscriptionFrame: self._transcription,
            LLMFullResponseStartFrame: latency,
            LLMMarkerFrame: latency,
            LLMTextFrame: latency,
            EndFrame: self._end,
            CancelFrame: self._end,
            StopFrame: self._end,
            MetricsFrame: self._main_metrics,
            ErrorFrame: self._once(self._errors.on_push_frame),
            FunctionCallsStartedFrame: self._once(self._calls.on_push_frame),
            FunctionCallInProgressFrame: self._call_running,
            FunctionCallResultFrame: self._call_running,
            FunctionCallCancelFrame: self._once(self._calls.on_push_frame),
        }

    async def connected(self, source: FrameProcessor) -> None:
        """Somebody is there: the first turn begins, and the wait for the bot's first word."""
        push = FramePushed(source, source, StartFrame(), FrameDirection.DOWNSTREAM, timestamp=0)
        await self._turns.on_push_frame(push)
        await self._latency.on_pipeline_started()
        await self._latency.on_push_frame(replace(push, frame=ClientConnectedFrame()))

    async def close(self) -> None:
        """Publish what was under way when the pipeline ended."""
        if self._late_word is not None:
            self._late_word.cancel()
        now = self._clock.now_ms()
        self._user.finish(now)
        self._agent.finish(now)
        await self._turns.cleanup()
        self._spans.ended(interrupted=True)

    # ------------------------------------------------------------------------ audio

    def _audio_in(self, push: FramePushed) -> Awaitable[None] | None:
        frame = push.frame
        if push.source not in self._inputs or not isinstance(frame, InputAudioRawFrame):
            return None
        self._recorder.user.take(frame)
        return self._on_heard()

    def _audio_out(self, push: FramePushed) -> None:
        # The transport pushes on what it has sent, when it is due: what an interruption threw away never comes here.
        frame = push.frame
        if push.source in self._outputs and isinstance(frame, OutputAudioRawFrame):
            self._recorder.bot.take(frame)
            self._agent.sent(_seconds(frame))

    async def _voice_out(self, push: FramePushed) -> None:
        if push.source in self._outputs:
            self._audio_out(push)
        elif push.first_push and isinstance(push.frame, TTSAudioRawFrame):
            self._agent.made(_seconds(push.frame))
            await self._latency.on_push_frame(push)

    def _dtmf(self, push: FramePushed) -> None:
        if not push.first_push:
            return
        match push.frame:
            case InputDTMFFrame(button=button):
                direction, digits = "in", button.value
            case OutputDTMFFrame() | OutputDTMFUrgentFrame() as frame:
                direction, digits = "out", frame.to_string()
            case _:
                return
        self._emitter.emit(EventType.DTMF, {"digits": digits, "direction": direction, "at_ms": self._clock.now_ms()})

    # ------------------------------------------------------------------------ the bot's speech

    def _announcement(self, push: FramePushed) -> None:
        frame = push.frame
        if not isinstance(frame, AggregatedTextFrame) or not frame.will_be_spoken:
            return
        if push.first_push:
            self._agent.announced(frame.id, frame.text, frame.context_id)
        if push.source in self._outputs:
            self._agent.began(frame.id)

    def _spoken(self, push: FramePushed) -> None:
        frame = push.frame
        if not isinstance(frame, TTSTextFrame):
            return
        if push.first_push and frame.segment_id is not None and frame.pts is None:
            # Voices that don't report words say the sentence behind its audio.
            self._agent.completed(frame.segment_id)
        if push.source in self._outputs:
            self._agent.spoken(
                frame.text,
                segment=frame.segment_id,
                spaced=frame.includes_inter_frame_spaces,
                timed=frame.pts is not None,
            )

    def _voice_stopped(self, push: FramePushed) -> None:
        if push.first_push and isinstance(push.frame, TTSStoppedFrame):
            self._agent.voice_stopped(push.frame.context_id)

    async def _bot_started(self, push: FramePushed) -> None:
        if push.source in self._outputs and push.direction is FrameDirection.DOWNSTREAM:
            self._agent.started(self._clock.now_ms())
            await self._turns.on_push_frame(push)
            await self._latency.on_push_frame(push)

    async def _bot_stopped(self, push: FramePushed) -> None:
        if push.source in self._outputs and push.direction is FrameDirection.DOWNSTREAM:
            self._agent.stopped(self._clock.now_ms())
            if self._agent.awaits_word:
                loop = asyncio.get_running_loop()
                self._late_word = loop.call_later((LATE_WORD_MS + _TIMER_MS) / 1000, self._give_up_words)
            await self._turns.on_push_frame(push)

    def _give_up_words(self) -> None:
        self._agent.tick(self._clock.now_ms())

    async def _interruption(self, push: FramePushed) -> None:
        if push.source in self._outputs and push.direction is FrameDirection.DOWNSTREAM:
            self._agent.interrupted()
            await self._latency.on_push_frame(push)

    # ------------------------------------------------------------------------ the caller's speech

    async def _vad_started(self, push: FramePushed) -> None:
        frame = push.frame
        if _first_down(push) and isinstance(frame, VADUserStartedSpeakingFrame):
            self._user.speech_started(self._clock.wall_ms(frame.timestamp - frame.start_secs))
            await self._latency.on_push_frame(push)

    async def _vad_stopped(self, push: FramePushed) -> None:
        frame = push.frame
        if _first_down(push) and isinstance(frame, VADUserStoppedSpeakingFrame):
            self._user.speech_stopped(self._clock.wall_ms(frame.timestamp - frame.stop_secs))
            await self._latency.on_push_frame(push)

    async def _user_started(self, push: FramePushed) -> None:
        if _first_down(push):
            self._user.turn_started(self._clock.now_ms())
            await self._turns.on_push_frame(push)

    async def _user_stopped(self, push: FramePushed) -> None:
        if _first_down(push):
            self._user.turn_stopped(self._clock.now_ms())
            await self._latency.on_push_frame(push)

    async def _transcription(self, push: FramePushed) -> None:
        frame = push.frame
        if _first_down(push) and isinstance(frame, TranscriptionFrame):
            self._user.transcript(frame.text, self._clock.now_ms())
            await self._latency.on_push_frame(push)

    def _user_spoke(self, said: Utterance) -> None:
        self._emitter.emit(EventType.USER_SPOKE, {"text": said.text, "start_ms": said.start_ms, "end_ms": said.end_ms})

    def _agent_spoke(self, said: Utterance) -> None:
        data = {
            "text": said.text,
            "start_ms": said.start_ms,
            "end_ms": said.end_ms,
            "interrupted": said.interrupted,
        }
        self._emitter.emit(EventType.AGENT_SPOKE, {**data, "estimated": True} if said.estimated else data)

    # ------------------------------------------------------------------------ everything else

    def _metrics(self, push: FramePushed) -> None:
        if push.first_push and isinstance(push.frame, MetricsFrame):
            for measured in push.frame.data:
                if data := facts.metric(measured, push.source):
                    self._emitter.emit(EventType.METRICS, data)

    async def _main_metrics(self, push: FramePushed) -> None:
        if push.first_push:
            self._metrics(push)
            await self._latency.on_push_frame(push)

    async def _call_running(self, push: FramePushed) -> None:
        if push.first_push:
            await self._calls.on_push_frame(push)
            await self._latency.on_push_frame(push)

    async def _end(self, push: FramePushed) -> None:
        if push.first_push:
            self._on_end(push.frame)
            await self._turns.on_push_frame(push)

    def _on_call(self, _: object, event: FunctionCallEvent) -> None:
        if event.kind in _OPENS:
            while len(self._arguments) >= _MAX_OPEN_CALLS:
                del self._arguments[next(iter(self._arguments))]
            self._arguments[event.tool_call_id] = event.arguments
        else:
            arguments = self._arguments.pop(event.tool_call_id, None)
            self._emitter.emit(EventType.TOOL_CALLED, facts.tool_call(event, arguments))

    def _on_error(self, _: object, event: ErrorEvent) -> None:
        self._emitter.emit(EventType.ERROR, facts.failure(event))

    def _on_latency(self, _: object, seconds: float) -> None:
        self._latency_s = seconds
        self._spans.latency(seconds)

    def _on_breakdown(self, _: object, breakdown: LatencyBreakdown) -> None:
        data = facts.latency(breakdown, self._latency_s)
        self._emitter.emit(EventType.METRICS, data)
        self._on_answer(Answered(took_ms=self._latency_s * 1000, greeting=data["kind"] == facts.FIRST_SPEECH))

    def _on_turn_started(self, _: object, number: int) -> None:
        self._spans.started(number)

    def _on_turn_ended(self, _: object, _number: int, _duration_s: float, interrupted: bool) -> None:  # noqa: FBT001 Pipecat's signature
        self._spans.ended(interrupted=interrupted)

    @staticmethod
    def _once(observe: Route) -> Route:
        return lambda push: observe(push) if push.first_push else None


def _first_down(push: FramePushed) -> bool:
    """Tell whether this is the one push to look at: frames that are broadcast exist once in each direction."""
    if not push.first_push:
        return False
    return push.direction is FrameDirection.DOWNSTREAM or push.frame.broadcast_sibling_id is None


def _seconds(frame: OutputAudioRawFrame) -> float:
    return len(frame.audio) / (WIDTH * max(frame.num_channels, 1) * max(frame.sample_rate, 1))
