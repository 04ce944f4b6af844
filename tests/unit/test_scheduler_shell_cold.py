"""Runners that are launched for single sessions: the shell with a virtual launcher."""

import asyncio
from typing import Any

import pytest

from greenroom.common.lifecycle import Outcome, Requeued, State
from greenroom.common.policy import PoolPolicy
from greenroom.scheduler.launchers.base import ColdStart, LauncherUnavailable, LaunchRefused
from tests.support.scheduler_growing import HEARING_S, ask, growing, said
from tests.support.scheduler_rig import Rig, RunningScheduler
from tests.support.scheduler_scenarios import play, refusing
from tests.support.virtual_launcher import VirtualLauncher

# ---------------------------------------------------------------------------- overflow


def test_overflow_is_launched_bounded_and_each_runner_takes_its_own_session() -> None:
    """Warm slots first; what is beyond gets runners of its own, two at a time, and each leaves with its session."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig)
        warm = await rig.runner("warm", slots=1, call_s=100.0)
        sessions = [await ask(rig) for _ in range(6)]
        most = 0
        for _ in range(200):
            await rig.clock.sleep(0.1)
            most = max(most, (await rig.pool()).cold_starts_in_flight)
        assert most == 2
        for session in sessions[1:]:
            ended = await rig.reach(session, State.ENDED)
            assert (ended.outcome, ended.attempt, ended.epoch) == (Outcome.COMPLETED, 1, 1)
            assert ended.runner_id == f"cold-{session.id}-1"
            assert [each for each in await rig.decided(session) if "wait" not in each] == ["cold_start launching"]
        assert warm.started == [(sessions[0].id, 1)]
        assert [each.started for each in launcher.runners()] == [[(session.id, 1)] for session in sessions[1:]]
        await rig.clock.sleep(1)
        assert launcher.cold == []

    play(scenario)


def test_who_waits_for_a_launch_is_told_of_it_and_pools_show_it() -> None:
    """The place in the queue says that a runner is being launched, or why none is."""

    async def scenario(rig: Rig) -> None:
        await growing(rig, cold_starts=1)
        sessions = [await ask(rig) for _ in range(2)]
        await rig.clock.sleep(2)
        state = await rig.pool()
        assert (state.cold_starts_in_flight, state.waiting, state.instances) == (1, 1, 1)
        assert (await rig.position(sessions[0].id)).reason == "a runner is being launched for it; given up in 88 s"
        assert "1 of at most 1 launches are under way" in (await rig.position(sessions[1].id)).reason
        await rig.reach(sessions[0], State.ENDED)
        await rig.clock.sleep(1.5)
        assert (await rig.pool()).cold_start_p95_s == pytest.approx(3.0, abs=0.1)
        third = await ask(rig)
        await rig.reach(third, State.LEASED)
        await rig.clock.sleep(1.2)
        assert (await rig.position(third.id)).reason == "a runner is being launched for it; expected in ~2 s"

    play(scenario)


def test_a_slow_answer_of_the_launcher_lets_no_further_launches_through() -> None:
    """What is granted while it is asked what it has counts against the bound all the same."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"delay_s": 30.0}, cold_starts=3)
        answer = launcher.instances

        async def slow(pool: str) -> Any:
            found = await answer(pool)
            await rig.clock.sleep(0.9)
            return found

        launcher.instances = slow
        for _ in range(40):
            await ask(rig)
            await rig.clock.sleep(0.2)
            assert len(launcher.cold) <= 3
        assert launcher.most == 3

    play(scenario)


def test_warm_sessions_are_placed_while_launches_hang() -> None:
    """However many launches are under way, they take nothing from what places sessions."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_starts=400, max_runners=1000)
        launcher.hangs = "before"
        await asyncio.gather(*(ask(rig) for _ in range(300)))
        await rig.clock.sleep(1.5)
        assert len(launcher.asked) == 300
        await rig.runner("warm", slots=8)
        session = await ask(rig)
        await rig.reach(session, State.READY, within_s=1)

    play(scenario)


# ---------------------------------------------------------------------------- launches that come to nothing


@pytest.mark.parametrize("permanent", [True, False])
def test_a_refused_launch_puts_the_session_back_and_holds_further_ones_off(permanent: bool) -> None:  # noqa: FBT001
    """The caller keeps the place, and the pool shows what the launcher said and when it is asked again."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig)
        launcher.refuses = LaunchRefused("no such job", permanent=permanent, retry_after_s=7.0)
        session = await ask(rig)
        await rig.clock.sleep(1.5)
        assert await rig.steps(session) == ["requested", f"leased cold-{session.id}-1 1", "requeued launch-failed"]
        _, requeue, wait = await rig.decisions(session)
        assert await rig.decided(session) == [
            "cold_start launching",
            "requeue launch-failed",
            "wait no-runner-for-agent",
        ]
        assert "none is launched: no such job" in wait.text
        assert (requeue.text, requeue.inputs) == ("no such job", {"code": "launch-refused"})
        state = await rig.pool()
        assert state.held_back == "no such job"
        assert state.held_back_until is not None
        left_s = (state.held_back_until - rig.clock.now()).total_seconds()
        assert left_s == pytest.approx((10.0 if permanent else 7.0) - 1.5, abs=0.2)
        assert [each.reason for each in await said(rig, "hold_back")] == ["launch-failed"]
        launcher.refuses = None
        await rig.reach(session, State.ENDED)
        assert len(launcher.asked) == 2
        await rig.clock.sleep(2)
        assert [each.reason for each in await said(rig, "hold_back")] == ["launch-failed", "over"]

    play(scenario)


def test_refusal_after_refusal_opens_the_breaker() -> None:
    """The launcher isn't asked again and again at once, and three failures in a row are said to be that."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_starts=20)
        launcher.refuses = LaunchRefused("quota exhausted", permanent=False, retry_after_s=1.0)
        session = await ask(rig)
        await rig.clock.sleep(25)
        assert len(launcher.asked) <= 5
        assert (await rig.now(session)).state is State.REQUESTED
        state = await rig.pool()
        assert state.held_back is not None
        assert "launches failed in a row, last: quota exhausted" in state.held_back
        assert "breaker" in [each.reason for each in await said(rig, "hold_back")]
        runner = await rig.runner("warm")
        ready = await rig.reach(session, State.READY)
        assert ready.runner_id == runner.id

    play(scenario)


def test_many_refusals_at_once_are_one_pause() -> None:
    """Twenty launches that fail together have one cause."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_starts=20)
        launcher.refuses = LaunchRefused("busy", permanent=False, retry_after_s=2.0)
        sessions = await asyncio.gather(*(ask(rig) for _ in range(20)))
        await rig.clock.sleep(1)
        launcher.refuses = None
        refused = len(launcher.asked)
        assert 1 < refused <= 20
        await rig.clock.sleep(12)
        assert len(launcher.asked) > refused
        for session in sessions:
            await rig.reach(session, State.ENDED, within_s=600)

    play(scenario)


def test_a_launcher_that_is_away_costs_a_few_attempts_and_nothing_is_blamed() -> None:
    """Nobody failed: the breaker stays closed, and once it answers again the sessions start."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_starts=20)
        launcher.away = True
        session = await ask(rig)
        await rig.clock.sleep(60)
        now = await rig.now(session)
        assert (now.state, now.attempt) == (State.REQUESTED, 1)
        assert now.epoch <= 1
        assert (await rig.pool()).held_back == LauncherUnavailable.title
        launcher.away = False
        await rig.reach(session, State.ENDED, within_s=12)
        assert launcher.runners()[0].served

    play(scenario)


def test_a_launcher_that_only_takes_no_launches_is_left_alone_for_longer_and_longer() -> None:
    """It shows what it has and answers no dispatch: it is asked after 2, 4, 8 s, and as before once it answers."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_starts=20)

        async def fail(start: ColdStart) -> None:
            del start
            raise LauncherUnavailable

        launch, launcher.cold_start = launcher.cold_start, fail
        session = await ask(rig)
        await rig.clock.sleep(60)
        now = await rig.now(session)
        assert (now.state, now.epoch) == (State.REQUESTED, 5)
        state = await rig.pool()
        assert state.held_back == "virtual doesn't answer"
        launcher.cold_start = launch
        await rig.reach(session, State.ENDED, within_s=12)
        launcher.cold_start = fail
        await ask(rig)
        await rig.clock.sleep(1.5)
        state = await rig.pool()
        assert state.held_back_until is not None
        assert (state.held_back_until - rig.clock.now()).total_seconds() <= 2.0

    play(scenario)


@pytest.mark.parametrize("delay_s", [3.0, 15.0], ids=["runner comes first", "patience ends first"])
def test_a_launch_that_is_never_answered_makes_one_bot(delay_s: float) -> None:
    """Whether the runner comes before the scheduler has lost patience, or after."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"delay_s": delay_s, "cold": {"call_s": 20.0}})
        launcher.hangs = "after"
        session = await ask(rig)
        await rig.clock.sleep(1)
        launcher.hangs = "no"
        ended = await rig.reach(session, State.ENDED)
        started = [each for runner in launcher.runners() for each in runner.started]
        assert started == [(session.id, ended.epoch)]
        assert ended.epoch == (1 if delay_s < 10 else 2)
        await rig.clock.sleep(30)
        assert launcher.up == []

    play(scenario)


def test_a_launch_whose_answer_is_lost_makes_one_bot() -> None:
    """The session is launched for anew in another epoch; the first runner finds that out and leaves with nothing."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig)
        launcher.loses = 1
        session = await ask(rig)
        await rig.reach(session, State.ENDED)
        first, second = launcher.runners()
        assert (first.started, first.served) == ([], False)
        assert second.started == [(session.id, 2)]
        await rig.clock.sleep(30)
        assert launcher.up == []

    play(scenario)


def test_a_runner_that_comes_too_late_leaves_with_nothing() -> None:
    """The deadline passes, the session goes back and another runner has it."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"delay_s": 30.0}, cold_deadline_s=20.0, cold_starts=1)
        session = await ask(rig)
        await rig.clock.sleep(10)
        launcher.delay_s = 2.0
        await rig.reach(session, State.ENDED, within_s=60)
        assert "requeued lease-expired" in await rig.steps(session)
        assert "requeue lease-expired" in await rig.decided(session)
        await rig.clock.sleep(30)
        assert sorted(each.started for each in launcher.runners()) == [[], [(session.id, 2)]] or (
            [each.started for each in launcher.runners()] == [[(session.id, 2)]]
        )
        assert launcher.up == []

    play(scenario)


def test_an_instance_that_never_comes_up_is_ended_once_its_lease_is_over() -> None:
    """The session goes to the next one that is launched; what was launched for it first isn't left over."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_deadline_s=20.0)
        launcher.comes_up = False
        session = await ask(rig)
        await rig.clock.sleep(10)
        launcher.comes_up = True
        await rig.reach(session, State.ENDED, within_s=120)
        await rig.clock.sleep(30)
        assert launcher.canceled == [f"{session.id}-1"]
        assert launcher.up == []
        assert [each.reason for each in await said(rig, "reconcile")] == ["lease-gone"]
        assert [each.started for each in launcher.runners()] == [[(session.id, 2)]]

    play(scenario)


def test_a_launch_that_is_gone_is_taken_back_before_its_lease_runs_out() -> None:
    """The instance crashed at its start: the session needn't wait for a minute and a half."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig)
        launcher.crashes = True
        session = await ask(rig)
        await rig.clock.sleep(5)
        launcher.crashes = False
        ended = await rig.reach(session, State.ENDED, within_s=60)
        assert ended.epoch == 2
        assert "requeued launch-failed" in await rig.steps(session)
        assert "reconcile launch-gone" in await rig.decided(session)
        assert [each.reason for each in await said(rig, "reconcile")] == ["launch-gone"]

    play(scenario)


def test_a_runner_that_claims_while_its_launch_is_looked_for_keeps_its_session() -> None:
    """The look takes a while: what was claimed meanwhile isn't put back, however sure that was that it's gone."""

    async def scenario(rig: Rig) -> None:
        await growing(rig, launcher={"cold": {"call_s": 60.0}})
        session = await ask(rig)
        ready = await rig.reach(session, State.READY, within_s=60)
        gone = Requeued(epoch=ready.epoch, reason="launch-failed", exclude_runner=False)
        await rig.schedulers[0].scheduler._executor.take_back(session.id, gone)
        await rig.clock.sleep(10)
        now = await rig.now(session)
        assert (now.state, now.epoch) == (State.READY, ready.epoch)

    play(scenario)


def test_a_cold_runner_that_refuses_gives_the_session_back() -> None:
    """It goes to the next one, and the refusal counts as a launch that failed."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"cold": {"whim": refusing("bot-import-failed")}})
        session = await ask(rig)
        await rig.reach(session, State.ENDED)
        assert "requeued runner-refused" in await rig.steps(session)
        assert [each.started for each in launcher.runners()] == [[], [(session.id, 2)]]
        await rig.clock.sleep(1)
        assert launcher.up == []

    play(scenario)


# ---------------------------------------------------------------------------- callers and leaders that go


@pytest.mark.parametrize("after_s", [0.5, 3.005], ids=["on the way", "as it comes up"])
def test_a_session_that_is_stopped_while_its_runner_comes_up_leaves_nothing(after_s: float) -> None:
    """Its runner finds nothing to do and leaves."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"cold": {"warm_s": 0.1}})
        session = await ask(rig)
        await rig.clock.sleep(after_s)
        await rig.stop(session)
        ended = await rig.reach(session, State.ENDED, within_s=10)
        assert (ended.reason, ended.ended_by) == ("client-stop", "scheduler")
        await rig.clock.sleep(10)
        assert [each.started for each in launcher.runners()] == [[]]
        assert launcher.up == []
        assert (await rig.pool()).held_back is None

    play(scenario)


def test_an_instance_for_a_session_that_was_stopped_is_ended_if_it_does_not_come_up() -> None:
    """Nobody needs it any more, and it would be there for good."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig)
        launcher.comes_up = False
        session = await ask(rig)
        await rig.clock.sleep(1)
        await rig.stop(session)
        await rig.clock.sleep(30)
        assert launcher.up == []
        assert launcher.canceled == [f"{session.id}-1"]

    play(scenario)


async def take_over(rig: Rig, **options: Any) -> tuple[RunningScheduler, VirtualLauncher]:
    """Have a leader with a stand-by behind it."""
    launcher = await growing(rig, **options)
    (first,) = rig.schedulers
    rig.scheduler("two")
    await rig.clock.sleep(HEARING_S)
    assert first.scheduler.leading
    return first, launcher


@pytest.mark.parametrize("heard", ["before", "after"])
def test_a_leader_that_dies_between_lease_and_launch_leaves_one_launch(heard: str) -> None:
    """The next one asks the launcher again for the same lease; whether it had been heard makes no difference."""

    async def scenario(rig: Rig) -> None:
        first, launcher = await take_over(rig, launcher={"delay_s": 8.0})
        launcher.hangs = "before" if heard == "before" else "after"
        session = await ask(rig)
        await rig.reach(session, State.LEASED, within_s=1)
        await first.crash()
        launcher.hangs = "no"
        ended = await rig.reach(session, State.ENDED, within_s=30)
        assert (ended.epoch, ended.outcome) == (1, Outcome.COMPLETED)
        assert {each.launch_id for each in launcher.asked} == {f"{session.id}-1"}
        assert len(launcher.ever) == 1
        assert "reconcile start-unconfirmed" in await rig.decided(session)
        await rig.clock.sleep(30)
        assert launcher.up == []

    play(scenario)


def test_a_leader_that_dies_between_launch_and_claim_leaves_one_bot() -> None:
    """The claim needs no leader; what is launched comes to its session whoever leads."""

    async def scenario(rig: Rig) -> None:
        first, launcher = await take_over(rig)
        session = await ask(rig)
        await rig.clock.sleep(1)
        await first.crash()
        ended = await rig.reach(session, State.ENDED, within_s=30)
        assert ended.epoch == 1
        assert [each.started for each in launcher.runners()] == [[(session.id, 1)]]
        await rig.clock.sleep(30)
        assert launcher.up == []

    play(scenario)


def test_a_burst_of_launches_over_a_change_of_leader_starts_nothing_twice() -> None:
    """Thirty sessions, four launches at a time, and the leader dies in between."""

    async def scenario(rig: Rig) -> None:
        first, launcher = await take_over(rig, launcher={"cold": {"call_s": 1.0}}, cold_starts=4)
        sessions = [await ask(rig) for _ in range(30)]
        await rig.clock.sleep(4)
        await first.crash()
        for session in sessions:
            assert (await rig.reach(session, State.ENDED, within_s=120)).outcome is Outcome.COMPLETED
        started = [each for runner in launcher.runners() for each in runner.started]
        assert len(started) == len({session_id for session_id, _ in started}) == 30
        await rig.clock.sleep(30)
        assert launcher.up == []

    play(scenario)


def test_a_new_leader_knows_the_breaker() -> None:
    """It followed the ledger all along: what fails again and again isn't tried anew because of a change of leader."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        policy = PoolPolicy(name="default", cold_starts=3)
        await rig.decree(pools=(policy,))
        first = rig.scheduler("one")
        rig.scheduler("two")
        await rig.clock.sleep(HEARING_S)
        launcher.crashes = True
        for _ in range(3):
            await ask(rig)
        await rig.clock.sleep(20)
        asked = len(launcher.asked)
        await first.stop()
        await rig.clock.sleep(1.5)
        state = await rig.pool()
        assert state.held_back is not None
        assert "3 launches failed in a row" in state.held_back
        assert len(launcher.asked) <= asked + 1

    play(scenario)


# ---------------------------------------------------------------------------- slots that become free meanwhile


def test_a_session_that_is_launched_for_takes_a_slot_that_becomes_free() -> None:
    """It starts there at once; the runner that comes up finds its lease gone, and leaves without having run it."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"delay_s": 20.0})
        warm = await rig.runner("warm", slots=1)
        first = await ask(rig)
        await rig.reach(first, State.READY)
        session = await ask(rig)
        await rig.clock.sleep(5)
        assert (await rig.now(session)).runner_id == f"cold-{session.id}-1"
        await warm.end(first.id)
        moved = await rig.reach(session, State.READY, within_s=1)
        assert (moved.runner_id, moved.epoch, moved.attempt, moved.cold) == ("warm", 2, 1, False)
        assert await rig.steps(session) == [
            "requested",
            f"leased cold-{session.id}-1 1",
            "leased warm 2",
            "started",
            "ready",
        ]
        await rig.clock.sleep(30)
        assert [each for each in await rig.decided(session) if "wait" not in each] == [
            "cold_start launching",
            "lease slot-free",
        ]
        assert launcher.cold == []
        assert (await rig.now(session)).state is State.READY
        assert [each.started for each in launcher.runners()] in ([], [[]])
        state = await rig.pool()
        assert (state.cold_starts_in_flight, state.held_back, state.cold_start_p95_s) == (0, None, None)

    play(scenario)


def test_a_launched_runner_that_is_up_keeps_its_session() -> None:
    """It is about to claim: a slot that becomes free then is for others."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, launcher={"delay_s": 3.0, "cold": {"warm_s": 5.0}})
        warm = await rig.runner("warm", slots=1)
        first = await ask(rig)
        await rig.reach(first, State.READY)
        session = await ask(rig)
        await rig.clock.sleep(5)
        assert len(launcher.cold) == 1
        await warm.end(first.id)
        await rig.reach(session, State.READY)
        assert (await rig.steps(session))[-3:] == [f"leased cold-{session.id}-1 1", "started", "ready"]

    play(scenario)


def test_launches_that_come_to_nothing_use_up_no_tries() -> None:
    """Whatever becomes of the launcher, a session is tried on runners as often as it may."""

    async def scenario(rig: Rig) -> None:
        launcher = await growing(rig, cold_deadline_s=5.0)
        launcher.comes_up = False
        session = await ask(rig)
        await rig.clock.sleep(120)
        assert (await rig.steps(session)).count("requeued lease-expired") >= 3
        assert (await rig.now(session)).attempt == 1

    play(scenario)
