"""The publisher of the policy: what PostgreSQL says is what the schedulers get, soon and never backwards."""

import asyncio
from typing import Any, cast, override

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.api.policy import POLL_S, STREAM, SUBJECT, PolicyPublisher
from greenroom.api.policy_store import PolicyStore, PolicyUnusable
from greenroom.common import messages
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable
from greenroom.common.metrics import Metrics
from greenroom.common.policy import Policy
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer

# What is promised: a change is applied within this.
APPLIED_S = 2.0


class Database(PolicyStore):
    """A policy that is changed by setting its revision, and a database that may be away or in disorder."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None))
        self.at = 0
        self.trouble: Exception | None = None
        self.slow_s = 0.0

    @override
    async def revision(self) -> int:
        if self.trouble is not None:
            raise self.trouble
        return self.at

    @override
    async def policy(self) -> Policy:
        policy = Policy(revision=await self.revision(), weights={"acme": 2.0})
        await asyncio.sleep(self.slow_s)
        return policy


def publisher(broker: MemoryBroker, database: Database) -> PolicyPublisher:
    """Return an instance's publisher."""
    return PolicyPublisher(broker, database, Metrics(), clock=LoopClock())


async def published(broker: MemoryBroker) -> int | None:
    """Return the revision that the schedulers have."""
    message = await broker.last(STREAM, SUBJECT)
    return messages.decode(message.data, Policy).revision if message else None


async def test_a_newer_policy_is_published_once() -> None:
    """What is published already isn't published again, and before anything is decided nothing is."""
    broker, database = MemoryBroker(), Database()
    one = publisher(broker, database)
    assert not await one.publish()
    assert await published(broker) is None
    database.at = 7
    assert await one.publish()
    assert not await one.publish()
    assert await published(broker) == one.current.revision == 7
    assert one.current.weights == {"acme": 2.0}


async def test_another_instance_knows_what_is_published() -> None:
    """Also an instance that publishes nothing itself has the policy that holds."""
    server, database = MemoryServer(), Database()
    database.at = 3
    assert await publisher(server.connect(), database).publish()
    other = publisher(server.connect(), database)
    assert not await other.publish()
    assert other.current.revision == 3


async def test_a_database_that_was_restored_takes_nothing_back() -> None:
    """A revision that is older than the published one isn't published; the next that is newer is."""
    broker, database = MemoryBroker(), Database()
    one = publisher(broker, database)
    database.at = 9
    await one.publish()
    database.at = 4
    assert not await one.publish()
    assert await published(broker) == 9
    database.at = 10
    assert await one.publish()


async def test_what_is_no_policy_is_written_over() -> None:
    """Nonsense on the subject doesn't keep the policy from being published."""
    broker, database = MemoryBroker(), Database()
    await broker.append(SUBJECT, b"nonsense")
    database.at = 1
    assert await publisher(broker, database).publish()
    assert await published(broker) == 1


def test_a_policy_that_can_not_be_used_leaves_the_last_one() -> None:
    """While a row is none, the schedulers go on as before, and the status says why."""

    async def scenario() -> None:
        broker, database = MemoryBroker(), Database()
        database.at = 1
        one = publisher(broker, database)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.1)
        database.at, database.trouble = 2, PolicyUnusable("schedules[0].zone")
        await asyncio.sleep(APPLIED_S)
        assert (await published(broker), one.problem) == (1, "policy-unusable")
        database.trouble = None
        await asyncio.sleep(APPLIED_S)
        assert (await published(broker), one.problem) == (2, None)
        running.cancel()

    run_virtual(scenario())


@given(changes=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=8), phases=st.lists(st.floats(0.0, 1.0), max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_change_is_published_with_the_next_look(changes: list[float], phases: list[float]) -> None:
    """Whenever PostgreSQL is changed, whoever changes it, each change is with the schedulers within two seconds."""

    async def scenario() -> None:
        server, database = MemoryServer(), Database()
        async with asyncio.TaskGroup() as tasks:
            running: list[asyncio.Task[None]] = []
            for phase in [0.0, *phases]:
                await asyncio.sleep(phase)
                running.append(tasks.create_task(publisher(server.connect(), database).run()))
            for gap_s in changes:
                await asyncio.sleep(gap_s)
                database.at += 1
                wanted = database.at
                await asyncio.sleep(APPLIED_S)
                found = await published(server.connect())
                assert found is not None
                assert found >= wanted
            for task in running:
                task.cancel()

    run_virtual(scenario())


def test_a_change_over_the_api_is_published_at_once() -> None:
    """The instance that made it doesn't wait for its next look."""

    async def scenario() -> None:
        broker, database = MemoryBroker(), Database()
        running = asyncio.create_task(publisher(broker, database).run())
        await asyncio.sleep(0.5)
        database.at += 1
        database.changed.set()
        await asyncio.sleep(0.05)
        assert await published(broker) == 1
        running.cancel()

    run_virtual(scenario())


@pytest.mark.parametrize("away", ["broker", "database"])
def test_while_something_is_away_it_is_tried_again(away: str) -> None:
    """An outage is a line in the status and ends by itself."""

    async def scenario() -> None:
        broker, database = MemoryBroker(), Database()
        one = publisher(broker, database)
        running = asyncio.create_task(one.run())
        if away == "broker":
            broker.connected = False
        else:
            database.trouble = DatabaseUnavailable()
        database.at = 1
        await asyncio.sleep(30)
        expected = BrokerUnavailable.code if away == "broker" else DatabaseUnavailable.code
        assert one.problem == expected
        broker.connected, database.trouble = True, None
        await asyncio.sleep(POLL_S + 0.1)
        assert (await published(broker), one.problem) == (1, None)
        running.cancel()

    run_virtual(scenario())


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["change", "slow", "quick", "lose"])), max_size=25),
)
@settings(max_examples=60, deadline=None)
def test_instances_at_once_never_take_a_policy_back(steps: list[tuple[int, str]]) -> None:
    """However slow each is with what it has read, the published revision only grows, and ends as the database's."""

    async def scenario() -> None:
        server, database = MemoryServer(), Database()
        brokers = [server.connect() for _ in range(3)]
        one_each = [publisher(broker, database) for broker in brokers]
        seen = 0
        async with asyncio.TaskGroup() as tasks:
            for which, step in steps:
                match step:
                    case "change":
                        database.at += 1
                    case "lose":
                        # Stored, but the instance doesn't hear of it.
                        brokers[which].lose_acks = 1
                    case _:
                        database.slow_s = 0.3 if step == "slow" else 0.0
                tasks.create_task(one_each[which]._look())
                await asyncio.sleep(0.1)
                now = await published(brokers[0]) or 0
                assert now >= seen
                seen = now
        database.slow_s = 0.0
        await one_each[0]._look()
        await one_each[0]._look()
        assert (await published(brokers[0]) or 0) == database.at

    run_virtual(scenario())
