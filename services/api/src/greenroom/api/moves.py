"""Takes live sessions to other rooms, and their callers the way there.

    prepare the room ──▶ leader keeps it for the session (`Moving`) ──▶ the session's runner has the bot go there
                                                     answer ◀── `Moved`, or `Stayed`: it is where it was ◀──┘

From the leader's word on everything happens by itself, whoever dies: the runner ends the move, or with it the session.
Here it is only waited for. What was made for a move that comes to nothing goes by its plan (`transports.releases`).
"""

import hashlib
from typing import Any, Final

import msgspec

from greenroom.api.canonical import canonical_room
from greenroom.api.idempotency import Answered, Idempotency
from greenroom.api.problem import render
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.api.schemas import MoveSession, SessionView, session_view
from greenroom.api.sessions import Answer, Sessions, refused
from greenroom.api.transports import Transports
from greenroom.api.transports.base import Asked
from greenroom.api.waiters import Waiters, Watch
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.command_errors import CommandTimedOut, SessionNotLive, error_of
from greenroom.common.errors import FieldProblem, GreenroomError, InvalidBody, SessionNotFound
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Move, Session, State, Stayed
from greenroom.common.move_messages import MoveQuery, MoveRefused
from greenroom.common.reasons import Reason

_OK: Final = 200
# Whatever may end a move; while it is under way the session is ready.
_STATES: Final = frozenset(State)
# Of a call that Daily holds for the bot.
_CALL: Final = "call_id"


class MoveUnsupported(GreenroomError):
    """The session can't go to another room: its transport has none that it could, or it is a call by phone.

    docs/transports.md says which transports can. Who calls by phone was brought into the room by his carrier.
    """

    code = "move-unsupported"
    status = 422
    title = "The session can't go to another room"


class MoveFailed(GreenroomError):
    """The bot didn't get into the other room, for the reason in the detail. It is in its own, as before."""

    code = "move-failed"
    status = 502
    title = "The bot didn't get into the other room"


class RoomBusy(GreenroomError):
    """Another session has the room, or is on its way there; the problem's `code` is `room-busy`, as at a start."""

    code = "move-refused"
    status = 409
    title = "The room has a session already"
    retryable = True

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """See `GreenroomError.problem`."""
        code = Reason.ROOM_BUSY.value
        return {**super().problem(instance), "type": f"/errors/{code}", "code": code}


class Moves:
    """Moves of the sessions of all tenants."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        transports: Transports,
        scheduler: SchedulerLink,
        waiters: Waiters,
        ledger: Ledger,
        idempotency: Idempotency,
        clock: Clock | None = None,
    ) -> None:
        """Hold the parts."""
        self._sessions = sessions
        self._transports = transports
        self._scheduler = scheduler
        self._waiters = waiters
        self._ledger = ledger
        self._idempotency = idempotency
        self._clock = clock or SystemClock()

    async def move(self, asked: Asked, session_id: str, wish: MoveSession, key: str | None) -> Answer:
        """Take a live session to another room; nothing happens if it is there.

        Args:
            asked: by whom.
            session_id: which.
            wish: where to.
            key: the `Idempotency-Key`.

        Returns:
            The session, and the way for its user into the room.

        Raises:
            SessionNotFound, SessionNotLive: there is no such session, or it isn't running.
            SessionMoves: it is on its way to another room.
            MoveUnsupported, InvalidBody: it can't go anywhere, or not there.
            RoomBusy: another session has the room.
            MoveFailed: the bot didn't get in; it is where it was.
            CommandTimedOut: it is on its way still; asking again tells.
            SchedulerUnavailable, BrokerUnavailable: it isn't known whether it goes; trying again is safe.
            GreenroomError: what preparing the room raises, and nothing has happened then; or what telling the way in
                raises: then the session has moved, and whoever asks for the same again is told.
        """
        session = await self._sessions.find(asked.caller.tenant, session_id)
        if key is None:
            return await self._answer(asked, self._view(await self._go(asked, session, wish, uuid7()), wish))
        tenant, digest = asked.caller.tenant, _digest(session_id, wish)
        begun = await self._idempotency.begin(tenant, key, digest)
        if isinstance(begun, Answered):
            return await self._replay(asked, begun)
        # What the key is kept with is the id of the move.
        try:
            view = self._view(await self._go(asked, session, wish, begun.session_id), wish)
            status, body = _OK, msgspec.json.encode(view)
        except (RoomBusy, MoveFailed) as error:
            view, rendered = None, render(error, f"/v1/sessions/{session_id}/move")
            status, body = rendered.status, rendered.body
        first = await self._idempotency.finish(tenant, key, begun, status, body)
        if first is not None:
            return await self._replay(asked, first)
        if view is None:
            return refused(Answer(status=status, body=body, session_id=session_id))
        return await self._answer(asked, view)

    async def _go(self, asked: Asked, session: Session, wish: MoveSession, move_id: str) -> Session:
        """Return the session once it is there."""
        if session.moved == move_id or _is_there(session, wish):
            _check_live(session)
            return session
        _check_live(session)
        async with self._waiters.watch(session.tenant, session.id, _STATES) as watch:
            if session.moving is None or session.moving.id != move_id:
                await self._set_out(asked, session, wish, move_id)
            return await self._arrive(watch, session, move_id, wish.timeout_s)

    async def _set_out(self, asked: Asked, session: Session, wish: MoveSession, move_id: str) -> None:
        options, transport, now = wish.transport_options, session.transport, self._clock.now()
        if not self._transports.movable(transport):
            raise MoveUnsupported(f"Sessions over {transport} have no rooms that they could change.")
        if _CALL in session.transport_info:
            raise MoveUnsupported("It is a call by phone.")
        self._transports.check(transport, options)
        if "dialin" in options:
            pointer = "/transport_options/dialin"
            problem = FieldProblem(pointer=pointer, detail="A call is taken by a session that begins with it.")
            raise InvalidBody(f"{pointer}: {problem.detail}", errors=[problem])
        room = self._transports.room(transport, options)
        canonical = canonical_room(room) if room is not None else None
        # As if it began now, in the other room.
        move = Move(id=move_id, room=canonical, transport_info={}, at=now)
        there = msgspec.structs.replace(session, requested_at=now, room=canonical, moving=move)
        info = await self._transports.prepare_room(asked, there, options)
        answer = await self._scheduler.keep_room(
            MoveQuery(session_id=session.id, tenant=session.tenant, id=move_id, room=canonical, transport_info=info)
        )
        if isinstance(answer, MoveRefused):
            if answer.code == Reason.ROOM_BUSY.value:
                raise RoomBusy(answer.detail)
            raise error_of(answer.code, answer.detail)

    async def _arrive(self, watch: Watch, session: Session, move_id: str, timeout_s: float) -> Session:
        entry = await self._ledger.last(session.tenant, session.id)
        if entry is None:
            raise SessionNotFound
        entry = await self._waiters.wait(watch, entry, lambda now: not _is_moving(now, move_id), timeout_s)
        now = entry.session
        if now.moved == move_id:
            return now
        _check_live(now)
        if now.moving is not None and now.moving.id == move_id:
            raise CommandTimedOut(f"It isn't there after {timeout_s:g} s. Ask for the same again to know.")
        raise MoveFailed(_why(entry, move_id))

    def _view(self, session: Session, wish: MoveSession) -> SessionView:
        options = {name: value for name, value in wish.transport_options.items() if name != "room_url"}
        return session_view(session, transport=self._transports.public(session, options))

    async def _answer(self, asked: Asked, view: SessionView, *, again: bool = False) -> Answer:
        transport = await self._transports.answer(asked, view.id, view.transport, again=again)
        body = msgspec.json.encode(msgspec.structs.replace(view, transport=transport))
        return Answer(status=_OK, body=body, session_id=view.id, replayed=again)

    async def _replay(self, asked: Asked, answered: Answered) -> Answer:
        if answered.status != _OK:
            problem = Answer(
                status=answered.status, body=bytes(answered.answer), session_id=answered.session_id, replayed=True
            )
            return refused(problem)
        return await self._answer(asked, msgspec.json.decode(answered.answer, type=SessionView), again=True)


def _is_there(session: Session, wish: MoveSession) -> bool:
    here, there = session.transport_info.get("room_url"), wish.transport_options.get("room_url")
    return here is not None and isinstance(there, str) and canonical_room(there) == canonical_room(here)


def _is_moving(session: Session, move_id: str) -> bool:
    return session.state is State.READY and session.moving is not None and session.moving.id == move_id


def _check_live(session: Session) -> None:
    if session.state is not State.READY:
        raise SessionNotLive(f"It is {session.state}.")


def _why(entry: Entry, move_id: str) -> str:
    """Return why the bot has stayed, if that is what the ledger says last."""
    last = entry.transition
    return last.detail if isinstance(last, Stayed) and last.id == move_id else ""


def _digest(session_id: str, wish: MoveSession) -> str:
    raw = msgspec.json.encode([session_id, wish.transport_options], order="sorted")
    return hashlib.sha256(b"move\0" + raw).hexdigest()
