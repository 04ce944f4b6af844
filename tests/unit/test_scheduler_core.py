"""What the scheduler decides, case by case; what holds in every case is in test_scheduler_properties.py."""

import msgspec
import pytest

from greenroom.common import lifecycle
from greenroom.common.lifecycle import (
    Connected,
    Ending,
    Leased,
    OnLoss,
    Outcome,
)
from greenroom.common.messages import BotOffer, Heartbeat
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Ask, EndUnheld, Expire, GiveUp, Lease, MarkLost, Requeue, Waiting
from greenroom.scheduler.core import PlanLimits, Tracked
from tests.support.scheduler_builders import T0, at, decide, fleet, heartbeat, lease, running, session

# ---------------------------------------------------------------------------- placement


def test_a_session_is_leased_to_a_free_runner() -> None:
    """The lease carries the next epoch and runs out after `lease_s`."""
    decided = decide(1, fleet(heartbeat()), session("s1"))
    (action,) = decided.actions
    assert isinstance(action, Lease)
    assert action.session_id == "s1"
    assert action.transition == Leased(runner_id="r1", epoch=1, expires_at=at(6), agent_version=1)
    assert decided.waiting == []


def test_first_come_first_served_then_by_id() -> None:
    """Who asked first gets the slot; ids, which grow with time, decide a tie."""
    late, early, tie = session("a", requested=2), session("c", requested=1), session("b", requested=1)
    decided = decide(3, fleet(heartbeat(slots=2)), late, early, tie)
    assert decided.leased_to == {"b": "r1", "c": "r1"}
    assert decided.texts == ["1st of 1: no free slot in pool default (2/2 busy)"]


def test_a_session_that_fits_nowhere_holds_nobody_up() -> None:
    """The queue is first come first served among those who want the same slots."""
    decided = decide(3, fleet(heartbeat()), session("a", bot="ghost"), session("b", requested=1))
    assert decided.leased_to == {"b": "r1"}
    assert [each.session_id for each in decided.waiting] == ["a"]


def test_sessions_are_packed_onto_the_most_used_runner() -> None:
    """So that the others run empty and can be stopped or given large loads."""
    held = running("x", "r2")
    decided = decide(1, fleet(heartbeat("r1"), heartbeat("r2", held=(held,))), held, session("s1"))
    assert decided.leased_to == {"s1": "r2"}


def test_sessions_are_spread_when_told_so() -> None:
    """The least used runner comes first then."""
    held = running("x", "r1")
    known = fleet(heartbeat("r1", held=(held,)), heartbeat("r2"))
    decided = decide(1, known, held, session("s1"), limits=PlanLimits(spread=True))
    assert decided.leased_to == {"s1": "r2"}


def test_a_warm_runner_is_preferred_over_a_fuller_cold_one() -> None:
    """Starting from a warm process is some ten times faster than forking one first."""
    held = running("x", "r2")
    known = fleet(heartbeat("r1", standby=1), heartbeat("r2", held=(held,), standby=0))
    assert decide(1, known, held, session("s1")).leased_to == {"s1": "r1"}


def test_a_warm_process_is_promised_once() -> None:
    """Leases granted since the heartbeat have taken its warm processes, in this plan and in earlier ones."""
    known = fleet(heartbeat("r1", standby=1), heartbeat("r2", standby=1))
    assert decide(1, known, session("a"), session("b")).leased_to == {"a": "r1", "b": "r2"}
    granted = session("x", lease("r1"))
    assert decide(1, known, granted, session("b")).leased_to == {"b": "r2"}


def test_slots_are_counted_from_both_sides() -> None:
    """A slot is taken by a lease that the runner hasn't reported yet, and by a process that the ledger has given up."""
    granted, gone = session("granted", lease("r1")), running("gone", "r1")
    known = fleet(heartbeat(slots=3, held=(gone,)))
    decided = decide(1, known, granted, session("a", requested=1), session("b", requested=2))
    assert decided.leased_to == {"a": "r1"}
    assert decided.texts == ["1st of 1: no free slot in pool default (3/3 busy)"]


def test_two_epochs_of_a_session_on_one_runner_take_two_slots() -> None:
    """The process of the lease that was taken away still has to exit."""
    before = session("s", lease("r1"))
    again = msgspec.structs.replace(before, epoch=2)
    known = fleet(heartbeat(slots=2, held=(before,)))
    assert decide(1, known, again, session("other")).leased_to == {}


@pytest.mark.parametrize(
    ("beat", "text"),
    [
        (None, "no runner is up in pool default"),
        (heartbeat(pool="gpu"), "no runner is up in pool default"),
        (heartbeat(bots=()), "no runner offers bot echo in pool default"),
        (heartbeat(bots=(BotOffer(name="echo", error="ImportError"),)), "bot echo can't be imported in pool default"),
        (
            heartbeat(bots=(BotOffer(name="echo", transports=("daily",)),)),
            "no runner offers bot echo over websocket in pool default",
        ),
        (heartbeat(draining=True), "every runner that offers bot echo is draining"),
        (heartbeat(slots=0), "no free slot in pool default (0/0 busy)"),
    ],
)
def test_who_waits_knows_why(beat: Heartbeat | None, text: str) -> None:
    """Each way in which no runner can take a session has words of its own."""
    known = fleet(beat) if beat else fleet()
    assert decide(1, known, session("s")).texts == [f"1st of 1: {text}"]


def test_a_runner_that_refused_a_session_is_not_asked_again_for_it() -> None:
    """Others may still have it."""
    refused = msgspec.structs.replace(session("s"), refused_by=("r1",))
    decided = decide(1, fleet(heartbeat("r1")), refused, session("other", requested=1))
    assert decided.leased_to == {"other": "r1"}
    assert decided.texts == ["1st of 1: every runner that offers bot echo has refused the session"]
    assert decide(1, fleet(heartbeat("r1"), heartbeat("r2")), refused).leased_to == {"s": "r2"}


def test_a_runner_without_a_heartbeat_gets_nothing() -> None:
    """Up to 6 s it counts as up, from then on not."""
    assert decide(5.9, fleet(heartbeat()), session("s")).leased_to == {"s": "r1"}
    assert decide(6, fleet(heartbeat()), session("s")).leased_to == {}


def test_a_runner_that_had_no_slot_is_full_until_its_next_heartbeat() -> None:
    """It knows of something that its heartbeat didn't show; asking it again at once would be a loop."""
    known = fleet(heartbeat())
    known.closed(("default", "r1"))
    assert decide(1, known, session("s")).texts == ["1st of 1: no free slot in pool default (4/4 busy)"]
    known.heard(heartbeat(seq=2), at(1))
    assert decide(1, known, session("s")).leased_to == {"s": "r1"}


def test_each_pool_has_a_queue_of_its_own() -> None:
    """Positions count those that wait for the same runners."""
    decided = decide(1, fleet(), *(session(f"s{n}", pool=pool, requested=n) for n, pool in enumerate(("a", "b", "a"))))
    assert [(each.session_id, each.position, each.of) for each in decided.waiting] == [
        ("s0", 1, 2),
        ("s2", 2, 2),
        ("s1", 1, 1),
    ]


def test_places_read_well() -> None:
    """1st, 2nd, 3rd, 4th, 11th, 21st, 112th."""
    texts = [
        str(Waiting(session_id="s", position=n, of=200, reason=Reason.NO_FREE_SLOT, text="x")).split()[0]
        for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 112)
    ]
    assert texts == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "112th"]


# ---------------------------------------------------------------------------- the queue's end


def test_who_waited_too_long_expires() -> None:
    """The caller's patience is over, free slot or not."""
    decided = decide(30, fleet(heartbeat(), heard=29), session("s"))
    (action,) = decided.actions
    assert isinstance(action, Expire)
    assert (action.transition.outcome, action.transition.reason) == (Outcome.EXPIRED, "queue-expired")
    assert decided.waiting == []


def test_a_session_is_tried_so_often_and_no_more() -> None:
    """A bot that takes its runner down mustn't go through the whole fleet."""
    tried = msgspec.structs.replace(session("s"), attempt=11, epoch=10)
    (action,) = decide(1, fleet(heartbeat()), tried).actions
    assert isinstance(action, GiveUp)
    assert (action.transition.outcome, action.transition.reason) == (Outcome.FAILED, "attempts-exhausted")


# ---------------------------------------------------------------------------- leases


def test_a_lease_that_ran_out_goes_to_the_next_runner() -> None:
    """The runner was asked and didn't claim: it is left out from then on."""
    decided = decide(5, fleet(heartbeat(), heard=5), session("s", lease("r1")))
    (action,) = decided.actions
    assert isinstance(action, Requeue)
    assert (action.transition.reason, action.transition.exclude_runner) == ("lease-expired", True)


def test_a_lease_of_another_scheduler_is_asked_for() -> None:
    """Whoever granted it may have died before asking; a runner that was asked says the same again."""
    granted = session("s", lease("r1"))
    tracked = Tracked(session=granted, seen_at=T0, asked=False)
    (action,) = decide(1, fleet(heartbeat()), tracked).actions
    assert isinstance(action, Ask)
    assert decide(1, fleet(heartbeat(held=(granted,))), tracked).actions == ()
    assert decide(1, fleet(hearing_since=0), tracked).actions == ()


def test_a_runner_that_was_perhaps_never_asked_is_not_blamed() -> None:
    """A lease of another scheduler that ran out says nothing about the runner."""
    tracked = Tracked(session=session("s", lease("r1")), seen_at=T0, asked=False)
    (action,) = decide(5, fleet(heartbeat()), tracked).actions
    assert isinstance(action, Requeue)
    assert action.transition.exclude_runner is False


# ---------------------------------------------------------------------------- loss


@pytest.mark.parametrize(
    ("on_loss", "connected", "kind"),
    [
        (OnLoss.NEVER, False, MarkLost),
        (OnLoss.BEFORE_MEDIA, False, Requeue),
        (OnLoss.BEFORE_MEDIA, True, MarkLost),
        (OnLoss.ALWAYS, True, Requeue),
    ],
)
def test_on_loss_decides_on_the_sessions_of_a_lost_runner(on_loss: OnLoss, connected: bool, kind: type) -> None:  # noqa: FBT001
    """After 6 s without a heartbeat they are lost, or wait again if their agent allows it."""
    held = running("s", "r1", on_loss=on_loss)
    if connected:
        held = lifecycle.apply(held, Connected(epoch=1), T0)
    known = fleet(heartbeat(held=(held,)))
    assert decide(5.9, known, held).actions == ()
    (action,) = decide(6, known, held).actions
    assert isinstance(action, kind)
    assert isinstance(action, MarkLost | Requeue)
    assert action.transition.reason == "runner-lost"


def test_a_lease_on_a_lost_runner_waits_again_at_once() -> None:
    """Nobody need wait for it to run out."""
    granted = session("s", lease("r1", expires=60))
    (action,) = decide(6, fleet(heartbeat()), granted).actions
    assert isinstance(action, Requeue)
    assert (action.transition.reason, action.transition.exclude_runner) == ("runner-lost", False)


def test_a_scheduler_that_does_not_hear_declares_nothing() -> None:
    """Without a connection, or after it, silence counts only from when it could have been broken."""
    held = running("s", "r1")
    known = fleet(heartbeat(held=(held,)))
    known.ticked(at(0), connected=False)
    assert decide(100, known, held).actions == ()
    known.ticked(at(50), connected=False)
    known.ticked(at(51), connected=True)
    assert decide(56.9, known, held).actions == ()
    assert [type(each) for each in decide(57, known, held).actions] == [Requeue]


def test_a_scheduler_that_was_stopped_declares_nothing() -> None:
    """Ticks that are missing mean that it didn't listen, whatever the clock says now."""
    held = running("s", "r1")
    known = fleet(heartbeat(held=(held,)))
    known.ticked(at(0), connected=True)
    known.ticked(at(30), connected=True)
    assert decide(30, known, held).actions == ()
    known.ticked(at(-3600), connected=True)
    assert decide(-3600, known, held).actions == ()
    assert [type(each) for each in decide(-3594, known, held).actions] == [Requeue]


def test_a_runner_that_was_never_heard_is_lost_too() -> None:
    """A scheduler that comes up after a runner has died finds its sessions and waits 6 s for it."""
    held = running("s", "r1")
    assert decide(5.9, fleet(hearing_since=0), held).actions == ()
    assert [type(each) for each in decide(6, fleet(hearing_since=0), held).actions] == [Requeue]


def test_a_session_that_its_runner_no_longer_reports_is_lost() -> None:
    """Its process is gone, and in the 3 s that the runner has had to say how it ended it didn't."""
    held = running("s", "r1", on_loss=OnLoss.NEVER)
    known = fleet(heartbeat(held=(held,)))
    for second in range(1, 5):
        known.heard(heartbeat(seq=1 + second), at(second))
        actions = decide(second, known, held).actions
        assert [type(each) for each in actions] == ([MarkLost] if second == 4 else [])


def test_a_runner_that_is_silent_reports_nothing_missing() -> None:
    """Only its own heartbeats can leave a session out; until they come it may still be there."""
    held = running("s", "r1", on_loss=OnLoss.NEVER)
    known = fleet(heartbeat(held=(held,)))
    known.heard(heartbeat(seq=2), at(1))
    assert decide(5, known, held).actions == ()


def test_a_session_that_has_just_started_may_be_missing_from_a_heartbeat() -> None:
    """The heartbeat may be older than the claim."""
    held = running("s", "r1")
    known = fleet(heartbeat())
    known.heard(heartbeat(seq=2), at(10))
    assert decide(10, known, held, seen=9).actions == ()
    known.heard(heartbeat(seq=3), at(12))
    assert [type(each) for each in decide(12, known, held, seen=9).actions] == [Requeue]


def test_a_restarted_runner_has_lost_what_it_held() -> None:
    """Its new process, under the old id, holds nothing of before."""
    held = running("s", "r1")
    known = fleet(heartbeat(held=(held,), seq=500))
    for second in range(1, 5):
        known.heard(heartbeat(seq=second, started_at=at(1)), at(second))
    assert [type(each) for each in decide(4, known, held).actions] == [Requeue]


def test_a_heartbeat_that_was_overtaken_changes_nothing() -> None:
    """The later one has been heard already."""
    held = running("s", "r1")
    known = fleet(heartbeat(held=(held,), seq=5))
    before = dict(known.runners)
    assert not known.heard(heartbeat(seq=4), at(1))
    assert known.runners == before


@pytest.mark.parametrize("gone", ["silent", "missing"])
def test_an_end_that_nobody_sees_through_is_written_by_the_scheduler(gone: str) -> None:
    """With the outcome that was decided: that its runner went away meanwhile changes nothing about it."""
    ending = Ending(by="client", epoch=1, outcome=Outcome.CANCELED, reason="client-stop")
    held = lifecycle.apply(running("s", "r1"), ending, T0)
    known = fleet(heartbeat(held=(held,) if gone == "silent" else ()))
    if gone == "missing":
        known.heard(heartbeat(seq=2), at(6))
    (action,) = decide(6, known, held).actions
    assert isinstance(action, EndUnheld)
    assert (action.transition.outcome, action.transition.reason) == (Outcome.CANCELED, "client-stop")


def test_what_is_under_way_is_left_alone_and_keeps_its_slot() -> None:
    """One decision on a session at a time."""
    busy = Tracked(session=session("s", lease("r1")), seen_at=T0, busy=True)
    decided = decide(60, fleet(heartbeat(slots=1), heard=60), busy, session("other", requested=59))
    assert decided.actions == ()
    assert [each.session_id for each in decided.waiting] == ["other"]
