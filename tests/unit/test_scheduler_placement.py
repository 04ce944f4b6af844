"""Which runner takes a session, and what is launched when none can."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Leased, Limits, Priority, State
from greenroom.common.messages import BotDensity, BotOffer, Heartbeat
from greenroom.common.policy import Limit, Policy, PoolPolicy, Scope
from greenroom.scheduler.actions import AskLauncher, ColdLease, Lease, Requeue
from greenroom.scheduler.capacity import BotAllowance, ColdAllowance
from greenroom.scheduler.core import PlanLimits, Tracked
from greenroom.scheduler.ranking import Ranking
from tests.support.scheduler_builders import T0, at, begin, board_of, decide, fleet, heartbeat, lease, running, session

COLD = {"default": ColdAllowance(count=2, deadline_s=90.0)}


# ---------------------------------------------------------------------------- labels


def test_a_session_goes_only_where_its_required_labels_are() -> None:
    """All of them; and while no runner has them it waits, and is told so."""
    known = fleet(heartbeat("r1"), heartbeat("r2", labels={"gpu": "l4", "region": "eu"}))
    asked = session("s", requires={"gpu": "l4", "region": "eu"})
    assert decide(1, known, asked).leased_to == {"s": "r2"}
    other = session("s", requires={"region": "us"})
    assert decide(1, known, other).texts == [
        "1st of 1: no runner that offers bot echo in pool default has region=us",
    ]


def test_preferred_labels_are_a_wish() -> None:
    """Of the runners with a warm process the one with most of them is taken; without any, another one."""
    known = fleet(
        heartbeat("r1"),
        heartbeat("r2", labels={"gpu": "l4"}),
        heartbeat("r3", labels={"gpu": "l4", "region": "eu"}),
    )
    asked = session("s", prefers={"gpu": "l4", "region": "eu"})
    assert decide(1, known, asked).leased_to == {"s": "r3"}
    assert decide(1, fleet(heartbeat("r1")), asked).leased_to == {"s": "r1"}


def test_a_warm_process_counts_more_than_a_preferred_label() -> None:
    """A label that the caller would like isn't worth making him wait for a process."""
    known = fleet(heartbeat("r1"), heartbeat("r2", standby=0, labels={"gpu": "l4"}))
    assert decide(1, known, session("s", prefers={"gpu": "l4"})).leased_to == {"s": "r1"}


# ---------------------------------------------------------------------------- who takes nothing


@pytest.mark.parametrize(
    ("beat", "text"),
    [
        (heartbeat(brake="loop lag 80 ms"), "every runner that offers bot echo brakes: loop lag 80 ms"),
        (heartbeat(claim="x-1"), "no runner is up in pool default"),
    ],
)
def test_a_runner_that_brakes_or_was_launched_for_another_takes_nothing(beat: Heartbeat, text: str) -> None:
    """It has a slot all the same."""
    decided = decide(1, fleet(beat), session("s"))
    assert (decided.leased_to, decided.texts) == ({}, [f"1st of 1: {text}"])


# ---------------------------------------------------------------------------- what sessions cost

BOTS = (BotOffer(name="echo"), BotOffer(name="seer"), BotOffer(name="new"))


def measured(echo: int, seer: int, **fields: Any) -> Heartbeat:
    """Return the heartbeat of a runner that measured how many more it takes of two of its bots."""
    density = tuple(
        BotDensity(bot=bot, cores=0.1, memory=1, seen=20, more=more) for bot, more in (("echo", echo), ("seer", seer))
    )
    known: dict[str, Any] = {"slots": 12, "standby": 12, "bots": BOTS, "by_cost": True, "density": density}
    return heartbeat(**(known | fields))


def asked(bot: str, count: int, *, first: int = 0) -> list[Any]:
    """Return sessions of a bot, in their order."""
    return [session(f"{bot}{number}", bot=bot, requested=0.01 * (first + number)) for number in range(count)]


@pytest.mark.parametrize(("bot", "fit"), [("echo", 6), ("seer", 2), ("new", 2)])
def test_of_each_bot_so_many_are_placed_as_the_runner_takes(bot: str, fit: int) -> None:
    """Of one that isn't measured as many as of the dearest; whoever waits is told that slots are too small for it."""
    decided = decide(1, fleet(measured(6, 2)), *asked(bot, 8))
    assert len(decided.leased_to) == fit
    text = f"no free slot in pool default is large enough for bot {bot} ({fit}/12 busy)"
    assert decided.texts[0] == f"1st of {8 - fit}: {text}"


def test_light_and_heavy_bots_share_a_host() -> None:
    """Three of six halves what is left for the heavy one; what the heavy one finds too small the light one takes."""
    decided = decide(1, fleet(measured(6, 2)), *asked("echo", 3), *asked("seer", 2, first=3))
    assert list(decided.leased_to) == ["echo0", "echo1", "echo2", "seer0"]
    late = [session("light", bot="echo", requested=0.5)]
    decided = decide(1, fleet(measured(6, 2)), *asked("echo", 2), *asked("seer", 2, first=2), *late)
    assert list(decided.leased_to) == ["echo0", "echo1", "seer0", "light"]


def test_a_lease_that_the_runner_does_not_report_yet_counts_by_its_cost() -> None:
    """What it reports is gone from what it says is free; what it doesn't has to be taken off."""
    held, granted = running("x", "r1", bot="seer"), session("y", lease("r1"), bot="seer")
    decided = decide(1, fleet(measured(4, 2, held=(held,))), held, granted, *asked("echo", 4))
    assert len(decided.leased_to) == 2


def test_what_a_runner_takes_now_is_what_its_last_heartbeat_says() -> None:
    """Though nothing else about it has changed."""
    known = fleet(measured(6, 0))
    board = board_of(known, [Tracked(session=session("s", bot="seer"), seen_at=T0)])
    assert board.plan(at(1)).actions == ()
    assert known.heard(measured(6, 2, seq=2), at(1))
    assert board.runner_changed(("default", "r1"))
    assert [type(each) for each in board.plan(at(1)).actions] == [Lease]


def test_a_number_of_slots_that_was_told_is_not_overruled() -> None:
    """Such a runner tells what its sessions cost too, and that goes for nothing."""
    decided = decide(1, fleet(measured(0, 0, by_cost=False)), *asked("seer", 12))
    assert len(decided.leased_to) == 12


# ---------------------------------------------------------------------------- order


def test_each_pool_is_filled_as_its_policy_says() -> None:
    """And one that the policy says nothing of, as the setting does."""
    policy = Policy(pools=(PoolPolicy(name="a", placement="spread"),))
    held = [running(f"x{pool}", f"{pool}1", pool=pool) for pool in "ab"]
    beats = [
        heartbeat(f"{pool}{number}", pool=pool, held=(each,) if number == 1 else ())
        for pool, each in zip("ab", held, strict=True)
        for number in (1, 2)
    ]
    asked = [session(f"s{pool}", pool=pool) for pool in "ab"]
    assert decide(1, fleet(*beats), *held, *asked, policy=policy).leased_to == {"sa": "a2", "sb": "b1"}
    spread = PlanLimits(spread=True)
    assert decide(1, fleet(*beats), *held, *asked, limits=spread).leased_to == {"sa": "a2", "sb": "b2"}


def test_a_changed_policy_changes_where_the_next_session_goes() -> None:
    """Racks that were filled one way are made anew."""
    held = running("x", "r1")
    board = board_of(fleet(heartbeat("r1", held=(held,)), heartbeat("r2")), [Tracked(session=held, seen_at=T0)])
    board.session_changed(Tracked(session=session("s"), seen_at=T0))
    runners: list[str] = []
    for placement in ("packed", "spread"):
        board.policy_changed(Policy(pools=(PoolPolicy(name="default", placement=placement),)), ())
        (action,) = board.plan(at(1)).actions
        assert isinstance(action, Lease)
        runners.append(action.transition.runner_id)
    assert runners == ["r1", "r2"]


def test_a_lease_says_what_it_was_decided_from() -> None:
    """How many runners fit, how many had room and warm processes, the place in the queue, the limits, the version."""
    policy = Policy(revision=7, limits=(Limit(id="t", scope=Scope.TENANT, max_sessions=5),))
    known = fleet(heartbeat("r1", slots=1, standby=1), heartbeat("r2", slots=0), heartbeat("r3", bots=()))
    (action,) = decide(1, known, session("s"), policy=policy).actions
    assert action.why.text == "runner r1 has a warm slot"
    assert action.why.inputs == {
        "candidates": 2,
        "free": 1,
        "warm": 1,
        "position": 1,
        "limits": {"t t": "0/5"},
        "version": 1,
        "policy_revision": 7,
    }


def test_a_ranking_forgets_what_was_ranked_before() -> None:
    """Items that are ranked anew a thousand times come out once, in the order of their last keys."""
    ranking: Ranking[str, tuple[int, str]] = Ranking()
    for turn in range(1000):
        for item in "abc":
            ranking.put(item, (turn * (1 if item == "b" else 2), item))
    ranking.drop("a")
    assert [ranking.first(), len(ranking), len(ranking._heap) < 100] == ["b", 2, True]
    ranking.drop("b")
    ranking.drop("c")
    assert ranking.first() is None


# ---------------------------------------------------------------------------- runners that are launched


def test_overflow_is_launched_for_in_the_order_of_the_queue() -> None:
    """As many as may be; each gets a runner of its own, named by its lease, until its deadline or the caller's."""
    known = fleet(heartbeat(slots=1))
    patience = [Limits(queue_timeout_s=wait_s) for wait_s in (300, 300, 30, 300)]
    asked = [session(f"s{number}", requested=number / 10, limits=each) for number, each in enumerate(patience)]
    decided = decide(1, known, *asked, cold=COLD)
    assert decided.leased_to == {"s0": "r1"}
    cold = [each for each in decided.actions if isinstance(each, ColdLease)]
    assert [each.transition for each in cold] == [
        Leased(runner_id=f"cold-{name}-1", epoch=1, expires_at=at(expires), cold=True, agent_version=1)
        for name, expires in (("s1", 91), ("s2", 30.2))
    ]
    assert decided.texts == ["1st of 1: no free slot in pool default (1/1 busy)"]


def test_nothing_is_launched_for_whom_a_runner_more_would_not_help() -> None:
    """A bot that none of the runners has, a label that none has, a limit: only a free slot is what launching gives."""
    policy = Policy(limits=(Limit(id="zen", scope=Scope.TENANT, tenant="zen", max_sessions=0),))
    asked = [
        session("a", bot="ghost"),
        session("b", requires={"gpu": "l4"}),
        session("c", tenant="zen"),
        session("d", refused_by=("r1",)),
    ]
    assert decide(1, fleet(heartbeat(slots=0)), *asked, policy=policy, cold=COLD).actions == ()


@pytest.mark.parametrize(
    "beats", [(), (heartbeat(draining=True),), (heartbeat(brake="cpu 97 %"),), (heartbeat(claim="x-1"),)]
)
def test_a_pool_with_nobody_to_take_sessions_grows_from_zero(beats: tuple[Heartbeat, ...]) -> None:
    """Nobody up, or all of them leaving or braking: that is a want of slots too."""
    decided = decide(1, fleet(*beats), session("s"), cold=COLD)
    assert [type(each) for each in decided.actions] == [ColdLease]


def test_a_bot_that_is_backed_off_from_is_launched_for_less() -> None:
    """Its callers are told why; the others' launches go on."""
    tight = {"echo": BotAllowance(count=0, reason="bot echo crashes at start")}
    cold = {"default": ColdAllowance(count=2, deadline_s=90.0, bots=tight)}
    bots = (BotOffer(name="echo"), BotOffer(name="desk"))
    decided = decide(1, fleet(heartbeat(slots=0, bots=bots)), session("a"), session("b", bot="desk"), cold=cold)
    assert [each.session_id for each in decided.actions if isinstance(each, ColdLease)] == ["b"]
    assert decided.texts == [
        "1st of 1: no free slot in pool default (0/0 busy); none is launched: bot echo crashes at start"
    ]


def test_who_waits_is_told_what_holds_launches_back() -> None:
    """The reason of the allowance stands beside the want of slots."""
    cold = {"default": ColdAllowance(reason="2 runners are launched and not heard")}
    assert decide(1, fleet(heartbeat(slots=0)), session("s"), cold=cold).texts == [
        "1st of 1: no free slot in pool default (0/0 busy); none is launched: 2 runners are launched and not heard"
    ]


def cold_lease(*, asked: bool = True) -> Tracked:
    """Return a session with a cold lease that runs out after 90 s."""
    granted = session("s", Leased(runner_id="cold-s-1", epoch=1, expires_at=at(90), cold=True))
    return Tracked(session=granted, seen_at=T0, asked=asked)


def test_a_runner_that_is_being_launched_is_not_lost() -> None:
    """Nobody can have heard it yet; when its deadline has passed, the session waits again."""
    full = heartbeat(slots=0)
    assert decide(89, fleet(full, heard=89), cold_lease()).actions == ()
    (action,) = decide(90, fleet(full, heard=89), cold_lease()).actions
    assert isinstance(action, Requeue)
    assert (action.transition.reason, action.transition.exclude_runner) == ("lease-expired", False)


@pytest.mark.parametrize("came_up", [True, False])
def test_only_a_runner_that_came_up_has_tried(came_up: bool) -> None:  # noqa: FBT001
    """A launch that comes to nothing takes none of the session's tries, of which there are few."""
    launched = (heartbeat("cold-s-1", claim="s-1", slots=0),) if came_up else ()
    (action,) = decide(90, fleet(heartbeat(slots=0), *launched, heard=89), cold_lease()).actions
    assert isinstance(action, Requeue)
    assert action.transition.tried is came_up


def test_a_launched_runner_that_falls_silent_is_lost() -> None:
    """Once it was heard, the rule for all runners holds."""
    known = fleet(heartbeat("cold-s-1", claim="s-1"))
    assert decide(5.9, known, cold_lease()).actions == ()
    (action,) = decide(6, known, cold_lease()).actions
    assert isinstance(action, Requeue)
    assert action.transition.reason == "runner-lost"


def test_a_cold_lease_of_another_scheduler_is_asked_for_again() -> None:
    """The launcher starts it once, however often it is asked. One that is up needs no asking: it claims by itself."""
    decided = decide(1, fleet(heartbeat()), cold_lease(asked=False))
    assert [type(each) for each in decided.actions] == [AskLauncher]
    known = fleet(heartbeat("cold-s-1", claim="s-1"))
    assert decide(1, known, cold_lease(asked=False)).actions == ()


def test_a_cold_lease_counts_for_limits_and_takes_no_slot() -> None:
    """It is an active session; its runner isn't there."""
    policy = Policy(limits=(Limit(id="t", scope=Scope.TENANT, max_sessions=2),))
    waiting = [session("a", requested=0.1), session("b", requested=0.2)]
    decided = decide(1, fleet(heartbeat(slots=1)), cold_lease(), *waiting, policy=policy)
    assert decided.leased_to == {"a": "r1"}
    assert decided.texts == ["1st of 1: tenant t at 2/2"]
    assert cold_lease().session.state is State.LEASED


# ---------------------------------------------------------------------------- secrets


def _lacking(*names: str) -> tuple[BotOffer, ...]:
    return (BotOffer(name="echo", secrets=("A", "B"), missing_secrets=names),)


@pytest.mark.parametrize(
    ("beats", "text"),
    [
        ((heartbeat("r1", bots=_lacking("B")),), "secret B is missing on 1 runner of pool default"),
        (
            (heartbeat("r1", bots=_lacking("B")), heartbeat("r2", bots=_lacking("B", "A"))),
            "secrets A, B are missing on 2 runners of pool default",
        ),
        (
            (heartbeat("r1", bots=_lacking("A")), heartbeat("r2", bots=())),
            "secret A is missing on 1 runner of pool default",
        ),
    ],
)
def test_a_runner_without_the_secrets_of_a_bot_isn_t_given_it(beats: tuple[Heartbeat, ...], text: str) -> None:
    """Its sessions wait, and are told which secrets are missing where; one that has them is given them."""
    decided = decide(1, fleet(*beats), session("s"))
    assert (decided.leased_to, decided.texts) == ({}, [f"1st of 1: {text}"])
    assert decide(1, fleet(*beats, heartbeat("r9", bots=_lacking())), session("s")).leased_to == {"s": "r9"}


@given(st.lists(st.sets(st.sampled_from("AB")), min_size=1, max_size=6), st.integers(1, 8))
def test_no_session_is_ever_placed_where_a_secret_is_missing(missing: list[set[str]], asked: int) -> None:
    """Whatever the fleet lacks, leases go to runners that lack nothing; and where one does, somebody gets it."""
    beats = [heartbeat(f"r{index}", bots=_lacking(*sorted(names))) for index, names in enumerate(missing)]
    leased = decide(1, fleet(*beats), *(session(f"s{index}") for index in range(asked))).leased_to
    able = {f"r{index}" for index, names in enumerate(missing) if not names}
    assert set(leased.values()) <= able
    assert len(leased) == min(asked, 4 * len(able))


# ---------------------------------------------------------------------------- moved to a slot that became free


def test_a_session_whose_runner_is_being_launched_gets_a_slot_that_nobody_waits_for() -> None:
    """Under a new epoch, so that the one that comes up finds its lease gone; by class, then who waits for longest."""
    leases = [
        Tracked(session=session(name, lease, requested=requested, priority=priority), seen_at=T0, asked=True)
        for name, requested, priority in (("a", 2, Priority.NORMAL), ("b", 1, Priority.NORMAL), ("c", 3, Priority.HIGH))
        for lease in [Leased(runner_id=f"cold-{name}-1", epoch=1, expires_at=at(90), cold=True)]
    ]
    decided = decide(5, fleet(heartbeat(slots=2), heard=5), *leases)
    assert decided.leased_to == {"c": "r1", "b": "r1"}
    moved = decided.actions[0]
    assert isinstance(moved, Lease)
    assert moved.transition == Leased(runner_id="r1", epoch=2, expires_at=at(10), agent_version=1)
    assert lifecycle.apply(leases[2].session, moved.transition, at(5)).cold is False


@pytest.mark.parametrize("why", ["wanted", "up", "busy", "unasked", "refused", "version", "label", "pool", "paced"])
def test_a_cold_lease_stays_where_it_is(why: str) -> None:
    """Others want the slot, its runner is up, something is under way, the slot is for others, or it may not start."""
    granted = cold_lease()
    changes: dict[str, dict[str, Any]] = {
        "refused": {"refused_by": ("r1",)},
        "version": {"agent_version": 2},
        "label": {"requires": {"gpu": "l4"}},
        "pool": {"pool": "gpu"},
    }
    granted = msgspec.structs.replace(
        granted,
        busy=why == "busy",
        asked=why != "unasked",
        session=msgspec.structs.replace(granted.session, **changes.get(why, {})),
    )
    up = (heartbeat("cold-s-1", claim="s-1", slots=0),) if why == "up" else ()
    others = [session("w", requested=1)] if why == "wanted" else []
    others += [running("x", "r2", tenant="t")] if why == "paced" else []
    policy = Policy(limits=(Limit(id="slow", scope=Scope.TENANT, max_starts_per_s=1.0),) if why == "paced" else ())
    now = 0.5 if why == "paced" else 5
    known = fleet(heartbeat(slots=1), *up, heard=now)
    assert "s" not in decide(now, known, granted, *others, policy=policy).leased_to
    plain = decide(5, fleet(heartbeat(slots=1), heard=5), cold_lease())
    assert plain.leased_to == {"s": "r1"}


def test_a_moved_lease_counts_as_one_session_and_one_start() -> None:
    """No limit sees it twice, while it is being written and after."""
    policy = Policy(limits=(Limit(id="t", scope=Scope.TENANT, max_sessions=1, max_starts_per_s=1.0),))
    board = board_of(fleet(heartbeat(slots=2), heard=5), [cold_lease()], policy=policy)
    (action,) = board.plan(at(5)).actions
    assert board.plan(at(5)).actions == (action,)
    begin(board, [action], at(5))
    assert [(each.active, each.waiting) for each in board.usage()] == [(1, 0)]
    assert board.cold_leases("default") == frozenset()
    assert [each.starts.taken(at(5)) for each in board._book.tallies() if each.starts] == [1]
    assert not board.history.departed


# ---------------------------------------------------------------------------- launches that would come too late


def test_nobody_is_launched_for_who_will_not_wait_for_it() -> None:
    """Half of the launches take longer than it has patience: it is told so, and the next one gets the launch."""
    hurried = session("h", limits=Limits(queue_timeout_s=10))
    patient = session("p", limits=Limits(queue_timeout_s=60), requested=0.5)
    cold = {"default": ColdAllowance(count=1, deadline_s=90.0, usual_s=20.0)}
    decided = decide(1, fleet(heartbeat(slots=0)), hurried, patient, cold=cold)
    assert [(type(each), each.session_id) for each in decided.actions if isinstance(each, ColdLease)] == [
        (ColdLease, "p")
    ]
    more = {"default": ColdAllowance(count=2, deadline_s=90.0, usual_s=20.0)}
    assert decide(1, fleet(heartbeat(slots=0)), hurried, cold=more).texts == [
        "1st of 1: no free slot in pool default (0/0 busy); none is launched: that takes ~20 s, and it waits 9 s more"
    ]
    unknown = {"default": ColdAllowance(count=2, deadline_s=90.0)}
    assert len(decide(1, fleet(heartbeat(slots=0)), hurried, patient, cold=unknown).actions) == 2


def test_many_without_patience_hold_up_nobody() -> None:
    """They are passed over, keep their places, and are refused or expire as they would."""
    hurried = [session(f"h{number:03}", limits=Limits(queue_timeout_s=10)) for number in range(200)]
    patient = session("p", limits=Limits(queue_timeout_s=60), requested=0.5)
    cold = {"default": ColdAllowance(count=3, deadline_s=90.0, usual_s=20.0)}
    decided = decide(1, fleet(heartbeat(slots=0)), *hurried, patient, cold=cold)
    assert [each.session_id for each in decided.actions if isinstance(each, ColdLease)] == ["p"]
    assert [each.session_id for each in decided.waiting] == [each.id for each in hurried]
