"""The parts of a bot's pipelines that commands work on, found in whatever the bot has built."""

from collections.abc import Iterator, Sequence
from typing import Final

from pipecat.frames.frames import Frame, InterruptionFrame
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_response_universal import LLMAssistantAggregator, LLMUserAggregator
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common.command_errors import CommandUnsupported, SessionNotLive
from greenroom.runner.session.attach import Attachment

# What the kinds of services are called in `configure`.
SERVICES: Final[dict[str, type[AIService]]] = {"llm": LLMService, "tts": TTSService, "stt": STTService}


class Parts:
    """Finds parts in the pipelines of `attachments`, which grow as the bot starts workers."""

    def __init__(self, attachments: Sequence[Attachment]) -> None:
        self._attachments = attachments

    def all[T: FrameProcessor](self, kind: type[T]) -> list[T]:
        """Return every part of a kind."""
        return [part for attachment in self._attachments for part in _in(attachment.worker.pipeline, kind)]

    def one[T: FrameProcessor](self, kind: type[T], missing: str) -> T:
        """Return the first part of a kind.

        Raises:
            CommandUnsupported: there is none; `missing` names it.
        """
        found = self.all(kind)
        if not found:
            raise CommandUnsupported(f"The bot has {missing}.")
        return found[0]

    def worker_of(self, part: FrameProcessor) -> PipelineWorker:
        """Return the worker in whose pipeline a part is."""
        return next(
            attachment.worker
            for attachment in self._attachments
            if any(part is each for each in _in(attachment.worker.pipeline, FrameProcessor))
        )

    @property
    def output(self) -> BaseOutputTransport:
        """The output side of the transport.

        Raises:
            CommandUnsupported: the bot sends nothing.
        """
        return self.one(BaseOutputTransport, "no output")

    @property
    def main(self) -> PipelineWorker:
        """The worker whose pipeline holds the transport.

        Raises:
            SessionNotLive: there is none yet.
        """
        found = next((attachment.worker for attachment in self._attachments if attachment.main), None)
        if found is None:
            raise SessionNotLive("The bot has no pipeline yet.")
        return found

    async def interrupt(self) -> None:
        """End what the bot is saying, also while it is deaf to its user."""
        turns = self.all(LLMUserAggregator)
        if turns:
            # From the place where the user's own interruptions come from: one that came from the front would be held
            # back by it while the bot mutes its user.
            await turns[0].broadcast_frame(InterruptionFrame)
        else:
            await self.main.queue_frame(InterruptionFrame())

    async def send(self, part: FrameProcessor, frame: Frame) -> None:
        """Send a frame through the whole pipeline that `part` is in."""
        await self.worker_of(part).queue_frame(frame)

    def context(self, *, run: bool) -> LLMUserAggregator | LLMAssistantAggregator:
        """Return what keeps the model's context: the side that waits for the bot to finish if the model is to `run`.

        Raises:
            CommandUnsupported: the bot has no such context.
        """
        if run and (answers := self.all(LLMAssistantAggregator)):
            return answers[0]
        return self.one(LLMUserAggregator, "no model with a context of Pipecat's")


async def hand(part: FrameProcessor, frame: Frame) -> None:
    """Hand a frame to one part, past everything before it."""
    await part.queue_frame(frame, FrameDirection.DOWNSTREAM)


def _in[T: FrameProcessor](processor: FrameProcessor, kind: type[T]) -> Iterator[T]:
    if isinstance(processor, kind):
        yield processor
    for inner in processor.processors:
        yield from _in(inner, kind)
