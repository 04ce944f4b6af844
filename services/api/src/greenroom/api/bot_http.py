"""Requests for HTTP routes of a bot's own, forwarded to the process of the session they are about."""

from collections.abc import Iterable
from typing import Any, Final, cast

import msgspec

from greenroom.api.auth import Caller
from greenroom.api.sessions import Sessions
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.command_errors import CommandTimedOut, SessionNotLive, error_of
from greenroom.common.commands import HttpAnswer, HttpAnswered, HttpCall, HttpHeader
from greenroom.common.errors import SessionNotFound
from greenroom.common.lifecycle import State

TIMEOUT_S: Final = 15.0
# The answer is on its way when the bot has taken all of its time.
_GRACE_S: Final = 1.0
# What is the api's own, or of this connection; the bot sees all the others.
_KEPT_BACK: Final = frozenset(
    {"authorization", "connection", "content-length", "cookie", "host", "keep-alive", "transfer-encoding", "upgrade"}
)


class BotHttpLink:
    """Reaches the routes of the bots of all sessions."""

    def __init__(self, broker: Broker, sessions: Sessions) -> None:
        """Reach session processes over `broker`."""
        self._broker = broker
        self._sessions = sessions

    async def forward(self, caller: Caller, session_id: str, call: HttpCall, *, agent: str | None) -> HttpAnswered:
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
        session = await self._sessions.find(caller.tenant, session_id)
        if agent is not None and session.agent != agent:
            raise SessionNotFound(f"The agent has no session {session_id}.")
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
        return answer


def shown(headers: Iterable[tuple[bytes, bytes]]) -> tuple[HttpHeader, ...]:
    """Return the headers that a bot may see."""
    decoded = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    return tuple(HttpHeader(name=name, value=value) for name, value in decoded if name not in _KEPT_BACK)
