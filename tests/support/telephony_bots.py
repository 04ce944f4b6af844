"""A bot in the shape of Pipecat's telephony quickstarts; it knows nothing of Greenroom.

It reads the carrier's first messages itself, makes the carrier's serializer with credentials from the environment, and
does what it is told by keys: 1 speaks for long, 2 interrupts, 3 presses a key itself, 4 sends a mark, # hangs up. A
function of its own (`known`) tells what it knows of the call.
"""

import os
from typing import Any, Final, override

from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    EndWorkerFrame,
    Frame,
    InputDTMFFrame,
    OutputAudioRawFrame,
    OutputDTMFUrgentFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import CallData, WebSocketRunnerArguments
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from tests.support.session_bots import tone

RATE: Final = 8_000
GREETING_S: Final = 0.6
LONG_S: Final = 8.0


EXPOSED: dict[str, Any] = {}


class Keys(FrameProcessor):
    """Does what keys say."""

    def __init__(self, carrier: str, call: CallData) -> None:
        super().__init__()
        self._carrier = carrier
        self._call = call

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """See the module."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputDTMFFrame):
            await self.push_frame(frame, direction)
            return
        match frame.button.value:
            case "1":
                await self.speak(LONG_S)
            case "2":
                await self.broadcast_interruption()
            case "3":
                await self.push_frame(OutputDTMFUrgentFrame(button=KeypadEntry.FIVE))
            case "4":
                await self.push_frame(OutputTransportMessageUrgentFrame(message=_mark(self._carrier, self._call)))
            case _:
                await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)

    async def speak(self, seconds: float) -> None:
        """Speak in a tone of 200 Hz."""
        await self.push_frame(OutputAudioRawFrame(tone(round(seconds * 16_000)), 16_000, 1))


async def bot(runner_args: WebSocketRunnerArguments) -> None:
    """Run one call."""
    carrier, call = await parse_telephony_websocket(runner_args.websocket)

    def known() -> dict[str, Any]:
        return {"body": runner_args.body, "call": call.model_dump(by_alias=True)}

    EXPOSED["known"] = known
    params = FastAPIWebsocketParams(
        audio_in_enabled=True, audio_out_enabled=True, add_wav_header=False, serializer=_serializer(carrier, call)
    )
    transport = FastAPIWebsocketTransport(websocket=runner_args.websocket, params=params)
    keys = Keys(carrier, call)
    worker = PipelineWorker(
        Pipeline([transport.input(), keys, transport.output()]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        await keys.speak(GREETING_S)

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


def _serializer(carrier: str, call: CallData) -> FrameSerializer:
    stream_id, call_id = call["stream_id"], call["call_id"]
    match carrier:
        case "twilio":
            return TwilioFrameSerializer(
                stream_sid=stream_id,
                call_sid=call_id,
                account_sid=os.environ["TWILIO_ACCOUNT_SID"],
                auth_token=os.environ["TWILIO_AUTH_TOKEN"],
            )
        case "telnyx":
            return TelnyxFrameSerializer(
                stream_id=stream_id,
                call_control_id=call_id,
                outbound_encoding=call["outbound_encoding"],
                inbound_encoding="PCMU",
                api_key=os.environ["TELNYX_API_KEY"],
            )
        case "plivo":
            return PlivoFrameSerializer(
                stream_id=stream_id,
                call_id=call_id,
                auth_id=os.environ["PLIVO_AUTH_ID"],
                auth_token=os.environ["PLIVO_AUTH_TOKEN"],
            )
        case "exotel":
            return ExotelFrameSerializer(stream_sid=stream_id, call_sid=call_id)
        case _:
            raise ValueError(carrier)


def _mark(carrier: str, call: CallData) -> dict[str, Any]:
    match carrier:
        case "plivo":
            return {"event": "checkpoint", "streamId": call.stream_id, "name": "said"}
        case "exotel":
            return {"event": "mark", "stream_sid": call.stream_id, "mark": {"name": "said"}}
        case _:
            return {"event": "mark", "streamSid": call.stream_id, "mark": {"name": "said"}}
