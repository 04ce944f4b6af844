"""A bot that joins a room of Daily's and greets who comes.

Run it with:

    python daily_bot.py -t daily
"""

import os

from dotenv import load_dotenv
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import DailyRunnerArguments
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.daily.transport import DailyParams, DailyTransport
from pipecat.workers.runner import WorkerRunner

load_dotenv(override=True)


async def bot(runner_args: DailyRunnerArguments):
    """Start the bot; called by whatever runs it."""
    transport = DailyTransport(
        runner_args.room_url,
        runner_args.token,
        "Greeter",
        DailyParams(audio_out_enabled=True),
    )
    tts = OpenAITTSService(api_key=os.getenv("OPENAI_API_KEY"))
    worker = PipelineWorker(Pipeline([tts, transport.output()]))

    @transport.event_handler("on_first_participant_joined")
    async def on_first_participant_joined(transport, participant):
        await worker.queue_frame(TTSSpeakFrame("Hello there!"))

    @transport.event_handler("on_participant_left")
    async def on_participant_left(transport, participant, reason):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
