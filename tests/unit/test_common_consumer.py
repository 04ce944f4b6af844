"""The consume loop in virtual time: what becomes of a message is what its handler did with it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import msgspec
import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common import messages
from greenroom.common.consumer import Consumer, Drop, Retry, malformed
from greenroom.common.errors import TopologyMissing
from greenroom.common.messages import Parked
from tests.support.consumer_world import NAME, STREAM, SUBJECT, World, consuming, decode, raising
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryBroker, _Pull


@pytest.fixture(autouse=True)
def _logs() -> Generator[None]:
    """Keep thousands of tracebacks off the terminal: to render one takes longer than to run a test."""
    with structlog.testing.capture_logs():
        yield


def test_what_is_handled_does_not_come_again() -> None:
    """Returning acknowledges the whole batch, in the order of the stream."""

    async def scenario() -> None:
        world = World()
        await world.publish(*"abcdefghijklm")
        async with consuming(world):
            await asyncio.sleep(120)
        assert [batch for _, batch in world.batches] == [list("abcdefghij"), list("klm")]
        assert (world.consumer.counts.handled, world.consumer.counts.batches, world.unsettled) == (13, 2, 0)

    run_virtual(scenario())


def test_a_retry_brings_all_again_and_is_no_failure() -> None:
    """After the time that the handler asked for, in the same order; nothing else is tried meanwhile."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(Retry(5), times=2)
        await world.publish("a", "b")
        async with consuming(world):
            await asyncio.sleep(1)
            await world.publish("c")
            await asyncio.sleep(60)
        times = [round(at) for at, _ in world.batches]
        assert times[:3] == [0, 5, 10]
        assert world.batches[1][1][:2] == ["a", "b"]
        counts = world.consumer.counts
        assert (counts.failed, counts.retried >= 4, counts.handled, world.unsettled) == (0, True, 3, 0)
        assert not await world.parked()

    run_virtual(scenario())


def test_a_retry_may_name_those_that_wait() -> None:
    """What it names comes again after a while, by itself; the rest of the batch is done and nothing else waits."""

    async def scenario() -> None:
        world = World()

        def verdict(batch: Sequence[str]) -> None:
            if "slow" in batch and asyncio.get_running_loop().time() < 10:
                raise Retry(2.0, only=[text for text in batch if text == "slow"])

        world.verdict = verdict
        await world.publish("a", "slow", "b")
        async with consuming(world):
            await asyncio.sleep(1)
            assert world.handled == {"a": 1, "b": 1, "slow": 1}
            assert world.unsettled == 1
            for text in "cdefgh":
                began = asyncio.get_running_loop().time()
                await world.publish(text)
                await asyncio.sleep(0.5)
                assert world.batches[-1][0] - began < 0.5
                assert text in world.handled
            await asyncio.sleep(10)
        assert world.unsettled == 0
        assert {text for text, times in world.handled.items() if times > 1} == {"slow"}
        assert (world.consumer.counts.handled, world.consumer.counts.failed) == (9, 0)
        assert world.consumer.counts.retried == world.handled["slow"] - 1
        assert await world.parked() == []

    run_virtual(scenario())


def test_a_drop_parks_the_message_as_it_was() -> None:
    """With the reason, where it came from, its headers and its body; it doesn't come again."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(Drop("no such session"))
        await world.publish("bad")
        async with consuming(world):
            await asyncio.sleep(120)
        (parked,) = await world.parked()
        assert (parked.stream, parked.subject, parked.stream_seq, parked.consumer) == (STREAM, SUBJECT, 1, NAME)
        assert (parked.reason, parked.payload, parked.headers) == ("no such session", b"bad", {"Gr-Test": "1"})
        assert world.handled == {"bad": 1}
        assert (world.consumer.counts.parked, world.unsettled) == (1, 0)

    run_virtual(scenario())


def test_one_poisonous_message_takes_nobody_with_it() -> None:
    """The batch is tried again in halves: the others are handled, only that one is parked."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(Drop("poison"), "d")
        await world.publish(*"abcdefgh")
        async with consuming(world):
            await asyncio.sleep(120)
        assert [parked.payload for parked in await world.parked()] == [b"d"]
        tried = ["".join(batch) for _, batch in world.batches]
        assert tried == ["abcdefgh", "abcd", "ab", "cd", "c", "d", "efgh"]
        assert (world.consumer.counts.handled, world.consumer.counts.parked, world.unsettled) == (7, 1, 0)

    run_virtual(scenario())


def test_poison_and_an_outage_at_once() -> None:
    """While the poisonous message is looked for, what is needed goes away: the rest waits, and nothing is lost."""

    async def scenario() -> None:
        world = World()
        away = True

        def verdict(batch: Sequence[str]) -> None:
            if len(batch) > 1 and "b" in batch:
                raise Drop("poison")
            if batch == ["b"]:
                raise Drop("poison")
            if away:
                raise Retry(5)

        world.verdict = verdict
        await world.publish(*"abcdefgh")
        async with consuming(world):
            await asyncio.sleep(11)
            assert len(world.batches) <= 12, "each look costs the handler: not one for every message"
            away = False
            await asyncio.sleep(8)  # long before the broker would bring by itself what nobody settled
        assert [parked.payload for parked in await world.parked()] == [b"b"]
        assert (world.consumer.counts.handled, world.unsettled) == (7, 0)

    run_virtual(scenario())


def test_anything_else_comes_again_with_growing_delays() -> None:
    """Half a second, one, two, … half a minute at most; each time it is counted."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(RuntimeError("oops"))
        await world.publish("a")
        async with consuming(world):
            await asyncio.sleep(150)
        times = [at for at, _ in world.batches]
        gaps = [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)]
        assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        assert world.consumer.counts.failed == len(times)
        assert not await world.parked()

    run_virtual(scenario())


def test_what_comes_behind_a_failure_waits_with_it() -> None:
    """At first it is likely that all need the same thing: nothing else is tried until the next try."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(RuntimeError("oops"), times=2)
        await world.publish("a")
        async with consuming(world):
            await asyncio.sleep(0.1)
            await world.publish("b")
            await asyncio.sleep(5)
        assert world.batches[:2] == [(0, ["a"]), (0.5, ["a", "b"])]
        assert [round(at, 1) for at, _ in world.batches] == [0, 0.5, 1.5]

    run_virtual(scenario())


def test_delays_stay_bounded_however_often_it_failed() -> None:
    """A thousand tries in, the loop still runs: nobody is there at night to start it again."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(RuntimeError("oops"))
        await world.publish("a")
        async with consuming(world):
            await asyncio.sleep(1200 * 30)
            assert world.handled["a"] > 1100
            world.verdict = lambda _: None
            await asyncio.sleep(40)
        assert (world.consumer.counts.handled, world.unsettled) == (1, 0)

    run_virtual(scenario())


@pytest.mark.parametrize("bad", ["d", "abc", "bcdefgh"])
def test_a_message_that_always_fails_does_not_hold_up_the_others(bad: str) -> None:
    """Nobody foresaw what it does to the handler: after some tries together each is tried alone.

    Several in a row look like an outage for a while; those behind them come to their turn all the same.
    """

    async def scenario() -> None:
        world = World()
        world.verdict = raising(RuntimeError("a mistake of ours"), *bad)
        await world.publish(*"abcdefgh")
        async with consuming(world):
            for text in "uvwxyz":
                await asyncio.sleep(1)
                await world.publish(text)
            await asyncio.sleep(60)
            assert world.consumer.counts.handled == 14 - len(bad)
            published_at: dict[str, float] = {}
            for number in range(100):
                published_at[f"later {number}"] = asyncio.get_running_loop().time()
                await world.publish(f"later {number}")
                await asyncio.sleep(1)
        handled_at = {text: at for at, batch in world.batches for text in batch}
        assert max(handled_at[text] - at for text, at in published_at.items()) < 5
        assert world.unsettled == len(bad)
        assert not await world.parked()

    run_virtual(scenario())


def test_an_outage_is_told_from_messages_that_fail() -> None:
    """When one after the other fails alone, the rest isn't tried; when it is over, everything is handled."""

    async def scenario() -> None:
        world = World()
        world.verdict = raising(RuntimeError("the database is away, and nobody said so"))
        await world.publish(*(f"{number}" for number in range(10)))
        async with consuming(world):
            await asyncio.sleep(60)
            alone = Counter(at for at, batch in world.batches if len(batch) == 1)
            assert max(alone.values()) <= 3
            world.verdict = lambda _: None
            await asyncio.sleep(31)
        assert (world.consumer.counts.handled, world.unsettled) == (10, 0)

    run_virtual(scenario())


def test_what_does_not_decode_is_parked() -> None:
    """Without bothering the handler, and without holding up what is beside it."""

    async def scenario() -> None:
        world = World()
        await world.publish("a", b"\xff", "b")
        async with consuming(world):
            await asyncio.sleep(5)
        assert [batch for _, batch in world.batches] == [["a", "b"]]
        (parked,) = await world.parked()
        assert (parked.payload, parked.reason) == (b"\xff", "malformed: invalid start byte")

    run_virtual(scenario())


def test_a_message_that_decode_chokes_on_ends_nothing() -> None:
    """It is counted and comes again, less and less often; the others are handled."""

    async def scenario() -> None:
        world = World()
        await world.publish("a", b"explode", "b")
        async with consuming(world):
            await asyncio.sleep(60)
            await world.publish("c")
            await asyncio.sleep(10)
        assert world.handled == {"a": 1, "b": 1, "c": 1}
        assert 5 <= world.consumer.counts.failed <= 10
        assert world.unsettled == 1

    run_virtual(scenario())


def test_a_batch_of_nothing_but_malformed_messages_is_none() -> None:
    """The handler isn't called with an empty batch."""

    async def scenario() -> None:
        world = World()
        await world.publish(b"\xff", b"\xfe")
        async with consuming(world):
            await asyncio.sleep(5)
        assert not world.batches
        assert len(await world.parked()) == 2

    run_virtual(scenario())


def test_it_outlasts_an_outage_of_the_broker() -> None:
    """From the start on: it waits for the broker, goes on when it is back, and what wasn't acknowledged comes again."""

    async def scenario() -> None:
        world = World()
        await world.publish("a")
        world.broker.connected = False
        async with consuming(world):
            await asyncio.sleep(30)
            assert not world.batches
            world.broker.connected = True
            await asyncio.sleep(1)
            assert world.handled == {"a": 1}
            world.verdict = lambda _: setattr(world.broker, "connected", False)
            await world.publish("b")
            await asyncio.sleep(5)
            world.verdict = lambda _: None
            world.broker.connected = True
            await asyncio.sleep(60)
        assert world.handled == {"a": 1, "b": 2}
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_cannot_be_parked_now_is_parked_later() -> None:
    """It isn't given up as long as the broker doesn't have it; and it is parked once."""

    async def scenario() -> None:
        world = World()

        def verdict(_: Sequence[str]) -> None:
            world.broker.connected = False
            raise Drop("poison")

        world.verdict = verdict
        await world.publish("bad")
        async with consuming(world):
            await asyncio.sleep(10)
            assert not await world.parked()
            world.verdict = raising(Drop("poison"))
            world.broker.connected = True
            world.broker.lose_acks = 1
            await asyncio.sleep(60)
        assert [parked.payload for parked in await world.parked()] == [b"bad"]
        assert (world.consumer.counts.parked, world.unsettled) == (1, 0)

    run_virtual(scenario())


def test_without_its_consumer_it_says_so_at_the_start() -> None:
    """The topology is missing: waiting wouldn't help."""

    async def scenario() -> None:
        consumer = Consumer(MemoryBroker(), STREAM, "nobody", decode=decode, handle=World().handle)
        with pytest.raises(TopologyMissing):
            await consumer.run()

    run_virtual(scenario())


def test_malformed_is_a_drop_that_names_the_field() -> None:
    """What decoders raise for whatever msgspec refuses."""
    with pytest.raises(msgspec.ValidationError) as caught:
        messages.decode(b'{"stream": 1}', Parked)
    drop = malformed(caught.value)
    assert drop.reason.startswith("malformed: ")
    assert "$.stream" in drop.reason


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["fine", "poison", "fails twice", "fails", "undecodable", "retried"]), min_size=1, max_size=25
    )
)
def test_every_message_gets_its_own_verdict_whatever_is_beside_it(kinds: list[str]) -> None:
    """Handled once, parked once, or still tried: in any mixture nothing is lost, and nothing handled twice."""

    async def scenario() -> None:
        world = World()
        seen: Counter[str] = Counter()
        done: Counter[str] = Counter()

        def verdict(batch: Sequence[str]) -> None:
            seen.update(batch)
            for text in batch:
                if text.startswith("poison"):
                    raise Drop("poison")
                if text.startswith("retried") and seen[text] < 3:
                    raise Retry(0.5)
                if text.startswith("fails twice") and seen[text] < 3:
                    raise RuntimeError(text)
                if text.startswith("fails ") and not text.startswith("fails twice"):
                    raise RuntimeError(text)
            done.update(batch)

        world.verdict = verdict
        texts = [f"{kind} {number}" for number, kind in enumerate(kinds)]
        await world.publish(*(b"\xff" if text.startswith("undecodable") else text for text in texts))
        async with consuming(world):
            await asyncio.sleep(1200)
        kept = {text for text in texts if text.split()[0] in {"fine", "retried"} or text.startswith("fails twice")}
        assert done == dict.fromkeys(kept, 1)
        assert len(await world.parked()) == sum(kind in {"poison", "undecodable"} for kind in kinds)
        assert world.unsettled == kinds.count("fails")

    run_virtual(scenario())


def test_of_several_that_work_at_once_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is handled at once, however long others take; what comes seldom is asked for once and not by all."""
    asked = 0
    fetch = _Pull.fetch

    async def count(pull: _Pull, max_messages: int, wait_s: float, *, max_bytes: int | None = None) -> Any:
        nonlocal asked
        asked += 1
        return await fetch(pull, max_messages, wait_s, max_bytes=max_bytes)

    monkeypatch.setattr(_Pull, "fetch", count)

    async def scenario() -> None:
        world = World()
        handled: list[tuple[str, int]] = []
        loop = asyncio.get_running_loop()

        async def handle(batch: Sequence[str]) -> None:
            handled.extend((text, round(loop.time())) for text in batch)
            await asyncio.sleep(5)

        turn = asyncio.Lock()
        consumers = [
            Consumer(world.broker, STREAM, NAME, decode=decode, handle=handle, max_batch=1, turn=turn) for _ in range(4)
        ]
        running = [asyncio.create_task(consumer.run()) for consumer in consumers]
        await asyncio.sleep(9.5)
        assert asked == 10
        await world.publish("a", "b", "c")
        await asyncio.sleep(1)
        assert handled == [("a", 10), ("b", 10), ("c", 10)]
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    run_virtual(scenario())
