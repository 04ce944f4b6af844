"""Pinned sessions as a whole: on a memory broker, with simulated runners, in virtual time."""

from collections import Counter

import pytest

from greenroom.common import messages, subjects
from greenroom.common.lifecycle import OnLoss, Outcome, State
from greenroom.common.pins import PinRecords
from tests.support.pinned import crash, live, pin, pinned, pins, place
from tests.support.scheduler_builders import at
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play


async def all_run(rig: Rig, count: int) -> None:
    """Wait until so many pinned sessions run."""

    async def there() -> bool:
        return [each.state for each in await pinned(rig.broker) if not each.ended] == [State.READY] * count

    await rig.until(there, within_s=30, every_s=0.1)


def test_a_pin_keeps_so_many_sessions_running() -> None:
    """They are asked for at once, with what the pin says, and each that ends is followed by another after a second."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner(slots=9)
        await rig.clock.sleep(1)
        lobby = pin(3, room="lobby-{slot}", metadata={"kind": "host"}, body={"greeting": "hi"})
        await rig.decree(pins=(lobby,))
        await rig.clock.sleep(0.5)
        sessions = await pinned(rig.broker)
        assert live(sessions) == [(1, 1), (2, 1), (3, 1)]
        assert [each.state for each in sessions] == [State.READY] * 3
        assert [each.room for each in sessions] == ["lobby-1", "lobby-2", "lobby-3"]
        first = sessions[0]
        assert (first.metadata, first.body, first.tenant, first.agent) == (
            {"kind": "host"},
            {"greeting": "hi"},
            "t",
            "a",
        )
        assert (await rig.decided(first))[0] == "pin_start slot-empty"
        await rig.clock.sleep(30)
        await runner.end(first.id)
        await rig.clock.sleep(0.9)
        assert live(await pinned(rig.broker)) == [(2, 1), (3, 1)]
        (state,) = await pins(rig)
        assert (state.running, state.slots[0].state) == (2, "backing_off")
        await rig.clock.sleep(1)
        await all_run(rig, 3)
        assert live(await pinned(rig.broker)) == [(1, 2), (2, 1), (3, 1)]
        (state,) = await pins(rig)
        assert (state.id, state.running) == ("lobby", 3)
        assert [(each.slot, each.state, each.generation) for each in state.slots] == [
            (1, "running", 2),
            (2, "running", 1),
            (3, "running", 1),
        ]

    play(scenario)


@pytest.mark.parametrize("count", [1, 0, None])
def test_what_is_beyond_a_pin_is_stopped_in_order(count: int | None) -> None:
    """Lowered or deleted: the surplus is told to end, and isn't replaced; raised again, ids go on where they were."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner(slots=9)
        await rig.decree(pins=(pin(3),))
        await all_run(rig, 3)
        await rig.decree(pins=() if count is None else (pin(count),))
        await rig.clock.sleep(1)
        left = count or 0
        sessions = await pinned(rig.broker)
        assert [each.state for each in sessions] == [State.READY] * left + [State.ENDING] * (3 - left)
        stopped = sessions[left:]
        assert {(each.reason, each.ended_by) for each in stopped} == {("unpinned", "scheduler")}
        assert (await rig.decided(stopped[0]))[-1] == "pin_stop unpinned"
        for each in stopped:
            await runner.end(each.id)
        await rig.clock.sleep(20)
        assert live(await pinned(rig.broker)) == [(slot, 1) for slot in range(1, left + 1)]
        await rig.decree(pins=(pin(2),))
        await all_run(rig, 2)
        wanted = {1: [(1, 1), (2, 2)], 0: [(1, 2), (2, 2)]}
        if count is not None:
            assert live(await pinned(rig.broker)) == wanted[count]

    play(scenario)


def test_a_suspended_tenants_pin_keeps_what_runs_and_gets_nothing_new() -> None:
    """Its sessions go on; one that ends is followed by another only when the tenant is resumed."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner(slots=9)
        await rig.decree(pins=(pin(2),))
        await all_run(rig, 2)
        await rig.decree(pins=(pin(2),), suspended=("t",))
        first, _ = await pinned(rig.broker)
        await runner.end(first.id)
        await rig.clock.sleep(20)
        assert live(await pinned(rig.broker)) == [(2, 1)]
        await rig.decree(pins=(pin(2),), suspended=("somebody-else",))
        await all_run(rig, 2)
        assert live(await pinned(rig.broker)) == [(1, 2), (2, 1)]

    play(scenario)


def test_a_bot_that_fails_each_time_is_backed_off_from_and_given_up() -> None:
    """1, 2 and 4 s, then no more, with the reason; a change of the pin tries again."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=9)
        await rig.decree(pins=(pin(1),))
        gaps: list[float] = []
        for generation in range(1, 5):
            began = rig.clock.monotonic()
            await all_run(rig, 1)
            gaps.append(rig.clock.monotonic() - began)
            (*_, session) = await pinned(rig.broker)
            assert place(session) == (1, generation)
            await crash(rig.ledger, session)
        await rig.clock.sleep(100)
        assert [round(gap) for gap in gaps[1:]] == [1, 2, 4]
        assert len(await pinned(rig.broker)) == 4
        (slot,) = (await pins(rig))[0].slots
        assert (slot.state, slot.failures, slot.session_id) == ("given_up", 4, None)
        assert slot.text == "given up: 4 failures within 60 s, last: bot-failed after 0 s; change the pin to try again"
        (*_, last) = await pinned(rig.broker)
        (*_, said) = await rig.decisions(last)
        assert (said.decision, said.reason, said.inputs["failures"]) == ("pin_give_up", "pin-given-up", 4)
        await rig.decree(pins=(pin(1, changed_at=at(1)),))
        await all_run(rig, 1)
        assert live(await pinned(rig.broker)) == [(1, 5)]

    play(scenario)


def test_a_lost_runner_is_no_failure_of_the_bot() -> None:
    """The session is replaced after a second, however often that happens."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.decree(pins=(pin(1, on_loss=OnLoss.NEVER),))
        for number in range(6):
            runner = await rig.runner(f"r{number}")
            await all_run(rig, 1)
            await runner.kill()

            async def gone() -> bool:
                return not live(await pinned(rig.broker)) or (await pinned(rig.broker))[-1].state is State.REQUESTED

            await rig.until(gone, every_s=0.25)
        assert {each.outcome for each in await pinned(rig.broker) if each.ended} == {Outcome.LOST}
        assert (await pins(rig))[0].slots[0].failures == 0

    play(scenario)


def test_a_leader_that_is_killed_leaves_as_many_as_there_should_be() -> None:
    """At whatever moment: the next one finds what was begun, and neither repeats nor forgets it."""

    async def scenario(rig: Rig) -> None:
        await rig.runner(slots=40)
        first = rig.scheduler("one")
        await rig.clock.sleep(1)
        rig.scheduler("two")
        await rig.clock.sleep(1)
        await rig.decree(pins=(pin(20),))
        for _ in range(12):
            await first.broker._turn()
        await first.crash()
        await rig.clock.sleep(8)
        await all_run(rig, 20)
        assert live(await pinned(rig.broker)) == [(slot, 1) for slot in range(1, 21)]

    play(scenario)


def test_two_that_both_think_they_lead_ask_for_one_session_a_slot() -> None:
    """Each generation is begun by one write that only one of them gets through."""

    async def scenario(rig: Rig) -> None:
        schedulers = [rig.scheduler(name) for name in ("one", "two")]
        for each in schedulers:
            each.scheduler._leadership._subject += f"-{each.scheduler._leadership.holder}"
        await rig.runner(slots=40)
        await rig.clock.sleep(1)
        assert all(each.scheduler.leading for each in schedulers)
        await rig.decree(pins=(pin(4), pin(2, "hall")))
        for _ in range(4):
            await all_run(rig, 6)
            for session in await pinned(rig.broker):
                if not session.ended:
                    await crash(rig.ledger, session, "process-killed")
        await rig.clock.sleep(60)
        sessions = await pinned(rig.broker)
        assert max(Counter(each.id for each in sessions).values()) == 1
        assert len(sessions) == 6 * 4  # given up after four
        assert live(sessions) == []

    play(scenario)


def test_a_pin_outlives_a_broker_that_is_away_and_records_that_are_none() -> None:
    """What can't be kept isn't begun; what can't be read is written over, and no id is used twice."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner(slots=9)
        await rig.decree(pins=(pin(2),))
        await all_run(rig, 2)
        await rig.broker.append(subjects.POLICY.format(name="pins"), b"\xff")
        (session, _) = await pinned(rig.broker)
        await crash(rig.ledger, session)
        await rig.clock.sleep(5)
        await all_run(rig, 2)
        assert live(await pinned(rig.broker)) == [(1, 2), (2, 1)]
        kept = await rig.broker.last("POLICY", subjects.POLICY.format(name="pins"))
        assert kept is not None
        assert [each.generation for each in messages.decode(kept.data, PinRecords).records[0].slots] == [2, 1]
        running.broker.connected = False
        await crash(rig.ledger, (await pinned(rig.broker))[1])
        await rig.clock.sleep(30)
        assert live(await pinned(rig.broker)) == [(2, 1)]
        running.broker.connected = True
        await all_run(rig, 2)

    play(scenario)


def test_a_tenant_that_cannot_be_addressed_stops_no_scheduler() -> None:
    """Such a policy isn't applied; the one before it stays in force."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=9)
        await rig.decree(pins=(pin(1),))
        await all_run(rig, 1)
        await rig.decree(pins=(pin(1, tenant="no tenant"),))
        await rig.clock.sleep(3)
        assert live(await pinned(rig.broker)) == [(1, 1)]
        await rig.reach(await rig.request(), State.READY)

    play(scenario)
