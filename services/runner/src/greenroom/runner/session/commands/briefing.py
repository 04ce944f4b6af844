"""A warm transfer: an operator is called into the caller's room, hears what it is about, and is left there with him.

    rings       the call goes on with the bot; the operator isn't there, or his phone rings
    is told     the bot is interrupted and deaf, and speaks the summary, which the operator alone hears
    has it      all hear each other, and the bot leaves

Whatever goes wrong before the end: the operator is hung up on, everybody is heard again, and the call is the bot's.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from pipecat.frames.frames import ControlFrame, Frame, TTSSpeakFrame
from pipecat.pipeline.worker import PipelineWorker
from pipecat.services.tts_service import TTSService

from greenroom.common.command_errors import TransferFailed
from greenroom.common.errors import GreenroomError
from greenroom.runner.session.commands.muting import Muting
from greenroom.runner.session.commands.parts import Parts

# A summary has 4000 characters at most, which takes minutes; a bot that doesn't let our mark through takes no longer.
_MOST_S: Final = 300.0


@runtime_checkable
class Room(Protocol):
    """A session's transport that has operators called into the caller's room."""

    async def call_operator(self, target: str, ring_s: float) -> None:
        """Call one; he is there once this returns. Raises TransferFailed if he isn't reached."""
        ...

    async def set_apart(self, *, apart: bool) -> None:
        """Have the operator and the bot heard by nobody else, or everybody by everybody. Raises TransferFailed."""
        ...

    async def operator_left(self) -> None:
        """Wait until he isn't there any more."""
        ...

    async def hang_up_operator(self) -> None:
        """Have him leave, if he is there."""
        ...


@dataclass
class SpokenFrame(ControlFrame):
    """Comes out of the pipeline once everything before it was played."""

    interruptible: bool = field(default=False, init=False)


class Briefing:
    """Hands callers over to operators.

    Args:
        parts: of the bot's pipelines.
        muting: makes the bot deaf while it speaks to the operator.
    """

    def __init__(self, parts: Parts, muting: Muting) -> None:
        self._parts = parts
        self._muting = muting

    async def hand_over(self, room: Room, target: str, summary: str | None, ring_s: float) -> None:
        """Have an operator take the call. Canceled, it is as if he had not been called.

        Args:
            room: where the caller is.
            target: whom to call.
            summary: what he is told first; None: nothing.
            ring_s: how long his phone may ring.

        Raises:
            CommandUnsupported: the bot has no voice to tell him with.
            TransferFailed: he isn't reached, or has hung up; the call goes on with the bot.
        """
        voice = self._parts.one(TTSService, "no voice to tell the operator with") if summary is not None else None
        try:
            await room.call_operator(target, ring_s)
            if voice is not None and summary is not None:
                await self._tell(room, voice, summary)
        except BaseException:
            await room.hang_up_operator()
            raise

    async def _tell(self, room: Room, voice: TTSService, summary: str) -> None:
        deaf = "user" in self._muting.sides
        self._muting.mute("user")
        try:
            await self._parts.interrupt()
            await room.set_apart(apart=True)
            await self._speak(room, voice, summary)
            # Deaf to its end: what the two say is no longer for the bot.
            await room.set_apart(apart=False)
        except BaseException:
            if not deaf:
                self._muting.unmute("user")
            with contextlib.suppress(GreenroomError):
                await room.set_apart(apart=False)
            raise

    async def _speak(self, room: Room, voice: TTSService, summary: str) -> None:
        """Speak; return when it was heard. Raises TransferFailed if the operator hangs up meanwhile."""
        worker = self._parts.worker_of(voice)
        spoken, mark = asyncio.Event(), SpokenFrame()

        def passed(_worker: PipelineWorker, frame: Frame) -> None:
            if frame.id == mark.id:
                spoken.set()

        worker.add_reached_downstream_filter((SpokenFrame,))
        worker.add_event_handler("on_frame_reached_downstream", passed)
        await worker.queue_frames([TTSSpeakFrame(summary, append_to_context=False), mark])
        left = asyncio.ensure_future(room.operator_left())
        heard = asyncio.ensure_future(spoken.wait())
        try:
            await asyncio.wait({left, heard}, timeout=_MOST_S, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                raise TransferFailed("The operator hung up before he had the call.")
        finally:
            left.cancel()
            heard.cancel()
