"""Who may go to another room: decided by the leader, which knows who has which, one after the other.

    api ── MoveQuery ──▶ leader ── Moving ──▶ ledger ──▶ the session's runner ── Moved | Stayed ──▶ ledger ──▶ api

Nobody else writes `Moving`, and it is the claim: from its write on the session has both rooms. So of two that want to
go to one room, or of one that goes there and one that is to start there, the second finds it taken.
"""

from contextlib import AsyncExitStack
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.command_errors import SessionMoves, SessionNotLive
from greenroom.common.errors import BrokerUnavailable, IllegalTransition, LedgerConflict
from greenroom.common.lifecycle import Moving, Session, State
from greenroom.common.move_messages import MoveAnswer, MoveQuery, MoveRefused, RoomKept
from greenroom.common.reasons import Reason
from greenroom.scheduler.executor import Executor
from greenroom.scheduler.picture import Picture

_log = structlog.get_logger()

# Of others who move the session on at the same time: it connects, say.
_TRIES: Final = 5


class Moves:
    """See the module.

    Args:
        broker: questions come from it.
        picture: what is known.
        executor: writes.
        pool: the one pool that is scheduled here; None: all.
    """

    def __init__(self, broker: Broker, picture: Picture, executor: Executor, *, pool: str | None = None) -> None:
        self._broker = broker
        self._picture = picture
        self._executor = executor
        self._pool = pool

    async def open(self, stack: AsyncExitStack) -> None:
        """Decide until `stack` is closed."""
        subject = subjects.REQUEST.format(service="scheduler", name="move")
        subscription = await self._broker.subscribe(subject, self._asked)
        stack.push_async_callback(subscription.unsubscribe)

    async def _asked(self, message: Message) -> None:
        try:
            query = messages.decode(message.data, MoveQuery)
        except msgspec.MsgspecError as error:
            _log.warning("question_malformed", subject=message.subject, error=str(error))
            return
        try:
            answer = await self._decide(query)
        except BrokerUnavailable:
            # Whoever asks again is told what has come of it.
            return
        if answer is not None and message.reply:
            await self._broker.publish(message.reply, messages.encode(answer))

    async def _decide(self, query: MoveQuery) -> MoveAnswer | None:
        for _ in range(_TRIES):
            entry = self._picture.entry(query.session_id)
            if entry is None or entry.session.tenant != query.tenant:
                # Another pool's leader may know it.
                return None if self._pool is not None else MoveRefused(code=SessionNotLive.code, detail="It has ended.")
            if (answer := self._known(query, entry.session)) is not None:
                return answer
            moving = Moving(
                epoch=entry.session.epoch, id=query.id, room=query.room, transport_info=query.transport_info
            )
            try:
                await self._executor.keep_room(entry, moving)
            except (LedgerConflict, IllegalTransition):
                continue
            _log.info("room_kept", session_id=query.session_id, move_id=query.id)
            return RoomKept(id=query.id)
        return MoveRefused(code=LedgerConflict.code)

    def _known(self, query: MoveQuery, session: Session) -> MoveAnswer | None:
        """Return what can be answered as it is; None: the room is free, and the session may go there."""
        moving = session.moving.id if session.moving is not None else None
        if query.id in {session.moved, moving}:
            return RoomKept(id=query.id)
        if session.state is State.READY and moving is not None:
            return MoveRefused(code=SessionMoves.code)
        board = self._picture.board
        if session.state is not State.READY or board.sessions[session.id].busy:
            return MoveRefused(code=SessionNotLive.code, detail=f"It is {session.state}.")
        other = board.room_taken(session, query.room, query.transport_info)
        return None if other is None else self._busy(query, other)

    def _busy(self, query: MoveQuery, other_id: str) -> MoveRefused:
        other = self._picture.board.sessions[other_id].session
        # Another tenant's, and which, is nobody else's business.
        who = f"session {other.id}" if other.tenant == query.tenant else "a session of another tenant"
        _log.info("room_busy", session_id=query.session_id, move_id=query.id, held_by=other_id)
        return MoveRefused(code=Reason.ROOM_BUSY.value, detail=f"room {query.room} has {who}")
