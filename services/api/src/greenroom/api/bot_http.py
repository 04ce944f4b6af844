"""Requests for HTTP routes of a bot's own, forwarded to the process of the session they are about.

An answer that comes in parts is asked for part by part: the next one when the client has taken the last. What a client
gets of an answer that breaks off ends as a cut connection, so that it isn't taken for the whole.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final, cast

import msgspec

from greenroom.api.auth import Caller
from greenroom.api.handshake import EdgeFull
from greenroom.api.sessions import Sessions
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.command_errors import CommandTimedOut, SessionNotLive, error_of
from greenroom.common.commands import HttpAnswer, HttpAnswered, HttpCall, HttpHeader, HttpNext, HttpPart
from greenroom.common.errors import BrokerUnavailable, SessionNotFound
from greenroom.common.lifecycle import Session, State

TIMEOUT_S: Final = 15.0
# The answer is on its way when the bot has taken all of its time.
_GRACE_S: Final = 1.0
# How long one question for a part of an answer waits for the bot to say something.
_WAIT_S: Final = 10.0
# What is the api's own, or of this connection; the bot sees all the others.
_KEPT_BACK: Final = frozenset(
    {"authorization", "connection", "content-length", "cookie", "host", "keep-alive", "transfer-encoding", "upgrade"}
)


class Forwarded:
    """What a bot's route answers, or the beginning of it.

    Attributes:
        answer: status, headers, and the body or its first part.
    """

    def __init__(self, link: "BotHttpLink", session: Session, answer: HttpAnswered) -> None:
        """Keep what is known."""
        self.answer: Final = answer
        self._link = link
        self._session = session

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield what follows the first part.

        Raises:
            AnswerBroken: it isn't complete.
        """
        if self.answer.stream is None:
            return
        async with contextlib.aclosing(self._link.rest(self._session, self.answer.stream)) as rest:
            async for part in rest:
                yield part


class AnswerBroken(Exception):
    """The rest of an answer can't be had any more, after its beginning was sent."""


class BotHttpLink:
    """Reaches the routes of the bots of all sessions.

    Args:
        broker: where session processes are.
        sessions: knows them.
        max_streams: how many answers in parts one process passes on at a time.
    """

    def __init__(self, broker: Broker, sessions: Sessions, *, max_streams: int) -> None:
        self._broker = broker
        self._sessions = sessions
        self._max_streams = max_streams
        self._streams = 0
        self._draining = asyncio.Event()
        self._stops: set[asyncio.Task[None]] = set()

    async def drain(self) -> None:
        """Cut the answers that come in parts: their clients come back, to another instance."""
        self._draining.set()

    async def find(self, caller: Caller, session_id: str, agent: str | None) -> Session:
        """Return a session.

        Raises:
            SessionNotFound: there is none, or not of that agent.
        """
        session = await self._sessions.find(caller.tenant, session_id)
        if agent is not None and session.agent != agent:
            raise SessionNotFound(f"The agent has no session {session_id}.")
        return session

    async def forward(self, caller: Caller, session_id: str, call: HttpCall, *, agent: str | None) -> Forwarded:
        """Return what the bot's route answers.

        Args:
            caller: who asks.
            session_id: of which session.
            call: what.
            agent: whose session it must be, if that was said.

        Raises:
            SessionNotFound, SessionNotLive: there is no such session, or it isn't running.
            CommandTimedOut: no answer in time.
            CommandUnsupported, FunctionFailed, TooManyCommands: the bot has no routes, or they failed.
        """
        session = await self.find(caller, session_id, agent)
        if session.state is not State.READY:
            raise SessionNotLive(f"It is {session.state}.")
        subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="http")
        try:
            reply = await self._broker.request(subject, messages.encode(call), timeout_s=call.timeout_s + _GRACE_S)
        except NoResponder as error:
            raise SessionNotLive("Its process isn't there.") from error
        except RequestTimeout as error:
            raise CommandTimedOut("The bot didn't answer in time.") from error
        answer: HttpAnswer = msgspec.json.decode(reply.data, type=cast("Any", HttpAnswer))
        if not isinstance(answer, HttpAnswered):
            raise error_of(answer.code, answer.detail)
        if answer.stream is not None and (self._streams >= self._max_streams or self._draining.is_set()):
            self._stop(session, answer.stream)
            raise EdgeFull
        return Forwarded(self, session, answer)

    async def rest(self, session: Session, stream: str) -> AsyncGenerator[bytes]:
        """Yield the parts of an answer; whoever stops listening has the route end too.

        Raises:
            AnswerBroken: the answer isn't complete.
        """
        self._streams += 1
        part = HttpPart(more=True)
        try:
            while part.more:
                if self._draining.is_set():
                    raise AnswerBroken
                part = await self._next(session, stream)
                if part.body:
                    yield part.body
                if part.broken:
                    raise AnswerBroken
        finally:
            self._streams -= 1
            if part.more:
                self._stop(session, stream)

    async def _next(self, session: Session, stream: str) -> HttpPart:
        """Ask for a part; a drain doesn't wait for it."""
        asking = asyncio.get_running_loop().create_task(
            self._broker.request(
                _next_of(session),
                messages.encode(HttpNext(stream=stream, wait_s=_WAIT_S)),
                timeout_s=_WAIT_S + _GRACE_S,
            )
        )
        draining = asyncio.get_running_loop().create_task(self._draining.wait())
        try:
            await asyncio.wait({asking, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise AnswerBroken
            return messages.decode(asking.result().data, HttpPart)
        except (NoResponder, RequestTimeout, BrokerUnavailable) as error:
            raise AnswerBroken from error
        finally:
            asking.cancel()
            draining.cancel()

    def _stop(self, session: Session, stream: str) -> None:
        """Tell the process, beside whatever cancels us; if it can't be told, it gives the route up by itself."""

        async def tell() -> None:
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.publish(_next_of(session), messages.encode(HttpNext(stream=stream, stop=True)))

        task = asyncio.get_running_loop().create_task(tell(), name="bot stop")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)


def _next_of(session: Session) -> str:
    return subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="http_next")


def shown(headers: Iterable[tuple[bytes, bytes]]) -> tuple[HttpHeader, ...]:
    """Return the headers that a bot may see."""
    decoded = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    return tuple(HttpHeader(name=name, value=value) for name, value in decoded if name not in _KEPT_BACK)
