"""The life of a session: what the table allows, what the epoch fences, and what always holds."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.errors import IllegalTransition, StaleEpoch
from greenroom.common.lifecycle import (
    TABLE,
    Connected,
    Ended,
    Ending,
    Leased,
    Limits,
    Moved,
    Moving,
    OnLoss,
    Outcome,
    Ready,
    Requested,
    Requeued,
    Session,
    Started,
    State,
    Stayed,
    Transition,
    may_requeue,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LATER = T0 + timedelta(seconds=1)


def requested(on_loss: OnLoss = OnLoss.BEFORE_MEDIA) -> Session:
    """Return a session that has just been requested."""
    session = Session(
        id="s", tenant="t", agent="a", bot="b", on_loss=on_loss, requested_at=T0, queue_deadline_at=T0, limits=Limits()
    )
    return lifecycle.apply(None, Requested(session=session), T0)


def leased(session: Session, runner_id: str = "r1") -> Session:
    """Return a session leased to a runner."""
    lease = Leased(runner_id=runner_id, epoch=session.epoch + 1, expires_at=LATER)
    return lifecycle.apply(session, lease, T0)


def in_state(state: State) -> Session:
    """Return a session in a state, brought there in the usual way."""
    session = requested()
    if state is State.REQUESTED:
        return session
    session = leased(session)
    if state is State.LEASED:
        return session
    session = lifecycle.apply(session, Started(runner_id="r1", epoch=1), T0)
    if state is State.STARTED:
        return session
    session = lifecycle.apply(session, Ready(epoch=1), T0)
    if state is State.READY:
        return session
    session = lifecycle.apply(session, Ending(by="client", epoch=1, reason="client-stop"), T0)
    if state is State.ENDING:
        return session
    return lifecycle.apply(session, Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop"), T0)


def transition_of(kind: type, epoch: int, runner_id: str = "r1") -> Transition:
    """Return a transition of a kind with an epoch (a lease's is the next one)."""
    transitions: tuple[Transition, ...] = (
        Requested(session=requested()),
        Leased(runner_id=runner_id, epoch=epoch + 1, expires_at=LATER),
        Requeued(epoch=epoch, reason="lease-expired"),
        Started(runner_id=runner_id, epoch=epoch),
        Ready(epoch=epoch),
        Connected(epoch=epoch),
        Moving(epoch=epoch, id="m", room="hall", transport_info={"room": "hall"}),
        Moved(epoch=epoch, id="m"),
        Stayed(epoch=epoch, id="m"),
        Ending(by="session", epoch=epoch, reason="goodbye"),
        Ended(by="scheduler", epoch=epoch, outcome=Outcome.LOST, reason="runner-lost"),
    )
    return next(transition for transition in transitions if isinstance(transition, kind))


KINDS = (Requested, Leased, Requeued, Started, Ready, Connected, Moving, Moved, Stayed, Ending, Ended)
STATES = tuple(State)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES)
def test_the_table_decides_what_is_legal(state: State, kind: type) -> None:
    """From each state exactly the transitions of the table are possible, and lead where it says."""
    session = in_state(state)
    if (state, kind) == (State.LEASED, Leased):
        session = msgspec.structs.replace(session, cold=True)
    if kind in {Moved, Stayed} and state is State.READY:
        session = lifecycle.apply(session, transition_of(Moving, 1), T0)
    transition = transition_of(kind, session.epoch)
    target = TABLE[state].get(kind)
    if target is None:
        with pytest.raises(IllegalTransition):
            lifecycle.apply(session, transition, LATER)
    else:
        assert lifecycle.apply(session, transition, LATER).state is target


@pytest.mark.parametrize(("was_cold", "is_cold"), [(False, False), (False, True), (True, True)])
def test_only_a_cold_lease_is_moved_and_only_to_a_runner_that_is_there(was_cold: bool, is_cold: bool) -> None:  # noqa: FBT001
    """A runner that was asked may be about to claim; a second launch helps nobody."""
    leased = msgspec.structs.replace(in_state(State.LEASED), cold=was_cold)
    moved = Leased(runner_id="r2", epoch=2, expires_at=LATER, cold=is_cold)
    with pytest.raises(IllegalTransition):
        lifecycle.apply(leased, moved, LATER)


def test_whoever_was_launched_for_a_lease_that_was_moved_comes_too_late() -> None:
    """The new lease is another epoch and another runner's; nothing else of the session has changed."""
    before = msgspec.structs.replace(in_state(State.LEASED), cold=True)
    after = lifecycle.apply(before, Leased(runner_id="r2", epoch=2, expires_at=LATER), LATER)
    assert (after.state, after.epoch, after.runner_id, after.cold) == (State.LEASED, 2, "r2", False)
    assert (after.attempt, after.refused_by, after.queue_deadline_at) == (1, (), before.queue_deadline_at)
    with pytest.raises(StaleEpoch):
        lifecycle.apply(after, Started(runner_id="r1", epoch=1), LATER)


def test_a_life_begins_with_a_request_and_nothing_else() -> None:
    """Without a session there is one transition."""
    for kind in KINDS:
        if kind is not Requested:
            with pytest.raises(IllegalTransition):
                lifecycle.apply(None, transition_of(kind, 0), T0)


def test_a_request_takes_its_times_from_the_ledger_and_not_from_the_caller() -> None:
    """What the document claims of its own life is overwritten by what really happens to it."""
    claimed = Session(
        id="s",
        tenant="t",
        agent="a",
        bot="b",
        requested_at=T0 - timedelta(days=1),
        queue_deadline_at=T0 + timedelta(days=1),
        state=State.READY,
        epoch=7,
        attempt=9,
        limits=Limits(queue_timeout_s=12),
    )
    session = lifecycle.apply(None, Requested(session=claimed), T0)
    assert (session.state, session.epoch, session.attempt) == (State.REQUESTED, 0, 1)
    assert (session.requested_at, session.queue_deadline_at) == (T0, T0 + timedelta(seconds=12))


@pytest.mark.parametrize("state", [State.LEASED, State.STARTED, State.READY, State.ENDING])
@pytest.mark.parametrize("off", [-1, 1])
def test_another_epoch_is_fenced_off(state: State, off: int) -> None:
    """Whoever held an earlier lease, or claims one that was never granted, changes nothing."""
    session = in_state(state)
    for kind in TABLE[state]:
        with pytest.raises(StaleEpoch):
            lifecycle.apply(session, transition_of(kind, session.epoch + off), LATER)


def test_a_lease_is_claimed_by_its_runner_only() -> None:
    """The right epoch doesn't help a runner that the lease wasn't granted to."""
    with pytest.raises(StaleEpoch):
        lifecycle.apply(in_state(State.LEASED), Started(runner_id="r2", epoch=1), LATER)


def test_a_lease_that_ran_out_excludes_its_runner_and_keeps_the_deadline() -> None:
    """The session waits on as if the lease had never been, less the runner."""
    before = in_state(State.LEASED)
    after = lifecycle.apply(before, Requeued(epoch=1, reason="lease-expired"), LATER)
    assert (after.attempt, after.epoch, after.runner_id, after.refused_by) == (2, 1, None, ("r1",))
    assert after.queue_deadline_at == before.queue_deadline_at
    kept = lifecycle.apply(before, Requeued(epoch=1, reason="no-free-slot", exclude_runner=False), LATER)
    assert kept.refused_by == ()


def test_a_session_that_had_been_running_is_waited_for_anew() -> None:
    """The time on the lost runner wasn't waiting, so the caller's patience starts again."""
    after = lifecycle.apply(in_state(State.READY), Requeued(epoch=1, reason="runner-lost"), LATER)
    assert after.queue_deadline_at == LATER + timedelta(seconds=after.limits.queue_timeout_s)
    assert (after.started_at, after.ready_at, after.leased_at, after.media_connected) == (None, None, None, False)


@pytest.mark.parametrize(
    ("on_loss", "connected", "allowed"),
    [
        (OnLoss.NEVER, False, False),
        (OnLoss.NEVER, True, False),
        (OnLoss.BEFORE_MEDIA, False, True),
        (OnLoss.BEFORE_MEDIA, True, False),
        (OnLoss.ALWAYS, False, True),
        (OnLoss.ALWAYS, True, True),
    ],
)
def test_on_loss_decides_what_becomes_of_a_running_session(on_loss: OnLoss, connected: bool, allowed: bool) -> None:  # noqa: FBT001
    """What the caller has heard can't be undone unheard, unless the agent says that it doesn't matter."""
    session = lifecycle.apply(leased(requested(on_loss)), Started(runner_id="r1", epoch=1), T0)
    assert may_requeue(session) is (on_loss is not OnLoss.NEVER)
    session = lifecycle.apply(session, Ready(epoch=1), T0)
    if connected:
        session = lifecycle.apply(session, Connected(epoch=1), T0)
    assert may_requeue(session) is allowed


def test_a_session_that_never_started_may_always_be_tried_again() -> None:
    """A lease alone has done nothing that anybody could have noticed; what ends or ended is left alone."""
    assert may_requeue(leased(requested(OnLoss.NEVER)))
    for state in (State.REQUESTED, State.ENDING, State.ENDED):
        assert not may_requeue(in_state(state))


def on_its_way(on_loss: OnLoss = OnLoss.ALWAYS) -> Session:
    """Return a session in the lobby that is to go to the hall."""
    session = msgspec.structs.replace(
        in_state(State.READY), room="lobby", transport_info={"room": "lobby"}, on_loss=on_loss
    )
    return lifecycle.apply(session, transition_of(Moving, 1), T0)


def test_a_session_that_moves_is_where_it_was_until_it_is_there() -> None:
    """Then the other room is its own, all at once; or it has stayed, and nothing is different."""
    before = on_its_way()
    assert (before.room, before.transport_info, before.state) == ("lobby", {"room": "lobby"}, State.READY)
    assert before.moving is not None
    assert (before.moving.id, before.moving.room, before.moving.at) == ("m", "hall", T0)
    moved = lifecycle.apply(before, Moved(epoch=1, id="m"), LATER)
    assert (moved.room, moved.transport_info, moved.moving, moved.moved) == ("hall", {"room": "hall"}, None, "m")
    stayed = lifecycle.apply(before, Stayed(epoch=1, id="m", detail="the room is closed"), LATER)
    assert stayed == msgspec.structs.replace(before, moving=None)


def test_a_session_moves_to_one_room_at_a_time() -> None:
    """A second move waits for the end of the first, and the end of another move is none of this one."""
    with pytest.raises(IllegalTransition):
        lifecycle.apply(on_its_way(), Moving(epoch=1, id="n", transport_info={"room": "attic"}), LATER)
    for end in (Moved(epoch=1, id="n"), Stayed(epoch=1, id="n")):
        with pytest.raises(IllegalTransition):
            lifecycle.apply(on_its_way(), end, LATER)
    with pytest.raises(IllegalTransition):
        lifecycle.apply(in_state(State.READY), Moved(epoch=1, id="m"), LATER)


def test_a_session_that_is_put_back_on_its_way_begins_in_the_room_it_was_in() -> None:
    """However far its lost process had come: the ledger names one room. One that ends there keeps both until it has."""
    back = lifecycle.apply(on_its_way(), Requeued(epoch=1, reason="runner-lost"), LATER)
    assert (back.room, back.transport_info, back.moving, back.moved) == ("lobby", {"room": "lobby"}, None, None)
    moved = lifecycle.apply(on_its_way(), Moved(epoch=1, id="m"), LATER)
    there = lifecycle.apply(moved, Requeued(epoch=1, reason="runner-lost"), LATER)
    assert (there.room, there.transport_info) == ("hall", {"room": "hall"})
    ending = lifecycle.apply(on_its_way(), Ending(by="client", epoch=1, reason="client-stop"), LATER)
    assert ending.moving is not None
    ended = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop")
    assert lifecycle.apply(ending, ended, LATER).moving is None


@given(
    on_loss=st.sampled_from(OnLoss),
    steps=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(-1, 1), st.sampled_from(["r1", "r2"]), st.booleans()), max_size=40
    ),
)
def test_whatever_is_tried_a_session_stays_in_one_piece(
    on_loss: OnLoss, steps: list[tuple[type, int, str, bool]]
) -> None:
    """Any sequence of tries leaves a document that agrees with itself, and what is refused leaves no trace."""
    session = requested(on_loss)
    at = T0
    for kind, off, runner_id, exclude in steps:
        at += timedelta(seconds=1)
        transition = transition_of(kind, session.epoch + off, runner_id)
        if isinstance(transition, Requeued):
            transition = Requeued(epoch=transition.epoch, reason="x", exclude_runner=exclude)
        before = session
        try:
            session = lifecycle.apply(session, transition, at)
        except (IllegalTransition, StaleEpoch):
            assert session is before
            continue
        assert off == 0, "a wrong epoch was let through"
        assert before.state is not State.ENDED, "an ended session was changed"
        check(before, session, transition)


def check(before: Session, after: Session, transition: Transition) -> None:
    """Assert what holds after any transition."""
    assert after.epoch == before.epoch + isinstance(transition, Leased)
    assert after.attempt == before.attempt + isinstance(transition, Requeued)
    assert (after.id, after.tenant, after.agent, after.body, after.requested_at) == (
        before.id,
        before.tenant,
        before.agent,
        before.body,
        before.requested_at,
    )
    assert set(before.refused_by) <= set(after.refused_by)
    assert len(after.refused_by) == len(set(after.refused_by))
    assert after.attempt <= after.epoch + 1, "a session is only put back after a lease"
    held = after.state in {State.LEASED, State.STARTED, State.READY, State.ENDING}
    if held:
        assert after.runner_id is not None
    if after.state is State.REQUESTED:
        assert after.runner_id is None
        assert after.lease_expires_at is None
    assert (after.state is State.LEASED) <= (after.lease_expires_at is not None)
    if after.moving is not None:
        assert after.state in {State.READY, State.ENDING}, "only who is somewhere can go elsewhere"
    if (before.room, before.transport_info) != (after.room, after.transport_info):
        assert isinstance(transition, Moved)
        assert before.moving is not None
        assert (after.room, after.transport_info) == (before.moving.room, before.moving.transport_info)
    assert after.ended is (after.outcome is not None and after.ended_at is not None)


def test_the_diagram_shows_every_arc() -> None:
    """What the documentation draws is the table."""
    lines = lifecycle.diagram().splitlines()
    arcs = sum(len(targets) for targets in TABLE.values())
    assert len(lines) == arcs + 2
    assert "    requested --> leased: Leased" in lines
