"""Bots for the tests of the watch over a call; like those of `session_bots`, they know nothing of Greenroom."""

import asyncio
import time
from typing import Any, Final

from pipecat.frames.frames import (
    EndFrame,
    EndWorkerFrame,
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.processors.frameworks.rtvi.models import ClientMessage
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.transports.base_transport import BaseTransport

from tests.support.session_bots import Echo, ToneVoice, open_transport, run_worker

FAREWELL: Final = "Our time is up."
_MOMENT_S: Final = 0.5


async def polite(runner_args: WebSocketRunnerArguments) -> None:
    """Greet, and say goodbye when a message says that time runs out, as a client of RTVI might."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), ToneVoice(), transport.output()]))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        await worker.queue_frame(TTSSpeakFrame("Hello."))

    @worker.rtvi.event_handler("on_client_message")
    async def on_client_message(_rtvi: RTVIProcessor, message: ClientMessage) -> None:
        if message.type == "call-ending-soon":
            await worker.queue_frames([TTSSpeakFrame(FAREWELL), EndFrame(reason="time is up")])

    await run_worker(worker, runner_args)


class Reader(FrameProcessor):
    """Reads the messages that come through the pipeline."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """End when one says that time runs out."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, InputTransportMessageFrame):
            message: dict[str, Any] = frame.message
            if message["data"]["t"] == "call-ending-soon":
                await self.push_frame(EndWorkerFrame(reason="read it"), FrameDirection.UPSTREAM)


async def reading(runner_args: WebSocketRunnerArguments) -> None:
    """Echo without RTVI; a processor of its own reads messages."""
    transport = await open_transport(runner_args)
    pipeline = Pipeline([transport.input(), Reader(), Echo(), transport.output()])
    await run_worker(PipelineWorker(pipeline, enable_rtvi=False), runner_args)


async def chatty(runner_args: WebSocketRunnerArguments) -> None:
    """Say a number each second, whether anybody listens or not."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), ToneVoice(), transport.output()]))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        for number in range(int((runner_args.body or {})["numbers"])):
            await worker.queue_frame(TTSSpeakFrame(f"This is number {number}."))
            await asyncio.sleep(1.0)

    await run_worker(worker, runner_args)


class Swallow(FrameProcessor):
    """Lets no audio through."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass on all else."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputAudioRawFrame):
            await self.push_frame(frame, direction)


async def mute(runner_args: WebSocketRunnerArguments) -> None:
    """Listen, and say nothing."""
    transport = await open_transport(runner_args)
    await run_worker(PipelineWorker(Pipeline([transport.input(), Swallow(), transport.output()])), runner_args)


class Stuck(FrameProcessor):
    """Waits for ever at the first audio it gets, as for a provider that never answers."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Stop at audio."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await asyncio.Event().wait()
        await self.push_frame(frame, direction)


async def stuck(runner_args: WebSocketRunnerArguments) -> None:
    """Stand still as soon as the caller is heard."""
    transport = await open_transport(runner_args)
    await run_worker(PipelineWorker(Pipeline([transport.input(), Stuck(), transport.output()])), runner_args)


async def blocking(runner_args: WebSocketRunnerArguments) -> None:
    """Echo for a moment, then block the event loop."""
    transport = await open_transport(runner_args)
    worker = PipelineWorker(Pipeline([transport.input(), Echo(), transport.output()]))

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(_worker: PipelineWorker, _frame: Frame) -> None:
        asyncio.get_running_loop().call_later(_MOMENT_S, block_the_loop)

    await run_worker(worker, runner_args)


def block_the_loop() -> None:
    """Sleep as only bad code does."""
    time.sleep(300)


WATCHED_BOTS: Final = {
    "chatty": chatty,
    "polite": polite,
    "reading": reading,
    "mute": mute,
    "stuck": stuck,
    "blocking": blocking,
}
