"""What the session process uses of Pipecat beyond its documented interface, held against the installed version."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADState
from pipecat.flows import FlowManager
from pipecat.frames.frames import (
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    EndWorkerFrame,
    Frame,
    OutputAudioRawFrame,
    StartFrame,
    TTSSpeakFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.utils.startup import run_setup_hook
from pipecat.workers.runner import WorkerRunner

from greenroom.common.media_messages import ConnectMedia
from greenroom.common.spool import Spool
from greenroom.common.telemetry import context_from_traceparent
from greenroom.runner.session.attach import HOST, SETUP_VARIABLE, Attachment, announce_setup_file
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.flows import NODE_WATCH, watch_flows
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.transports.websocket import WebSocketTransport
from greenroom.runner.session.turns import TurnSpans
from greenroom.runner.session.voice import look_for_voices_inline
from greenroom.runner.session.watch import CallWatch
from tests.support.bot_line import spoken
from tests.support.memory_broker import MemoryServer
from tests.support.session_bots import ScriptedModel, ToneVoice
from tests.support.session_rig import new_session
from tests.support.spans import record_spans

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"


class Seen(BaseObserver):
    """A bot's own observer."""

    def __init__(self) -> None:
        super().__init__(observe_every_push=False)
        self.kinds: list[type[Frame]] = []

    async def on_push_frame(self, data: FramePushed) -> None:
        """Keep the type."""
        self.kinds.append(type(data.frame))


class World:
    """A pipeline with a transport over a link, attached as a session attaches it. See `attach.Host`."""

    def __init__(self) -> None:
        self.session = new_session("echo", traceparent=TRACEPARENT)
        self.broker = MemoryServer().connect()
        self.way = WebSocketTransport(self.session, self.broker, lambda _: None, lambda *_: None)
        self.link = self.way._link
        self.transport = FastAPIWebsocketTransport(
            self.link.websocket,
            FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()),
        )
        self.spool = Spool(self.broker)
        clock, emitter = CallClock(), Emitter(self.spool, self.session)
        self.ends: list[Frame] = []
        self.spans = TurnSpans(context_from_traceparent(TRACEPARENT), self.session.id)
        self.watch = CallWatch(clock, emitter, Recorder(clock, emitter), self.spans, self.ends.append)
        self.attachment: Attachment
        self.started = asyncio.Event()
        self.hellos = 0
        self.runners: list[WorkerRunner] = []

    async def connect(self) -> None:
        """Let the client come."""
        self.link._connect(ConnectMedia(connection_id="c1"))
        await self.way.welcome()

    async def on_runner(self, runner: WorkerRunner) -> None:
        """Keep the runner."""
        self.runners.append(runner)

    async def on_worker(self, worker: PipelineWorker) -> None:
        """Attach to the worker."""
        self.attachment = Attachment(worker)
        self.attachment.observe(self.watch, self.spans, self.started.set)
        self.way.attach(self.attachment)

    @asynccontextmanager
    async def running(self, *processors: FrameProcessor, **worker_options: Any) -> AsyncGenerator[PipelineWorker]:
        """Run the pipeline as a bot would, for the time of the block."""
        pipeline = Pipeline([self.transport.input(), *processors, self.transport.output()])
        worker = PipelineWorker(pipeline, **worker_options)

        @self.transport.event_handler("on_client_connected")
        async def on_client_connected(_transport: object, _client: object) -> None:
            self.hellos += 1

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        HOST.set(self)
        bot = asyncio.create_task(runner.run())
        try:
            async with asyncio.timeout(5):
                await self.started.wait()
                yield worker
                await worker.cancel()
                await bot
        finally:
            HOST.set(None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose hooks Pipecat knows of."""
    monkeypatch.setenv(SETUP_VARIABLE, "")
    announce_setup_file()
    return World()


# ---------------------------------------------------------------------------- hooks


async def test_pipecat_runs_our_hooks_beside_others(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Setup files that the bot's owner has named are kept, and ours is named once."""
    other = tmp_path / "other.py"
    other.write_text("async def setup_worker_runner(runner):\n    runner.append('other')\n")
    monkeypatch.setenv(SETUP_VARIABLE, str(other))
    announce_setup_file()
    announce_setup_file()
    target: Any = []
    HOST.set(world)
    await run_setup_hook(target=target, function_name="setup_worker_runner")
    HOST.set(None)
    assert target == ["other"]
    assert world.runners == [target]


async def test_a_worker_meets_its_session(world: World) -> None:
    """Runner and worker of an unmodified bot are introduced before the pipeline is set up."""
    async with world.running() as worker:
        assert world.attachment.worker is worker
        assert world.attachment.main
        assert len(world.runners) == 1
        assert worker.params.enable_metrics
        assert worker.params.enable_usage_metrics


async def test_processors_push_past_our_eye_and_the_bots_observers(world: World) -> None:
    """Our observer stands in the place of the worker's, and what the bot observes it still does."""
    seen = Seen()
    async with world.running(observers=[seen], params=PipelineParams(send_initial_empty_metrics=False)) as worker:
        await worker.queue_frame(EndFrame(reason="goodbye"))
        async with asyncio.timeout(2):
            while not world.ends:
                await asyncio.sleep(0.01)
    assert [(type(frame), frame.reason) for frame in world.ends if isinstance(frame, EndFrame)] == [
        (EndFrame, "goodbye")
    ]
    assert StartFrame in seen.kinds
    assert EndFrame in seen.kinds


# ---------------------------------------------------------------------------- on_client_connected


async def test_the_bot_is_told_of_its_client_when_it_is_there(world: World) -> None:
    """The pipeline runs before the client comes; `on_client_connected` and its frame wait, and nothing else."""
    seen = Seen()
    async with world.running(observers=[seen]):
        await asyncio.sleep(0.05)
        assert world.hellos == 0
        assert ClientConnectedFrame not in seen.kinds
        await world.connect()
        await asyncio.sleep(0.05)
        assert world.hellos == 1
        assert seen.kinds.count(ClientConnectedFrame) == 1
        assert "push_frame" not in vars(world.transport.input())


async def test_a_client_that_was_there_first_is_told_at_once(world: World) -> None:
    """A bot that starts when its client is there already hears of it as with Pipecat's own server."""
    world.link._connect(ConnectMedia(connection_id="c1"))
    async with world.running():
        await asyncio.sleep(0.05)
        assert world.hellos == 1


# ---------------------------------------------------------------------------- ends


async def test_a_processor_names_the_reason_of_the_end(world: World) -> None:
    """`EndWorkerFrame(reason=…)`, pushed upstream by any processor, ends in an EndFrame with its reason."""

    class Ender(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSSpeakFrame):
                await self.push_frame(EndWorkerFrame(reason="goodbye"), FrameDirection.UPSTREAM)
            else:
                await self.push_frame(frame, direction)

    async with world.running(Ender()) as worker:
        await worker.queue_frame(TTSSpeakFrame("bye"))
        async with asyncio.timeout(2):
            while not world.ends:
                await asyncio.sleep(0.01)
    assert isinstance(world.ends[0], EndFrame)
    assert world.ends[0].reason == "goodbye"


async def test_an_idle_pipeline_says_so(world: World) -> None:
    """The reason of the CancelFrame of Pipecat's idle timeout is the one we know it by."""
    async with world.running(idle_timeout_secs=0.05):
        async with asyncio.timeout(2):
            while not world.ends:
                await asyncio.sleep(0.01)
    assert isinstance(world.ends[0], CancelFrame)
    assert world.ends[0].reason == "idle timeout"


async def test_a_pipeline_that_waits_for_its_end_can_be_canceled(world: World) -> None:
    """A CancelFrame that is queued into the pipeline itself ends a worker that still plays out its audio."""
    async with world.running() as worker:
        await world.connect()
        await worker.queue_frame(OutputAudioRawFrame(bytes(2 * 16_000 * 20), 16_000, 1))
        await worker.stop_when_done()
        await asyncio.sleep(0.2)
        await worker.cancel()
        assert not worker.has_finished()
        await worker.pipeline.queue_frame(CancelFrame())
        async with asyncio.timeout(2):
            while not worker.has_finished():
                await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------- traces


@pytest.mark.parametrize("enabled", [False, True])
async def test_services_find_the_turn_to_be_its_children(world: World, *, enabled: bool) -> None:
    """Tracing is on whatever the bot said, below our turns, and Pipecat's own conversation span is never made."""
    recorder = record_spans()
    parent = set_span_in_context(
        NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    )
    token = otel_context.attach(parent)
    voice = ToneVoice()
    async with world.running(voice, enable_tracing=enabled):
        await world.connect()
        assert voice._tracing_enabled
        await world.watch.connected(world.attachment.inputs[0])
        await asyncio.sleep(0.05)
        held: Any = voice
        turn = trace.get_current_span(held._tracing_context.get_turn_context()).get_span_context()
        conversation = trace.get_current_span(held._tracing_context.get_conversation_context()).get_span_context()
        assert format(conversation.span_id, "016x") == "b7ad6b7169203331"
        assert turn.is_valid
    await world.watch.close()
    otel_context.detach(token)
    assert [span.name for span in recorder.spans if span.name in {"conversation", "turn"}] == ["turn"]
    ended = recorder.one("turn")
    assert ended.parent is not None
    assert format(ended.parent.span_id, "016x") == "b7ad6b7169203331"
    assert recorder.id_of("turn") == turn.span_id


# ---------------------------------------------------------------------------- flows


def test_the_method_that_sets_nodes_is_the_one_we_wrap() -> None:
    """`FlowManager._set_node(node_id, node_config)` is a coroutine function, wrapped once."""
    watch_flows()
    watch_flows()
    wrapped: Any = FlowManager._set_node
    assert inspect.iscoroutinefunction(wrapped)
    assert list(inspect.signature(wrapped).parameters) == ["self", "node_id", "node_config"]
    assert not hasattr(wrapped.__wrapped__, "__wrapped__")


async def test_nodes_are_seen_as_they_are_entered(world: World) -> None:
    """A flow that goes from node to node tells where it came from and where it is."""
    watch_flows()
    nodes: list[tuple[str | None, str]] = []
    NODE_WATCH.set(lambda before, node: nodes.append((before, node)))
    model = ScriptedModel(["Hello."])
    context = LLMContextAggregatorPair(LLMContext())
    async with world.running(context.user(), model) as worker:
        manager = FlowManager(worker=worker, llm=model, context_aggregator=context)
        node: Any = {"name": "greeting", "task_messages": [{"role": "developer", "content": "Greet."}], "functions": []}
        await manager.initialize(node)
        node["name"] = "booking"
        await manager.set_node_from_config(node)
    NODE_WATCH.set(None)
    assert nodes == [(None, "greeting"), ("greeting", "booking")]


async def test_silero_works_where_it_is_called() -> None:
    """Its analyzers find on the event loop what they find in a thread, and start none."""
    speech = np.frombuffer(spoken("is anybody there"), dtype="<i2").tobytes()
    pieces = [speech[start : start + 1920] for start in range(0, len(speech), 1920)]

    async def found() -> list[VADState]:
        analyzer = SileroVADAnalyzer(sample_rate=16_000)
        analyzer.set_sample_rate(16_000)
        states = [await analyzer.analyze_audio(piece) for piece in pieces]
        await analyzer.cleanup()
        return states

    look_for_voices_inline()
    threads = threading.active_count()
    inline = await found()
    assert threading.active_count() == threads
    patched: Any = SileroVADAnalyzer.analyze_audio
    del SileroVADAnalyzer.analyze_audio
    try:
        assert await found() == inline
    finally:
        SileroVADAnalyzer.analyze_audio = patched
    assert VADState.SPEAKING in inline
