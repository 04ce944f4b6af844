"""The timers of a conversation in a Pipecat pipeline."""

import asyncio
import math
from typing import Any, override

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    StartFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from greenroom.runner.conversation.timing import Conversation, Cue, Timing


class ConversationTimers(FrameProcessor):
    """Calls its event handlers when the bot should say something by itself; frames pass as they are.

    It stands behind the user's aggregator and before the output, where it sees who speaks. Who is there it is told:
    `arrived` and `left` belong into the transport's handlers. Event handlers, each called with the timers:

    - `on_greet`: greet whoever is there.
    - `on_wrap_up`: come to an end.
    - `on_idle`: say something, with how often that was so since the user has spoken, from 1 on.

    Args:
        timing: how long is waited.
        named: Pipecat's own arguments of processors.
    """

    def __init__(self, timing: Timing | None = None, **named: Any) -> None:
        super().__init__(**named)
        self._conversation = Conversation(timing or Timing())
        self._changed = asyncio.Event()
        self._nobody_speaks = asyncio.Event()
        self._nobody_speaks.set()
        self._keeping: asyncio.Task[None] | None = None
        for cue in Cue:
            self._register_event_handler(f"on_{cue.value}")

    def arrived(self, who: str = "client") -> None:
        """Know that somebody is there."""
        self._conversation.arrived(who, _now())
        self._tell()

    def left(self, who: str = "client") -> None:
        """Know that somebody isn't there any more."""
        self._conversation.left(who, _now())
        self._tell()

    async def may_speak(self) -> None:
        """Return once the bot may begin to say something by itself: nobody speaks, and the user hasn't just spoken."""
        while True:
            await self._nobody_speaks.wait()
            left_s = self._conversation.clear_at - _now()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case StartFrame():
                if self._keeping is None:
                    self._keeping = self.create_task(self._keep(), "timers")
            case EndFrame() | CancelFrame():
                await self._stop()
            case UserStartedSpeakingFrame() | UserStoppedSpeakingFrame():
                self._conversation.user_speaks(_now(), begins=isinstance(frame, UserStartedSpeakingFrame))
                self._tell()
            case BotStartedSpeakingFrame() | BotStoppedSpeakingFrame():
                self._conversation.bot_speaks(_now(), begins=isinstance(frame, BotStartedSpeakingFrame))
                self._tell()
            case _:
                pass
        await self.push_frame(frame, direction)

    @override
    async def cleanup(self) -> None:
        await self._stop()
        await super().cleanup()

    def _tell(self) -> None:
        self._changed.set()
        if self._conversation.somebody_speaks:
            self._nobody_speaks.clear()
        else:
            self._nobody_speaks.set()

    async def _stop(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            await self.cancel_task(keeping)

    async def _keep(self) -> None:
        while True:
            cue = self._conversation.look(_now())
            match cue:
                case None:
                    await self._wait()
                case Cue.IDLE:
                    await self._call_event_handler("on_idle", self._conversation.idles)
                case _:
                    await self._call_event_handler(f"on_{cue.value}")

    async def _wait(self) -> None:
        self._changed.clear()
        due = self._conversation.due()
        try:
            async with asyncio.timeout(None if math.isinf(due) else due - _now()):
                await self._changed.wait()
        except TimeoutError:
            return


def _now() -> float:
    return asyncio.get_running_loop().time()
