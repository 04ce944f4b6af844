"""Silences one side of a call where the transport meets the pipeline, so that it works with any bot.

What is muted is silence of the same length: for the other side, for the recording, and for whoever listens in. The
pipeline's sense of time stays as it is, so a muted bot goes on as if it were heard. Works on the instances, through
`push_audio_frame`, `write_audio_frame` and `write_dtmf`, and only once something is to be silenced: a call in which
nothing ever is doesn't pay for it. tests/unit/test_session_muting.py pins all three.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common.commands import Side
from greenroom.runner.session.commands.parts import Parts


class SupervisorAudioFrame(OutputAudioRawFrame):
    """A supervisor's voice on its way into the call."""


class Muting:
    """Which sides are silent.

    Args:
        parts: of the bot's pipelines.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sides: set[Side] = set()
        self._barged_in = False
        self._keying = False
        # The transports that we stand in front of.
        self._installed: set[int] = set()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Who is muted."""
        return tuple(sorted(self._sides))

    @property
    def barged_in(self) -> bool:
        """Whether a supervisor speaks: then what the bot says is dropped, or the two would take turns."""
        return self._barged_in

    def mute(self, side: Side) -> None:
        """Silence one side."""
        self._install()
        self._sides.add(side)

    def unmute(self, side: Side) -> None:
        """Let one side be heard again."""
        self._sides.discard(side)

    def barge_in(self) -> None:
        """A supervisor begins to speak."""
        self._install()
        self._barged_in = True

    def give_way(self) -> None:
        """The supervisor has finished."""
        self._barged_in = False

    def _install(self) -> None:
        """Stand between transport and pipeline."""
        for transport in self._parts.all(BaseInputTransport):
            self._replace(transport, push_audio_frame=self._hear)
        for transport in self._parts.all(BaseOutputTransport):
            self._replace(transport, write_audio_frame=self._speak, write_dtmf=self._press)

    def _replace(self, transport: FrameProcessor, **stand_ins: Callable[..., Awaitable[Any]]) -> None:
        if id(transport) not in self._installed:
            self._installed.add(id(transport))
            for name, stand_in in stand_ins.items():
                vars(transport)[name] = functools.partial(stand_in, getattr(transport, name))

    async def _hear(self, push: Callable[[InputAudioRawFrame], Awaitable[None]], frame: InputAudioRawFrame) -> None:
        if "user" in self._sides:
            frame.audio = bytes(len(frame.audio))
        await push(frame)

    async def _speak(self, write: Callable[[OutputAudioRawFrame], Awaitable[bool]], frame: OutputAudioRawFrame) -> bool:
        if not (isinstance(frame, SupervisorAudioFrame) or self._keying):
            if self._barged_in:
                return False
            if "bot" in self._sides:
                frame.audio = bytes(len(frame.audio))
        return await write(frame)

    async def _press(self, write: Callable[[Any], Awaitable[None]], frame: Any) -> None:
        # Tones may be audio as well.
        self._keying = True
        try:
            await write(frame)
        finally:
            self._keying = False
