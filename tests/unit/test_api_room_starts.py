"""Which session is begun where somebody comes, however often and in whatever order Daily tells it."""

from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.room_starts import FRESH_S, Decision, ended, joined, without
from greenroom.common.call_messages import RoomStart, RoomStarts

NOW: Final = 1_000_000.0
NONE: Final = RoomStarts()


def _joined(
    starts: RoomStarts = NONE, room: str = "a", at: float = NOW, *, most: int = 5, new_id: str = "new", now: float = NOW
) -> Decision:
    return joined(starts, room, at, most=most, new_id=new_id, now_s=now)


def _over(starts: RoomStarts, session_id: str) -> RoomStarts:
    """Return what is remembered once a session has ended."""
    return RoomStarts(
        rooms=tuple(msgspec.structs.replace(one, over=one.over or one.session_id == session_id) for one in starts.rooms)
    )


def test_whoever_comes_first_begins_a_session() -> None:
    """And whoever comes then meets it."""
    first = _joined(new_id="s-1")
    assert (first.verdict, first.session_id) == ("begin", "s-1")
    second = _joined(first.starts, at=NOW + 1, new_id="s-2")
    assert (second.verdict, second.session_id) == ("there", "s-1")
    assert len(second.starts.rooms) == 1


def test_another_room_has_another_session() -> None:
    """Rooms aren't confused."""
    second = _joined(_joined(new_id="s-1").starts, "b", new_id="s-2")
    assert (second.verdict, second.session_id) == ("begin", "s-2")


def test_what_is_told_again_after_the_session_is_no_news() -> None:
    """Neither the first who came nor the last; somebody new is."""
    starts = _joined(_joined(new_id="s-1").starts, at=NOW + 5).starts
    starts = _over(starts, "s-1")
    for at in (NOW, NOW + 5):
        assert _joined(starts, at=at).verdict == "late"
    again = _joined(starts, at=NOW + 6, new_id="s-2")
    assert (again.verdict, again.session_id) == ("begin", "s-2")


def test_who_came_long_ago_begins_nothing() -> None:
    """Nor does a time that is none."""
    for at in (NOW - FRESH_S - 1, NOW + FRESH_S + 1):
        assert _joined(at=at).verdict == "late"
    assert _joined(at=NOW - FRESH_S + 1).verdict == "begin"


def test_so_many_sessions_at_once_and_no_more() -> None:
    """One that is over leaves its place to another; who is full of sessions keeps those it has."""
    starts = NONE
    for number in range(5):
        decision = _joined(starts, f"room-{number}", new_id=f"s-{number}")
        assert decision.verdict == "begin"
        starts = decision.starts
    assert _joined(starts, "room-5").verdict == "full"
    assert _joined(starts, "room-0", NOW + 1).verdict == "there"
    assert _joined(_over(starts, "s-3"), "room-5").verdict == "begin"
    assert _joined(most=0).verdict == "full"


def test_a_meeting_that_is_over_ends_its_session() -> None:
    """Once or twice told."""
    starts = _joined(new_id="s-1").starts
    for _ in range(2):
        starts, ends = ended(starts, "a", NOW + 9, now_s=NOW + 9)
        assert ends == "s-1"
    assert ended(_over(starts, "s-1"), "a", NOW + 9, now_s=NOW + 9)[1] is None


def test_the_end_of_an_earlier_meeting_ends_nobody() -> None:
    """Told after somebody has come again."""
    starts = _joined(_joined(at=NOW - 60, new_id="s-1").starts, at=NOW).starts
    assert ended(starts, "a", NOW - 20, now_s=NOW)[1] is None


def test_a_meeting_that_is_over_begins_nothing() -> None:
    """Also where its end is told before its beginning, and where a session was asked for in vain before it."""
    starts, ends = ended(NONE, "a", NOW, now_s=NOW)
    assert ends is None
    assert _joined(starts, at=NOW - 3).verdict == "late"
    assert _joined(starts, at=NOW + 1).verdict == "begin"
    never, _ = ended(_joined(at=NOW - 3).starts, "a", NOW, now_s=NOW)
    assert _joined(never, at=NOW - 3).verdict == "late"


def test_what_couldnt_be_begun_is_forgotten() -> None:
    """So that it takes nobody's place, and the next try isn't late."""
    starts = without(_joined(new_id="s-1").starts, "s-1")
    assert starts == NONE
    assert _joined(starts).verdict == "begin"


def test_what_is_remembered_stays_small() -> None:
    """Rooms whose sessions are over are forgotten, once nothing late can come of them."""
    old = NOW - 3 * FRESH_S
    rooms = [RoomStart(room=f"r-{number}", session_id=f"s-{number}", joined_at=old, over=True) for number in range(99)]
    kept = RoomStart(room="live", session_id="live", joined_at=old)
    recent = RoomStart(room="recent", ended_at=NOW - FRESH_S, over=True)
    starts = _joined(RoomStarts(rooms=(*rooms, kept, recent))).starts
    assert [one.room for one in starts.rooms] == ["live", "recent", "a"]


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "meeting ends", "session ends"]),
        st.sampled_from("abcd"),
        st.integers(min_value=-400, max_value=400),
    ),
    max_size=60,
)


@given(_EVENTS, st.integers(min_value=0, max_value=3))
def test_whatever_comes_in_whatever_order(events: list[tuple[str, str, int]], most: int) -> None:
    """A room has one session at a time, there are never too many, and the same event again begins nothing."""
    starts, number = NONE, 0
    for kind, room, offset in events:
        at = NOW + offset
        if kind == "join":
            number += 1
            decision = _joined(starts, room, at, most=most, new_id=f"s-{number}")
            again = _joined(decision.starts, room, at, most=most, new_id="other")
            assert again.session_id != "other"
            after = _over(decision.starts, decision.session_id)
            assert decision.verdict not in {"begin", "there"} or _joined(after, room, at, most=9).verdict == "late"
            starts = decision.starts
        elif kind == "meeting ends":
            starts, _ = ended(starts, room, at, now_s=NOW)
        else:
            starts = _over(starts, next((one.session_id for one in starts.rooms if one.room == room), ""))
        live = [one.room for one in starts.rooms if not one.over]
        assert len(live) == len(set(live)) <= most
        assert len(starts.rooms) == len({one.room for one in starts.rooms})
