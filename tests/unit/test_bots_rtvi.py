"""Built-in bots report on their conversation to clients that have said that they listen, and to no others."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, override

from pipecat.frames.frames import (
    Frame,
    InputTransportMessageFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.bots._transport import make_worker

_PATIENCE_S = 30.0
_READY = {
    "label": "rtvi-ai",
    "type": "client-ready",
    "id": "1",
    "data": {"version": "1.0.0", "about": {"library": "a page"}},
}


class Speaker(FrameProcessor):
    """Stands for the model: it says each text that it is given."""

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if type(frame) is TextFrame:
            for part in (LLMFullResponseStartFrame(), LLMTextFrame(frame.text), LLMFullResponseEndFrame()):
                await self.push_frame(part)
        else:
            await self.push_frame(frame, direction)


class Client(FrameProcessor):
    """Stands for the transport: it keeps what the client would be sent, and what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.said: list[str] = []

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            self.messages.append(frame.message)
        elif isinstance(frame, LLMTextFrame):
            self.said.append(frame.text)
        await self.push_frame(frame, direction)

    @property
    def types(self) -> list[str]:
        """What kinds of messages the client got, in order."""
        return [message["type"] for message in self.messages]

    @property
    def texts(self) -> list[str]:
        """What the client was told that the bot says."""
        return [message["data"]["text"] for message in self.messages if message["type"] == "bot-llm-text"]


async def until(happened: Callable[[], object]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(_PATIENCE_S):
        while not happened():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(client: Client, *, talks: bool = True) -> AsyncGenerator[PipelineWorker]:
    """Run the pipeline of a built-in bot for the time of the block."""
    worker = make_worker(Pipeline([Speaker(), client]), RunnerArguments(), talks=talks)
    runner = WorkerRunner(handle_sigint=False, handle_sigterm=False)
    await runner.add_workers(worker)
    task = asyncio.create_task(runner.run())
    try:
        yield worker
    finally:
        await worker.cancel()
        await task


async def test_reports_begin_when_the_client_listens() -> None:
    """A phone, or a client that isn't ready yet, is sent nothing; from `client-ready` on all is told."""
    client = Client()
    async with running(client) as worker:
        await worker.queue_frame(TextFrame("before"))
        await until(lambda: client.said == ["before"])
        await worker.queue_frame(InputTransportMessageFrame(message=_READY))
        await until(lambda: "bot-ready" in client.types)
        await worker.queue_frame(TextFrame("after"))
        # Reports are made in the order of what they tell of: one of what was said before would have come by now.
        await until(lambda: "bot-llm-stopped" in client.types and "after" in client.texts)
    assert client.texts == ["after"]
    assert client.types.index("bot-ready") < client.types.index("bot-llm-started")
    assert client.types.count("bot-llm-started") == 1


async def test_a_bot_that_does_not_talk_reports_nothing() -> None:
    """Without a conversation there is no RTVI: nobody answers a client that says it is ready."""
    client = Client()
    async with running(client, talks=False) as worker:
        await worker.queue_frame(InputTransportMessageFrame(message=_READY))
        await worker.queue_frame(TextFrame("hello"))
        await until(lambda: client.said == ["hello"])
    assert client.messages == []
