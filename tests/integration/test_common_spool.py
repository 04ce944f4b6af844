"""The spool on NATS, across kills of the server."""

import asyncio

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Broker
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.spool import Spool
from greenroom.devtools.embedded.nats import EmbeddedNats

EVENT = subjects.SESSION_EVENT.format(tenant="acme", session_id="s1", type="note")


async def stored(broker: Broker) -> list[int]:
    """Return the numbers that the stream holds, in its order."""
    reader = await broker.read("SESSIONS", [EVENT], after=0)
    numbers: list[int] = []
    async with asyncio.timeout(10):
        async for message in reader:
            numbers.append(int(message.data))
            if reader.caught_up.is_set():
                break
    await reader.close()
    return numbers


async def test_everything_arrives_once_and_in_order_though_the_server_is_killed(own_nats: EmbeddedNats) -> None:
    """Killed twice in the middle of the stream, and restarted: nothing is lost, doubled or overtaken."""
    broker = await NatsBroker.connect(own_nats.url, name="test-spool")
    await topology_admin.apply(broker)
    spool = Spool(broker)
    running = asyncio.create_task(spool.run())
    count = 6000

    async def speak() -> None:
        for number in range(count):
            assert spool.put(EVENT, str(number).encode().ljust(2000), msg_id=f"m{number}")
            if number % 20 == 0:
                await asyncio.sleep(0.002)

    async with asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            group.create_task(speak())
            for kept in (800, 3000):
                while spool.published < kept:
                    await asyncio.sleep(0)
                await own_nats.kill()
                await asyncio.sleep(0.1)
                await own_nats.start()
        # Not after the time-out of an acknowledgement that will never come: as soon as the server is there again.
        assert await spool.flush(5) == 0
    running.cancel()
    assert await stored(broker) == list(range(count))
    assert (spool.published, spool.dropped) == (count, 0)
    await broker.close()


async def test_what_the_server_never_takes_does_not_block(nats_url: str) -> None:
    """Larger than the stream takes, or than the server: dropped and counted, and the connection stands."""
    broker = await NatsBroker.connect(nats_url, name="test-spool")
    await topology_admin.apply(broker)
    spool = Spool(broker)
    limit = broker.client.max_payload
    for number, size in enumerate((10, 600 * 1024, 10, limit, 10, limit + 1, 10)):
        assert spool.put(EVENT, str(number).encode().ljust(size), msg_id=f"m{number}", headers={"Gr-Epoch": "1"})
    running = asyncio.create_task(spool.run())
    assert await spool.flush(5) == 0
    running.cancel()
    assert await stored(broker) == [0, 2, 4, 6]
    assert (spool.published, spool.dropped) == (4, 3)
    assert broker.client.stats["reconnects"] == 0
    await broker.close()


async def test_without_the_stream_it_waits_for_it(nats_url: str) -> None:
    """A stream whose leader has died looks like one that isn't there: nothing is dropped for that."""
    broker = await NatsBroker.connect(nats_url, name="test-spool")
    spool = Spool(broker)
    running = asyncio.create_task(spool.run())
    for number in range(3):
        spool.put(EVENT, str(number).encode(), msg_id=f"m{number}")
    assert await spool.flush(0.5) == 3
    await topology_admin.apply(broker)
    assert await spool.flush(5) == 0
    assert await stored(broker) == [0, 1, 2]
    running.cancel()
    await broker.close()
