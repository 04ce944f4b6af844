"""What a scenario's parts bring about, and that what must never happen is noticed."""

from typing import Any

import pytest

from greenroom.common.lifecycle import Ended, Leased, Limits, Outcome, Session
from greenroom.common.messages import Heartbeat
from greenroom.common.policy import Limit, Policy, Scope
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.hearing import HearingFleet
from greenroom.devtools.sim.invariants import InvariantBroken, Invariants
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.runners import Runners, VirtualRunner
from greenroom.devtools.sim.scenario import Pool
from greenroom.devtools.sim.world import Result
from greenroom.scheduler.actions import Plan
from greenroom.scheduler.board import Board
from tests.support.scheduler_builders import T0, at
from tests.support.sim_scenarios import GROWING, PLAIN, play

CROWD: dict[str, Any] = {"kind": "burst", "per_s": 0.08, "at_s": 60, "for_s": 10, "times": 40}


def callers(**fields: Any) -> list[dict[str, Any]]:
    """Return callers as in the plain scenario, or other ones."""
    return [PLAIN["callers"][0] | fields]


def held_back(result: Result) -> set[str]:
    """Return for what reasons launches were held back."""
    return {name.split()[1] for name in result.summary.pool_decisions if name.startswith("hold_back")}


def test_who_finds_a_slot_waits_for_milliseconds() -> None:
    """1 ms until it is planned, 1 ms for the ledger, 3 ms for the claim."""
    summary = play().summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert summary.waited.p95_s == 0.005
    assert summary.slot_hours == pytest.approx(8 * 300 / 3600, rel=1e-3)


def test_the_same_seed_gives_the_same_figures() -> None:
    """And another one others."""
    one = play(GROWING, callers=callers(when=CROWD)).summary
    assert play(GROWING, callers=callers(when=CROWD)).summary == one
    assert play(GROWING, callers=callers(when=CROWD), seed=2).summary != one


def test_who_finds_none_waits_until_his_patience_is_over() -> None:
    """A fixed fleet, and more callers than slots."""
    summary = play(callers=callers(when={"kind": "constant", "per_s": 0.5, "regular": True}, patience_s=20)).summary
    assert summary.outcomes["expired"] > 50
    assert summary.reasons == {"queue-expired": summary.outcomes["expired"]}
    assert summary.waited.longest_s <= 20.3
    assert summary.utilisation > 0.9


@pytest.mark.parametrize("at_limit", ["queue", "refuse"])
def test_a_limit_holds_and_does_with_the_rest_what_it_says(at_limit: str) -> None:
    """Refused, or left waiting; the world counts along, so a session more would be noticed."""
    limit = {"id": "l", "scope": "tenant", "max_sessions": 3, "at_limit": at_limit}
    summary = play(callers=callers(when={"kind": "constant", "per_s": 0.2}), policy={"limits": [limit]}).summary
    reason = {"queue": "queue-expired", "refuse": "limit-reached"}[at_limit]
    assert set(summary.reasons) == {reason}
    assert summary.busy_hours <= 3 * 300 / 3600


def test_starts_are_no_faster_than_they_may_be() -> None:
    """A crowd gets in one by one; the world checks each second of it."""
    limit = {"id": "l", "scope": "tenant", "max_starts_per_s": 2.0}
    pools = [{"runners": 10, "slots": 10}]
    summary = play(pools=pools, callers=callers(when=CROWD), policy={"limits": [limit]}).summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert 1 < summary.waited.longest_s < 15


def test_a_pool_grows_and_goes_back() -> None:
    """Who waits gets cold starts, the group follows, and what isn't needed any more is retired without a call cut."""
    result = play(GROWING, callers=callers(when=CROWD), duration_s=600)
    summary = result.summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert summary.cold_leases > summary.cold_started > 0  # the others got slots of the group before theirs were up
    assert 10 < summary.waited.longest_s < 25
    assert summary.pool_decisions["retire idle"] > 2
    assert result.moments[-1].slots < summary.most_slots / 2


def test_a_canary_that_fails_is_rolled_back() -> None:
    """Some of its sessions fail until there is no doubt; the others, and all later ones, get the current version."""
    versions = [{"runners": 2, "slots": 4}, {"runners": 2, "slots": 4, "bot_version": 2, "start_failures": 1.0}]
    rollout = {"agent": "echo", "current": 1, "canary": 2, "canary_share": 0.5, "min_starts": 4}
    steady = callers(when={"kind": "constant", "per_s": 0.1, "regular": True})
    summary = play(pools=versions, policy={"rollouts": [rollout]}, callers=steady, duration_s=600).summary
    assert summary.pool_decisions["roll_back canary-failed"] == 1
    assert summary.reasons == {"bot-failed": 1}
    assert summary.outcomes["completed"] == summary.sessions - 1


# ---------------------------------------------------------------------------- faults

LOSS: dict[str, Any] = {"kind": "runner_loss", "at_s": 100, "share": 0.5}


def test_lost_runners_lose_their_calls_and_nothing_else() -> None:
    """What had somebody on the line is lost after 6 s of silence; the rest goes on."""
    result = play(faults=[LOSS])
    lost = result.summary.outcomes["lost"]
    assert 1 <= lost <= 2
    assert result.summary.outcomes["completed"] == result.summary.sessions - lost
    assert result.moments[110].slots == 4
    assert play(faults=[LOSS | {"back_s": 30}]).moments[140].slots == 8


@pytest.mark.parametrize("runners", [5, 10, 20])
def test_who_is_sent_to_lost_runners_waits_for_one_that_is_there(runners: int) -> None:
    """All are lost and are back under their ids after 30 s: a runner that isn't there neither tries nor refuses."""
    summary = play(
        pools=[{"runners": runners, "slots": 4, "standby": 4}],
        callers=callers(when={"kind": "constant", "per_s": 0.04 * runners, "regular": True}, patience_s=60),
        faults=[{"kind": "runner_loss", "at_s": 100.5, "share": 1.0, "back_s": 30}],
    ).summary
    assert set(summary.outcomes) == {"completed", "lost"}


def test_nobody_is_launched_for_who_has_given_up() -> None:
    """A start takes longer than the caller's patience: he expires when he said he would."""
    summary = play(
        GROWING,
        pools=[{"runners": 1, "slots": 1, "standby": 1}],
        launcher={"cold_start": {"kind": "constant", "s": 80}},
        callers=callers(when={"kind": "constant", "per_s": 0.1, "regular": True}, patience_s=30),
    ).summary
    assert summary.outcomes["expired"] > 0
    assert summary.waited.longest_s <= 30.3


def test_lost_calls_may_be_tried_again() -> None:
    """If their agents say so: they wait again, at the place of their age."""
    summary = play(faults=[LOSS], callers=callers(on_loss="always")).summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert summary.requeued["runner-lost"] >= 1


def test_a_launcher_replaces_what_is_lost() -> None:
    """After it has noticed, and the time of a start."""
    result = play(GROWING, faults=[LOSS])
    slots = [each.slots for each in result.moments]
    assert min(slots[101:110]) < slots[99]
    assert max(slots[115:140]) >= slots[99]


CUT: dict[str, Any] = {"kind": "partition", "from_s": 100, "to_s": 130, "share": 0.5}


def test_a_runner_that_is_cut_off_gets_nothing_and_its_calls_are_lost_to_the_caller() -> None:
    """Its processes go on until it can read that they are over; their slots are free only then."""
    result = play(faults=[CUT], callers=callers(when={"kind": "constant", "per_s": 0.12}))
    summary = result.summary
    assert summary.outcomes["lost"] >= 1
    assert sum(summary.outcomes.values()) == summary.sessions


def test_a_short_silence_costs_nothing() -> None:
    """Five seconds are not six."""
    summary = play(faults=[CUT | {"to_s": 105}]).summary
    assert summary.outcomes == {"completed": summary.sessions}


def test_while_the_launcher_is_away_nothing_is_launched() -> None:
    """It is said why, and afterwards the pool catches up."""
    away = {"kind": "launcher_away", "from_s": 50, "to_s": 120}
    crowd = callers(when=CROWD | {"at_s": 55}, patience_s=120)
    result = play(GROWING, faults=[away], callers=crowd, duration_s=400)
    summary = result.summary
    assert "launcher-unreachable" in held_back(result)
    assert max(each.slots for each in result.moments[55:118]) == max(each.slots for each in result.moments[:50])
    assert summary.outcomes == {"completed": summary.sessions}
    assert summary.most_slots > result.moments[50].slots


def test_what_a_slow_launcher_brings_too_late_finds_its_lease_gone() -> None:
    """The session goes back to the queue in time, and what comes up then ends by itself."""
    slow = {"kind": "launcher_slow", "from_s": 50, "to_s": 80, "times": 20}
    policy = {"pools": [GROWING["policy"]["pools"][0] | {"cold_deadline_s": 30.0}]}
    crowd = callers(when=CROWD, patience_s=200)
    summary = play(GROWING, faults=[slow], policy=policy, callers=crowd, duration_s=400).summary
    assert summary.cold_leases > summary.cold_started
    assert summary.requeued.get("lease-expired", 0) + summary.requeued.get("launch-failed", 0) >= 1
    assert sum(summary.outcomes.values()) == summary.sessions


@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_dies_in_a_burst_leaves_nobody_behind(seed: int) -> None:
    """What it had begun is asked for again by the next one; nobody is placed twice, which the world checks."""
    fault = {"kind": "leader_change", "at_s": 65.0005, "gap_s": 3}
    summary = play(GROWING, faults=[fault], callers=callers(when=CROWD, patience_s=60), seed=seed).summary
    assert summary.outcomes == {"completed": summary.sessions}
    assert play(faults=[fault], callers=callers(), seed=seed).summary.waited.longest_s <= 3.5


# ---------------------------------------------------------------------------- what must never happen


class Stage:
    """A ledger and runners with the invariants watching, and nobody who schedules."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.clock = Clockwork(T0)
        self.ledger = VirtualLedger(self.clock)
        self.runners = Runners(self.clock, heard=lambda _: None, silent=lambda _key, _at: None, counted=lambda: None)
        self.runners.came(VirtualRunner("r1", Pool(slots=1), T0))
        self.invariants = Invariants(policy or Policy(), self.ledger, self.runners)
        self.ledger.followers.append(self.invariants.follow)

    def request(self, session_id: str, bot: str = "echo") -> None:
        """Ask for a session."""
        session = Session(
            id=session_id,
            tenant="t",
            agent="a",
            bot=bot,
            limits=Limits(queue_timeout_s=30),
            requested_at=T0,
            queue_deadline_at=T0,
        )
        self.ledger.create(session)

    def lease(self, session_id: str, runner_id: str = "r1") -> None:
        """Lease it."""
        leased = Leased(runner_id=runner_id, epoch=1, expires_at=at(5))
        self.ledger.advance(self.ledger.open[session_id], leased)


def test_a_session_more_than_slots_is_noticed_with_its_history() -> None:
    """The error reads like a ledger."""
    stage = Stage()
    stage.request("s1")
    stage.request("s2")
    stage.lease("s1")
    with pytest.raises(InvariantBroken, match="runner r1 has 2 leases") as raised:
        stage.lease("s2")
    assert "history of s2:\n  00:00:00.000000 requested" in raised.value.detail
    assert "leased runner=r1 epoch=1" in raised.value.detail


def test_a_process_that_is_still_there_counts_as_a_session() -> None:
    """Whatever the ledger says of it."""
    stage = Stage()
    stage.request("s1")
    runner = stage.runners.get(("default", "r1"))
    assert runner is not None
    stage.runners.hold(runner, Session(id="old", tenant="t", agent="a", bot="b", requested_at=T0, queue_deadline_at=T0))
    with pytest.raises(InvariantBroken, match="1 leases and 1 processes in 1 slots"):
        stage.lease("s1")


def test_more_than_a_host_holds_is_noticed() -> None:
    """A third of it each, and one that takes half: slots are free, and the host isn't."""
    stage = Stage()
    stage.runners.came(VirtualRunner("r2", Pool(slots=9, bots=("echo", "seer"), fits={"echo": 3, "seer": 2}), T0))
    for number, bot in enumerate(("echo", "echo", "seer")):
        stage.request(f"s{number}", bot)
    stage.lease("s0", "r2")
    stage.lease("s1", "r2")
    with pytest.raises(InvariantBroken, match="runner r2 has 3 sessions, 7/6 of what its host holds"):
        stage.lease("s2", "r2")


@pytest.mark.parametrize(
    ("bound", "words"),
    [({"max_sessions": 1}, "limit l of 1 is at 2"), ({"max_starts_per_s": 1.0}, "limit l of 1 starts/s")],
)
def test_a_limit_exceeded_is_noticed(bound: dict[str, Any], words: str) -> None:
    """By the world's own count."""
    stage = Stage(Policy(limits=(Limit(id="l", scope=Scope.TENANT, **bound),)))
    for name in ("s1", "s2"):
        stage.request(name)
    stage.lease("s1", "elsewhere")
    with pytest.raises(InvariantBroken, match=words):
        stage.lease("s2", "anywhere")


def test_who_is_forgotten_is_noticed() -> None:
    """By the scheduler, or by time; and who never ends."""
    stage = Stage()
    stage.request("s1")
    stage.invariants.check(["s1"], at(30), led_s=60)
    with pytest.raises(InvariantBroken, match="s1 is forgotten"):
        stage.invariants.check([], at(30), led_s=60)
    with pytest.raises(InvariantBroken, match="s1 should have been decided on by 00:00:30"):
        stage.invariants.check(["s1"], at(36), led_s=60)
    stage.invariants.check(["s1"], at(36), led_s=2)
    with pytest.raises(InvariantBroken, match="s1 never ends"):
        stage.invariants.check_end()
    ended = Ended(by="scheduler", epoch=0, outcome=Outcome.EXPIRED, reason="queue-expired")
    stage.ledger.advance(stage.ledger.open["s1"], ended)
    stage.invariants.check_end()
    with pytest.raises(InvariantBroken, match="s1 has ended and is still known"):
        stage.invariants.check(["s1"], at(36), led_s=60)


def test_a_scheduler_that_places_nobody_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those whose patience is over: the simulation ends with the first of them."""
    monkeypatch.setattr(Board, "plan", lambda *_arguments, **_more: Plan())
    with pytest.raises(InvariantBroken, match="should have been decided on"):
        play()


# ---------------------------------------------------------------------------- heard without speaking


def test_a_runner_that_is_silenced_is_missed_as_if_each_second_had_been_heard() -> None:
    """Until then it is fresh at any time, without a further heartbeat."""
    clock = Clockwork(T0)
    fleet = HearingFleet(clock)
    fleet.ticked(T0, connected=True)
    beat = Heartbeat(runner_id="r1", pool="default", at=T0, seq=1, slots=1, started_at=T0)
    fleet.heard(beat, T0)
    key = ("default", "r1")
    assert fleet.silent_for(key, T0).total_seconds() <= 0
    assert fleet.silenced(key, at(90))
    assert fleet.runners[key].up_s == 90
    assert fleet.silent_for(key, at(96)).total_seconds() == 6
    assert not fleet.silenced(("default", "other"), at(90))


def test_the_last_heartbeat_was_within_the_second() -> None:
    """A runner speaks each second from its last news on, however long ago that was."""
    heard: list[float] = []
    clock = Clockwork(T0)
    runners = Runners(
        clock,
        heard=lambda _: None,
        silent=lambda _key, when: heard.append((when - T0).total_seconds()),
        counted=lambda: None,
    )
    runner = VirtualRunner("r1", Pool(), T0)
    runners.came(runner)
    clock._now_us, clock._now = 4_700_000, at(4.7)
    runners.went(runner)
    assert heard == [4.0]
    assert runners.get(("default", "r1")) is None
