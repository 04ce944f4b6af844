"""What the leader answers, and what is said of what it decided: the shell on a memory broker."""

from typing import Any

import pytest

from greenroom.common import subjects
from greenroom.common.broker import RequestTimeout
from greenroom.common.events import decode_event
from greenroom.common.lifecycle import Limits, State
from greenroom.common.messages import EventType
from greenroom.common.policy import Limit, PoolPolicy, Scope
from greenroom.scheduler.answers import MAX_PAGE
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play, refusing

PATIENT = Limits(queue_timeout_s=900)
TWO = Limit(id="two", scope=Scope.TENANT, max_sessions=2)
CURRENT, VERDICTS = subjects.POLICY.format(name="current"), subjects.POLICY.format(name="verdicts")


# ---------------------------------------------------------------------------- answers


def test_the_queue_can_be_read_page_by_page() -> None:
    """In its order, of all or of one tenant or pool, and never more than fits into an answer."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=1)
        await rig.runner("gpu", slots=1, pool="gpu")
        await rig.clock.sleep(1)
        for pool in ("default", "gpu"):
            await rig.reach(await rig.request(pool=pool), State.READY)
        mine = [await rig.request(limits=PATIENT) for _ in range(4)]
        others = [await rig.request(tenant="u", limits=PATIENT) for _ in range(3)]
        gpu = await rig.request(pool="gpu", limits=PATIENT)
        await rig.clock.sleep(0.5)
        everything = await rig.page()
        assert everything.total == 8
        assert {each.session_id for each in everything.waiting} == {each.id for each in (*mine, *others, gpu)}
        assert [each.session_id for each in (await rig.page(pool="gpu")).waiting] == [gpu.id]
        own = await rig.page(tenant="t", pool="default")
        assert [each.session_id for each in own.waiting] == [each.id for each in mine]
        assert [each.of for each in own.waiting] == [7] * 4
        part = await rig.page(pool="default", offset=2, limit=3)
        assert (part.total, [each.position for each in part.waiting]) == (7, [3, 4, 5])
        assert part.waiting[0].text.startswith("3rd of 7: no free slot in pool default (1/1 busy)")
        assert (await rig.page(offset=100)).waiting == ()
        assert len((await rig.page(offset=-5, limit=10 * MAX_PAGE)).waiting) == 8
        assert (await rig.page(limit=-1)).waiting == ()

    play(scenario)


def test_a_question_that_is_none_gets_no_answer_and_does_no_harm() -> None:
    """The next one is answered."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.clock.sleep(1)
        for name in ("queue", "waiting", "pools"):
            subject = subjects.REQUEST.format(service="scheduler", name=name)
            with pytest.raises(RequestTimeout):
                await rig.broker.request(subject, b"[", timeout_s=0.1)
        assert (await rig.pools()).leader == "one"

    play(scenario)


def test_pools_tell_how_they_stand() -> None:
    """Those with a runner, a session or a word of policy; those that nobody has to do with any more are forgotten."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.decree(pools=(PoolPolicy(name="gpu"),))
        runner = await rig.runner(slots=3)
        runner.draining = True
        await rig.runner("r2", slots=3, brake="loop lag 80 ms")
        await rig.runner("r3", slots=3)
        session = await rig.request(pool="none", limits=Limits(queue_timeout_s=5))
        await rig.clock.sleep(2.5)
        assert [each.name for each in (await rig.pools()).pools] == ["default", "gpu", "none"]
        state = await rig.pool()
        assert (state.runners, state.slots, state.draining, state.braking, state.warm) == (3, 9, 1, 1, 3)
        await rig.reach(session, State.ENDED)
        await rig.clock.sleep(12)
        assert [each.name for each in (await rig.pools()).pools] == ["default", "gpu"]
        assert running.scheduler._keeper._memories.keys() == {"default", "gpu"}

    play(scenario)


def test_a_heartbeat_under_another_name_is_passed_over() -> None:
    """A runner that can't be addressed by what it says of itself would take the scheduler down with it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.clock.sleep(1)
        runner = await rig.runner("r1")
        publish = runner._broker.publish

        async def misplaced(subject: str, data: bytes, headers: Any = None) -> None:
            del subject
            await publish("gr.v1.runner.default.other.heartbeat", data, headers)

        runner._broker.publish = misplaced
        await rig.clock.sleep(20)
        session = await rig.request(limits=PATIENT)
        await rig.clock.sleep(2)
        assert (await rig.now(session)).state is State.REQUESTED
        runner._broker.publish = publish
        await rig.reach(session, State.READY, within_s=2)

    play(scenario)


# ---------------------------------------------------------------------------- what is said


def test_every_decision_about_a_session_is_an_event_of_it() -> None:
    """In the order in which it was made, with what it was made from, and readable like any other event."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        policy = await rig.decree(weights={"t": 2.0})
        await rig.runner("r1", whim=refusing("bot-import-failed"), standby=9)
        await rig.runner("r2", standby=0)
        await rig.clock.sleep(1)
        session = await rig.request(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        await rig.reach(session, State.READY)
        await rig.clock.sleep(0.3)
        assert await rig.decided(session) == ["lease slot-free", "requeue bot-import-failed", "lease slot-free"]
        first, requeue, _ = await rig.decisions(session)
        assert first.text == "runner r1 has a warm slot"
        assert first.inputs == {
            "candidates": 2,
            "free": 2,
            "warm": 4,
            "position": 1,
            "limits": {},
            "version": 1,
            "policy_revision": policy.revision,
        }
        assert (requeue.text, requeue.inputs) == ("runner r1 refused: bot-import-failed", {"runner_id": "r1"})
        subject = subjects.SESSION_EVENT.format(tenant="t", session_id=session.id, type="scheduler.decision")
        stored = await rig.broker.last("SESSIONS", subject)
        assert stored is not None
        event = decode_event(stored)
        assert (event.type, event.source, event.tenant) == (EventType.SCHEDULER_DECISION, "scheduler", "t")
        assert stored.headers["traceparent"] == session.traceparent

    play(scenario)


def test_why_a_session_waits_is_said_once_for_each_reason() -> None:
    """However long it waits, until it waits for something else."""

    async def scenario(rig: Rig) -> None:
        await rig.decree(limits=(Limit(id="one", scope=Scope.TENANT, max_sessions=1),))
        rig.scheduler()
        runner = await rig.runner(slots=1)
        await rig.clock.sleep(1)
        first = await rig.request()
        await rig.reach(first, State.READY)
        session = await rig.request(limits=Limits(queue_timeout_s=40))
        await rig.clock.sleep(10)
        assert await rig.decided(session) == ["wait tenant-limit"]
        (wait,) = await rig.decisions(session)
        assert wait.text.startswith("1st of 1: tenant t at 1/1")
        assert (wait.inputs["position"], wait.inputs["of"]) == (1, 1)
        await rig.decree()
        await rig.clock.sleep(10)
        assert await rig.decided(session) == ["wait tenant-limit", "wait no-free-slot"]
        await rig.reach(session, State.ENDED)
        await rig.clock.sleep(0.5)
        assert (await rig.decided(session))[-1] == "expire queue-expired"
        assert (await rig.decisions(session))[-1].inputs == {"queue_timeout_s": 40.0}
        assert runner.most == 1

    play(scenario)


def test_who_is_placed_at_once_is_not_told_to_wait() -> None:
    """And neither is who waits for a plan or two."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=1, call_s=0.15)
        for _ in range(20):
            sessions = [await rig.request() for _ in range(2)]
            await rig.clock.sleep(0.31)
            for session in sessions:
                assert await rig.decided(session) == ["lease slot-free"]

    play(scenario)


def test_in_a_flash_crowd_those_that_wait_are_told_in_turn() -> None:
    """A bounded number each second, the first ones first."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.clock.sleep(1)
        sessions = [await rig.request(limits=PATIENT) for _ in range(500)]
        await rig.clock.sleep(1.2)
        told = [bool(await rig.decisions(session)) for session in sessions]
        assert 200 <= sum(told) <= 400
        assert told == sorted(told, reverse=True)
        await rig.clock.sleep(3)
        assert all([await rig.decisions(session) for session in sessions])

    play(scenario)


def test_losses_and_last_tries_are_said() -> None:
    """What ends a session that nobody holds has its reason in the event too."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler(scheduler_max_attempts=2)
        for number in range(3):
            await rig.runner(f"r{number}", whim=refusing("bot-import-failed", times=9))
        await rig.clock.sleep(1)
        session = await rig.request()
        ended = await rig.reach(session, State.ENDED)
        assert ended.reason == "attempts-exhausted"
        await rig.clock.sleep(0.3)
        assert (await rig.decided(session))[-1] == "give_up attempts-exhausted"

    play(scenario)


def test_what_is_decided_during_an_outage_is_said_after_it() -> None:
    """A leader that is cut off for a moment still leads; what it says waits until it can be heard."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.clock.sleep(1.5)
        session = await rig.request(limits=PATIENT)
        await rig.clock.sleep(0.05)
        running.broker.connected = False
        await rig.clock.sleep(1.5)
        assert await rig.decisions(session) == []
        running.broker.connected = True
        await rig.clock.sleep(0.5)
        assert running.scheduler.leading
        assert await rig.decided(session) == ["wait no-runner-for-agent"]

    play(scenario)


def test_what_was_decided_last_is_said_before_the_scheduler_goes() -> None:
    """A stop in the middle of a burst leaves no lease without its decision."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner(slots=100)
        await rig.clock.sleep(1)
        publish = running.broker.append_soon

        async def slow(*arguments: Any, **more: Any) -> Any:
            await rig.clock.sleep(0.01)
            return await publish(*arguments, **more)

        running.broker.append_soon = slow
        sessions = [await rig.request() for _ in range(60)]
        await running.stop()
        for session in sessions:
            leased = (await rig.now(session)).state is not State.REQUESTED
            assert await rig.decided(session) == (["lease slot-free"] if leased else [])

    play(scenario)
