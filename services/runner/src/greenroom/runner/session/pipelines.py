"""The pipelines a bot has started, and how they are ended: in order, by canceling them, by canceling the bot."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from pipecat.frames.frames import CancelFrame
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.session.attach import Attachment

_log = structlog.get_logger()

# What a bot's own handler of the hang-up may take before its pipelines are ended for it.
HANGUP_GRACE_S: Final = 1.0


class Pipelines:
    """Everything of one bot that can be told to end.

    `ending` is set when a frame that ends it has entered the pipeline that holds the transport.
    """

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.attachments: list[Attachment] = []
        self.runners: list[WorkerRunner] = []

    def aggregators(self) -> list[LLMUserAggregator]:
        """Return those of all pipelines that rule on the user's turns."""
        return [each for attachment in self.attachments for each in attachment.aggregators]

    async def wind_down(
        self,
        bot: asyncio.Task[None],
        hurry: asyncio.Event,
        *,
        hung_up: bool,
        reason: str,
        patience_s: Callable[[], float],
    ) -> bool:
        """End the bot; returns whether it did.

        Args:
            bot: its task.
            hurry: set when there is no more time for it to end in order.
            hung_up: the caller has left: the bot knows, and most end by themselves upon it.
            reason: for the frames that cancel.
            patience_s: how long canceling the pipelines, and then canceling the bot, may take.
        """
        if hung_up:
            await first(done(bot), self.ending.wait(), hurry.wait(), timeout_s=HANGUP_GRACE_S)
        if not self.ending.is_set() and not hurry.is_set():
            await self._stop(bot)
        await first(done(bot), hurry.wait())
        if not bot.done():
            await self._cancel(reason)
            await asyncio.wait({bot}, timeout=patience_s())
        if not bot.done():
            bot.cancel()
            await asyncio.wait({bot}, timeout=patience_s())
        if not bot.done():
            _log.error("bot_stuck")
        return bot.done()

    async def _stop(self, bot: asyncio.Task[None]) -> None:
        if not self.attachments:
            # There is no pipeline yet that could end.
            bot.cancel()
        for attachment in self.attachments:
            if attachment.worker.parent is None:
                await attachment.worker.stop_when_done()

    async def _cancel(self, reason: str) -> None:
        for attachment in self.attachments:
            await attachment.worker.cancel(reason=reason)
            if self.ending.is_set():
                # A worker that waits for its EndFrame to come through takes nothing else from its queue, so the
                # CancelFrame goes into the pipeline directly, as Pipecat does it with interruptions.
                await attachment.worker.pipeline.queue_frame(CancelFrame(reason=reason))
        for runner in self.runners:
            await runner.cancel(reason)


async def done(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however; nothing of it is raised here."""
    await asyncio.wait({task})


async def first(*waits: Awaitable[Any], timeout_s: float | None = None) -> None:
    """Wait for the first of several, `timeout_s` at most; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
