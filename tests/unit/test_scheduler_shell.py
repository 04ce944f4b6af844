"""The scheduler as a whole: on a memory broker, with simulated runners, in virtual time."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace

from greenroom.common.lifecycle import Ended, Ending, Limits, OnLoss, Outcome, State
from greenroom.common.messages import StartAccepted, StartAnswer, StartSession
from greenroom.scheduler.app import MAX_ACTIONS, TICK_S
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play, refusing, silent
from tests.support.spans import record_spans

# ---------------------------------------------------------------------------- placing


def test_a_session_is_placed_at_once() -> None:
    """From the request to the runner no timer is waited for; the runner's claim makes it ready."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        runner = await rig.runner()
        await rig.clock.sleep(1)
        before = rig.clock.monotonic()
        session = await rig.request()
        ready = await rig.reach(session, State.READY)
        assert rig.clock.monotonic() - before <= 0.011, "something waited"
        assert (ready.runner_id, ready.epoch, ready.attempt) == ("r1", 1, 1)
        assert await rig.steps(session) == ["requested", "leased r1 1", "started", "ready"]
        assert runner.started == [(session.id, 1)]
        assert running.counters.placed.value(pool="default") == 1

    play(scenario)


def test_a_session_that_was_there_first_is_placed_when_a_runner_comes() -> None:
    """A heartbeat wakes the plan as a request does."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        session = await rig.request()
        await rig.clock.sleep(3.1)
        before = rig.clock.monotonic()
        await rig.runner()
        await rig.reach(session, State.READY)
        assert rig.clock.monotonic() - before <= 0.02

    play(scenario)


def test_a_slot_that_becomes_free_is_given_to_the_next_at_once() -> None:
    """Two hundred sessions over four slots: each runs once, never more than four together, in the order of asking."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runners = [await rig.runner(f"r{number}", slots=2, call_s=1.0) for number in range(2)]
        sessions = [await rig.request(limits=Limits(queue_timeout_s=600)) for _ in range(200)]
        for session in sessions:
            ended = await rig.reach(session, State.ENDED, within_s=300)
            assert (ended.outcome, ended.attempt, ended.epoch) == (Outcome.COMPLETED, 1, 1)
        assert [runner.most for runner in runners] == [2, 2]
        started = Counter(session_id for runner in runners for session_id, _ in runner.started)
        assert started == Counter(session.id for session in sessions)
        assert rig.clock.monotonic() < 200 / 4 * 1.0 * 1.1
        leased_at = [(await rig.now(session)).leased_at for session in sessions]
        assert leased_at == sorted(leased_at, key=lambda at: at or rig.clock.now())

    play(scenario)


def test_a_burst_larger_than_what_is_done_at_once_is_done_all_the_same() -> None:
    """What is beyond the bound waits for the next plan."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        count = MAX_ACTIONS + 50
        runner = await rig.runner(slots=2 * count)
        await rig.clock.sleep(0.5)
        sessions = await asyncio.gather(*(rig.request() for _ in range(count)))
        for session in sessions:
            await rig.reach(session, State.READY)
        assert len(set(runner.started)) == count

    play(scenario)


# ---------------------------------------------------------------------------- refusals


def test_a_refusal_sends_the_session_to_the_next_runner_at_once() -> None:
    """And the runner that refused isn't asked for it again."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner("r1", whim=refusing("bot-import-failed"), standby=9)
        await rig.runner("r2", standby=0)
        await rig.clock.sleep(1)
        before = rig.clock.monotonic()
        session = await rig.request()
        ready = await rig.reach(session, State.READY)
        assert rig.clock.monotonic() - before <= 0.02
        assert (ready.runner_id, ready.epoch, ready.attempt, ready.refused_by) == ("r2", 2, 2, ("r1",))
        assert (await rig.steps(session))[:4] == [
            "requested",
            "leased r1 1",
            "requeued bot-import-failed",
            "leased r2 2",
        ]
        assert running.counters.refused.value(code="bot-import-failed") == 1

    play(scenario)


def test_a_runner_without_a_slot_is_asked_again_after_its_next_heartbeat() -> None:
    """It isn't at fault, and asking it again and again at once would be a loop."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner(whim=refusing("no-slot"))
        await rig.clock.sleep(1.2)
        session = await rig.request()
        await rig.clock.sleep(0.5)
        assert len(runner.asked_at) == 1
        assert (await rig.position(session.id)).reason == "1st of 1: no free slot in pool default (4/4 busy)"
        ready = await rig.reach(session, State.READY)
        assert ready.refused_by == ()
        assert await rig.steps(session) == [
            "requested",
            "leased r1 1",
            "requeued no-free-slot",
            "leased r1 2",
            "started",
            "ready",
        ]

    play(scenario)


def test_a_draining_runner_gets_nothing_more() -> None:
    """Whether its heartbeat says so or its refusal."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner("r1")
        await rig.clock.sleep(1.2)
        runner.draining = True
        session = await rig.request()
        await rig.reach(session, State.REQUESTED)
        await rig.clock.sleep(0.1)
        assert (await rig.now(session)).refused_by == ("r1",)
        await rig.clock.sleep(1)
        other = await rig.request()
        await rig.clock.sleep(0.1)
        assert (await rig.position(other.id)).reason == "2nd of 2: every runner that offers bot echo is draining"

    play(scenario)


def test_a_runner_that_is_gone_is_noticed_by_the_first_request() -> None:
    """Nobody listens any more: the session goes elsewhere at once, and so do those behind it."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        gone = await rig.runner("r1", standby=9)
        await rig.runner("r2", standby=0)
        await rig.clock.sleep(1)
        await gone.kill()
        sessions = [await rig.request() for _ in range(3)]
        for session in sessions:
            ready = await rig.reach(session, State.READY, within_s=1)
            assert ready.runner_id == "r2"
        assert "requeued no-responder" in await rig.steps(sessions[0])
        assert running.counters.refused.value(code="no-responder") >= 1

    play(scenario)


@pytest.mark.parametrize("answered", [False, True], ids=["answer lost", "accepted and not claimed"])
def test_a_lease_that_is_not_claimed_runs_out_and_goes_elsewhere(answered: bool) -> None:  # noqa: FBT001
    """After 5 s, with a new epoch, so that a late claim of the first runner is refused by the ledger."""

    def accept(request: StartSession) -> StartAnswer | None:
        return StartAccepted(session_id=request.session.id, epoch=request.session.epoch)

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner("r1", whim=accept if answered else silent, standby=9)
        await rig.runner("r2", standby=0)
        await rig.clock.sleep(1)
        session = await rig.request()
        ready = await rig.reach(session, State.READY)
        assert (ready.runner_id, ready.epoch, ready.refused_by) == ("r2", 2, ("r1",))
        assert "requeued lease-expired" in await rig.steps(session)
        assert ready.leased_at is not None
        waited_s = (ready.leased_at - ready.requested_at).total_seconds()
        assert 5.0 <= waited_s <= 5.3

    play(scenario)


def test_a_claim_whose_answer_got_lost_counts() -> None:
    """The runner took the session: the ledger says so, whatever became of the reply."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        await rig.clock.sleep(1)
        publish = runner._broker.publish

        async def lose(subject: str, data: bytes, headers: Any = None) -> None:
            if not subject.startswith("_INBOX"):
                await publish(subject, data, headers)

        runner._broker.publish = lose
        session = await rig.request()
        await rig.clock.sleep(20)
        assert await rig.steps(session) == ["requested", "leased r1 1", "started", "ready"]

    play(scenario)


# ---------------------------------------------------------------------------- losses


@pytest.mark.parametrize("on_loss", [OnLoss.NEVER, OnLoss.BEFORE_MEDIA])
def test_sessions_of_a_lost_runner_end_or_go_elsewhere(on_loss: OnLoss) -> None:
    """6 s after its last heartbeat, as the agent wants it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner("r1")
        session = await rig.request(on_loss=on_loss)
        await rig.reach(session, State.READY)
        await rig.runner("r2")
        await rig.clock.sleep(2.5)
        await runner.kill()
        await rig.clock.sleep(5)
        assert (await rig.now(session)).state is State.READY
        await rig.clock.sleep(1.3)
        now = await rig.now(session)
        if on_loss is OnLoss.NEVER:
            assert (now.state, now.outcome, now.reason) == (State.ENDED, Outcome.LOST, "runner-lost")
            assert now.detail == "runner r1 wasn't heard for 6 s"
        else:
            assert (now.state, now.runner_id, now.epoch) == (State.READY, "r2", 2)

    play(scenario)


def test_a_session_that_its_runner_lost_ends() -> None:
    """The runner lives, but no longer reports it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        session = await rig.request(on_loss=OnLoss.NEVER)
        await rig.reach(session, State.READY)
        await rig.clock.sleep(2)
        runner.forget(session.id)
        ended = await rig.reach(session, State.ENDED, within_s=6)
        assert (ended.outcome, ended.detail) == (Outcome.LOST, "runner r1 no longer has it")

    play(scenario)


def test_an_end_that_no_runner_sees_through_is_written() -> None:
    """A client's stop holds although the runner died over it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        session = await rig.request()
        await rig.reach(session, State.READY)
        await rig.ledger.move(
            "t", session.id, lambda known: Ending(by="client", epoch=known.epoch, reason="client-stop")
        )
        await runner.kill()
        ended = await rig.reach(session, State.ENDED, within_s=8)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.COMPLETED, "client-stop", "scheduler")

    play(scenario)


def test_a_scheduler_that_was_cut_off_declares_nobody_lost() -> None:
    """It heard no heartbeats because it couldn't; after it is back everybody has 6 s again."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner()
        session = await rig.request(on_loss=OnLoss.NEVER)
        await rig.reach(session, State.READY)
        running.broker.connected = False
        await rig.clock.sleep(30)
        running.broker.connected = True
        await rig.clock.sleep(30)
        assert (await rig.now(session)).state is State.READY
        again = await rig.request()
        await rig.reach(again, State.READY, within_s=1)

    play(scenario)


# ---------------------------------------------------------------------------- waiting


def test_who_waits_can_ask_why() -> None:
    """The place in the queue and the reason come from the last plan."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner(slots=1)
        first = await rig.request()
        await rig.reach(first, State.READY)
        waiting = [await rig.request() for _ in range(3)]
        ghost = await rig.request(bot="ghost")
        await rig.clock.sleep(0.1)
        position = await rig.position(waiting[1].id)
        assert (position.position, position.of) == (2, 4)
        assert position.reason == "2nd of 4: no free slot in pool default (1/1 busy)"
        assert (await rig.position(ghost.id)).reason == "4th of 4: no runner offers bot ghost in pool default"
        placed = await rig.position(first.id)
        assert (placed.position, placed.reason) == (0, "it doesn't wait: it is ready")
        assert (await rig.position("unknown")).reason == "it doesn't wait: it is ended"
        await rig.clock.sleep(TICK_S)
        gauge = running.counters._waiting._gauge
        assert gauge.labels(reason="no-free-slot")._value.get() == 3
        assert gauge.labels(reason="no-runner-for-agent")._value.get() == 1

    play(scenario)


def test_who_waits_too_long_expires() -> None:
    """At the deadline, within a tick."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        session = await rig.request(limits=Limits(queue_timeout_s=7))
        ended = await rig.reach(session, State.ENDED)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.EXPIRED, "queue-expired", "scheduler")
        assert ended.ended_at is not None
        assert timedelta(seconds=7) <= ended.ended_at - ended.requested_at <= timedelta(seconds=7.3)
        assert running.counters.ended.value(outcome="expired", reason="queue-expired") == 1

    play(scenario)


def test_a_scheduler_of_one_pool_leaves_the_others_alone() -> None:
    """Neither their sessions nor questions about them are its affair."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler("gpu", scheduler_pool="gpu")
        await rig.runner("r1")
        await rig.runner("r2", pool="gpu")
        other, mine = await rig.request(), await rig.request(pool="gpu")
        await rig.reach(mine, State.READY, within_s=2)
        rig.scheduler("all others", scheduler_pool="default")
        assert (await rig.reach(other, State.READY, within_s=2)).runner_id == "r1"

    play(scenario)


# ---------------------------------------------------------------------------- conflicts and nonsense


def test_a_session_that_others_move_first_is_left_to_them() -> None:
    """A client cancels while the lease is being written: the ledger has the cancel, and the scheduler learns of it."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        runner = await rig.runner()
        await rig.clock.sleep(1)
        append = running.broker.append

        async def late(subject: str, *args: Any, **fields: Any) -> int:
            if subject.endswith(".lifecycle"):
                running.broker.append = append
                cancel = Ended(by="client", epoch=0, outcome=Outcome.CANCELED, reason="client-canceled")
                await rig.ledger.move("t", subject.split(".")[4], lambda _: cancel)
            return await append(subject, *args, **fields)

        running.broker.append = late
        session = await rig.request()
        await rig.clock.sleep(1)
        assert await rig.steps(session) == ["requested", "ended canceled client-canceled"]
        assert runner.asked_at == []
        assert running.counters.failed.value(code="ledger-conflict") == 1
        await rig.reach(await rig.request(), State.READY, within_s=1)

    play(scenario)


def test_a_lost_acknowledgement_of_a_lease_makes_no_second_one() -> None:
    """The ledger finds that it was stored."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner()
        await rig.clock.sleep(1)
        append = running.broker.append

        async def lossy(subject: str, *args: Any, **fields: Any) -> int:
            if subject.endswith(".lifecycle"):
                running.broker.append = append
                running.broker.lose_acks = 1
            return await append(subject, *args, **fields)

        running.broker.append = lossy
        session = await rig.request()
        await rig.reach(session, State.READY)
        assert await rig.steps(session) == ["requested", "leased r1 1", "started", "ready"]

    play(scenario)


def test_a_heartbeat_that_is_none_is_passed_over() -> None:
    """A runner of another version, or somebody's mistake, stops nobody else's sessions."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.clock.sleep(1)
        await rig.broker.publish("gr.v1.runner.default.r0.heartbeat", b"{}")
        await rig.runner()
        await rig.reach(await rig.request(), State.READY, within_s=1)

    play(scenario)


# ---------------------------------------------------------------------------- telemetry


def test_a_placement_is_a_span_of_the_session() -> None:
    """A child of the request's span, and the runner's work can hang on it."""
    recorder = record_spans()
    tracer = trace.get_tracer("test")

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        await rig.clock.sleep(1)
        with tracer.start_as_current_span("POST /v1/sessions") as root:
            context = root.get_span_context()
            traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
            session = await rig.request(traceparent=traceparent)
        await rig.reach(session, State.READY)
        await rig.clock.sleep(0.1)
        span = recorder.one("session.lease")
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (context.trace_id, context.span_id)
        assert [link.context.span_id for link in span.links] == [context.span_id]
        assert span.attributes is not None
        assert span.attributes["session.id"] == session.id
        assert span.attributes["greenroom.runner_id"] == "r1"
        own = span.get_span_context()
        assert own is not None
        assert runner.traceparents == [f"00-{own.trace_id:032x}-{own.span_id:016x}-01"]

    play(scenario)


def test_garbage_in_the_ledger_costs_nobody_else_anything() -> None:
    """Neither a leader nor one that comes up ends by it; both count it, and place what else is asked for."""

    async def scenario(rig: Rig) -> None:
        leader = rig.scheduler("one")
        await rig.clock.sleep(1)
        waiting = await rig.request(limits=Limits(queue_timeout_s=5))
        await rig.broker.append(f"gr.v1.session.t.{waiting.id}.lifecycle", b"\xff{")
        await rig.broker.append("gr.v1.session.t.nobody.lifecycle", b"")
        await rig.clock.sleep(10)  # it would expire by now, if anybody could write that
        second = rig.scheduler("two")
        await rig.runner()
        await rig.reach(await rig.request(), State.READY)
        await leader.stop()
        await rig.reach(await rig.request(), State.READY)
        assert second.scheduler.leading
        assert leader.counters.corrupt.value() >= 3  # two by the watch, one by the attempt to end it
        assert leader.counters.failed.value(code="ledger-conflict") >= 1
        assert second.counters.corrupt.value() == 2
        assert (await rig.position(waiting.id)).of == 0

    play(scenario)
