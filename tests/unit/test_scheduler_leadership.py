"""Several schedulers: one leads, and whatever happens to it nothing is done twice."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from greenroom.common import messages
from greenroom.common.broker import NoResponder
from greenroom.common.lifecycle import Leased, Outcome, State
from greenroom.common.messages import LeaderClaim
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play

# ---------------------------------------------------------------------------- leadership


def test_one_of_many_plans_and_another_takes_over_at_once_when_it_leaves() -> None:
    """A clean stop hands leadership over, and what was begun is finished first."""

    async def scenario(rig: Rig) -> None:
        schedulers = [rig.scheduler(name) for name in ("one", "two", "three")]
        runner = await rig.runner()
        await rig.clock.sleep(2)
        (leader,) = [each for each in schedulers if each.scheduler.leading]
        await leader.stop()
        before = rig.clock.monotonic()
        session = await rig.request()
        await rig.reach(session, State.READY)
        assert rig.clock.monotonic() - before <= 0.5
        assert len([each for each in schedulers if each.scheduler.leading]) == 1
        assert runner.started == [(session.id, 1)]

    play(scenario)


def test_a_leader_that_vanishes_is_replaced_within_four_seconds() -> None:
    """Its claim isn't renewed for 3 s; until then sessions wait, and nobody answers for the queue."""

    async def scenario(rig: Rig) -> None:
        first = rig.scheduler("one")
        await rig.clock.sleep(1)
        second = rig.scheduler("two")
        runner = await rig.runner()
        await rig.clock.sleep(3)
        assert (first.scheduler.leading, second.scheduler.leading) == (True, False)
        first.broker.connected = False
        await rig.clock.sleep(0.5)
        session = await rig.request()
        with pytest.raises(NoResponder):
            await rig.position(session.id)
        before = rig.clock.monotonic()
        await rig.reach(session, State.READY)
        assert rig.clock.monotonic() - before <= 4.0
        first.broker.connected = True
        await rig.clock.sleep(5)
        assert (first.scheduler.leading, second.scheduler.leading) == (False, True)
        assert runner.started == [(session.id, 1)]

    play(scenario)


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "cut off"])
def test_a_change_of_leader_in_a_burst_starts_nothing_twice(clean: bool) -> None:  # noqa: FBT001
    """Each of forty sessions runs once, whoever placed it, and no runner has more than its slots."""

    async def scenario(rig: Rig) -> None:
        first = rig.scheduler("one")
        await rig.clock.sleep(1)
        rig.scheduler("two")
        runners = [await rig.runner(f"r{number}", slots=3, call_s=0.5) for number in range(2)]
        await rig.clock.sleep(1)
        sessions = [await rig.request() for _ in range(20)]
        for _ in range(20):
            await asyncio.sleep(0)  # in the middle of it
        if clean:
            await first.stop()
        else:
            first.broker.connected = False
        sessions += [await rig.request() for _ in range(20)]
        for session in sessions:
            ended = await rig.reach(session, State.ENDED)
            assert ended.outcome is Outcome.COMPLETED, await rig.steps(session)
        started = Counter(session_id for runner in runners for session_id, _ in runner.started)
        assert started == Counter(session.id for session in sessions)
        assert max(runner.most for runner in runners) <= 3

    play(scenario)


def test_a_new_leader_asks_for_what_the_former_one_only_leased() -> None:
    """It died between the two: the session needn't wait for its lease to run out, and the runner isn't blamed."""

    async def scenario(rig: Rig) -> None:
        await rig.runner()
        session = await rig.request()
        lease = Leased(runner_id="r1", epoch=1, expires_at=rig.clock.now() + timedelta(seconds=5))
        await rig.ledger.move("t", session.id, lambda _: lease)
        rig.scheduler()
        await rig.reach(session, State.READY, within_s=2)
        assert await rig.steps(session) == ["requested", "leased r1 1", "started", "ready"]

    play(scenario)


def test_two_that_both_think_they_lead_do_no_harm() -> None:
    """Whatever both decide, the ledger takes once."""

    async def scenario(rig: Rig) -> None:
        schedulers = [rig.scheduler(name) for name in ("one", "two")]
        for each in schedulers:
            each.scheduler._leadership._subject += f"-{each.scheduler._leadership.holder}"
        runners = [await rig.runner(f"r{number}", slots=4, call_s=0.2) for number in range(2)]
        await rig.clock.sleep(1)
        assert all(each.scheduler.leading for each in schedulers)
        sessions = await asyncio.gather(*(rig.request() for _ in range(40)))
        for session in sessions:
            await rig.reach(session, State.ENDED)
        started = Counter(session_id for runner in runners for session_id, _ in runner.started)
        assert max(started.values()) == 1
        assert max(runner.most for runner in runners) <= 4

    play(scenario)


def test_leadership_is_named_after_what_is_scheduled() -> None:
    """All pools together are `default`; one pool has its own."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler("one")
        rig.scheduler("two", scheduler_pool="gpu")
        await rig.clock.sleep(1)
        for name, holder in (("scheduler-default", "one"), ("scheduler-gpu", "two")):
            claim = await rig.broker.last("LEADERS", f"gr.v1.leader.{name}")
            assert claim is not None
            assert messages.decode(claim.data, LeaderClaim).holder == holder

    play(scenario)
