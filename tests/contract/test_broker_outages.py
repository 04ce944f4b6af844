"""The contract of the broker, on the memory one and on a real NATS server: outages.

What is built on the memory one in tests is thereby known to meet the same behaviour in earnest.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import pytest

from greenroom.common import topology_admin
from greenroom.common.broker import (
    Broker,
    Message,
    NoResponder,
)
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.broker_contract import ALL_LEDGERS, EVENT, LEDGER, OTHER, Connect, settle, take
from tests.support.memory_broker import MemoryServer

# ---------------------------------------------------------------------------- outages


async def test_every_call_of_a_closed_broker_says_that_it_is_unavailable(connect: Connect) -> None:
    """At once, so that the caller can decide what to do without the broker."""
    broker = await connect()
    await broker.append(LEDGER, b"1")
    await broker.close()  # pyright: ignore[reportAttributeAccessIssue] - both have it, the protocol doesn't ask for it
    assert not broker.connected
    calls: list[Awaitable[object]] = [
        broker.publish("a.b", b""),
        broker.request("a.b", b"", timeout_s=1),
        broker.append(LEDGER, b"2"),
        broker.append_soon(EVENT, b"2", msg_id="x"),
        broker.last("SESSIONS", LEDGER),
        broker.read("SESSIONS", [LEDGER]),
        broker.count("SESSIONS", LEDGER),
        broker.count_by_subject("SESSIONS", LEDGER, most=1),
        broker.purge("SESSIONS", LEDGER),
    ]
    for call in calls:
        with pytest.raises(BrokerUnavailable):
            await call


# ---------------------------------------------------------------------------- outages of a real server


@pytest.fixture
async def nats(own_nats: EmbeddedNats) -> EmbeddedNats:
    """Return a NATS server with the topology applied, which a test may kill."""
    broker = await NatsBroker.connect(own_nats.url, name="topology", timeout_s=5)
    await topology_admin.apply(broker)
    await broker.close()
    return own_nats


async def connected(broker: Broker, *, within_s: float) -> None:
    """Wait until a broker has found its server again."""
    async with asyncio.timeout(within_s):
        while not broker.connected:
            await asyncio.sleep(0.01)


async def answer(broker: Broker, subject: str, data: bytes, *, within_s: float) -> Message:
    """Return the answer to a request, once there is somebody who answers."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(NoResponder):
                return await broker.request(subject, data, timeout_s=2)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("start", [{"last_per_subject": True}, {"after": 0}, {}], ids=["last", "after", "new"])
async def test_readers_survive_a_killed_server(nats: EmbeddedNats, start: dict[str, Any]) -> None:
    """After kill -9 and a restart each reader goes on behind what it has read: no gap, no repeat."""
    broker = await NatsBroker.connect(nats.url, name="reader", timeout_s=5)
    writer = await NatsBroker.connect(nats.url, name="writer", timeout_s=5)
    try:
        sequences = [await writer.append(LEDGER, b"before the reader")]
        reader = await broker.read("SESSIONS", [ALL_LEDGERS], **start)
        expected = sequences if start else []
        for _ in range(2):
            written = [await writer.append(subject, b"x") for subject in (OTHER, LEDGER)]
            got = await take(reader, len(expected) + len(written))
            assert [message.stream_seq for message in got] == expected + written
            await nats.kill()
            with pytest.raises(BrokerUnavailable):
                await writer.append(LEDGER, b"while it is away", timeout_s=0.5)
            await nats.start()
            await connected(writer, within_s=5)
            expected = [await writer.append(LEDGER, b"after it came back")]
        assert [message.stream_seq for message in await take(reader, 1)] == expected
        await reader.close()
    finally:
        await broker.close()
        await writer.close()


async def test_a_reader_that_has_read_nothing_survives_a_killed_server(nats: EmbeddedNats) -> None:
    """Its place in the stream was fixed when it was opened: what is written before it is back isn't lost on it."""
    broker = await NatsBroker.connect(nats.url, name="reader", timeout_s=5)
    writer = await NatsBroker.connect(nats.url, name="writer", timeout_s=5)
    try:
        await writer.append(LEDGER, b"old")
        reader = await broker.read("SESSIONS", [ALL_LEDGERS])
        await nats.kill()
        await nats.start()
        await connected(writer, within_s=5)
        sequence = await writer.append(LEDGER, b"new")
        assert [message.stream_seq for message in await take(reader, 1)] == [sequence]
        await reader.close()
    finally:
        await broker.close()
        await writer.close()


async def test_subscriptions_and_pulls_survive_a_killed_server(nats: EmbeddedNats) -> None:
    """Subscriptions are made anew by themselves; a pull goes on with what isn't acknowledged."""
    broker = await NatsBroker.connect(nats.url, name="service", timeout_s=5)
    other = await NatsBroker.connect(nats.url, name="client", timeout_s=5)

    async def responder(message: Message) -> bytes:
        return message.data

    try:
        await broker.serve("svc.echo", responder)
        pull = await broker.pull("SESSIONS", "recorder-sessions")
        acknowledged = await other.append(EVENT, b"1")
        (delivery,) = await pull.fetch(1, 2)
        await delivery.ack()
        await settle()
        await nats.kill()
        with pytest.raises(BrokerUnavailable):
            await pull.fetch(1, 0.5)
        await nats.start()
        await connected(broker, within_s=5)
        await connected(other, within_s=5)
        assert (await answer(other, "svc.echo", b"hello", within_s=5)).data == b"hello"
        sequence = await other.append(EVENT, b"2")
        assert sequence > acknowledged
        (delivery,) = await pull.fetch(10, 5)
        assert delivery.message.stream_seq == sequence
        await pull.close()
    finally:
        await broker.close()
        await other.close()


# ---------------------------------------------------------------------------- outages of the memory broker


async def test_a_memory_broker_that_is_cut_off_loses_what_a_real_one_loses() -> None:
    """While it is away its subscriptions hear nothing and its pulls fail; its readers and pulls then go on."""
    server = MemoryServer()
    broker, other = server.connect(), server.connect()
    heard: list[bytes] = []

    async def handler(message: Message) -> None:
        heard.append(message.data)

    await broker.subscribe("work", handler)
    reader = await broker.read("SESSIONS", [EVENT], after=0)
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    await other.append(EVENT, b"1")
    assert [message.data for message in await take(reader, 1)] == [b"1"]
    broker.connected = False
    await other.publish("work", b"lost")
    await other.append(EVENT, b"2")
    with pytest.raises(BrokerUnavailable):
        await pull.fetch(1, 1)
    reading = asyncio.create_task(take(reader, 1))
    await settle()
    assert not reading.done()
    broker.connected = True
    await other.publish("work", b"heard")
    assert [message.data for message in await reading] == [b"2"]
    assert [delivery.message.data for delivery in await pull.fetch(2, 1)] == [b"1", b"2"]
    await settle()
    assert heard == [b"heard"]


async def test_a_memory_broker_can_lose_an_acknowledgement() -> None:
    """The message is stored, and whoever stored it doesn't know."""
    broker = MemoryServer().connect()
    broker.lose_acks = 1
    with pytest.raises(BrokerUnavailable):
        await broker.append(EVENT, b"1", msg_id="one")
    assert await broker.append(EVENT, b"1", msg_id="one") == 1
    assert await broker.count("SESSIONS", EVENT) == 1
