"""Pools that grow and shrink, and differences that are mended: the shell with a virtual launcher."""

from itertools import pairwise

from msgspec.structs import replace

from greenroom.common.lifecycle import Limits, State
from greenroom.common.messages import StartAccepted, StartAnswer, StartSession
from greenroom.common.policy import PoolPolicy
from greenroom.scheduler.launchers.base import LaunchRefused
from tests.support.scheduler_growing import HEARING_S, ask, growing, said
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play

# ---------------------------------------------------------------------------- the warm buffer


WARM = PoolPolicy(name="default", baseline=2, minimum=2, maximum=10, cooldown_s=10.0, idle_retire_s=30.0)


def test_the_warm_buffer_grows_by_itself_with_a_pause_between_two_steps() -> None:
    """Who comes is placed on it, and what was taken is filled up again, but not before the cooldown is over."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        await rig.decree(pools=(WARM,))
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 6)
        assert launcher.counts == [2]
        assert (await rig.pool()).warm == 2
        sessions = [await ask(rig) for _ in range(2)]
        for session in sessions:
            await rig.reach(session, State.READY, within_s=1)
        await rig.clock.sleep(26)
        steps = pairwise([each.at for each in await said(rig, "scale")])
        assert all((later - sooner).total_seconds() >= WARM.cooldown_s for sooner, later in steps)
        assert len(launcher.counts) >= 2
        assert (await rig.pool()).warm >= 2
        assert len(launcher.group) == launcher.counts[-1]

    play(scenario)


def test_a_refused_size_is_asked_for_again_later() -> None:
    """And the pool shows why it doesn't grow."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        launcher.refuses_count = LaunchRefused("a deployment is under way", permanent=False, retry_after_s=5.0)
        await rig.decree(pools=(WARM,))
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 1)
        assert len(launcher.counts) == 1
        assert (await rig.pool()).held_back == "a deployment is under way"
        launcher.refuses_count = None
        await rig.clock.sleep(5)
        assert launcher.counts == [2, 2]
        assert len(launcher.group) == 2

    play(scenario)


def test_only_idle_runners_are_retired_and_they_drain_first() -> None:
    """Of four the one with a call stays, and one beyond what is wanted; the others go one after the other."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        await rig.decree(pools=(replace(WARM, baseline=4, minimum=4),))
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 6)
        assert len(launcher.group) == 4
        busy = await ask(rig)
        await rig.reach(busy, State.READY, within_s=1)
        await rig.decree(pools=(replace(WARM, baseline=0, minimum=0),))
        await rig.clock.sleep(120)
        assert sorted(len(each.runner.held) for each in launcher.group if each.runner) == [0, 1]
        assert len(launcher.retired) == 2
        steps = [(each.inputs["step"], each.inputs["runner_id"]) for each in await said(rig, "retire")]
        assert [step for step, _ in steps] == ["drain", "retire"] * 2
        assert all(drain[1] == retire[1] for drain, retire in zip(steps[::2], steps[1::2], strict=True))
        assert (await rig.now(busy)).state is State.READY

    play(scenario)


# ---------------------------------------------------------------------------- what doesn't agree


def test_nothing_is_launched_while_runners_that_are_up_are_not_heard() -> None:
    """A partition is not a shortage; the fleet stays as large as it is, and it is said once."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        await rig.decree(pools=(replace(WARM, cold_starts=4),))
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 6)
        launcher.cut_off(connected=False)
        await rig.clock.sleep(12)
        session = await ask(rig)
        await rig.clock.sleep(60)
        assert (launcher.counts, launcher.asked) == ([2], [])
        assert (await rig.now(session)).state is State.REQUESTED
        state = await rig.pool()
        assert state.held_back is not None
        assert "2 of them don't report in" in state.held_back
        holds = [each for each in await said(rig, "hold_back") if each.reason == "cloud-guard"]
        assert len(holds) == 1
        launcher.cut_off(connected=True)
        await rig.reach(session, State.READY, within_s=10)
        assert launcher.asked == []

    play(scenario)


def test_an_instance_that_does_not_report_in_is_said_once_and_left_alone() -> None:
    """It may have calls: nobody ends what can't be heard."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        launcher.reports = False
        await rig.decree(pools=(replace(WARM, cold_deadline_s=15.0),))
        rig.scheduler()
        await rig.clock.sleep(120)
        assert len(launcher.group) == 2
        silent = [each for each in await said(rig, "reconcile") if each.reason == "silent-instance"]
        assert len(silent) == 2

    play(scenario)


def test_a_runner_that_nobody_launched_is_noted_once() -> None:
    """It works like any other; who counts should know."""

    async def scenario(rig: Rig) -> None:
        await growing(rig)
        await rig.runner("by-hand")
        await rig.clock.sleep(120)
        assert [(each.reason, each.inputs["runner_id"]) for each in await said(rig, "reconcile")] == [
            ("unknown-runner", "by-hand")
        ]

    play(scenario)


def test_a_runner_that_a_former_leader_had_drained_is_let_go() -> None:
    """It would be there for good, of no use to anybody."""

    async def scenario(rig: Rig) -> None:
        launcher = rig.virtual_launcher()
        await rig.decree(pools=(WARM,))
        rig.scheduler()
        await rig.clock.sleep(HEARING_S + 6)
        drained = launcher.group[0]
        assert drained.runner is not None
        drained.runner.draining = True
        await rig.clock.sleep(100)
        assert launcher.retired == [drained.instance.id]
        assert "drained-runner" in [each.reason for each in await said(rig, "reconcile")]

    play(scenario)


def test_a_runner_that_holds_what_is_over_is_told_of_once() -> None:
    """It ends it by itself; until then its slot is taken."""

    def accept(request: StartSession) -> StartAnswer:
        return StartAccepted(session_id=request.session.id, epoch=request.session.epoch)

    async def scenario(rig: Rig) -> None:
        await growing(rig)
        runner = await rig.runner("by-hand", instance="x", whim=accept)
        session = await rig.request(limits=Limits(queue_timeout_s=1.0))
        await rig.reach(session, State.LEASED, within_s=2)
        runner._hold(await rig.now(session))
        await rig.reach(session, State.ENDED)
        await rig.clock.sleep(100)
        held = [each for each in await said(rig, "reconcile") if each.reason == "held-after-end"]
        assert [each.inputs["session_id"] for each in held] == [session.id]

    play(scenario)
