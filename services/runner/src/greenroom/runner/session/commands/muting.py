"""Silences one side of a call where the transport meets the pipeline, so that it works with any bot.

What is muted is silence of the same length: for the other side, for the recording, and for whoever listens in. The
pipeline's sense of time stays as it is, so a muted bot goes on as if it were heard. Works on the instances, through
`push_audio_frame`, `write_audio_frame` and `write_dtmf`; a conformance test pins all three.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common.commands import Side


class SupervisorAudioFrame(OutputAudioRawFrame):
    """A supervisor's voice on its way into the call."""


class Muting:
    """Which sides are silent.

    `barged_in`: a supervisor speaks. Then what the bot says isn't delayed but dropped, or the two would take turns.
    """

    def __init__(self) -> None:
        self.sides: set[Side] = set()
        self.barged_in = False
        self._keying = False

    def install(self, inputs: Sequence[BaseInputTransport], outputs: Sequence[BaseOutputTransport]) -> None:
        """Stand between transport and pipeline; before the pipeline starts."""
        for transport in inputs:
            _replace(transport, "push_audio_frame", self._hear)
        for transport in outputs:
            _replace(transport, "write_audio_frame", self._speak)
            _replace(transport, "write_dtmf", self._press)

    async def _hear(self, push: Callable[[InputAudioRawFrame], Awaitable[None]], frame: InputAudioRawFrame) -> None:
        if "user" in self.sides:
            frame.audio = bytes(len(frame.audio))
        await push(frame)

    async def _speak(self, write: Callable[[OutputAudioRawFrame], Awaitable[bool]], frame: OutputAudioRawFrame) -> bool:
        if not (isinstance(frame, SupervisorAudioFrame) or self._keying):
            if self.barged_in:
                return False
            if "bot" in self.sides:
                frame.audio = bytes(len(frame.audio))
        return await write(frame)

    async def _press(self, write: Callable[[Any], Awaitable[None]], frame: Any) -> None:
        # Tones may be audio as well.
        self._keying = True
        try:
            await write(frame)
        finally:
            self._keying = False


def _replace(instance: object, name: str, stand_in: Callable[..., Awaitable[Any]]) -> None:
    original = getattr(instance, name)

    async def call(frame: Any) -> Any:
        return await stand_in(original, frame)

    vars(instance)[name] = call
