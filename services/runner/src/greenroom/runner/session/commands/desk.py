"""Takes the commands of one session from the broker, and sees that each is carried out once, answered and audited.

Commands are begun in the order in which they come. One that takes its time (a function of the bot's, a setting that
waits for the end of a sentence) doesn't hold up the next ones.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, SessionNotLive, TooManyCommands
from greenroom.common.commands import CommandAnswer, CommandDone, CommandRefused, CommandRequest, Transfer, kind_of
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.common.messages import EventType, decode, encode
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.commands.acts import Acts, Medium
from greenroom.runner.session.commands.answered import Answered
from greenroom.runner.session.commands.auditing import audit
from greenroom.runner.session.commands.bot_http import BotHttp
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.commands.parts import Parts
from greenroom.runner.session.commands.transferring import By
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.ending import where_raised
from greenroom.runner.session.listening.ears import Ears
from greenroom.runner.session.pipelines import Pipelines, first
from greenroom.runner.session.recording import Recorder

_log = structlog.get_logger()

MAX_RUNNING: Final = 32
# A command is some kB at most.
_MAX_PENDING: Final = 256


class _Id(msgspec.Struct, frozen=True, kw_only=True):
    id: str


class Desk:
    """The commands of one session, and whoever listens in.

    Args:
        broker: where they come from.
        session: whose they are.
        medium: its transport.
        pipelines: of its bot; they grow.
        emitter: takes the events of the audit.
        recorder: whose audio listeners hear.
        clock: the call's timeline.
        bot_context: what the bot runs in.
        stop: ends the session: at once or not, why.
        transferred: called once the caller was handed over, with who has taken the call.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        medium: Medium,
        pipelines: Pipelines,
        emitter: Emitter,
        recorder: Recorder,
        clock: CallClock,
        bot_context: contextvars.Context,
        stop: Callable[[bool, str | None], None],
        transferred: Callable[[By], None],
    ) -> None:
        self.exposed: Final = Exposed(bot_context)
        parts = Parts(pipelines.attachments)
        self.acts: Final = Acts(
            parts,
            medium=medium,
            emitter=emitter,
            clock=clock,
            exposed=self.exposed,
            stop=stop,
            transferred=transferred,
            listeners=lambda: self._ears.listeners,
        )
        self._ears = Ears(
            broker, session, parts=parts, muting=self.acts.muting, emitter=emitter, recorder=recorder, clock=clock
        )
        self._http = BotHttp(broker, session, exposed=self.exposed, emitter=emitter, context=bot_context)
        self._broker = broker
        self._subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="command")
        self._emitter = emitter
        self._clock = clock
        self._answered = Answered()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transfers: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        emitter.on_event = self.acts.standing.see

    async def open(self) -> None:
        """Begin to take commands."""
        self._subscription = await self._broker.subscribe(self._subject, self._on_message, max_pending=_MAX_PENDING)
        await self._http.open()
        await self._ears.open()

    async def settle(self, hurry: asyncio.Event) -> None:
        """Wait until it is known whether the caller was handed over: that may be why he is gone.

        An operator who is still being called, or told what it is about, isn't needed any more.
        """
        self.acts.give_up_operator()
        if self._transfers:
            await first(asyncio.wait(self._transfers), hurry.wait())

    async def close(self) -> None:
        """Take no more; what is under way is canceled, and answered so."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()
        await self._ears.close()

    async def _on_message(self, message: Message) -> None:
        try:
            request = decode(message.data, CommandRequest)
        except msgspec.MsgspecError:
            await self._refuse_unread(message)
            return
        try:
            if self._answered.running >= MAX_RUNNING:
                raise TooManyCommands(f"The session works on {MAX_RUNNING} commands already.")
            known = self._answered.begin(request.id, request.command)
        except GreenroomError as error:
            await self._reply(message, encode(CommandRefused(id=request.id, code=error.code, detail=error.detail)))
            return
        work = self._carry_out(message, request) if known is None else self._repeat(message, known)
        task = asyncio.get_running_loop().create_task(work, name=f"command {kind_of(request.command)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if isinstance(request.command, Transfer):
            self._transfers.add(task)
            task.add_done_callback(self._transfers.discard)

    async def _refuse_unread(self, message: Message) -> None:
        """Refuse what isn't a command that is known here; it may be one of a later version."""
        try:
            command_id = msgspec.json.decode(message.data, type=_Id).id
        except msgspec.MsgspecError:
            _log.warning("command_malformed", bytes=len(message.data))
            return
        refusal = CommandRefused(
            id=command_id, code=CommandUnsupported.code, detail="The runner doesn't know this command."
        )
        await self._reply(message, encode(refusal))

    async def _repeat(self, message: Message, known: asyncio.Future[bytes] | bytes) -> None:
        # Shielded: whoever asks again and leaves must not take the answer from the others.
        await self._reply(message, known if isinstance(known, bytes) else await asyncio.shield(known))

    async def _carry_out(self, message: Message, request: CommandRequest) -> None:
        answer: CommandAnswer
        undone = False
        try:
            answer = CommandDone(id=request.id, result=await self.acts.do(request.command))
        except GreenroomError as error:
            undone = isinstance(error, SessionNotLive)
            answer = CommandRefused(id=request.id, code=error.code, detail=error.detail)
        except asyncio.CancelledError:
            answer = CommandRefused(id=request.id, code=CommandNotDone.code, detail="The session ended meanwhile.")
        except Exception as error:  # noqa: BLE001 what happens in the bot's pipeline must not take the desk with it
            _log.exception("command_failed", command=kind_of(request.command))
            answer = CommandRefused(id=request.id, code=CommandNotDone.code, detail=where_raised(error))
        self._emitter.emit(EventType.COMMAND, audit(request, answer, self._clock.now_ms()))
        settle = self._answered.forget if undone else self._answered.finish
        encoded = settle(request.id, answer)
        _log.info("command_answered", command=kind_of(request.command), by=request.by, answer=_outcome(answer))
        await self._reply(message, encoded)

    async def _reply(self, message: Message, answer: bytes) -> None:
        if not message.reply:
            return
        try:
            await self._broker.publish(message.reply, answer)
        except BrokerUnavailable:
            # Whoever asks again gets it.
            _log.warning("command_answer_not_sent")


def _outcome(answer: CommandAnswer) -> str:
    return "done" if isinstance(answer, CommandDone) else answer.code
