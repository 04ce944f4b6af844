"""How a consumer's batches are cut, in virtual time: by number, by bytes, and by waiting for others."""

import asyncio
import weakref
from collections.abc import Generator, Sequence

import pytest
import structlog.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenroom.common.broker import Message
from greenroom.common.consumer import Drop, Retry
from tests.support.consumer_world import NAME, STREAM, World, consuming, raising
from tests.support.leaping_time import run_virtual


@pytest.fixture(autouse=True)
def _logs() -> Generator[None]:
    with structlog.testing.capture_logs():
        yield


def test_a_message_waits_for_others() -> None:
    """What comes within the time is handled with it, in order, and not later than that."""

    async def scenario() -> None:
        world = World(linger_s=0.25)
        async with consuming(world):
            await asyncio.sleep(10)
            began = asyncio.get_running_loop().time()
            for text in "abc":
                await world.publish(text)
                await asyncio.sleep(0.1)
            await asyncio.sleep(10)
        ((at, batch),) = world.batches
        assert batch == ["a", "b", "c"]
        assert 0.25 <= at - began <= 0.4

    run_virtual(scenario())


def test_a_message_that_is_alone_waits_no_longer_than_the_time() -> None:
    """Nothing else comes: it is handled by itself."""

    async def scenario() -> None:
        world = World(linger_s=0.25)
        async with consuming(world):
            await world.publish("a")
            await asyncio.sleep(10)
        ((at, batch),) = world.batches
        assert batch == ["a"]
        assert at <= 0.4

    run_virtual(scenario())


def test_a_full_batch_waits_for_nobody() -> None:
    """Ten are there at once: they are handled at once, and the rest lingers."""

    async def scenario() -> None:
        world = World(linger_s=0.25)
        await world.publish(*"abcdefghijkl")
        async with consuming(world):
            await asyncio.sleep(10)
        (first_at, first), (_, rest) = world.batches
        assert (first_at, first, rest) == (0, list("abcdefghij"), ["k", "l"])

    run_virtual(scenario())


def test_a_batch_has_no_more_bytes_than_it_may() -> None:
    """However few messages that are; the others stay with the broker until their turn."""

    async def scenario() -> None:
        world = World(linger_s=0.25, max_batch_bytes=1_000_000)
        texts = [f"{number}" * 400_000 for number in range(5)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(10)
        assert [[text[0] for text in batch] for _, batch in world.batches] == [["0", "1"], ["2", "3"], ["4"]]
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_came_first_is_handled_though_the_broker_goes_while_it_lingers() -> None:
    """It is there already; the others come when the broker is back."""

    async def scenario() -> None:
        world = World(linger_s=0.25)
        async with consuming(world):
            await world.publish("a")
            await asyncio.sleep(0.1)
            world.broker.connected = False
            await world.publish("b")
            await asyncio.sleep(5)
            assert world.handled == {"a": 1}
            world.broker.connected = True
            await asyncio.sleep(60)
        assert world.handled["b"] == 1
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_is_put_back_while_others_linger_keeps_its_order() -> None:
    """A retry of a batch that lingered brings all of it again, in the order of the stream."""

    async def scenario() -> None:
        world = World(linger_s=0.25)
        world.verdict = raising(Retry(1), times=1)
        async with consuming(world):
            for text in "abcd":
                await world.publish(text)
                await asyncio.sleep(0.05)
            await asyncio.sleep(10)
        assert [batch for _, batch in world.batches] == [list("abcd"), list("abcd")]

    run_virtual(scenario())


def test_whoever_is_slow_leaves_the_rest_with_the_broker() -> None:
    """One batch is in hand, however much there is and however long it takes; then the next one, in order."""

    async def scenario() -> None:
        world = World(linger_s=0.25, max_batch_bytes=1_000_000)
        handled = world.consumer._handle
        most = 0

        async def slowly(batch: Sequence[str]) -> None:
            nonlocal most
            await asyncio.sleep(5)
            most = max(most, world.unsettled)
            await handled(batch)

        world.consumer._handle = slowly
        texts = [f"{number} ".ljust(150_000, ".") for number in range(40)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(120)
        assert most == 6
        assert [text for _, batch in world.batches for text in batch] == texts
        assert world.unsettled == 0

    run_virtual(scenario())


def test_the_next_batch_is_taken_while_one_is_handled() -> None:
    """Where more is waiting, two batches are in hand and no more, they are handled in order, and the last lingers."""

    async def scenario() -> None:
        world = World(linger_s=0.25, ahead=True)
        handled = world.consumer._handle
        in_hand: list[int] = []

        async def slowly(batch: Sequence[str]) -> None:
            await asyncio.sleep(5)
            in_hand.append(world.unsettled)
            await handled(batch)

        world.consumer._handle = slowly
        texts = [str(number) for number in range(35)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(120)
        assert in_hand == [20, 20, 15, 5]
        assert [text for _, batch in world.batches for text in batch] == texts
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_was_handled_is_let_go_of() -> None:
    """Piece by piece while the next batch is taken; when there is nothing more to take, nothing is left."""

    class Value(str):  # noqa: SLOT000 a text that can be watched
        """What a message decodes to."""

    async def scenario() -> None:
        world = World(ahead=True, max_batch=500)
        alive: weakref.WeakSet[Value] = weakref.WeakSet()
        seen: list[int] = []

        def decode(message: Message) -> str:
            value = Value(message.data.decode())
            alive.add(value)
            seen.append(len(alive))
            return value

        async def handle(_: Sequence[str]) -> None:
            await asyncio.sleep(1)

        world.consumer._decode = decode
        world.consumer._handle = handle
        await world.publish(*(str(number) for number in range(2000)))
        async with consuming(world):
            await asyncio.sleep(20)
            # One batch is handled, one is decoded, and of the one before not more is left than isn't decoded yet.
            assert max(seen) <= 3 * 500
            assert max(seen[1000:]) <= 2 * 500 + 100
            assert len(alive) == 0
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_was_taken_ahead_is_not_kept_from_others() -> None:
    """Whoever stops while a batch is handled puts back what it has taken ahead: another one has it at once."""

    async def scenario() -> None:
        world = World(ahead=True)
        hang = asyncio.Event()

        async def hangs(_: Sequence[str]) -> None:
            await hang.wait()

        world.consumer._handle = hangs
        await world.publish(*(str(number) for number in range(20)))
        task = asyncio.create_task(world.consumer.run())
        await asyncio.sleep(1)
        assert world.unsettled == 20
        task.cancel()
        await asyncio.wait({task})
        pull = await world.outside.pull(STREAM, NAME)
        taken = await pull.fetch(20, 0.1)
        assert [delivery.message.data for delivery in taken] == [b"%d" % number for number in range(10, 20)]

    run_virtual(scenario())


def test_what_was_taken_ahead_waits_with_what_failed() -> None:
    """While what the first batch needs is away, the second isn't tried; both come again, in order."""

    async def scenario() -> None:
        world = World(ahead=True)
        world.verdict = raising(Retry(3), times=1)
        texts = [str(number) for number in range(20)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(20)
        (first_at, first), (again_at, again), (_, second) = world.batches
        assert [first, again, second] == [texts[:10], texts[:10], texts[10:]]
        assert 3 <= again_at - first_at < 4

    run_virtual(scenario())


def test_what_is_being_decoded_ahead_comes_again_with_what_failed() -> None:
    """The first batch fails before the next one is decoded to its end: that one is put back as a whole."""

    async def scenario() -> None:
        world = World(ahead=True, max_batch=500)
        world.verdict = raising(Retry(3), times=1)
        texts = [str(number) for number in range(1000)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(20)
            (first_at, _), (again_at, again), (_, second) = world.batches
        assert [*again, *second] == texts
        assert 3 <= again_at - first_at < 4
        assert world.unsettled == 0

    run_virtual(scenario())


def test_what_takes_too_long_comes_in_smaller_batches() -> None:
    """Half as many each time, until they are handled; then more and more again, all in order."""

    async def scenario() -> None:
        world = World(max_batch=100)

        def slow(batch: Sequence[str]) -> None:
            if len(batch) > 30:
                raise Retry(3, fewer=True)

        world.verdict = slow
        texts = [str(number) for number in range(1000)]
        await world.publish(*texts)
        async with consuming(world):
            await asyncio.sleep(600)
            sizes = [len(batch) for _, batch in world.batches]
            assert sizes[:7] == [100, 50, 25, 27, 29, 31, 15]
            handled = [text for _, batch in world.batches if len(batch) <= 30 for text in batch]
            assert handled == texts
            # Nothing is slow any more.
            world.verdict = lambda _: None
            await world.publish(*texts)
            await asyncio.sleep(100)
        assert (world.consumer.at_once, world.unsettled) == (100, 0)

    run_virtual(scenario())


def test_one_among_many_is_found_in_few_tries() -> None:
    """Of 1,024 messages one is poisonous: nobody is tried alone but those beside it."""

    async def scenario() -> None:
        world = World(max_batch=1024)
        world.verdict = raising(Drop("poison"), "700")
        await world.publish(*(str(number) for number in range(1024)))
        async with consuming(world):
            await asyncio.sleep(20)
        assert len(world.batches) == 21
        assert (world.consumer.counts.handled, world.consumer.counts.parked, world.unsettled) == (1023, 1, 0)

    run_virtual(scenario())


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["publish", "cut off", "connect", "fail"]),
            st.integers(1, 700_000),
            st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.3, 2.0]),
        ),
        min_size=1,
        max_size=30,
    ),
    linger_s=st.sampled_from([0.0, 0.25, 0.5]),
    ahead=st.booleans(),
)
# The first one's acknowledgement is lost: it comes again behind later ones.
@example(
    steps=[("publish", 1, 0.25), ("cut off", 1, 0.25), *[("publish", 1, 0.25)] * 3, *[("publish", 1, 2.0)] * 4],
    linger_s=0.5,
    ahead=False,
)
def test_lingering_loses_nothing_and_keeps_the_order(
    steps: list[tuple[str, int, float]], linger_s: float, *, ahead: bool
) -> None:
    """Whatever comes when, of any size, over outages and retries: each is handled, and first handled in stream order.

    A batch is never larger than its bounds, unless it is one message.
    """

    async def scenario() -> None:
        world = World(linger_s=linger_s, max_batch_bytes=1_500_000, ahead=ahead)
        published: list[str] = []
        async with consuming(world):
            for kind, size, pause_s in steps:
                if kind == "publish":
                    published.append(f"{len(published)} ".ljust(min(size, 500_000), "."))
                    await world.publish(published[-1])
                elif kind == "fail":
                    world.verdict = raising(Retry(0.5), times=1)
                else:
                    world.broker.connected = kind == "connect"
                await asyncio.sleep(pause_s)
            world.broker.connected = True
            await asyncio.sleep(120)
        handled = [text for _, batch in world.batches for text in batch]
        assert list(dict.fromkeys(handled)) == published
        assert world.unsettled == 0
        for _, batch in world.batches:
            assert len(batch) == 1 or (len(batch) <= 10 and sum(map(len, batch)) <= 1_500_000)

    run_virtual(scenario())
