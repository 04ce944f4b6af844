"""Commands to live sessions: asked of the session's process, and answered the same under the same id.

Before a command is sent its id is written down, with the epoch of the process that it goes to; after the answer, that.
So a repeated request, at any instance, finds the answer even when the session is long over. One that finds the id
without an answer asks the process again, which remembers what it has carried out. Only if that process is gone can't
anybody tell: then the command is neither answered nor sent to the session's next process.

A command to a session that isn't ready yet goes into its mailbox instead (`greenroom.common.mailbox`): that is written
down with its id, so it stays in the mailbox's hands even when the session is ready by the time that somebody asks.
"""

import hashlib
from typing import Any, Final, cast

import msgspec
import structlog

from greenroom.api.auth import SESSIONS_CONTROL, SESSIONS_LOCK, Caller
from greenroom.api.command_schemas import SCOPES, CommandView, SendCommand
from greenroom.api.sessions import Sessions
from greenroom.common import mailbox, messages, subjects
from greenroom.common.broker import Broker, NoResponder, RequestTimeout, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.command_errors import (
    PASSING,
    CommandIdReused,
    CommandLost,
    CommandTimedOut,
    SessionNotLive,
    error_of,
)
from greenroom.common.commands import (
    Command,
    CommandAnswer,
    CommandDone,
    CommandRefused,
    CommandRequest,
    Configure,
    Stop,
    kind_of,
)
from greenroom.common.errors import BrokerUnavailable, Forbidden, GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session, State
from greenroom.common.mailbox import Mailbox
from greenroom.common.mailboxes import Mailboxes
from greenroom.common.messages import IdempotencyRecord
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

STREAM: Final = "IDEMPOTENCY"
_DONE: Final = 200
# A session that ends may still be told to do so at once.
_LIVE: Final = frozenset({State.READY})
_LIVE_FOR_STOP: Final = frozenset({State.READY, State.ENDING})
_NOT_YET: Final = frozenset({State.REQUESTED, State.LEASED, State.STARTED})
_OVER: Final = frozenset({State.ENDING, State.ENDED})


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was carried out, or waits; `replayed`: it was answered before."""

    view: CommandView
    replayed: bool


class Commands:
    """Sends commands to the sessions of all tenants."""

    def __init__(self, broker: Broker, sessions: Sessions, metrics: Metrics, *, clock: Clock | None = None) -> None:
        """Reach session processes over `broker`."""
        self._broker = broker
        self._sessions = sessions
        self._mailboxes = Mailboxes(broker)
        self._clock = clock or SystemClock()
        self._counted = metrics.counter("commands", "Commands to live sessions", ["command", "outcome"])

    async def send(self, caller: Caller, session_id: str, wish: SendCommand) -> Sent:
        """Have a session carry a command out, at once or when it is ready.

        Raises:
            Forbidden: the key may not send this one.
            SessionNotFound, SessionNotLive: there is no such session, or it isn't running and the command can't wait.
            TooManyCommands: so many wait for the session already.
            CommandTimedOut: no answer in time; the same id tells.
            CommandIdReused, CommandLost: the id belongs to another command, or to a process that is gone.
            GreenroomError: the session refused (see `command_errors`).
            BrokerUnavailable: it isn't known whether it was carried out; trying again under the same id is safe.
        """
        kind = kind_of(wish.command)
        authorise(caller, wish.command)
        try:
            answer, replayed = await self._answer(caller, session_id, wish)
            if isinstance(answer, CommandRefused):
                raise error_of(answer.code, answer.detail)
        except GreenroomError as error:
            self._counted.inc(command=kind, outcome=error.code)
            raise
        view = CommandView(id=answer.id, session_id=session_id, command=kind, result={}, status="queued")
        if isinstance(answer, CommandDone):
            view = msgspec.structs.replace(view, result=answer.result, status="done")
        self._counted.inc(command=kind, outcome=view.status)
        return Sent(view=view, replayed=replayed)

    async def _answer(
        self, caller: Caller, session_id: str, wish: SendCommand
    ) -> tuple[CommandAnswer | CommandRequest, bool]:
        """Return the answer, or the request while that waits; and whether it was answered before."""
        session = await self._sessions.find(caller.tenant, session_id)
        request = CommandRequest(id=wish.id or uuid7(), by=caller.key_id, at=self._clock.now(), command=wish.command)
        subject = _subject(caller.tenant, session_id, request.id)
        known, revision = await self._known(subject, wish.command) if wish.id else (None, 0)
        if known is not None and known.answer is not msgspec.UNSET:
            return _decoded(bytes(known.answer)), True
        if known is not None and known.posted:
            return await self._post(session, request, subject, known, revision)
        live = _LIVE_FOR_STOP if isinstance(wish.command, Stop) else _LIVE
        if known is not None and (session.state not in live or known.epoch != session.epoch):
            raise CommandLost
        waits = session.state in _NOT_YET
        if waits and not isinstance(wish.command, mailbox.CAN_WAIT):
            raise SessionNotLive(f"It is {session.state}; what can wait until it is ready: {', '.join(mailbox.NAMES)}.")
        if not waits and session.state not in live:
            raise SessionNotLive(f"It is {session.state}.")
        if known is None:
            known = IdempotencyRecord(
                body_sha256=_digest(wish.command),
                session_id=session_id,
                at=request.at,
                epoch=session.epoch,
                posted=waits,
            )
            try:
                revision = await self._broker.append(subject, messages.encode(known), expected_last=0)
            except WrongLastSequence:
                # The same command at the same time, elsewhere; this time it is found.
                return await self._answer(caller, session_id, msgspec.structs.replace(wish, id=request.id))
        if waits:
            return await self._post(session, request, subject, known, revision)
        raw = await self._ask(session, request, wish.timeout_s)
        answer = _decoded(raw)
        if not (isinstance(answer, CommandRefused) and answer.code in PASSING):
            await self._write_down(subject, known, revision, raw, answer)
        return answer, False

    async def _post(
        self, session: Session, request: CommandRequest, subject: str, known: IdempotencyRecord, revision: int
    ) -> tuple[CommandAnswer | CommandRequest, bool]:
        """Put a command into the session's mailbox, if it isn't there, and return what became of it so far."""
        box = await self._mailboxes.change(session.tenant, session.id, lambda box: _posted(box, session, request))
        posted = box.find(request.id)
        if posted is None or posted.answer is None:
            return request, False
        await self._write_down(subject, known, revision, messages.encode(posted.answer), posted.answer)
        return posted.answer, True

    async def _known(self, subject: str, command: Command) -> tuple[IdempotencyRecord | None, int]:
        message = await self._broker.last(STREAM, subject)
        if message is None:
            return None, 0
        record = messages.decode(message.data, IdempotencyRecord)
        if record.body_sha256 != _digest(command):
            raise CommandIdReused
        return record, message.stream_seq

    async def _ask(self, session: Session, request: CommandRequest, timeout_s: float) -> bytes:
        subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="command")
        try:
            reply = await self._broker.request(subject, messages.encode(request), timeout_s=timeout_s)
        except NoResponder as error:
            raise SessionNotLive("Its process isn't there.") from error
        except RequestTimeout as error:
            raise CommandTimedOut(
                f"It didn't answer in {timeout_s:g} s. Send it again with the id {request.id}.", command_id=request.id
            ) from error
        return reply.data

    async def _write_down(
        self, subject: str, known: IdempotencyRecord, revision: int, raw: bytes, answer: CommandAnswer
    ) -> None:
        status = _DONE if isinstance(answer, CommandDone) else error_of(answer.code, "").status
        record = msgspec.structs.replace(known, status=status, answer=msgspec.Raw(raw))
        try:
            await self._broker.append(subject, messages.encode(record), expected_last=revision)
        except WrongLastSequence:
            # A duplicate has written the same.
            return
        except BrokerUnavailable:
            # The process remembers it too.
            _log.warning("command_answer_not_kept", session_id=known.session_id)


def authorise(caller: Caller, command: Command) -> None:
    """Make sure that a key may send a command.

    Raises:
        Forbidden: it may not.
    """
    scopes = (SESSIONS_CONTROL, SCOPES.get(type(command), SESSIONS_CONTROL))
    if not caller.may(*scopes):
        raise Forbidden(f"The key lacks the scope {' or '.join(dict.fromkeys(scopes))}.")
    if isinstance(command, Configure) and command.lock is not msgspec.UNSET and not caller.may(SESSIONS_LOCK):
        raise Forbidden(f"The key lacks the scope {SESSIONS_LOCK}, which `lock` needs.")


def _posted(box: Mailbox, session: Session, request: CommandRequest) -> Mailbox:
    """Return a session's mailbox with a command in it.

    Raises:
        TooManyCommands: it is full.
        CommandLost: the session is over, and its mailbox doesn't have the command (any more).
    """
    if session.state in _OVER and box.find(request.id) is None:
        raise CommandLost
    if session.ended:
        return mailbox.close(box)
    # One that waits is leased under the next epoch; what is left of the last one must not have it.
    return mailbox.post(box, request, session.epoch + (session.state is State.REQUESTED))


def _decoded(raw: bytes) -> CommandAnswer:
    return messages.decode(raw, cast("Any", CommandAnswer))


def _digest(command: Command) -> str:
    return hashlib.sha256(messages.encode(command)).hexdigest()


def _subject(tenant: str, session_id: str, command_id: str) -> str:
    # No `Idempotency-Key` has a NUL, so the two never meet.
    key = hashlib.sha256(f"command\0{session_id}\0{command_id}".encode()).hexdigest()
    return subjects.IDEMPOTENCY.format(tenant=tenant, key=key)
