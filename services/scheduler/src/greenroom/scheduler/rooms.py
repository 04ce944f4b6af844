"""One session at a time in a room: who has it, and who is refused because of that.

A session that is on its way from one room to another has both, until it is known in which of the two it is.

A room that a request names is its tenant's: another tenant's of the same name is another room. One at a provider is the
same room whoever brings it, and whatever else the request calls it; that it is there, and may be brought, was seen by
the api. What a tenant only says to be a room holds nobody else up.
"""

from collections.abc import Mapping
from typing import Final

from greenroom.common.lifecycle import Ended, Move, Outcome, Session, State
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Refuse, Why
from greenroom.scheduler.settle import Tracked

# Tenant and room; the tenant is empty where the room is the same for all of them.
type Room = tuple[str, str]

# Where a transport says which room at its provider a session is in.
_AT_PROVIDER: Final = "room_url"


class Rooms:
    """Which sessions want which room, waiting ones included."""

    def __init__(self) -> None:
        self._wanted: dict[Room, set[str]] = {}

    def enter(self, session: Session) -> set[str]:
        """Take in a session; return all that want its room."""
        found: set[str] = set()
        for room in _rooms(session):
            ids = self._wanted.setdefault(room, set())
            ids.add(session.id)
            found |= ids
        return found

    def leave(self, session: Session) -> set[str]:
        """Take in that a session wants its room no longer; return all that want it."""
        found: set[str] = set()
        for room in _rooms(session):
            ids = self._wanted.get(room, set())
            ids.discard(session.id)
            if not ids:
                self._wanted.pop(room, None)
            found |= ids
        return found

    def change(self, before: Session, after: Session) -> set[str]:
        """Take in where a session is by now, and where it is going; return all that want a room of either time."""
        return self.leave(before) | self.enter(after)

    def taken(self, session: Session, room: str | None, info: Mapping[str, str]) -> str | None:
        """Return a session, not this one, that has or wants a room (as of `Session`); None: it is free.

        One that waits for a slot goes before one that is in a room already.
        """
        wanted = set[str]().union(*(self._wanted.get(each, ()) for each in _names(session.tenant, room, info)))
        return min(wanted - {session.id}, default=None)

    def refuse(self, session: Session, sessions: Mapping[str, Tracked]) -> Refuse | None:
        """Return the refusal of a session that waits, if another one has its room.

        That is the one that runs, else the one that has waited longest: two that were asked for together mustn't both
        be refused, and the second needn't wait until the first runs.
        """
        ids = set[str]().union(*(self._wanted.get(room, ()) for room in _rooms(session)))
        if len(ids) < 2:  # noqa: PLR2004 (itself and one more)
            return None
        first = min((sessions[each].session for each in ids), key=_claim)
        if first.id == session.id:
            return None
        facts: dict[str, object] = {"room": session.room}
        if first.tenant == session.tenant:
            text = f"room {session.room} has session {first.id}, which is {first.state}"
            facts |= {"held_by": first.id, "state": first.state}
        else:
            # Whose, and which, is nobody else's business.
            text = f"room {session.room} has a session of another tenant"
        ended = Ended(
            by="scheduler", epoch=session.epoch, outcome=Outcome.REJECTED, reason=Reason.ROOM_BUSY, detail=text
        )
        return Refuse(
            session_id=session.id, transition=ended, why=Why(reason=Reason.ROOM_BUSY, text=text, inputs=facts)
        )


def _rooms(session: Session) -> list[Room]:
    """Return all by which the rooms are known that a session has, or wants."""
    there: Move | None = session.moving
    going = _names(session.tenant, there.room, there.transport_info) if there is not None else []
    return [*_names(session.tenant, session.room, session.transport_info), *going]


def _names(tenant: str, room: str | None, info: Mapping[str, str]) -> list[Room]:
    if room is None:
        return []
    at_provider = info.get(_AT_PROVIDER)
    return [(tenant, room), *([("", at_provider)] if at_provider else [])]


def _claim(session: Session) -> tuple[object, ...]:
    return session.state is State.REQUESTED, session.requested_at, session.id
