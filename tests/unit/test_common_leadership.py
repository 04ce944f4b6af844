"""Leadership in virtual time: who leads, for how long, and who is next."""

import asyncio

import pytest

from greenroom.common import messages
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.leadership import SILENCE_S, Leadership
from greenroom.common.messages import LeaderClaim
from tests.support.leadership_club import NAME, SUBJECT, Club, Hanging, Slow
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def test_exactly_one_of_many_leads() -> None:
    """For as long as nothing happens it is the same one, and all know who it is."""

    async def scenario() -> None:
        club = Club(*"abcde")
        leader = await club.leader(within_s=0.5)
        term = leader.leadership.term
        for _ in range(120):
            await asyncio.sleep(1)
            assert club.leading == [leader.leadership.holder]
        assert {member.leadership.leader for member in club.members.values()} == {leader.leadership.holder}
        assert leader.leadership.term == term == 1
        assert len(club.notes) == 1

    run_virtual(scenario())


def test_a_crashed_leader_is_followed_within_3_5_seconds() -> None:
    """Whenever in the second between two renewals it dies."""

    async def scenario(dies_after_s: float) -> None:
        club = Club("a", "b", "c")
        first = await club.leader()
        await asyncio.sleep(5 + dies_after_s)
        died = now()
        first.crash()
        second = await club.leader(other_than=first.leadership.holder)
        assert now() - died <= 3.5
        assert now() - died >= SILENCE_S - 1.0 - 0.01
        assert second.leadership.term == 2
        await asyncio.sleep(5)
        assert club.leading == [second.leadership.holder]

    for tenths in range(11):
        run_virtual(scenario(tenths / 10))


def test_a_leader_that_leaves_is_followed_at_once() -> None:
    """It says that it goes, so nobody waits for its silence."""

    async def scenario() -> None:
        club = Club("a", "b")
        first = await club.leader()
        await asyncio.sleep(4.3)
        left = now()
        await first.leave()
        assert first.task.cancelled()
        assert first.leadership.leader is None
        await club.leader(other_than=first.leadership.holder)
        assert now() - left <= 0.15

    run_virtual(scenario())


def test_a_leader_whose_work_is_done_leaves() -> None:
    """`run` returns when `lead` returns, and the next one begins."""

    async def scenario() -> None:
        club = Club()
        done = asyncio.Event()

        async def lead() -> None:
            await done.wait()

        first = Leadership(club.server.connect(), NAME, "first", clock=LoopClock())
        running = asyncio.create_task(first.run(lead))
        await asyncio.sleep(1)
        club.members["second"] = club.join("second")
        await asyncio.sleep(5)
        assert not club.leading
        done.set()
        await running
        assert not first.leading
        await club.leader(within_s=0.15)

    run_virtual(scenario())


def test_an_error_of_the_work_is_told_and_leadership_released() -> None:
    """Who runs it hears of the error; the next one takes over at once."""

    async def scenario() -> None:
        club = Club()

        async def lead() -> None:
            await asyncio.sleep(2)
            raise ValueError("a mistake")

        first = Leadership(club.server.connect(), NAME, "first", clock=LoopClock())
        running = asyncio.create_task(first.run(lead))
        await asyncio.sleep(1)
        club.members["second"] = club.join("second")
        with pytest.raises(ValueError, match="a mistake"):
            await running
        failed = now()
        await club.leader()
        assert now() - failed <= 0.15

    run_virtual(scenario())


def test_a_leader_that_is_cut_off_stops_before_the_next_one_begins() -> None:
    """Within 3 s of its last renewal, whether its calls fail at once or hang; its work is canceled."""

    async def scenario(broker: MemoryBroker, cut_after_s: float) -> None:
        club = Club()
        broker.server = club.server
        club.members["first"] = club.join("first", broker)
        first = await club.leader()
        club.members["second"] = club.join("second")
        await asyncio.sleep(5 + cut_after_s)
        cut = now()
        broker.connected = False
        await club.leader(other_than="first")
        (ended,) = club.times("first", "ends")
        (begun,) = club.times("second", "begins")
        assert not first.leadership.leading
        assert ended - cut <= SILENCE_S
        assert ended <= begun
        assert begun - cut <= 3.5

    for tenths in range(0, 11, 2):
        run_virtual(scenario(MemoryBroker(), tenths / 10))
        run_virtual(scenario(Hanging(), tenths / 10))


def test_a_slow_answer_does_not_make_a_claim_any_younger() -> None:
    """Others count from when it was stored, so its holder counts from when it was sent."""

    async def scenario() -> None:
        club = Club()
        broker = Slow(club.server, 0.9)
        club.members["first"] = club.join("first", broker)
        await club.leader()
        club.members["second"] = club.join("second")
        await asyncio.sleep(20)
        assert club.leading == ["first"]
        broker.connected = False
        await club.leader(other_than="first")
        assert club.times("first", "ends")[0] <= club.times("second", "begins")[0]

    run_virtual(scenario())


def test_a_short_outage_changes_nothing() -> None:
    """The broker is away for two and a half seconds: the leader leads on, and its work isn't disturbed."""

    async def scenario(begins_after_s: float) -> None:
        club = Club()
        for holder in "abc":
            club.members[holder] = club.join(holder, Slow(club.server, 0.02))
        leader = await club.leader()
        await asyncio.sleep(5.1 + begins_after_s)  # it renews each 1.02 s
        for member in club.members.values():
            member.broker.connected = False
        await asyncio.sleep(2.5)
        for member in club.members.values():
            member.broker.connected = True
        await asyncio.sleep(10)
        assert club.leading == [leader.leadership.holder]
        assert len(club.notes) == 1

    for tenths in range(4):
        run_virtual(scenario(tenths / 10))


def test_who_was_cut_off_stands_by_again() -> None:
    """Back on the network it follows the one who leads now, and takes over from it in its turn."""

    async def scenario() -> None:
        club = Club("a", "b")
        first = await club.leader()
        second = next(member for member in club.members.values() if member is not first)
        first.broker.connected = False
        await club.leader(other_than=first.leadership.holder)
        first.broker.connected = True
        await asyncio.sleep(10)
        assert club.leading == [second.leadership.holder]
        assert first.leadership.leader == second.leadership.holder
        await second.leave()
        assert await club.leader(within_s=0.15) is first
        assert first.leadership.term == 3

    run_virtual(scenario())


def test_who_stands_by_and_was_cut_off_gives_the_leader_its_time() -> None:
    """What it couldn't hear says nothing about the leader: it doesn't take over on its return."""

    async def scenario() -> None:
        club = Club("a", "b")
        first = await club.leader()
        second = next(member for member in club.members.values() if member is not first)
        await asyncio.sleep(2)
        second.broker.connected = False
        await asyncio.sleep(30)
        second.broker.connected = True
        await asyncio.sleep(10)
        assert club.leading == [first.leadership.holder]
        assert len(club.notes) == 1

    run_virtual(scenario())


def test_an_outage_for_all_changes_the_leader_at_most() -> None:
    """Nobody leads without the broker for longer than 3 s, and somebody leads as soon as it is back."""

    async def scenario() -> None:
        club = Club("a", "b", "c")
        await club.leader()
        for member in club.members.values():
            member.broker.connected = False
        await asyncio.sleep(SILENCE_S + 0.1)
        assert not club.leading
        await asyncio.sleep(20)
        for member in club.members.values():
            member.broker.connected = True
        await club.leader(within_s=0.15)
        await asyncio.sleep(10)
        assert len(club.leading) == 1

    run_virtual(scenario())


def test_a_lost_acknowledgement_costs_nobody_the_lead() -> None:
    """A claim that was stored without its writer hearing of it is the writer's own: it goes on from there."""

    async def scenario() -> None:
        club = Club("a")
        leader = await club.leader()
        for _ in range(5):
            leader.broker.lose_acks = 1
            await asyncio.sleep(2.5)
            assert club.leading == ["a"]
        assert len(club.notes) == 1
        assert leader.leadership.term == 1
        club.members["b"] = club.join("b")
        leader.broker.lose_acks = 1
        await asyncio.sleep(1)
        left = now()
        await leader.leave()
        await club.leader(other_than="a")
        assert now() - left <= 0.15

    run_virtual(scenario())


def test_a_process_that_comes_back_under_its_name_leads_again_at_once() -> None:
    """It needn't wait for its own old claim to run out; the term says that it is another life."""

    async def scenario() -> None:
        club = Club("a", "b")
        old = await club.leader()
        await asyncio.sleep(1.5)
        old.crash()
        again = club.join(old.leadership.holder)
        await asyncio.sleep(0.05)
        assert again.leadership.leading
        assert again.leadership.term == 2

    run_virtual(scenario())


def test_what_somebody_else_wrote_there_is_written_over() -> None:
    """A message that is no claim doesn't keep the place for ever."""

    async def scenario() -> None:
        club = Club()
        await club.server.connect().append(SUBJECT, b"hello")
        club.members["a"] = club.join("a")
        await club.leader(within_s=0.2)

    run_virtual(scenario())


def test_without_the_stream_nobody_stands_by_in_vain() -> None:
    """The topology is missing: whoever runs it must be told."""

    async def scenario() -> None:
        leadership = Leadership(MemoryBroker(MemoryServer((), ())), NAME, "a", clock=LoopClock())
        with pytest.raises(TopologyMissing):
            async with asyncio.timeout(5):
                await leadership.run(asyncio.Event().wait)  # pyright: ignore[reportArgumentType] - it is never called

    run_virtual(scenario())


def test_a_claim_says_who_leads_and_since_which_term() -> None:
    """Anybody can read it in the stream."""

    async def scenario() -> None:
        club = Club("a")
        leader = await club.leader()
        message = await club.server.connect().last("LEADERS", SUBJECT)
        assert message is not None
        claim = messages.decode(message.data, LeaderClaim)
        assert (claim.holder, claim.term, claim.released) == ("a", 1, False)
        await leader.leave()
        message = await club.server.connect().last("LEADERS", SUBJECT)
        assert message is not None
        assert messages.decode(message.data, LeaderClaim).released

    run_virtual(scenario())


def test_leaving_without_a_broker_takes_two_seconds_at_most() -> None:
    """A process that must end doesn't wait for a broker that is away."""

    async def scenario() -> None:
        club = Club()
        broker = Hanging(club.server)
        club.members["a"] = club.join("a", broker)
        leader = await club.leader()
        broker.connected = False
        left = now()
        await leader.leave()
        assert now() - left <= 2.0
        with pytest.raises(BrokerUnavailable):
            await broker.last("LEADERS", SUBJECT)

    run_virtual(scenario())
