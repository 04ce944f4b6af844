"""The consume loop on NATS."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

import pytest

from greenroom.common import messages, subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.consumer import Consumer, Drop, Retry
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.messages import Parked
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats

SUBJECT = subjects.SESSION_AUDIO.format(tenant="acme", session_id="s1", track="user")
PARKED = subjects.PARKED.format(stream="AUDIO")


class Handler:
    """Takes note of what it was given, and finds some of it poisonous."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.retries = 0

    async def __call__(self, batch: Sequence[bytes]) -> None:
        """Handle a batch."""
        if self.retries:
            self.retries -= 1
            raise Retry(0.2)
        if any(data.startswith(b"poison") for data in batch):
            raise Drop("poison")
        self.seen.update(batch)


def body(message: Message) -> bytes:
    """Return the body of a message."""
    return message.data


@pytest.fixture
async def broker(nats_url: str) -> AsyncGenerator[NatsBroker]:
    """A connection to a server with the streams of the topology."""
    connection = await NatsBroker.connect(nats_url, name="test-consumer")
    await topology_admin.apply(connection)
    yield connection
    await connection.close()


def consumer(broker: NatsBroker, handler: Handler) -> Consumer[bytes]:
    """Return a consumer of AUDIO."""
    return Consumer(broker, "AUDIO", "recorder-audio", decode=body, handle=handler, max_batch=50, max_wait_s=0.1)


async def empty(broker: NatsBroker, *, within_s: float) -> None:
    """Wait until everything in AUDIO is settled."""
    async with asyncio.timeout(within_s):
        while await broker.count("AUDIO", SUBJECT):
            await asyncio.sleep(0.02)


async def test_handled_retried_and_parked(broker: NatsBroker) -> None:
    """A work queue is empty once each message is handled or parked; what was retried was handled once."""
    handler = Handler()
    handler.retries = 1
    texts = [f"{number}".encode() for number in range(120)]
    for text in (*texts, b"poison"):
        await broker.append(SUBJECT, text, headers={"Gr-Seq": "1"})
    running = consumer(broker, handler)
    task = asyncio.create_task(running.run())
    await empty(broker, within_s=10)
    task.cancel()
    assert handler.seen == dict.fromkeys(texts, 1)
    assert (running.counts.handled, running.counts.parked, running.counts.failed) == (120, 1, 0)
    assert running.counts.retried == 50
    kept = await broker.last("PARKED", PARKED)
    assert kept is not None
    parked = messages.decode(kept.data, Parked)
    assert (parked.payload, parked.headers["Gr-Seq"], parked.stream_seq) == (b"poison", "1", 121)


async def test_it_outlasts_a_killed_server(own_nats: EmbeddedNats) -> None:
    """Everything is handled at least once, and the poisonous message is parked once, across a kill in the middle."""
    broker = await NatsBroker.connect(own_nats.url, name="test-consumer")
    await topology_admin.apply(broker)
    handler = Handler()
    texts = [f"{number}".encode() for number in range(300)]
    for future in [await broker.append_soon(SUBJECT, text, msg_id=text.decode()) for text in (*texts, b"poison")]:
        await future
    running = consumer(broker, handler)
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(5):
        while len(handler.seen) < 100:
            await asyncio.sleep(0)
    await own_nats.kill()
    await asyncio.sleep(0.3)
    await own_nats.start()
    while not broker.connected:
        await asyncio.sleep(0.02)
    await broker.append(SUBJECT, b"later", msg_id="later")
    async with asyncio.timeout(10):
        while len(handler.seen) < 301 or not running.counts.parked:
            await asyncio.sleep(0.02)
    task.cancel()
    assert set(handler.seen) == {*texts, b"later"}
    assert await broker.count("PARKED", PARKED) == 1
    await broker.close()


async def test_a_consumer_that_is_taken_away_and_made_anew(broker: NatsBroker) -> None:
    """Whoever waits on it is told at once; once it is there again, the same pull goes on."""
    pull = await broker.pull("AUDIO", "recorder-audio")
    waiting = asyncio.create_task(pull.fetch(10, 30))
    await asyncio.sleep(0.2)
    await broker.client.jetstream().delete_consumer("AUDIO", "recorder-audio")
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(10):
            await waiting
    with pytest.raises(BrokerUnavailable):
        await pull.fetch(10, 1)
    await topology_admin.apply(broker)
    await broker.append(SUBJECT, b"x")
    (delivery,) = await pull.fetch(10, 5)
    assert delivery.message.data == b"x"
    await pull.close()
