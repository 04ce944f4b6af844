"""What holds of every plan, whatever the fleet and the sessions look like."""

import random
from collections import Counter, OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Connected, Ending, OnLoss, Priority, Ready, Session, Started, State
from greenroom.common.messages import BotDensity, BotOffer
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Action, Ask, AskLauncher, Lease, RollBack
from greenroom.scheduler.core import PlanLimits, Tracked, plan
from greenroom.scheduler.fleet import WHOLE, Fleet, Runner, holder
from greenroom.scheduler.placement import wish_of
from tests.support.scheduler_builders import Decided, at, decide, heartbeat, lease, session

NOW = at(20)
LIMITS = PlanLimits()
CLASSES = list(Priority)
RUNNERS = ("r0", "r1", "r2", "r3")
POOLS = ("default", "gpu")
BOTS = ("echo", "frontdesk")
TENANTS = ("acme", "zen")
TRANSPORTS = ("websocket", "daily")
IDS = tuple(f"s{number:02}" for number in range(14))

LABELS = ({}, {"gpu": "l4"}, {"gpu": "t4", "region": "eu"})

type World = tuple[Fleet, list[Tracked]]


@st.composite
def sessions(draw: st.DrawFn, session_id: str) -> Session:
    """Draw a session in any state but `ended`."""
    known = session(
        session_id,
        requested=draw(st.integers(0, 19)),
        pool=draw(st.sampled_from(POOLS)),
        bot=draw(st.sampled_from(BOTS)),
        transport=draw(st.sampled_from(TRANSPORTS)),
        on_loss=draw(st.sampled_from(OnLoss)),
        requires=draw(st.sampled_from([{}, {}, *LABELS])),
        prefers=draw(st.sampled_from(LABELS)),
        tenant=draw(st.sampled_from(TENANTS)),
        priority=draw(st.sampled_from(Priority)),
    )
    state = draw(st.sampled_from([each for each in State if each is not State.ENDED]))
    runner_id = draw(st.sampled_from(RUNNERS))
    steps = [lease(runner_id, expires=draw(st.integers(15, 25))), Started(runner_id=runner_id, epoch=1), Ready(epoch=1)]
    reached = {State.REQUESTED: 0, State.LEASED: 1, State.STARTED: 2, State.READY: 3, State.ENDING: 3}[state]
    for step in steps[:reached]:
        known = lifecycle.apply(known, step, known.requested_at)
    if state is State.READY and draw(st.booleans()):
        known = lifecycle.apply(known, Connected(epoch=1), known.requested_at)
    if state is State.ENDING:
        known = lifecycle.apply(known, Ending(by="client", epoch=1, reason="client-stop"), known.requested_at)
    return msgspec.structs.replace(
        known,
        attempt=draw(st.integers(1, 12)),
        refused_by=tuple(draw(st.sets(st.sampled_from(RUNNERS), max_size=2))),
        queue_deadline_at=known.requested_at + timedelta(seconds=draw(st.integers(1, 60))),
    )


@st.composite
def densities(draw: st.DrawFn) -> tuple[BotDensity, ...]:
    """Draw how many more of some bots a runner takes."""
    return tuple(
        BotDensity(bot=bot, cores=0.1, memory=1, seen=20, more=draw(st.integers(0, 4)))
        for bot in draw(st.sets(st.sampled_from(BOTS)))
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a fleet and sessions that know of one another, or contradict each other, as it comes."""
    tracked = [
        Tracked(
            session=draw(sessions(session_id)),
            seen_at=at(draw(st.integers(0, 20))),
            asked=draw(st.booleans()),
            busy=draw(st.integers(0, 5)) == 0,
        )
        for session_id in draw(st.lists(st.sampled_from(IDS), unique=True))
    ]
    known = Fleet()
    known.ticked(at(draw(st.integers(0, 20))), connected=draw(st.integers(0, 5)) > 0)
    for runner_id in draw(st.lists(st.sampled_from(RUNNERS), unique=True)):
        held = (
            draw(st.lists(st.sampled_from(tracked), max_size=4, unique_by=lambda each: each.session.id))
            if tracked
            else []
        )
        beat = heartbeat(
            runner_id,
            pool=draw(st.sampled_from(POOLS)),
            slots=draw(st.integers(0, 5)),
            standby=draw(st.integers(0, 2)),
            draining=draw(st.integers(0, 4)) == 0,
            brake=draw(st.sampled_from([None, None, None, "loop lag 80 ms"])),
            claim=draw(st.sampled_from([None, None, None, None, "s99-1"])),
            labels=draw(st.sampled_from(LABELS)),
            held=tuple(each.session for each in held),
            by_cost=draw(st.booleans()),
            density=draw(densities()),
            bots=tuple(
                BotOffer(
                    name=bot,
                    transports=tuple(draw(st.sets(st.sampled_from(TRANSPORTS), min_size=1))),
                    error=draw(st.sampled_from([None, None, "ImportError"])),
                )
                for bot in draw(st.sets(st.sampled_from(BOTS)))
            ),
        )
        known.heard(beat, at(draw(st.integers(10, 20))))
        if draw(st.integers(0, 5)) == 0:
            known.closed((beat.pool, runner_id))
    return known, tracked


def decided_on(world: World) -> Decided:
    """Plan, and see why the others wait."""
    known, tracked = world
    return decide(20, known, *tracked)


def leases(actions: Iterable[Action]) -> list[Lease]:
    """Return the leases among some actions."""
    return [action for action in actions if isinstance(action, Lease)]


def after(tracked: Tracked, action: Lease) -> Tracked:
    """Return a session after it was leased."""
    moved = lifecycle.apply(tracked.session, action.transition, NOW)
    return Tracked(session=moved, seen_at=NOW, asked=True)


def used(runner: Runner, tracked: list[Tracked]) -> int:
    """Return how many slots of a runner are taken, by the ledger or by its own word."""
    assigned = {
        (each.session.id, each.session.epoch) for each in tracked if holder(each.session) == (runner.pool, runner.id)
    }
    return len(assigned | runner.held)


def load(runner: Runner, tracked: list[Tracked]) -> Fraction:
    """Return which part of what was free of a runner's host is given away: to sessions that it doesn't report."""
    bots = [
        each.session.bot
        for each in tracked
        if holder(each.session) == (runner.pool, runner.id) and (each.session.id, each.session.epoch) not in runner.held
    ]
    return sum((part(runner, bot) for bot in bots), Fraction())


def part(runner: Runner, bot: str) -> Fraction:
    """Return which part a session of a bot takes, 2 if the runner takes none."""
    share = runner.shares.get(bot, max(runner.shares.values(), default=0))
    return Fraction(2) if share > WHOLE else Fraction(1, WHOLE // share) if share else Fraction()


def fits(runner: Runner, asked: Session, now: datetime) -> bool:
    """Tell whether a runner may be given a session, slots aside."""
    return (
        runner.pool == asked.pool
        and now - runner.heard_at < timedelta(seconds=LIMITS.runner_lost_s)
        and not runner.draining
        and runner.brake is None
        and runner.claim is None
        and asked.transport in runner.offers.get((asked.bot, 1), ())
        and all(runner.labels.get(name) == value for name, value in asked.requires.items())
        and runner.id not in asked.refused_by
    )


@given(worlds())
def test_there_are_never_more_sessions_than_slots(world: World) -> None:
    """Counted from both sides, with what the plan grants itself; a runner that said it is full gets nothing."""
    known, tracked = world
    granted = Counter(
        (each.session.pool, action.transition.runner_id)
        for action in leases(plan(NOW, known, tracked, LIMITS).actions)
        for each in tracked
        if each.session.id == action.session_id
    )
    for key, count in granted.items():
        runner = known.runners[key]
        assert used(runner, tracked) + count <= runner.slots
        assert not runner.closed


@given(worlds())
def test_no_host_is_overfilled_by_a_mix_of_bots(world: World) -> None:
    """Of a bot of which n more are taken each session takes an n-th, and where the plan grants, all fit into one."""
    known, tracked = world
    granted = {action.session_id: action for action in leases(plan(NOW, known, tracked, LIMITS).actions)}
    settled = [after(each, granted[each.session.id]) if each.session.id in granted else each for each in tracked]
    for each in settled:
        if each.session.id in granted:
            assert load(known.runners[each.session.pool, each.session.runner_id or ""], settled) <= 1


@given(worlds())
def test_sessions_go_to_runners_that_can_have_them(world: World) -> None:
    """Heard of late, not draining, in the pool, with bot and transport, and not one that refused."""
    known, tracked = world
    by_id = {each.session.id: each.session for each in tracked}
    for action in leases(plan(NOW, known, tracked, LIMITS).actions):
        asked = by_id[action.session_id]
        assert fits(known.runners[asked.pool, action.transition.runner_id], asked, NOW)


@given(worlds())
def test_each_session_is_decided_once_or_waits_with_a_reason(world: World) -> None:
    """Who is asked for and isn't busy has a decision or a place in its pool's queue; nobody has both."""
    _, tracked = world
    decided = decided_on(world)
    acted = [action.session_id for action in decided.actions if not isinstance(action, RollBack)]
    queued = [each.session_id for each in decided.waiting]
    assert len(set(acted + queued)) == len(acted + queued)
    busy = {each.session.id for each in tracked if each.busy}
    assert not busy & set(acted + queued)
    requested = {each.session.id for each in tracked if each.session.state is State.REQUESTED} - busy
    assert requested <= set(acted + queued)
    assert set(queued) <= requested
    assert all(each.text for each in decided.waiting)
    pools = {each.session.id: each.session.pool for each in tracked}
    for pool in POOLS:
        places = [(each.position, each.of) for each in decided.waiting if pools[each.session_id] == pool]
        assert places == [(number, len(places)) for number in range(1, len(places) + 1)]


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_what_is_known_does_not_matter(world: World, shuffler: random.Random) -> None:
    """The same picture gives the same plan, in whichever order it was put together."""
    known, tracked = world
    first = plan(NOW, known, tracked, LIMITS)
    runners = list(known.runners.items())
    shuffled = list(tracked)
    shuffler.shuffle(runners)
    shuffler.shuffle(shuffled)
    known._runners = OrderedDict(runners)
    assert plan(NOW, known, shuffled, LIMITS) == first


@given(worlds())
def test_every_action_is_legal(world: World) -> None:
    """The lifecycle takes each transition from the very session that it was planned for."""
    known, tracked = world
    by_id = {each.session.id: each.session for each in tracked}
    for action in plan(NOW, known, tracked, LIMITS).actions:
        if not isinstance(action, Ask | AskLauncher | RollBack):
            lifecycle.apply(by_id[action.session_id], action.transition, NOW)


@given(worlds())
def test_a_plan_whose_leases_are_granted_grants_no_more(world: World) -> None:
    """Planning again at once changes nothing, so an early wake-up does no harm."""
    known, tracked = world
    first = decided_on(world)
    granted = {action.session_id: action for action in leases(first.actions)}
    again = [after(each, granted[each.session.id]) if each.session.id in granted else each for each in tracked]
    second = decided_on((known, again))
    assert leases(second.actions) == []
    assert [action for action in first.actions if not isinstance(action, Lease)] == list(second.actions)
    assert [(each.session_id, each.position) for each in second.waiting] == [
        (each.session_id, each.position) for each in first.waiting
    ]


@given(worlds())
def test_nobody_waits_for_a_slot_that_is_free(world: World) -> None:
    """After the plan's own leases, no runner that could take a waiting session has room left."""
    known, tracked = world
    decided = decided_on(world)
    granted = {action.session_id: action for action in leases(decided.actions)}
    settled = [after(each, granted[each.session.id]) if each.session.id in granted else each for each in tracked]
    by_id = {each.session.id: each.session for each in tracked}
    for each in decided.waiting:
        for runner in known.runners.values():
            if fits(runner, by_id[each.session_id], NOW):
                assert each.reason is Reason.NO_FREE_SLOT
                full = load(runner, settled) + part(runner, by_id[each.session_id].bot) > 1
                assert runner.closed or used(runner, settled) >= runner.slots or full


@given(worlds())
def test_nobody_is_overtaken_by_one_who_came_later(world: World) -> None:
    """Of two of a tenant who want the same and whom nobody refused, the later isn't placed while the earlier waits.

    Nor is one of a lower class placed, whoever asks.
    """
    _, tracked = world
    decided = decided_on(world)
    by_id = {each.session.id: each.session for each in tracked if not each.session.refused_by}
    placed = [by_id[action.session_id] for action in leases(decided.actions) if action.session_id in by_id]
    left = [by_id[each.session_id] for each in decided.waiting if each.session_id in by_id]
    for early in left:
        for late in placed:
            if wish_of(early)[:-1] == wish_of(late)[:-1]:
                assert CLASSES.index(late.priority) <= CLASSES.index(early.priority)
                if (early.tenant, early.priority) == (late.tenant, late.priority):
                    assert (late.requested_at, late.id) < (early.requested_at, early.id)


@given(worlds())
@settings(max_examples=50)
def test_a_scheduler_that_does_not_hear_ends_no_running_session(world: World) -> None:
    """Cut off, it knows nothing of runners: only queues and leases go by its clock."""
    known, tracked = world
    known.ticked(NOW, connected=False)
    by_id = {each.session.id: each.session for each in tracked}
    for action in plan(NOW, known, tracked, LIMITS).actions:
        assert not isinstance(action, RollBack)
        assert by_id[action.session_id].state in {State.REQUESTED, State.LEASED}
