"""A bot that joins a room of LiveKit's and greets who comes.

Run it with:

    python livekit_bot.py -t livekit
"""

import os

from dotenv import load_dotenv
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import LiveKitRunnerArguments
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport
from pipecat.workers.runner import WorkerRunner

load_dotenv(override=True)


async def bot(runner_args: LiveKitRunnerArguments):
    """Start the bot; called by whatever runs it."""
    transport = LiveKitTransport(
        url=runner_args.url,
        token=runner_args.token,
        room_name=runner_args.room_name,
        params=LiveKitParams(audio_out_enabled=True),
    )
    tts = OpenAITTSService(api_key=os.getenv("OPENAI_API_KEY"))
    worker = PipelineWorker(Pipeline([tts, transport.output()]))

    @transport.event_handler("on_first_participant_joined")
    async def on_first_participant_joined(transport, participant_id):
        await worker.queue_frame(TTSSpeakFrame("Hello there!"))

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
