"""One session, from its assignment to its last message."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from opentelemetry import context as otel_context
from pipecat.frames.frames import Frame
from pipecat.pipeline.worker import PipelineWorker
from pipecat.workers.runner import WorkerRunner

from greenroom.common.broker import Broker
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.lifecycle import OnLoss, Outcome, Session
from greenroom.common.messages import EventType
from greenroom.common.reasons import Reason
from greenroom.common.spool import Spool
from greenroom.common.telemetry import context_from_traceparent
from greenroom.runner.control import (
    Announced,
    Assign,
    Cancel,
    ChangeRoom,
    EndingNotice,
    Finished,
    MediaConnected,
    PipelineReady,
    Stop,
)
from greenroom.runner.session.attach import HOST, Attachment
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.chunking import InputChunks, piece_ms
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.closing import bequeath, close_code, completed, finished, publish, told
from greenroom.runner.session.commands.desk import Desk
from greenroom.runner.session.commands.transferring import By
from greenroom.runner.session.context import SessionContext
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.end_hooks import run_end_hooks
from greenroom.runner.session.ending import Ending, verdict_for, verdict_on, where_raised
from greenroom.runner.session.flows import NODE_WATCH
from greenroom.runner.session.invocation import find_bot
from greenroom.runner.session.lull import Lulls
from greenroom.runner.session.pipelines import Pipelines, first
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.room_change import RoomChange
from greenroom.runner.session.shortcuts import cut_bot_audio, cut_user_audio
from greenroom.runner.session.stages import Stages, rooted
from greenroom.runner.session.transports import make_transport
from greenroom.runner.session.transports.base import AWAY, WAY_LOST, NotRunnable
from greenroom.runner.session.turn_ahead import judge_ahead
from greenroom.runner.session.turns import TurnSpans
from greenroom.runner.session.voicemail import tell_who_answered
from greenroom.runner.session.watch import CallWatch
from greenroom.runner.session.watchkeeper import Watchkeeper
from greenroom.runner.slots import CANCEL_AT, TERMINATE_AT

_log = structlog.get_logger()

# What canceling the pipelines, and then the bot, may take, as a share of the whole end (`limits.end_timeout_s`).
_PATIENCE: Final = 0.08
_MIN_FLUSH_S: Final = 1.0
# Settings from before are there when the session is ready, unless a service takes longer for them.
_CATCH_UP_S: Final = 5.0
# A carrier that has taken a call closes its media within a second or two; one that doesn't must not be heard any more.
_HANDED_OVER_S: Final = 10.0
# The runner is gone, or has lost its patience: of the second that is left, this is for each of two cancelations and
# for the last messages.
_URGENT_CANCEL_S: Final = 0.15
_URGENT_FLUSH_S: Final = 0.3


class LiveSession:
    """A session while its bot runs. See `attach.Host`.

    `ready` is set when the bot's pipeline runs.

    Args:
        session: its document, as leased.
        context: what was inherited from the zygote.
        broker: connected.
        channel: to the runner.
        listening: waits until the broker knows our subscriptions.
    """

    def __init__(
        self,
        session: Session,
        context: SessionContext,
        broker: Broker,
        channel: Channel,
        listening: Callable[[], Awaitable[None]],
    ) -> None:
        self.session = rooted(session)
        self._context = context
        self._broker = broker
        self._channel = channel
        self._listening = listening
        self._stages = Stages(self.session)
        self.ready = asyncio.Event()
        # The broker knows our subscriptions, and nothing has to be done first; the runner knows that we are ready.
        self._reachable = self._told_ready = False
        self._ending = Ending()
        # Whether the runner knows of the end because it said so.
        self._told_to_end = False
        self._somebody_there = False
        self._hung_up = False
        self._orphaned = False
        self._urgent = False
        self._clock = CallClock()
        self._spool = Spool(broker)
        self._emitter = Emitter(self._spool, self.session)
        self._recorder = Recorder(self._clock, self._emitter)
        self._root = context_from_traceparent(self.session.traceparent)
        self._spans = TurnSpans(self._root, session.id)
        self._transport = make_transport(
            self.session, broker, self._on_connected, self._on_disconnected, context.settings.network
        )
        self._transport.on_news = lambda kind, data: self._emitter.emit(EventType.TRANSPORT, {"kind": kind, **data})
        self._transport.on_over = self._on_over
        self._pipelines = Pipelines()
        lulls = Lulls(self._transport, self._pipelines.aggregators, lambda: self._recorder.tap is not None)
        self._watch = CallWatch(
            self._clock,
            self._emitter,
            self._recorder,
            self._spans,
            self._on_end_frame,
            on_heard=lulls.heard,
            on_answer=channel.say,
        )
        self._keeper = Watchkeeper(
            session.limits,
            emitter=self._emitter,
            ending=self._ending,
            recorder=self._recorder,
            pipelines=self._pipelines,
            channel=channel,
            cut_off=lambda: not broker.connected,
        )
        self._room_change = RoomChange(self._transport, self._keeper, channel)
        self._bot_context = contextvars.copy_context()
        self._desk = Desk(
            broker,
            self.session,
            medium=self._transport,
            pipelines=self._pipelines,
            emitter=self._emitter,
            recorder=self._recorder,
            clock=self._clock,
            bot_context=self._bot_context,
            stop=self._ending.stop,
            transferred=self._on_transferred,
        )
        self._tasks = asyncio.TaskGroup()
        self._bot: asyncio.Task[None] | None = None

    async def run(self) -> Finished:
        """Run the session; returns when everything is published, or has been given up."""
        async with self._tasks as tasks:
            background = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("spool", self._spool.run()),
                    ("recorder", self._recorder.run()),
                    ("watchkeeper", self._keeper.run()),
                    ("control", self._listen()),
                    ("transport", self._transport.watch()),
                )
            ]
            try:
                await self._start()
                await self._ending.begun.wait()
                return await self._end()
            finally:
                for task in background:
                    task.cancel()

    def without_body(self, why: str) -> None:
        """Have the session end before its bot is called: what that was to be given can't be had, and `why`."""
        self._ending.decide(Outcome.FAILED, Reason.BODY_UNAVAILABLE.value, why)

    def terminate(self) -> None:
        """End within a second, whatever the bot does; for a SIGTERM."""
        self._ending.decide(Outcome.FAILED, Reason.PROCESS_KILLED.value, "SIGTERM")
        self._urgent = True
        self._ending.hurry.set()

    # ------------------------------------------------------------------------ start

    async def _start(self) -> None:
        if self._ending.begun.is_set():
            return
        with self._stages.span("session.start") as span:
            try:
                await self._transport.open()
            except (NotRunnable, BrokerUnavailable) as error:
                self._ending.decide(Outcome.FAILED, Reason.TRANSPORT_FAILED.value, str(error))
                return
            self._emitter.emit(
                EventType.CALL_STARTED,
                {
                    "agent": self.session.agent,
                    "agent_version": self.session.agent_version,
                    "bot": self.session.bot,
                    "transport": self.session.transport,
                    "attempt": self.session.attempt,
                    "runner_id": self._context.runner_id,
                },
            )
            self._bot_context.run(self._enter)
            self._bot = asyncio.get_running_loop().create_task(self._run_bot(), name="bot", context=self._bot_context)
            self._bot.add_done_callback(self._on_bot_done)
            # While the bot makes its pipeline: commands are for what is ready.
            await self._desk.open()
            await self._listening()
            owed = await self._desk.mail.look()
            self._reachable = not owed
            self._tell_ready()
            await first(self.ready.wait(), self._ending.begun.wait())
            if self.ready.is_set():
                self._desk.mail.begin()
            if owed:
                await first(self._desk.mail.caught_up.wait(), self._ending.begun.wait(), timeout_s=_CATCH_UP_S)
            span.set_attributes({f"greenroom.stage.{name}_ms": took for name, took in self._stages.took_ms.items()})
        if self.ready.is_set():
            if not self._told_ready:
                await self._channel.send(PipelineReady(stages_ms=self._stages.took_ms))
            session = self.session
            _log.info(
                "pipeline_ready",
                bot=session.bot,
                epoch=session.epoch,
                attempt=session.attempt,
                stages_ms=self._stages.took_ms,
            )

    def _enter(self) -> None:
        """Make the bot's context: its spans belong to the session, and its workers find their way to us."""
        otel_context.attach(self._root)
        HOST.set(self)
        NODE_WATCH.set(self._on_node)

    async def _run_bot(self) -> None:
        arguments = self._transport.arguments({**self.session.config, **self.session.body})
        try:
            bot = find_bot(self.session, self._context)
        except Exception as error:
            _log.exception("bot_import_failed", bot=self.session.bot)
            self._ending.decide(Outcome.FAILED, Reason.BOT_IMPORT_FAILED.value, told(error))
            raise
        self._desk.exposed.module = bot.__module__
        self._stages.mark("bot")
        try:
            await bot(arguments)
        except SystemExit as error:
            # The loop would stop on it, before anything is published.
            raise RuntimeError("the bot called sys.exit()") from error

    def _on_bot_done(self, bot: asyncio.Task[None]) -> None:
        if bot.cancelled():
            self._ending.decide(Outcome.FAILED, Reason.BOT_FAILED.value, "the bot canceled itself")
        elif error := bot.exception():
            place = told(error)
            _log.error("bot_failed", bot=self.session.bot, error=place, exc_info=error)
            self._emitter.emit(
                EventType.ERROR,
                {"message": place, "category": "bot", "exception_type": type(error).__qualname__, "usable": False},
            )
            self._ending.decide(Outcome.FAILED, Reason.BOT_FAILED.value, place)
        elif self.ready.is_set():
            self._ending.decide(Outcome.COMPLETED, Reason.COMPLETED.value)
        else:
            self._ending.decide(Outcome.FAILED, Reason.BOT_FAILED.value, "the bot returned before its pipeline ran")

    async def on_runner(self, runner: WorkerRunner) -> None:
        """See `attach.Host`."""
        self._pipelines.runners.append(runner)

    async def on_worker(self, worker: PipelineWorker) -> None:
        """See `attach.Host`."""
        try:
            attachment = Attachment(worker)
            cut_user_audio(worker)
            cut_bot_audio(worker)
            if self._context.settings.turn_detection_ahead:
                judge_ahead(attachment.aggregators)
            tell_who_answered(attachment.worker.pipeline, self._emitter.emit)
            attachment.observe(self._watch, self._spans, self._on_pipeline_started, keeper=self._keeper)
            self._transport.attach(attachment)
            if chunk_ms := piece_ms(self._desk.exposed.module, self._context.settings.input_chunk_ms):
                for transport in attachment.inputs:
                    InputChunks(transport, chunk_ms / 1000, self._transport)
        except Exception as error:
            # Pipecat would log it and go on, unobserved and unstoppable.
            _log.exception("observers_not_attached")
            self._ending.decide(Outcome.FAILED, Reason.BOT_FAILED.value, f"not observable: {where_raised(error)}")
            raise
        self._pipelines.attachments.append(attachment)
        if attachment.main:
            self._stages.mark("worker")
            if self._clock.begun:
                await self._watch.connected(attachment.inputs[0] if attachment.inputs else attachment.outputs[0])
        if self._ending.begun.is_set():
            await worker.stop_when_done()

    def _on_pipeline_started(self) -> None:
        if not self.ready.is_set():
            self._stages.mark("pipeline")
            self.ready.set()
            self._keeper.ready()
            self._tell_ready()

    def _tell_ready(self) -> None:
        """Say so at once: the loop is full of what a pipeline does when it begins, and somebody waits."""
        if self.ready.is_set() and self._reachable and not self._told_ready:
            self._told_ready = self._channel.say(PipelineReady(stages_ms=self._stages.took_ms))

    # ------------------------------------------------------------------------ meanwhile

    def _on_connected(self, connection_id: str) -> None:
        self._somebody_there = True
        self._clock.begin()
        self._emitter.emit(EventType.CALL_CONNECTED, {"connection_id": connection_id})
        _log.info("client_connected", connection_id=connection_id)
        if self._keeper.came_back():
            # To the room, or into the next one.
            self._channel.say(MediaConnected())
            return
        # What the bot does when it is told happens in its own context, as if its transport had found out.
        self._tasks.create_task(self._welcome(), name="welcome", context=self._bot_context.copy())

    async def _welcome(self) -> None:
        await self._channel.send(MediaConnected(call=self._transport.call))
        for attachment in self._pipelines.attachments:
            if attachment.main:
                await self._watch.connected(attachment.inputs[0] if attachment.inputs else attachment.outputs[0])
        await self._transport.welcome()
        self._desk.mail.on_somebody()

    def _on_disconnected(self, by: str, code: int, reason: str) -> None:
        # Who never came, or was told to be away already, isn't told to be gone; the way to him is over all the same.
        if self._somebody_there:
            self._somebody_there = False
            self._emitter.emit(
                EventType.CALL_DISCONNECTED, {"by": by, "code": code, "reason": reason, "at_ms": self._clock.now_ms()}
            )
        _log.info("client_disconnected", by=by, code=code)
        if by == AWAY and self._keeper.waits():
            return
        if by == WAY_LOST:
            self._ending.decide(Outcome.FAILED, Reason.TRANSPORT_FAILED.value, reason)
        self._hung_up = by in {"client", AWAY}
        why = Reason.CLIENT_LEFT if self._hung_up else Reason.COMPLETED
        self._ending.decide(Outcome.COMPLETED, why.value)

    def _on_over(self, reason: Reason, detail: str) -> None:
        self._ending.decide(Outcome(reason.outcome), reason.value, detail)

    def _on_transferred(self, by: By) -> None:
        """Leave it to the carrier to close the media: done by us, it might end the call before it has another end.

        Of a call that has its other end in the room, the bot goes.
        """
        self._ending.handed_over()
        over = self._ending.decide, Outcome.COMPLETED, Reason.TRANSFERRED.value
        asyncio.get_running_loop().call_later(_HANDED_OVER_S if by == "carrier" else 0, *over)

    def _on_node(self, before: str | None, node: str) -> None:
        if before is not None:
            self._emitter.emit(EventType.NODE_TRANSITION, {"from": before, "to": node})
        self._emitter.emit(EventType.NODE_ENTERED, {"node": node})

    def _on_end_frame(self, frame: Frame) -> None:
        self._pipelines.ending.set()
        verdict = verdict_on(frame)
        if verdict.reason == Reason.COMPLETED.value:
            self._transport.bot_ends()
        self._ending.decide(verdict.outcome, verdict.reason, verdict.detail)

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case Stop():
                    self._told_to_end |= self._ending.decide(message.outcome, message.reason, message.detail)
                    asyncio.get_running_loop().call_later(message.deadline_s, self._ending.hurry.set)
                case Cancel():
                    verdict = verdict_for(message.reason)
                    self._told_to_end |= self._ending.decide(verdict.outcome, verdict.reason)
                    self._ending.hurry.set()
                case Announced():
                    self._desk.mail.on_ready()
                case ChangeRoom():
                    self._room_change.begin(message, self._tasks, self._bot_context.copy())
                case Assign():
                    _log.error("assigned_twice", other_session_id=message.session.id)
        _log.error("runner_lost")
        self._orphaned = self._urgent = True
        if self._goes_on():
            self._transport.let_go()
        self._ending.decide(Outcome.LOST, Reason.RUNNER_LOST.value)
        self._ending.hurry.set()

    def _goes_on(self) -> bool:
        """Tell whether the session will be put on another runner, as far as that is known here."""
        on_loss = self.session.on_loss
        return on_loss is OnLoss.ALWAYS or (on_loss is OnLoss.BEFORE_MEDIA and not self._clock.begun)

    # ------------------------------------------------------------------------ end

    async def _end(self) -> Finished:
        loop = asyncio.get_running_loop()
        await self._desk.settle(self._ending.hurry)
        verdict = self._ending.verdict
        self._room_change.give_up()
        if verdict is None:
            raise RuntimeError("an end without a verdict")
        whole_s = self.session.limits.end_timeout_s
        # The runner's ladder has the same rungs; where it isn't the one that ends the session, this is the same time.
        loop.call_later(whole_s * CANCEL_AT, self._ending.hurry.set)
        flush_until = loop.time() + whole_s * TERMINATE_AT
        _log.info("session_ending", outcome=verdict.outcome, reason=verdict.reason)
        self._transport.prepare_to_close(close_code(verdict), verdict.reason)
        with self._stages.span("session.end", outcome=verdict.outcome.value, reason=verdict.reason):
            if not self._told_to_end and not self._orphaned:
                await self._channel.send(
                    EndingNotice(outcome=verdict.outcome, reason=verdict.reason, detail=verdict.detail)
                )
            if self._bot is not None:
                await self._pipelines.wind_down(
                    self._bot,
                    self._ending.hurry,
                    hung_up=self._hung_up,
                    reason=verdict.reason,
                    patience_s=lambda: _URGENT_CANCEL_S if self._urgent else whole_s * _PATIENCE,
                )
            await self._desk.close()
            await self._transport.close()
            if not self._urgent:
                await run_end_hooks(self._desk.exposed.module, flush_until - _MIN_FLUSH_S, self._emitter.emit)
            await self._watch.close()
            await self._recorder.close()
            data = completed(
                verdict,
                emitter=self._emitter,
                spool=self._spool,
                recorder=self._recorder,
                clock=self._clock,
                media=self._transport.counts,
            )
            self._emitter.emit(EventType.CALL_COMPLETED, data)
            flush_s = _URGENT_FLUSH_S if self._urgent else max(flush_until - loop.time(), _MIN_FLUSH_S)
            await publish(self._spool, self._broker, flush_s)
            left = await bequeath(self._spool, self._channel)
        return finished(verdict, self._emitter, left=left, lost=self._spool.dropped)
