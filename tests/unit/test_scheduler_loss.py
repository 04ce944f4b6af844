"""When the sessions of a runner that was never heard are lost: neither before it could have been heard, nor never."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Ending, Limits, OnLoss, Outcome, Ready, Session, Started, State
from greenroom.scheduler.actions import EndOverdue, EndUnheld, MarkLost
from greenroom.scheduler.core import Board, PlanLimits, Tracked
from greenroom.scheduler.settle import look_again_at, settle
from tests.support.scheduler_builders import T0, at, board_of, fleet, heartbeat, lease, running
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play
from tests.support.simulated_runner import SimulatedRunner

LIMITS = PlanLimits()
TICK = 0.25


def held(state: State = State.READY) -> Session:
    """Return a session that a runner holds, and that isn't to be tried again."""
    session = running("s", "r1", on_loss=OnLoss.NEVER)
    if state is State.ENDING:
        return lifecycle.apply(session, Ending(by="client", epoch=1, reason="client-stop"), T0)
    return session


def lost_at(board: Board, begin: float, until: float) -> float | None:
    """Plan at every tick, and return when the session is found to be lost."""
    for tick in range(int((until - begin) / TICK) + 1):
        now = begin + tick * TICK
        if board.plan(at(now)).actions:
            return now
    return None


@pytest.mark.parametrize(("state", "action"), [(State.READY, MarkLost), (State.ENDING, EndUnheld)])
def test_a_scheduler_that_has_heard_others_for_long_waits_for_a_runner_it_never_heard(
    state: State, action: type
) -> None:
    """Its sessions have the same 6 s from when this scheduler learned of them, and no more."""
    board = board_of(fleet(hearing_since=-600), [Tracked(session=held(state), seen_at=at(0), asked=False)])
    assert lost_at(board, 0, 5.75) is None
    (found,) = board.plan(at(6)).actions
    assert isinstance(found, action)


def test_a_runner_that_is_heard_in_that_time_keeps_its_sessions() -> None:
    """From then on its heartbeats count."""
    known, session = fleet(hearing_since=-600), held()
    board = board_of(known, [Tracked(session=session, seen_at=at(0), asked=False)])
    assert lost_at(board, 0, 5) is None
    known.heard(heartbeat(held=(session,)), at(5.5))
    board.runner_changed(("default", "r1"))
    assert lost_at(board, 5.5, 60) == 11.5


def test_a_clock_that_was_set_back_keeps_nobody_for_ever() -> None:
    """That a session was learned of in the future says nothing; hearing has begun anew then."""
    known = fleet(hearing_since=0)
    board = board_of(known, [Tracked(session=held(), seen_at=at(3600), asked=False)])
    known.ticked(at(3600), connected=True)
    known.ticked(at(10), connected=True)
    assert lost_at(board, 10, 60) == 16


SECONDS = st.integers(-240, 240).map(lambda number: number * TICK)


@given(hearing=SECONDS, seen=SECONDS, state=st.sampled_from([State.READY, State.ENDING]))
def test_it_is_lost_when_both_have_passed(hearing: float, seen: float, state: State) -> None:
    """Six seconds of hearing and six of knowing the session; whatever a board is woken by, it notices at once."""
    tracked = Tracked(session=held(state), seen_at=at(seen), asked=False)
    begin = max(hearing, seen)
    found = lost_at(board_of(fleet(hearing_since=hearing), [tracked]), begin, begin + 20)
    assert found == begin + LIMITS.runner_lost_s


@given(hearing=SECONDS, seen=SECONDS, now=SECONDS)
def test_what_time_alone_changes_is_announced(hearing: float, seen: float, now: float) -> None:
    """Between two looks that are due, and with no runner falling silent, the answer stays the same."""
    known = fleet(hearing_since=hearing)
    tracked = Tracked(session=held(), seen_at=at(seen), asked=False)
    deadline = look_again_at(tracked, known, LIMITS)
    assert deadline is not None
    assert deadline == at(seen) + timedelta(seconds=LIMITS.runner_lost_s)
    before = settle(tracked, at(now), known, LIMITS)
    if at(seen) <= at(now) < deadline:
        assert before is None
    elif now - hearing >= LIMITS.runner_lost_s:
        assert before is not None


LONGEST = 100.0
OVERDUE = LONGEST + 10 + LIMITS.overdue_s


def overdue(state: State = State.READY, on_loss: OnLoss = OnLoss.NEVER) -> Session:
    """Return a session on a runner that may last 100 s, and 10 s more to end."""
    own = Limits(max_duration_s=LONGEST, end_timeout_s=10)
    session = running("s", "r1", on_loss=on_loss, limits=own)
    if state is State.ENDING:
        return lifecycle.apply(session, Ending(by="runner", epoch=1, reason="max-duration-exceeded"), T0)
    return session


def heard_all_the_time(session: Session, until: float) -> tuple[Board, float | None]:
    """Have the runner report a session every second, and return when anything is decided on it."""
    known = fleet(heartbeat(held=(session,)))
    board = board_of(known, [Tracked(session=session, seen_at=at(0), asked=False)])
    for second in range(int(until) + 1):
        known.ticked(at(second), connected=True)
        known.heard(heartbeat(seq=second + 2, held=(session,)), at(second))
        board.runner_changed(("default", "r1"))
        if board.plan(at(second)).actions:
            return board, second
    return board, None


def test_a_session_that_its_runner_never_ends_is_ended_when_its_limits_and_a_minute_are_over() -> None:
    """Not before: the runner ends it itself, and may take a while to write that. The epoch is the one that ran."""
    board, when = heard_all_the_time(overdue(), 200)
    assert when == OVERDUE
    (found,) = board.plan(at(OVERDUE)).actions
    assert isinstance(found, EndOverdue)
    end = found.transition
    assert (end.by, end.epoch, end.outcome, end.reason) == (
        "scheduler",
        1,
        Outcome.COMPLETED,
        "max-duration-exceeded",
    )
    assert end.detail == "100 s, and runner r1 hasn't ended it"


def test_nobody_has_to_be_heard_for_that_time_to_be_noticed() -> None:
    """It is a deadline of the board's: without any news it looks again at that moment, and not before."""
    session = overdue()
    known = fleet(heartbeat(held=(session,)), heard=OVERDUE - 1)
    tracked = Tracked(session=session, seen_at=at(0), asked=False)
    assert look_again_at(tracked, known, LIMITS) == at(OVERDUE)
    board = board_of(known, [tracked])
    assert not board.plan(at(OVERDUE - 0.25)).actions
    (found,) = board.plan(at(OVERDUE)).actions
    assert isinstance(found, EndOverdue)


def test_one_that_is_over_time_is_not_tried_again_when_its_runner_is_lost_as_well() -> None:
    """However it may be tried again: it has had all the time it may have."""
    session = overdue(on_loss=OnLoss.ALWAYS)
    board = board_of(fleet(hearing_since=-600), [Tracked(session=session, seen_at=at(0), asked=False)])
    (found,) = board.plan(at(OVERDUE)).actions
    assert isinstance(found, EndOverdue)


def test_one_that_ends_already_is_left_to_its_runner() -> None:
    """Its end is decided, with a reason of its own; that it is seen through is the runner's, until that is lost."""
    assert heard_all_the_time(overdue(State.ENDING), 300)[1] is None


def test_a_call_survives_that_its_leader_never_heard_its_runner_before() -> None:
    """The runner's heartbeats come through only after the news of the session: five seconds later is soon enough."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.clock.sleep(60)
        session = await rig.request(on_loss=OnLoss.NEVER)
        for step in (lease("r1", expires=10**9), Started(runner_id="r1", epoch=1), Ready(epoch=1)):
            await rig.ledger.move(session.tenant, session.id, lambda _, step=step: step)
        runner = SimulatedRunner(rig.server.connect(), rig.clock)
        runner._hold(await rig.now(session))
        await rig.clock.sleep(5)
        await runner.start()
        await rig.clock.sleep(60)
        assert await rig.steps(session) == ["requested", "leased r1 1", "started", "ready"]
        await runner.kill()
        assert (await rig.reach(session, State.ENDED, within_s=8)).outcome is Outcome.LOST

    play(scenario)
