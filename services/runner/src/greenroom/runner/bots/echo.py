"""A bot that sends back what it hears; it costs next to nothing, so that load tests measure everything else."""

from typing import Any, Final, override

from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments

from greenroom.runner.bots._transport import TAKEN, make_worker, open_transport, run

DESCRIPTION: Final = "Sends the caller's audio back: for load tests and to try a line."
TRANSPORTS: Final = TAKEN
REHEARSE: Final = True
BODY_SCHEMA: Final[dict[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


class Echo(FrameProcessor):
    """Turns the audio that comes in into audio that goes out."""

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Send audio back, pass on all else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


async def bot(runner_args: RunnerArguments) -> None:
    """Echo until the caller leaves."""
    transport = await open_transport(runner_args)
    pipeline = Pipeline([transport.input(), Echo(), transport.output()])
    await run(make_worker(pipeline, runner_args, talks=False), transport, runner_args)
