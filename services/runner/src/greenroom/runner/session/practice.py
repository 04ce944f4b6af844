"""A session that isn't one: what the first session of a process would find cold is warmed while it stands by.

A fork shares the memory of its zygote until it writes to it, and the first run through any code writes to the pages
of its objects (reference counts): a start that has been practised takes less than half as long. Its messages go
the whole way through the broker, to subjects of this process alone; nothing of it is stored.
"""

import asyncio
import socket
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.flows import FlowManager
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner import utils as runner_utils
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from greenroom.common.broker import Broker, Handler, Message, Responder, Subscription
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.runner import bot_modules, control
from greenroom.runner.discovery import BotFunction
from greenroom.runner.rehearsal import StandInModel, StandInRecognition, StandInSpeech
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.context import SessionContext
from greenroom.runner.session.live import LiveSession
from greenroom.runner.session.pipelines import done, first
from greenroom.runner.settings import RunnerSettings

_TIMEOUT_S: Final = 2.0
_REHEARSAL_S: Final = 10.0
_CANCEL_AGAIN_S: Final = 0.2
# 8 ms each.
_REHEARSALS: Final = 12
# 8 ms each, too, and whoever stands by is to be there soon.
_MOST_PRACTISED: Final = 4
_BOT: Final = "practice"
# Belongs to no trace.
_TRACEPARENT: Final = f"00-{1:032x}-{1:016x}-00"


async def practise(context: SessionContext, broker: Broker) -> str | None:
    """Start a pipeline as a session does, and cancel it; then those of the bots that may be run with nobody there.

    Args:
        context: of this process.
        broker: the session's, connected.

    Returns:
        The class of the error that it ended with, if any: that is no more than a slower start.
    """
    corner = _Corner(broker)
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await corner.open()
            for bot in (_bot, *(context.bots[each] for each in context.rehearsed[:_MOST_PRACTISED])):
                practised = SessionContext(runner_id="", settings=context.settings, bots={(_BOT, 1): bot})
                await _run(practised, cast("Broker", corner), channel, theirs)
                bot_modules.leave()
    except Exception as error:  # noqa: BLE001 whatever it was: if it matters, the session will meet it again
        return type(error).__name__
    finally:
        channel.close()
        theirs.close()
        await corner.close()
    return None


async def rehearse(settings: RunnerSettings, bot: BotFunction | None = None) -> None:
    """Practise in the zygote, where there is no broker, before anything is forked from it.

    The interpreter specializes code that has run a few times, and so writes to it: what was done here, no fork does
    for itself. Of a standby that is 1.2 MB.

    Args:
        settings: of the runner.
        bot: what is begun, if it isn't our own.

    Raises:
        TimeoutError: it didn't come to its end.
    """
    context = SessionContext(runner_id="", settings=settings, bots={(_BOT, 1): bot or _bot})
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    before = asyncio.all_tasks()
    try:
        async with asyncio.timeout(_REHEARSAL_S):
            for _ in range(_REHEARSALS):
                await _run(context, cast("Broker", _Nobody()), channel, theirs)
    finally:
        await _end_all_since(before)
        channel.close()
        theirs.close()


async def _end_all_since(before: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what was begun meanwhile until it has ended.

    Once isn't enough: Pipecat's worker passes over a cancellation that meets it waiting for tasks of its own. Then the
    loop would wait for it for ever, and the zygote with it.
    """
    while left := asyncio.all_tasks().difference(before):
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)


async def _run(context: SessionContext, broker: Broker, channel: Channel, runner: socket.socket) -> None:
    now = datetime.now(UTC)
    session = Session(
        id=uuid7(),
        tenant=_BOT,
        agent=_BOT,
        bot=_BOT,
        traceparent=_TRACEPARENT,
        requested_at=now,
        queue_deadline_at=now,
    )
    live = LiveSession(session, context, broker, channel, _nothing)
    running = asyncio.create_task(live.run())
    try:
        await first(live.ready.wait(), done(running))
        runner.send(control.encode(control.Cancel(reason=_BOT)))
        await running
    finally:
        running.cancel()


async def _bot(arguments: WebSocketRunnerArguments) -> None:
    """Be a bot with what most bots have, made and run the way most make and run it."""
    transport = await runner_utils.create_transport(arguments, {"websocket": _transport_params})
    # The default strategy would load a model, which a bot may not want.
    turns = UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy()])
    aggregators = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=turns)
    )
    model = StandInModel()
    pipeline = Pipeline(
        [
            transport.input(),
            StandInRecognition(),
            aggregators.user(),
            model,
            StandInSpeech(),
            transport.output(),
            aggregators.assistant(),
        ]
    )
    worker = PipelineWorker(pipeline, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))
    FlowManager(llm=model, context_aggregator=aggregators, worker=worker, transport=transport)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: object) -> None:
        pass  # nobody comes

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


def _transport_params() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer())


class _Corner:
    """The broker, with all subjects moved to where nobody but this process is, which also acknowledges appends."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._prefix = f"_INBOX.practice.{uuid7()}"
        self._stream: Subscription | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._broker.connected

    async def open(self) -> None:
        """Begin to acknowledge."""
        self._stream = await self._broker.serve(f"{self._prefix}.stream.>", _acknowledge)

    async def close(self) -> None:
        """Acknowledge no more."""
        if self._stream is not None:
            await self._stream.unsubscribe()

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Broker.publish`."""
        await self._broker.publish(f"{self._prefix}.{subject}", data, headers)

    async def subscribe(self, subject: str, handler: Handler, *, max_pending: int = 65_536) -> Subscription:
        """See `Broker.subscribe`."""
        return await self._broker.subscribe(f"{self._prefix}.{subject}", handler, max_pending=max_pending)

    async def serve(self, subject: str, responder: Responder) -> Subscription:
        """See `Broker.serve`."""
        return await self._broker.serve(f"{self._prefix}.{subject}", responder)

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        return await self._broker.append_soon(f"{self._prefix}.stream.{subject}", data, msg_id=msg_id, headers=headers)


class _Nobody:
    """A broker with nobody behind it, which stores everything at once."""

    connected = True

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Broker.publish`."""

    async def subscribe(self, _subject: str, _handler: Handler, **_: object) -> Subscription:
        """See `Broker.subscribe`."""
        return self

    serve = subscribe

    async def unsubscribe(self) -> None:
        """See `Subscription.unsubscribe`."""

    async def append_soon(self, _subject: str, _data: bytes, **_: object) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stored.set_result(1)
        return stored


async def _acknowledge(_: Message) -> bytes:
    return b'{"seq":1}'


async def _nothing() -> None:
    pass
