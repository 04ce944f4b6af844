"""The contract of the broker, on the memory one and on a real NATS server: ordered readers, durable consumers.

What is built on the memory one in tests is thereby known to meet the same behaviour in earnest.
"""

import asyncio
from typing import Any

import pytest

from greenroom.common.broker import (
    Broker,
)
from tests.support.broker_contract import ALL_LEDGERS, AUDIO, EVENT, LEDGER, OTHER, Connect, settle, take

# ---------------------------------------------------------------------------- ordered readers


async def test_a_reader_of_the_last_per_subject_goes_on_with_what_comes(connect: Connect) -> None:
    """First the last message of each subject, in stream order; then everything as it is written."""
    broker, writer = await connect(), await connect()
    await writer.append(LEDGER, b"one.1")
    await writer.append(OTHER, b"two.1")
    await writer.append(EVENT, b"not asked for")
    await writer.append(LEDGER, b"one.2")
    reader = await broker.read("SESSIONS", [ALL_LEDGERS], last_per_subject=True)
    assert not reader.caught_up.is_set()
    first = await take(reader, 2)
    assert [message.data for message in first] == [b"two.1", b"one.2"]
    assert [message.pending for message in first] == [1, 0]
    assert reader.caught_up.is_set()
    await writer.append(OTHER, b"two.2")
    await writer.append(OTHER, b"two.3")
    assert [message.data for message in await take(reader, 2)] == [b"two.2", b"two.3"]
    await reader.close()


async def test_a_reader_from_a_position_gets_all_behind_it(broker: Broker) -> None:
    """`after` is a sequence that was read; 0 is the beginning. Several subjects come in one order."""
    sequences = [await broker.append(subject, b"x") for subject in (LEDGER, EVENT, OTHER, EVENT)]
    reader = await broker.read("SESSIONS", [LEDGER, EVENT], after=0)
    assert [message.stream_seq for message in await take(reader, 3)] == [sequences[0], sequences[1], sequences[3]]
    await reader.close()
    reader = await broker.read("SESSIONS", ["gr.v1.session.>"], after=sequences[1])
    assert [message.stream_seq for message in await take(reader, 2)] == sequences[2:]
    await reader.close()


async def test_a_reader_of_what_is_new_begins_with_the_next(broker: Broker) -> None:
    """Nothing of what was there before is read, and it has caught up from the start."""
    await broker.append(LEDGER, b"old")
    reader = await broker.read("SESSIONS", [ALL_LEDGERS])
    assert reader.caught_up.is_set()
    sequence = await broker.append(LEDGER, b"new", headers={"Gr-Seq": "1"}, msg_id="m")
    (message,) = await take(reader, 1)
    assert (message.data, message.stream_seq, message.subject) == (b"new", sequence, LEDGER)
    assert (message.headers["Gr-Seq"], message.headers["Nats-Msg-Id"]) == ("1", "m")
    assert message.at is not None
    await reader.close()


@pytest.mark.parametrize("start", [{"last_per_subject": True}, {"after": 0}], ids=["last", "after"])
async def test_a_reader_of_nothing_has_caught_up_at_once(broker: Broker, start: dict[str, Any]) -> None:
    """Whoever waits for it before going on isn't held up by an empty stream."""
    reader = await broker.read("SESSIONS", [ALL_LEDGERS], **start)
    async with asyncio.timeout(2):
        await reader.caught_up.wait()
    await reader.close()


async def test_a_closed_reader_ends_its_iteration(broker: Broker) -> None:
    """Whoever iterates gets out of the loop, also when it is closed from outside."""
    reader = await broker.read("SESSIONS", [ALL_LEDGERS], last_per_subject=True)
    iteration = asyncio.create_task(take(reader, 1))
    await settle()
    await reader.close()
    async with asyncio.timeout(5):
        assert await iteration == []


async def test_a_reader_passes_over_what_was_purged(broker: Broker) -> None:
    """Messages that are gone leave no hole that would stop it."""
    sequences = [await broker.append(EVENT, str(number).encode()) for number in range(4)]
    await broker.purge("SESSIONS", EVENT, up_to=sequences[1])
    reader = await broker.read("SESSIONS", [EVENT], after=0)
    assert [message.stream_seq for message in await take(reader, 2)] == sequences[2:]
    assert reader.caught_up.is_set()
    await reader.close()


async def test_a_slow_reader_misses_nothing(connect: Connect) -> None:
    """A burst larger than what is buffered on the way still arrives whole and in order."""
    broker, writer = await connect(), await connect()
    reader = await broker.read("SESSIONS", [EVENT], after=0)
    futures = [await writer.append_soon(EVENT, bytes(1024), msg_id=str(number)) for number in range(3000)]
    sequences = await asyncio.gather(*futures)
    await settle()
    assert [message.stream_seq for message in await take(reader, 3000)] == sequences
    await reader.close()


# ---------------------------------------------------------------------------- durable consumers


async def test_a_fetch_returns_what_is_there_up_to_a_number(broker: Broker) -> None:
    """In stream order, without waiting for a batch to be full; empty when nothing comes in time."""
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    assert not await pull.fetch(10, 0.1)
    sequences = [await broker.append(EVENT, str(number).encode()) for number in range(5)]
    first = list(await pull.fetch(3, 2))
    while len(first) < 3:
        first += await pull.fetch(3 - len(first), 2)
    rest = list(await pull.fetch(10, 2))
    while len(rest) < 2:
        rest += await pull.fetch(10, 2)
    assert [delivery.message.stream_seq for delivery in first + rest] == sequences
    assert {delivery.message.deliveries for delivery in first} == {1}
    await pull.close()


async def test_a_fetch_waits_for_the_first_message(connect: Connect) -> None:
    """What is written while it waits is returned at once."""
    broker, writer = await connect(), await connect()
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    fetch = asyncio.create_task(pull.fetch(10, 5))
    await settle()
    await writer.append(EVENT, b"x")
    async with asyncio.timeout(1):
        (delivery,) = await fetch
    assert delivery.message.data == b"x"
    await pull.close()


async def test_a_fetch_stays_within_its_bytes(broker: Broker) -> None:
    """However many messages it asks for; what is left comes with the next ones, in order, and nothing is lost."""
    sequences = [await broker.append(EVENT, bytes(100_000)) for _ in range(10)]
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    batches: list[list[int]] = []
    async with asyncio.timeout(20):
        while sum(map(len, batches)) < 10:
            batches.append([each.message.stream_seq for each in await pull.fetch(10, 1, max_bytes=350_000)])
    assert [seq for batch in batches for seq in batch] == sequences
    assert max(map(len, batches)) == 3
    await pull.close()


async def test_a_message_larger_than_the_bytes_of_a_fetch_comes_alone(broker: Broker) -> None:
    """Nothing is held up for ever by a bound that is too small."""
    sequences = [await broker.append(EVENT, bytes(size)) for size in (200_000, 10, 10)]
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    found: list[int] = []
    async with asyncio.timeout(20):
        while len(found) < 3:
            batch = await pull.fetch(10, 1, max_bytes=50_000)
            assert found or len(batch) == 1
            found += [each.message.stream_seq for each in batch]
    assert found == sequences
    await pull.close()


async def test_a_fetch_that_waits_leaves_nothing_behind(connect: Connect) -> None:
    """Messages that come one by one while it waits come with this fetch or the next, each once and in order."""
    broker, writer = await connect(), await connect()
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    sequences: list[int] = []

    async def write() -> None:
        for _ in range(40):
            sequences.append(await writer.append(EVENT, b"x"))
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(write())
    found: list[int] = []
    async with asyncio.timeout(20):
        while len(found) < 40:
            found += [each.message.stream_seq for each in await pull.fetch(5, 0.02, max_bytes=1_000_000)]
    await writing
    assert found == sequences
    await pull.close()


async def test_what_is_acknowledged_does_not_come_again_and_what_is_not_does(connect: Connect) -> None:
    """The position is the consumer's, not the connection's: another one goes on where the first was."""
    broker, other = await connect(), await connect()
    for number in range(3):
        await broker.append(EVENT, str(number).encode())
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    deliveries = list(await pull.fetch(3, 2))
    assert len(deliveries) == 3
    await deliveries[0].ack()
    await deliveries[1].nak(0.0)
    await deliveries[2].nak(0.3)
    await settle()
    await pull.close()
    second = await other.pull("SESSIONS", "recorder-sessions")
    (again,) = await second.fetch(10, 2)
    assert (again.message.data, again.message.deliveries) == (b"1", 2)
    await again.ack()
    (late,) = await second.fetch(10, 2)
    assert (late.message.data, late.message.deliveries) == (b"2", 2)
    await late.ack()
    assert not await second.fetch(10, 0.1)
    await second.close()


async def test_what_is_acknowledged_together_does_not_come_again(connect: Connect) -> None:
    """A part of what was fetched is acknowledged in one piece; the other part is still to be decided on."""
    broker = await connect()
    for number in range(50):
        await broker.append(EVENT, str(number).encode(), headers={"Number": str(number)})
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    deliveries = await pull.fetch(50, 2)
    assert [each.message.headers["Number"] for each in deliveries] == [str(number) for number in range(50)]
    await pull.acknowledge(deliveries[10:])
    await pull.acknowledge([])
    for delivery in deliveries[:10]:
        await delivery.nak(0.0)
    await settle()
    again = await pull.fetch(50, 2)
    assert sorted(int(each.message.data) for each in again) == list(range(10))
    await pull.acknowledge(again)
    await settle()
    assert not await pull.fetch(50, 0.1)
    await pull.close()


async def test_a_work_queue_forgets_what_is_acknowledged(broker: Broker) -> None:
    """Audio is gone from the broker once the recorder has it, and not before."""
    await broker.append(AUDIO, b"pcm")
    pull = await broker.pull("AUDIO", "recorder-audio")
    (delivery,) = await pull.fetch(1, 2)
    assert await broker.count("AUDIO", AUDIO) == 1
    await delivery.ack()
    await settle()
    assert await broker.count("AUDIO", AUDIO) == 0
    await pull.close()
