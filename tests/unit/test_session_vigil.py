"""What a call owes, and when it is overdue."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.lifecycle import Limits
from greenroom.common.reasons import Reason
from greenroom.runner.session.vigil import (
    FRESH_S,
    STALLED_AFTER_S,
    EndingSoon,
    Finding,
    Over,
    Stalled,
    Vigil,
    Wait,
    notice_s,
)

NEVER = Limits(no_progress_timeout_s=0)


def looks(vigil: Vigil, until: float, *, since: float = 0.0, step: float = 0.25) -> list[tuple[float, Finding]]:
    """Look again and again, and return what was found when."""
    found: list[tuple[float, Finding]] = []
    for tick in range(round((until - since) / step) + 1):
        now = since + tick * step
        found += [(now, finding) for finding in vigil.look(now)]
    return found


def connected(limits: Limits) -> Vigil:
    """Return the vigil over a call whose pipeline runs and whose caller is there, at 0."""
    vigil = Vigil(limits)
    vigil.ready(0.0)
    vigil.connected(0.0)
    return vigil


@pytest.mark.parametrize(("longest", "asked", "early"), [(7200, 30, 30), (40, 30, 20), (10, 0, 0), (1, 30, 0.5)])
def test_the_notice_takes_no_more_than_half_of_a_call(longest: float, asked: float, early: float) -> None:
    """A short call is told of its end at half time, a long one as early as was asked for."""
    assert notice_s(Limits(max_duration_s=longest, ending_soon_s=asked)) == early


def test_the_end_is_announced_once() -> None:
    """The end is near once, with what is left."""
    vigil = Vigil(Limits(max_duration_s=100, ending_soon_s=30))
    vigil.ready(0.0)
    assert looks(vigil, 120) == [(70.0, EndingSoon(seconds_left=30.0))]


def test_nothing_is_near_before_the_pipeline_runs() -> None:
    """The longest duration begins when the session is ready, so nothing is said before."""
    assert looks(Vigil(Limits(max_duration_s=10)), 60) == []


def test_a_bot_that_says_nothing_is_noticed() -> None:
    """Without a limit, a bot that never makes a sound is told of and may go on."""
    assert looks(connected(NEVER), 60) == [(10.0, Stalled(wait=Wait.FIRST_AUDIO, for_s=10.0))]


def test_a_bot_that_says_nothing_is_ended() -> None:
    """With a limit, a bot that never makes a sound is told of and ended when the limit has passed."""
    vigil = connected(Limits(first_audio_timeout_s=5, no_progress_timeout_s=0))
    (told_at, told), (ended_at, over), *_ = looks(vigil, 6)
    assert (told_at, told) == (5.0, Stalled(wait=Wait.FIRST_AUDIO, for_s=5.0))
    assert (ended_at, over) == (5.0, Over(reason=Reason.NO_FIRST_AUDIO, detail="no sound for 5 s"))


def test_a_bot_that_has_spoken_owes_no_first_word() -> None:
    """After the first sound the bot may be silent."""
    vigil = connected(Limits(first_audio_timeout_s=5, no_progress_timeout_s=0))
    vigil.look(4.9)
    vigil.sounded(4.9)
    assert looks(vigil, 60, since=5) == []


def test_a_pipeline_that_stands_still_is_ended() -> None:
    """Audio comes in and nothing comes through: told of after 10 s, ended after the limit."""
    vigil = connected(Limits(no_progress_timeout_s=20))
    vigil.sounded(0.0)
    found: list[tuple[float, Finding]] = []
    for tick in range(4 * 21):
        vigil.heard(tick / 4)
        found += [(tick / 4, finding) for finding in vigil.look(tick / 4)]
    assert found[0] == (10.0, Stalled(wait=Wait.NO_PROGRESS, for_s=10.0))
    assert found[1] == (20.0, Over(reason=Reason.NO_PROGRESS, detail="nothing moved for 20 s of audio"))


def test_a_pipeline_that_moves_now_and_then_goes_on() -> None:
    """What comes through starts the wait anew; each wait is told of."""
    vigil = connected(Limits(no_progress_timeout_s=20))
    vigil.sounded(0.0)
    found: list[Finding] = []
    for tick in range(4 * 60):
        vigil.heard(tick / 4)
        if tick % (4 * 15) == 0:
            vigil.moved(tick / 4)
        found += vigil.look(tick / 4)
    assert found == [Stalled(wait=Wait.NO_PROGRESS, for_s=10.0)] * 4


def test_a_caller_who_is_muted_starts_no_wait() -> None:
    """Where no audio comes in there is nothing that could come through."""
    vigil = connected(Limits(no_progress_timeout_s=20))
    vigil.sounded(0.0)
    vigil.heard(0.0)
    assert looks(vigil, 120) == []


def test_a_process_that_was_stopped_is_not_blamed() -> None:
    """An hour between two looks counts for one second: nothing could have moved meanwhile."""
    vigil = connected(Limits(no_progress_timeout_s=20, max_duration_s=1e6))
    vigil.sounded(0.0)
    vigil.heard(0.0)
    vigil.look(0.0)
    vigil.heard(3600.0)
    assert vigil.look(3600.0) == []


def test_silence_of_both_sides_ends_a_call() -> None:
    """Silence is counted from the last word of either side, and not while anybody speaks."""
    vigil = connected(Limits(silence_timeout_s=10, no_progress_timeout_s=0))
    vigil.sounded(0.0)
    vigil.speaks("user", 5.0, begins=True)
    assert looks(vigil, 40, since=5) == []
    vigil.speaks("bot", 41.0, begins=True)
    vigil.speaks("user", 42.0, begins=False)
    assert looks(vigil, 80, since=42) == []
    vigil.speaks("bot", 80.0, begins=False)
    found = looks(vigil, 90, since=80)
    assert found == [(90.0, Over(reason=Reason.SILENCE_TIMEOUT, detail="nobody spoke for 10 s"))]


def test_an_outage_is_nobodys_silence() -> None:
    """While media can't come, neither silence nor standing still counts; from then on they count anew."""
    vigil = connected(Limits(silence_timeout_s=10, no_progress_timeout_s=20))
    vigil.sounded(0.0)
    for tick in range(4 * 60):
        vigil.heard(tick / 4)
        vigil.excused(tick / 4)
        assert vigil.look(tick / 4) == []
    [(at, over)] = looks(vigil, 69.75, since=60)
    assert (at, over) == (69.75, Over(reason=Reason.SILENCE_TIMEOUT, detail="nobody spoke for 10 s"))


def test_an_empty_room_waits_for_somebody_to_come_back() -> None:
    """Who comes back in time finds the session; when nobody does, it ends."""
    vigil = connected(Limits(rejoin_timeout_s=15, silence_timeout_s=5, no_progress_timeout_s=0))
    vigil.sounded(0.0)
    vigil.left(4.0)
    assert looks(vigil, 18, since=4) == []
    vigil.connected(18.0)
    assert looks(vigil, 22, since=18) == []
    vigil.left(22.0)
    found = looks(vigil, 37, since=22)
    assert found == [(37.0, Over(reason=Reason.ROOM_EMPTY, detail="nobody came back for 15 s"))]


EVENTS = st.sampled_from(["ready", "connected", "left", "heard", "moved", "sounded", "user+", "user-", "bot+", "bot-"])
LIMITS = st.builds(
    Limits,
    max_duration_s=st.floats(1, 100),
    ending_soon_s=st.floats(0, 60),
    first_audio_timeout_s=st.just(0.0) | st.floats(1, 60),
    no_progress_timeout_s=st.just(0.0) | st.floats(1, 60),
    silence_timeout_s=st.just(0.0) | st.floats(1, 60),
    rejoin_timeout_s=st.floats(0, 60),
)


def happen(vigil: Vigil, event: str, now: float) -> None:
    """Tell a vigil of an event."""
    match event:
        case "ready" | "connected" | "left" | "heard" | "moved" | "sounded":
            getattr(vigil, event)(now)
        case _:
            vigil.speaks(event[:-1], now, begins=event.endswith("+"))


@given(LIMITS, st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=60))
def test_no_history_ends_a_call_against_its_limits(limits: Limits, history: list[tuple[str, float]]) -> None:
    """Whatever happens: the notice comes once and in time, a limit of 0 never ends, others not before their time."""
    vigil, now, ready_at, notices = Vigil(limits), 0.0, None, 0
    came_at: float | None = None
    for event, passes in history:
        now += passes
        happen(vigil, event, now)
        if event == "ready" and ready_at is None:
            ready_at = now
        if event == "connected" and came_at is None:
            came_at = now
        for finding in vigil.look(now):
            match finding:
                case EndingSoon():
                    notices += 1
                    assert ready_at is not None
                    assert limits.ending_soon_s > 0
                    assert now >= ready_at + limits.max_duration_s / 2 - 1e-6
                    assert finding.seconds_left <= notice_s(limits) + 0.1
                case Stalled():
                    assert came_at is not None
                    assert finding.for_s <= now - came_at + 0.1
                case Over():
                    assert came_at is not None
                    limit_s = {
                        Reason.NO_FIRST_AUDIO: limits.first_audio_timeout_s,
                        Reason.NO_PROGRESS: limits.no_progress_timeout_s,
                        Reason.SILENCE_TIMEOUT: limits.silence_timeout_s,
                        Reason.ROOM_EMPTY: limits.rejoin_timeout_s,
                    }[finding.reason]
                    assert limit_s > 0 or finding.reason is Reason.ROOM_EMPTY
                    assert now - came_at >= limit_s - 1e-6
    assert notices <= 1


SPARSE = st.builds(
    Limits,
    max_duration_s=st.floats(4, 60),
    ending_soon_s=st.just(0.0) | st.floats(1, 60),
    first_audio_timeout_s=st.just(0.0) | st.floats(1, 20),
    # Others are so short that audio which pauses and comes again may be a second behind.
    no_progress_timeout_s=st.just(0.0) | st.floats(4, 20),
    silence_timeout_s=st.just(0.0) | st.floats(1, 20),
    rejoin_timeout_s=st.floats(1, 20),
)


def _found(limits: Limits, history: list[tuple[str, int]], *, often: bool) -> list[tuple[float, type, object]]:
    """Return what is found by looking all the time, or once a second and when something is due."""
    vigil = connected(limits)
    vigil.look(0.0)
    # Audio comes or doesn't: what of it is known is when it came last, and since when.
    flows, heard_at, since = False, -math.inf, 0.0
    look_at, moment, seen = 0.0, 0, list[tuple[float, type, object]]()
    for event, passes in [*history, ("moved", 16 * 50)]:
        for _ in range(passes):
            moment += 1
            now = moment / 16
            if flows:
                since, heard_at = (now if now - heard_at > FRESH_S else since), now
            if often or now >= look_at:
                if heard_at >= 0:
                    vigil.heard(heard_at, since)
                for finding in vigil.look(now):
                    seen.append((now, type(finding), getattr(finding, "wait", getattr(finding, "reason", None))))
                    if isinstance(finding, Over):
                        return seen
                look_at = min(vigil.due(now), now + 1.0)
        if event == "heard":
            flows = not flows
        else:
            happen(vigil, event, moment / 16)
        if event in {"connected", "left"}:
            look_at = 0.0
    return seen


@settings(deadline=None, max_examples=100)
@given(SPARSE, st.lists(st.tuples(EVENTS, st.integers(0, 200)), max_size=20))
def test_who_looks_when_something_is_due_finds_it_in_time(limits: Limits, history: list[tuple[str, int]]) -> None:
    """Looking once a second and when it is due finds the same as looking all the time, and when that does."""
    often, seldom = _found(limits, history, often=True), _found(limits, history, often=False)
    assert [what for _, *what in seldom] == [what for _, *what in often]
    assert all(abs(late - at) <= 0.31 for (late, *_), (at, *_) in zip(seldom, often, strict=True))


def test_nothing_is_due_of_a_call_that_owes_nothing() -> None:
    """Without limits, and with all that was to be told told, nobody has to look."""
    vigil = connected(Limits(ending_soon_s=0, no_progress_timeout_s=0))
    assert vigil.due(0.0) == STALLED_AFTER_S
    vigil.sounded(1.0)
    assert vigil.due(1.0) == math.inf
    vigil.heard(1.0)
    vigil.look(1.0)
    assert vigil.due(1.0) == 1.0 + STALLED_AFTER_S


def test_what_is_told_early_is_told_before_it_ends() -> None:
    """A limit below the time of the first warning warns at the limit, so that no end comes without a word."""
    limits = Limits(first_audio_timeout_s=STALLED_AFTER_S / 2, no_progress_timeout_s=0)
    findings = [finding for _, finding in looks(connected(limits), STALLED_AFTER_S / 2)]
    assert [type(finding) for finding in findings] == [Stalled, Over]


def test_in_another_room_everything_is_owed_anew() -> None:
    """Nobody is there, so nobody is silent; who comes hears the bot in time, or it is told and ended as at first."""
    vigil = connected(
        Limits(first_audio_timeout_s=20, silence_timeout_s=30, rejoin_timeout_s=15, no_progress_timeout_s=0)
    )
    vigil.sounded(1.0)
    vigil.speaks("user", 2.0, begins=True)
    vigil.moves(3.0)
    assert looks(vigil, 100.0, since=3.0) == []
    assert vigil.due(100.0) > 1000
    vigil.connected(100.0)
    found = looks(vigil, 120.0, since=100.0)
    assert [(at, type(finding)) for at, finding in found] == [(110.0, Stalled), (120.0, Over)]


def test_who_had_left_isnt_waited_for_in_another_room() -> None:
    """The wait for him to come back is over with the room that he left."""
    vigil = connected(Limits(rejoin_timeout_s=10, no_progress_timeout_s=0))
    vigil.sounded(1.0)
    vigil.left(5.0)
    vigil.moves(10.0)
    assert looks(vigil, 60.0, since=10.0) == []
