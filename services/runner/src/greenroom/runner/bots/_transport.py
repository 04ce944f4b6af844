"""What the built-in bots have in common: their transport, and how they run."""

from typing import Any, Final, override

from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.frameworks.rtvi import RTVIObserver, RTVIObserverParams, RTVIProcessor
from pipecat.runner import utils as runner_utils
from pipecat.runner.types import RunnerArguments, WebSocketRunnerArguments
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner
from pydantic import BaseModel

# The transports of the built-in bots, `TRANSPORTS` of their modules: our clients, and phone calls of any carrier.
TAKEN: Final = ("websocket", "smallwebrtc", "twilio", "telnyx", "plivo", "exotel", "vobiz")
# Inside, both ways, mono; carriers' 8 kHz are converted.
RATE: Final = 16_000
# Audio goes out in pieces of 60 ms: a third less work than with 20 ms, and still too short to be heard as a delay.
_OUT_10MS_CHUNKS: Final = 6


async def open_transport(runner_args: RunnerArguments) -> BaseTransport:
    """Return the transport of a session: a WebSocket with Protobuf frames, a browser's connection, or a phone call.

    Raises:
        ValueError: the session is to run over something else.
    """
    if isinstance(runner_args, WebSocketRunnerArguments) and runner_args.transport_type is None:
        # A phone call: Pipecat finds out from the first messages whose. (Vobiz speaks as Plivo does.)
        carriers = dict.fromkeys(("twilio", "telnyx", "plivo", "exotel"), _telephony_params)
        return await runner_utils.create_transport(runner_args, {**carriers})
    return await runner_utils.create_transport(runner_args, {"websocket": _websocket_params, "webrtc": _webrtc_params})


class _ListeningClients(RTVIObserver):
    """Reports to clients that have said that they listen (RTVI's `client-ready`); a phone never does.

    Each report is a message that goes through the whole pipeline, several for each sentence of the bot.
    """

    def __init__(self, rtvi: RTVIProcessor, **kwargs: Any) -> None:
        super().__init__(rtvi, **kwargs)
        self._listening = False

        @rtvi.event_handler("on_client_ready")
        async def on_client_ready(_rtvi: RTVIProcessor) -> None:
            self._listening = True

    @override
    async def send_rtvi_message(self, model: BaseModel, exclude_none: bool = True) -> None:
        """Send a message, if somebody listens."""
        if self._listening:
            await super().send_rtvi_message(model, exclude_none)


class _Rtvi(RTVIProcessor):
    @override
    def create_rtvi_observer(self, *, params: RTVIObserverParams | None = None, **kwargs: Any) -> RTVIObserver:
        return _ListeningClients(self, params=params, **kwargs)


def make_worker(pipeline: Pipeline, runner_args: RunnerArguments, *, talks: bool = True) -> PipelineWorker:
    """Return a worker that hangs up on a caller who is idle, and ends when one of its services can do no more.

    Args:
        pipeline: what it runs.
        runner_args: say how long a caller may be idle.
        talks: whether there is a conversation to be measured, and to be told to clients that show it (RTVI).
    """
    return PipelineWorker(
        pipeline,
        params=PipelineParams(
            audio_in_sample_rate=RATE,
            audio_out_sample_rate=RATE,
            enable_metrics=talks,
            enable_usage_metrics=talks,
        ),
        enable_rtvi=talks,
        rtvi_processor=_Rtvi() if talks else None,
        enable_turn_tracking=talks,
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
        # A bot without ears, mind or voice is no use to a caller.
        processor_unusable_policy=ProcessorUnusablePolicy.CANCEL,
    )


async def run(worker: PipelineWorker, transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run until the pipeline ends; a client that leaves cancels it."""

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel(reason="client disconnected")

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint, handle_sigterm=runner_args.handle_sigterm)
    await runner.add_workers(worker)
    await runner.run()


def _webrtc_params() -> TransportParams:
    return TransportParams(audio_in_enabled=True, audio_out_enabled=True, audio_out_10ms_chunks=_OUT_10MS_CHUNKS)


def _websocket_params() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_out_10ms_chunks=_OUT_10MS_CHUNKS,
        serializer=ProtobufFrameSerializer(),
    )


def _telephony_params() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, audio_out_10ms_chunks=_OUT_10MS_CHUNKS)
