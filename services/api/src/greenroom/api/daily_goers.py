"""Agents that go to rooms at Daily by themselves, once somebody is there, and leave when a meeting is over.

    Daily                              api
    participant.joined  ──POST──▶  which agent goes there; is it one of ours; is a session there
                                   ROOMS: one session a room, so many at once (compare-and-set)
                                   the session is asked for as any other, in the room as it is

What another try wouldn't change is answered with 200: Daily gives up on a webhook that fails again and again. What may
go better soon (the broker is away, or Daily's own API) is an error, so that Daily tells it again; the session that was
begun is the same one then, for its id stands in ROOMS.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import structlog

from greenroom.api import room_starts
from greenroom.api.auth import Caller
from greenroom.api.carriers.ends import left
from greenroom.api.daily_rooms import DailyRooms, DailyRoomsStore
from greenroom.api.room_starts import FRESH_S, Decision
from greenroom.api.schemas import CreateSession
from greenroom.api.sessions import Sessions
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.transports.daily import NAME, DailyAdapter, RoomNotFound
from greenroom.api.transports.daily_events import Joined, MeetingEnded
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.call_messages import RoomStart, RoomStarts
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import DatabaseUnavailable, GreenroomError, SessionNotFound
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

STREAM: Final = "CALLS"

type Result = Literal["begun", "there", "ended", "ignored", "refused"]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an event.

    Attributes:
        result: what was done.
        reason: why nothing was.
        session_id: with which session.
    """

    result: Result
    reason: str | None = None
    session_id: str | None = None


class DailyGoers:
    """Begins sessions where somebody is, and ends them where nobody is.

    Args:
        rooms: who goes where.
        sessions: takes requests.
        ledger: says which are over, and ends them.
        daily: the account; None: this installation has none.
        broker: remembers what was begun.
        metrics: counts what became of events.
        clock: says what is late.
    """

    def __init__(
        self,
        *,
        rooms: DailyRoomsStore,
        sessions: Sessions,
        ledger: Ledger,
        daily: DailyAdapter | None,
        broker: Broker,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self._rooms = rooms
        self._sessions = sessions
        self._ledger = ledger
        self._daily = daily
        self._broker = broker
        self._told = metrics.counter("daily_events", "Events that Daily has told", ["result", "reason"])
        self._clock = clock or SystemClock()

    async def tell(self, event: Joined | MeetingEnded | None, origin: str) -> Done:
        """Do what an event asks for.

        Args:
            event: None: it is of no use.
            origin: how clients reach us.

        Raises:
            GreenroomError: not now (`retryable`): tell it again.
        """
        match event:
            case None:
                done = Done(result="ignored", reason="of-no-use")
            case Joined() if event.ours:
                done = Done(result="ignored", reason="own-bot")
            case _:
                done = await self._of_room(event, origin)
        self._told.inc(result=done.result, reason=done.reason or "")
        return done

    async def _of_room(self, event: Joined | MeetingEnded, origin: str) -> Done:
        going = await self._rooms.of_room(event.room)
        if len(going) != 1:
            if going:
                # Whose room it is can't be told, and nobody's bot may listen to somebody else's people.
                _log.warning("room_of_several", room=event.room, agents=[f"{one.tenant}/{one.agent}" for one in going])
            return Done(result="ignored", reason="room-of-several" if going else "nobody-goes-there")
        try:
            if isinstance(event, Joined):
                return await self._joined(going[0], event, origin)
            return await self._ended(going[0], event)
        except GreenroomError as error:
            if error.retryable:
                raise
            _log.warning("room_refused", tenant=going[0].tenant, agent=going[0].agent, room=event.room, code=error.code)
            return Done(result="refused", reason=error.code)

    async def _joined(self, goes: DailyRooms, event: Joined, origin: str) -> Done:
        if self._daily is None:
            raise TransportUnavailable("This installation isn't set up for daily.")
        decision = await self._decide(goes, lambda starts: self._begin(goes, event, starts))
        if decision.verdict in {"late", "full"}:
            return Done(result="ignored", reason=decision.verdict)
        if decision.verdict == "there" and await self._ledger.last(goes.tenant, decision.session_id) is not None:
            return Done(result="there", session_id=decision.session_id)
        try:
            url = await self._daily.url(event.room)
            if url is None:
                raise RoomNotFound
            if await self._taken(goes.tenant, url, decision.session_id):
                await self._forget(goes, decision.session_id)
                return Done(result="ignored", reason="room-busy")
            wish = CreateSession(agent=goes.agent, transport=NAME, transport_options={"room_url": url}, body=goes.body)
            # The tenant's own doing, as with calls: it was said where its agent goes.
            caller = Caller(tenant=goes.tenant, key_id=f"{NAME}:{goes.agent}", scopes=frozenset(), secret=b"")
            await self._sessions.place(Asked(caller=caller, origin=origin), wish, decision.session_id)
        except GreenroomError as error:
            if not error.retryable:
                await self._forget(goes, decision.session_id)
            raise
        return Done(result="begun", session_id=decision.session_id)

    def _begin(self, goes: DailyRooms, event: Joined, starts: RoomStarts) -> tuple[RoomStarts, Decision]:
        decision = room_starts.joined(
            starts,
            event.room,
            event.joined_at,
            most=goes.max_sessions,
            new_id=uuid7(),
            now_s=self._clock.now().timestamp(),
        )
        return decision.starts, decision

    async def _ended(self, goes: DailyRooms, event: MeetingEnded) -> Done:
        now_s = self._clock.now().timestamp()
        session_id = await self._decide(
            goes, lambda starts: room_starts.ended(starts, event.room, event.end_ts, now_s=now_s)
        )
        if session_id is None:
            return Done(result="ignored", reason="no-session")
        # There is none if it couldn't be begun yet; then who came has gone meanwhile, and it won't be.
        with contextlib.suppress(SessionNotFound):
            entry = await self._ledger.move(
                goes.tenant,
                session_id,
                lambda session: left(session, "the meeting is over") if _is_in(session, event.room) else None,
            )
            if not _is_in(entry.session, event.room):
                return Done(result="ignored", reason="no-session")
        return Done(result="ended", session_id=session_id)

    async def _taken(self, tenant: str, url: str, session_id: str) -> bool:
        # Those that PostgreSQL doesn't know yet, and other tenants', the scheduler knows: one session a room.
        with contextlib.suppress(DatabaseUnavailable):
            return await self._rooms.taken(tenant, url, session_id)
        return False

    async def _forget(self, goes: DailyRooms, session_id: str) -> None:
        await self._decide(goes, lambda starts: (room_starts.without(starts, session_id), None))

    # ------------------------------------------------------------------------ what is remembered

    async def _decide[T](self, goes: DailyRooms, decide: Callable[[RoomStarts], tuple[RoomStarts, T]]) -> T:
        """Change what is remembered of an agent; whoever writes first has decided, and the others look again."""
        key = hashlib.sha256(f"{goes.tenant}\n{goes.agent}".encode()).hexdigest()
        subject = subjects.ROOMS.format(key=key)
        while True:
            stored = await self._broker.last(STREAM, subject)
            starts = messages.decode(stored.data, RoomStarts) if stored is not None else RoomStarts()
            changed, decision = decide(await self._looked_at(goes.tenant, starts))
            if changed == starts:
                return decision
            try:
                await self._broker.append(
                    subject, messages.encode(changed), expected_last=stored.stream_seq if stored is not None else 0
                )
            except WrongLastSequence:
                continue
            return decision

    async def _looked_at(self, tenant: str, starts: RoomStarts) -> RoomStarts:
        return RoomStarts(rooms=tuple(await asyncio.gather(*(self._look(tenant, one) for one in starts.rooms))))

    async def _look(self, tenant: str, one: RoomStart) -> RoomStart:
        if one.over:
            return one
        try:
            session = await self._sessions.find(tenant, one.session_id)
            over = session.ended or not _is_in(session, one.room)
        except SessionNotFound:
            # It is about to be asked for, or its api has died before that and Daily tells nobody again.
            over = self._clock.now().timestamp() - one.joined_at > FRESH_S
        return msgspec.structs.replace(one, over=over)


def _is_in(session: Session, room: str) -> bool:
    """Tell whether a session is in the room that it began in: not if it has gone to another one, or is about to."""
    return session.moving is None and (session.moved is None or session.transport_info.get("room") == room)
