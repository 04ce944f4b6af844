"""The contract of `greenroom.common.broker.Broker`, on the memory broker and on a real NATS server.

What is built on the memory one in tests is thereby known to meet the same behaviour in earnest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from greenroom.common import topology_admin
from greenroom.common.broker import (
    Broker,
    Message,
    MessageTooLarge,
    NoResponder,
    Reader,
    RequestTimeout,
    WrongLastSequence,
)
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.memory_broker import MemoryBroker, MemoryServer

LEDGER = "gr.v1.session.t.one.lifecycle"
OTHER = "gr.v1.session.t.two.lifecycle"
EVENT = "gr.v1.session.t.one.event.user_spoke"
ALL_LEDGERS = "gr.v1.session.*.*.lifecycle"
AUDIO = "gr.v1.session.t.one.audio.user"

type Connect = Callable[[], Awaitable[Broker]]


@pytest.fixture(params=["memory", "nats"])
def server(request: pytest.FixtureRequest) -> MemoryServer | str:
    """Return a memory server, or the address of a real one."""
    return MemoryServer() if request.param == "memory" else request.getfixturevalue("nats_url")


@pytest.fixture
async def connect(server: MemoryServer | str) -> AsyncIterator[Connect]:
    """Yield a function that makes connections to one server."""
    opened: list[MemoryBroker | NatsBroker] = []

    async def connect() -> Broker:
        if isinstance(server, MemoryServer):
            opened.append(server.connect())
        else:
            opened.append(await NatsBroker.connect(server, name="contract", timeout_s=5))
        return opened[-1]

    try:
        await connect()
        if isinstance(opened[0], NatsBroker):
            await topology_admin.apply(opened[0])
        yield connect
    finally:
        for broker in opened:
            await broker.close()


@pytest.fixture
async def broker(connect: Connect) -> Broker:
    """Return one connection."""
    return await connect()


async def take(reader: Reader, count: int) -> list[Message]:
    """Return the next `count` messages of a reader."""
    taken: list[Message] = []
    async with asyncio.timeout(10):
        async for message in reader:
            taken.append(message)
            if len(taken) == count:
                break
    return taken


async def settle() -> None:
    """Give what must not happen the time to happen."""
    await asyncio.sleep(0.1)


# ---------------------------------------------------------------------------- core messaging


async def test_a_message_reaches_all_who_listen_on_a_matching_subject(connect: Connect) -> None:
    """`*` stands for one token, `>` for one or more; whoever listens elsewhere hears nothing."""
    broker, other = await connect(), await connect()
    heard: list[tuple[str, str]] = []

    def note(name: str) -> Callable[[Message], Awaitable[None]]:
        async def handler(message: Message) -> None:
            heard.append((name, message.subject))

        return handler

    for pattern in ("a.b.c", "a.*.c", "a.>", "a.*", "b.>"):
        await other.subscribe(pattern, note(pattern))
    await settle()
    await broker.publish("a.b.c", b"")
    await settle()
    assert sorted(heard) == [("a.*.c", "a.b.c"), ("a.>", "a.b.c"), ("a.b.c", "a.b.c")]


async def test_a_subscription_is_served_in_order_and_one_at_a_time(broker: Broker) -> None:
    """The second message waits until the handler is through with the first, even if it failed."""
    running, most, heard = 0, 0, list[bytes]()

    async def handler(message: Message) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        heard.append(message.data)
        running -= 1
        if message.data == b"1":
            raise RuntimeError("a handler that fails")

    await broker.subscribe("work", handler)
    await settle()
    for number in range(5):
        await broker.publish("work", str(number).encode(), {"Number": str(number)})
    async with asyncio.timeout(10):
        while len(heard) < 5:
            await asyncio.sleep(0.01)
    assert heard == [b"0", b"1", b"2", b"3", b"4"]
    assert most == 1


async def test_one_of_a_queue_group_gets_a_message(connect: Connect) -> None:
    """Members of a queue group share the messages; who is in no group gets all."""
    broker = await connect()
    shared: list[bytes] = []
    alone: list[bytes] = []

    async def share(message: Message) -> None:
        shared.append(message.data)

    async def listen(message: Message) -> None:
        alone.append(message.data)

    for _ in range(3):
        await (await connect()).subscribe("work", share, queue="workers")
    await (await connect()).subscribe("work", listen)
    await settle()
    for number in range(10):
        await broker.publish("work", str(number).encode())
    await settle()
    assert sorted(shared) == sorted(alone) == [str(number).encode() for number in range(10)]


async def test_an_unsubscribed_handler_hears_nothing(broker: Broker) -> None:
    """After `unsubscribe` nothing is delivered any more; a second one is no error."""
    heard: list[bytes] = []

    async def handler(message: Message) -> None:
        heard.append(message.data)

    subscription = await broker.subscribe("work", handler)
    await settle()
    await broker.publish("work", b"before")
    await settle()
    await subscription.unsubscribe()
    await broker.publish("work", b"after")
    await settle()
    assert heard == [b"before"]
    await subscription.unsubscribe()  # once more does no harm


async def test_a_request_gets_the_answer(connect: Connect) -> None:
    """Body and headers go there, the responder's answer comes back."""
    broker, service = await connect(), await connect()
    seen: list[Message] = []

    async def responder(message: Message) -> bytes:
        seen.append(message)
        return message.data.upper()

    await service.serve("svc.shout", responder)
    await settle()
    reply = await broker.request("svc.shout", b"hello", timeout_s=2, headers={"traceparent": "00-x"})
    assert reply.data == b"HELLO"
    assert seen[0].headers["traceparent"] == "00-x"


async def test_a_request_that_nobody_listens_to_fails_at_once(broker: Broker) -> None:
    """There is no waiting for the deadline when nobody is there."""
    async with asyncio.timeout(1):
        with pytest.raises(NoResponder):
            await broker.request("svc.nobody", b"", timeout_s=30)


async def test_a_request_without_an_answer_times_out(connect: Connect) -> None:
    """A responder that hangs or raises is no answer."""
    broker, service = await connect(), await connect()

    async def responder(_: Message) -> bytes:
        raise RuntimeError("a responder that fails")

    await service.serve("svc.broken", responder)
    await settle()
    with pytest.raises(RequestTimeout):
        await broker.request("svc.broken", b"", timeout_s=0.2)


# ---------------------------------------------------------------------------- streams


async def test_append_returns_growing_sequences_and_last_the_last(broker: Broker) -> None:
    """`last` gives the last message of just that subject, with its headers, sequence and time."""
    first = await broker.append(LEDGER, b"1")
    second = await broker.append(LEDGER, b"2", headers={"Gr-Seq": "2"}, msg_id="id-2")
    third = await broker.append(OTHER, b"3")
    assert first < second < third
    last = await broker.last("SESSIONS", LEDGER)
    assert last is not None
    assert (last.data, last.stream_seq, last.subject) == (b"2", second, LEDGER)
    assert dict(last.headers) == {"Gr-Seq": "2", "Nats-Msg-Id": "id-2"}
    assert last.at is not None
    assert last.at.tzinfo is not None
    assert await broker.last("SESSIONS", "gr.v1.session.t.none.lifecycle") is None


async def test_append_compares_the_last_sequence_of_its_subject(broker: Broker) -> None:
    """0 means that there is none; what others write on other subjects doesn't matter."""
    first = await broker.append(LEDGER, b"1", expected_last=0)
    with pytest.raises(WrongLastSequence):
        await broker.append(LEDGER, b"again", expected_last=0)
    await broker.append(OTHER, b"elsewhere", expected_last=0)
    second = await broker.append(LEDGER, b"2", expected_last=first)
    for stale in (0, first, second + 10):
        with pytest.raises(WrongLastSequence):
            await broker.append(LEDGER, b"stale", expected_last=stale)
    assert await broker.count("SESSIONS", LEDGER) == 2


async def test_one_of_many_concurrent_writers_wins(connect: Connect) -> None:
    """Of ten that expect the same sequence, one is stored and nine learn that they lost."""
    brokers = [await connect() for _ in range(10)]
    results = await asyncio.gather(
        *(broker.append(LEDGER, b"x", expected_last=0) for broker in brokers), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, WrongLastSequence) for result in results) == 9


async def test_a_repeated_id_is_stored_once(broker: Broker) -> None:
    """Without an expected sequence the earlier message's sequence comes back, whatever came since."""
    first = await broker.append(EVENT, b"1", msg_id="one")
    await broker.append(EVENT, b"2", msg_id="two")
    assert await broker.append(EVENT, b"1", msg_id="one") == first
    assert await broker.count("SESSIONS", EVENT) == 2


async def test_the_expected_sequence_is_checked_before_the_id(broker: Broker) -> None:
    """A try that is repeated as it was finds itself in its way: whoever repeats must look who that is."""
    first = await broker.append(LEDGER, b"1", msg_id="one", expected_last=0)
    with pytest.raises(WrongLastSequence):
        await broker.append(LEDGER, b"1", msg_id="one", expected_last=0)
    assert await broker.append(LEDGER, b"1", msg_id="one", expected_last=first) == first
    assert await broker.count("SESSIONS", LEDGER) == 1


async def test_who_listens_hears_what_the_stream_rejects(connect: Connect) -> None:
    """A core subscription on a stream's subject gets every try, won or lost: it must look at the stream itself."""
    broker, other = await connect(), await connect()
    heard: list[bytes] = []

    async def handler(message: Message) -> None:
        heard.append(message.data)

    await other.subscribe(LEDGER, handler)
    await settle()
    await broker.append(LEDGER, b"won", expected_last=0)
    with pytest.raises(WrongLastSequence):
        await broker.append(LEDGER, b"lost", expected_last=0)
    await settle()
    assert heard == [b"won", b"lost"]


async def test_pipelined_appends_are_stored_in_order(broker: Broker) -> None:
    """A thousand are under way at once; sequences grow in the order of the calls, repeats return the earlier one."""
    futures = [
        await broker.append_soon(EVENT, str(number).encode(), msg_id=f"id-{number}", headers={"Gr-Seq": str(number)})
        for number in range(1000)
    ]
    sequences = await asyncio.gather(*futures)
    assert sequences == sorted(set(sequences))
    again = await broker.append_soon(EVENT, b"7", msg_id="id-7")
    assert await again == sequences[7]
    assert await broker.count("SESSIONS", EVENT) == 1000


async def test_a_subject_without_a_stream_cannot_be_appended_to(broker: Broker) -> None:
    """The error says that the topology is at fault."""
    with pytest.raises(TopologyMissing):
        await broker.append("nowhere.at.all", b"")
    with pytest.raises(TopologyMissing):
        await broker.read("NOWHERE", ["nowhere.>"])
    with pytest.raises(TopologyMissing):
        await broker.pull("SESSIONS", "nobody")
    with pytest.raises(TopologyMissing):
        await broker.count("NOWHERE", "nowhere.>")


async def test_what_is_too_large_is_refused_for_good(broker: Broker) -> None:
    """That is no outage: nobody may try it again and again."""
    with pytest.raises(MessageTooLarge):
        await broker.append(LEDGER, bytes(600 * 1024))
    future = await broker.append_soon(EVENT, bytes(600 * 1024), msg_id="large")
    with pytest.raises(MessageTooLarge):
        await future
    assert await broker.count("SESSIONS", "gr.v1.session.t.one.>") == 0


async def test_a_stream_with_one_message_a_subject_keeps_the_last(broker: Broker) -> None:
    """That is how claims, tickets and answers are kept."""
    first = await broker.append("gr.v1.leader.x", b"1", expected_last=0)
    await broker.append("gr.v1.leader.x", b"2", expected_last=first)
    assert await broker.count("LEADERS", "gr.v1.leader.x") == 1
    last = await broker.last("LEADERS", "gr.v1.leader.x")
    assert last is not None
    assert last.data == b"2"


async def test_purge_and_count_take_wildcards_and_a_limit(broker: Broker) -> None:
    """A purge up to a sequence takes that one too and leaves what came later; other subjects stay."""
    for _ in range(3):
        await broker.append(EVENT, b"event")
    middle = await broker.append(LEDGER, b"1")
    await broker.append(EVENT, b"event")
    await broker.append(OTHER, b"other")
    assert await broker.count("SESSIONS", "gr.v1.session.t.one.>") == 5
    await broker.purge("SESSIONS", "gr.v1.session.t.one.>", up_to=middle)
    assert await broker.count("SESSIONS", "gr.v1.session.t.one.>") == 1
    await broker.purge("SESSIONS", "gr.v1.session.t.one.>")
    assert await broker.count("SESSIONS", "gr.v1.session.t.one.>") == 0
    assert await broker.count("SESSIONS", "gr.v1.session.*.*.lifecycle") == 1
    assert await broker.last("SESSIONS", LEDGER) is None
    await broker.append(LEDGER, b"anew", expected_last=0)


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
        assert (await other.request("svc.echo", b"hello", timeout_s=2)).data == b"hello"
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
