"""Which session is begun in which room when somebody comes: pure decisions on what an agent has begun by itself.

What comes twice, late or in another order than it happened changes nothing: of each room it is remembered who came last
and when its meeting was last over, by Daily's clock. Whoever came no later than that is no news.

    comes, a session is there       the same one
    comes, news, room for one more  a session
    comes late, or no news          nothing
    comes, as many as may be are    nothing: full
    the meeting is over             the session that was begun before that ends
"""

from typing import Final, Literal

import msgspec

from greenroom.common.call_messages import RoomStart, RoomStarts

# Who came longer ago than this, by what was repeated or held up, may well have gone.
FRESH_S: Final = 300.0
# As long as that is remembered of a room whose session is over, and clocks may differ.
_KEPT_S: Final = 2 * FRESH_S

type Verdict = Literal["begin", "there", "late", "full"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, and what is remembered from then on."""

    verdict: Verdict
    starts: RoomStarts
    # Which to begin, or which is there.
    session_id: str = ""


def joined(starts: RoomStarts, room: str, joined_at: float, *, most: int, new_id: str, now_s: float) -> Decision:
    """Decide upon somebody's coming.

    Args:
        starts: what is remembered; of sessions that are over it says so.
        room: where he came.
        joined_at: when, in Unix seconds.
        most: how many sessions there may be at once.
        new_id: of the session, if one is begun.
        now_s: Unix seconds.
    """
    own = _of(starts, room)
    if own is not None and joined_at <= own.ended_at:
        return Decision(verdict="late", starts=starts)
    if own is not None and not own.over:
        here = msgspec.structs.replace(own, joined_at=max(own.joined_at, joined_at))
        return Decision(verdict="there", starts=_with(starts, here, now_s), session_id=own.session_id)
    if (own is not None and joined_at <= own.joined_at) or abs(now_s - joined_at) > FRESH_S:
        return Decision(verdict="late", starts=starts)
    if sum(not one.over for one in starts.rooms) >= most:
        return Decision(verdict="full", starts=starts)
    ended_at = own.ended_at if own is not None else 0.0
    here = RoomStart(room=room, session_id=new_id, joined_at=joined_at, ended_at=ended_at)
    return Decision(verdict="begin", starts=_with(starts, here, now_s), session_id=new_id)


def ended(starts: RoomStarts, room: str, end_ts: float, *, now_s: float) -> tuple[RoomStarts, str | None]:
    """Return what is remembered of a meeting that is over, and the session that ends with it; None: none does."""
    own = _of(starts, room) or RoomStart(room=room, over=True)
    # Who has come since is of another meeting, and the session is his.
    ends = own.session_id if not own.over and own.joined_at <= end_ts else None
    return _with(starts, msgspec.structs.replace(own, ended_at=max(own.ended_at, end_ts)), now_s), ends


def without(starts: RoomStarts, session_id: str) -> RoomStarts:
    """Return what is remembered once a session couldn't be begun: whoever comes again may be in luck."""
    return RoomStarts(rooms=tuple(one for one in starts.rooms if one.session_id != session_id))


def _of(starts: RoomStarts, room: str) -> RoomStart | None:
    return next((one for one in starts.rooms if one.room == room), None)


def _with(starts: RoomStarts, here: RoomStart, now_s: float) -> RoomStarts:
    others = (one for one in starts.rooms if one.room != here.room)
    kept = (one for one in others if not one.over or now_s - max(one.joined_at, one.ended_at) <= _KEPT_S)
    return RoomStarts(rooms=(*kept, here))
