"""One session at a time in a room: who has it, and who is refused because of that."""

from collections.abc import Mapping

from greenroom.common.lifecycle import Ended, Outcome, Session, State
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Refuse, Why
from greenroom.scheduler.settle import Tracked

# Tenant and room.
type Room = tuple[str, str]


class Rooms:
    """Which sessions want which room, waiting ones included."""

    def __init__(self) -> None:
        self._wanted: dict[Room, set[str]] = {}

    def enter(self, session: Session) -> set[str]:
        """Take in a session; return all that want its room."""
        if session.room is None:
            return set()
        ids = self._wanted.setdefault((session.tenant, session.room), set())
        ids.add(session.id)
        return ids

    def leave(self, session: Session) -> set[str]:
        """Take in that a session has ended; return all that want the room that it wanted."""
        room = (session.tenant, session.room or "")
        ids = self._wanted.get(room, set())
        ids.discard(session.id)
        if not ids:
            self._wanted.pop(room, None)
        return ids

    def refuse(self, session: Session, sessions: Mapping[str, Tracked]) -> Refuse | None:
        """Return the refusal of a session that waits, if another one has its room.

        That is the one that runs, else the one that has waited longest: two that were asked for together mustn't both
        be refused, and the second needn't wait until the first runs.
        """
        if session.room is None:
            return None
        ids = self._wanted.get((session.tenant, session.room), ())
        if len(ids) < 2:  # noqa: PLR2004 (itself and one more)
            return None
        first = min((sessions[each].session for each in ids), key=_claim)
        if first.id == session.id:
            return None
        text = f"room {session.room} has session {first.id}, which is {first.state}"
        ended = Ended(
            by="scheduler", epoch=session.epoch, outcome=Outcome.REJECTED, reason=Reason.ROOM_BUSY, detail=text
        )
        facts = {"room": session.room, "held_by": first.id, "state": first.state}
        return Refuse(
            session_id=session.id, transition=ended, why=Why(reason=Reason.ROOM_BUSY, text=text, inputs=facts)
        )


def _claim(session: Session) -> tuple[object, ...]:
    return session.state is State.REQUESTED, session.requested_at, session.id
