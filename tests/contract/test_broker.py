"""The contract of the broker, on the memory one and on a real NATS server: messaging and streams.

What is built on the memory one in tests is thereby known to meet the same behaviour in earnest.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from greenroom.common.broker import (
    Broker,
    Message,
    MessageTooLarge,
    NoResponder,
    RequestTimeout,
    WrongLastSequence,
)
from greenroom.common.errors import TopologyMissing
from tests.support.broker_contract import EVENT, LEDGER, OTHER, Connect, settle

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


async def test_a_message_is_deleted_by_its_sequence(broker: Broker) -> None:
    """One message goes, those around it stay, and one that is gone already is as good as deleted."""
    first, second, third = [await broker.append(EVENT, body) for body in (b"1", b"2", b"3")]
    for _ in range(2):
        await broker.delete("SESSIONS", second)
    reader = await broker.read("SESSIONS", [EVENT], after=0)
    found: list[int] = []
    async for message in reader:
        found.append(message.stream_seq)
        if reader.caught_up.is_set():
            break
    await reader.close()
    assert found == [first, third]


async def test_messages_are_counted_by_subject_unless_there_are_too_many_subjects(broker: Broker) -> None:
    """All of the stream count for that, also those that don't match."""
    for subject in (EVENT, EVENT, LEDGER, OTHER):
        await broker.append(subject, b"message")
    one = "gr.v1.session.t.one.>"
    assert await broker.count_by_subject("SESSIONS", one, most=3) == {EVENT: 2, LEDGER: 1}
    assert await broker.count_by_subject("SESSIONS", one, most=2) is None
    assert await broker.count_by_subject("SESSIONS", "gr.v1.session.t.nobody.>", most=3) == {}
    with pytest.raises(TopologyMissing):
        await broker.count_by_subject("NOWHERE", "nowhere.>", most=3)


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


async def test_what_the_ledger_has_stored_is_said_again_with_its_sequence(connect: Connect) -> None:
    """Once it is stored, and never what the stream refused: whoever hears it needn't read the ledger."""
    broker, other = await connect(), await connect()
    heard: list[tuple[str, bytes, str]] = []

    async def note(message: Message) -> None:
        heard.append((message.subject, message.data, message.headers["Nats-Sequence"]))

    await other.subscribe("gr.v1.stored.*.*", note)
    await settle()
    first = await broker.append(LEDGER, b"first", expected_last=0)
    with pytest.raises(WrongLastSequence):
        await broker.append(LEDGER, b"late", expected_last=0)
    await broker.append(EVENT, b"an event")
    second = await broker.append(LEDGER, b"second", expected_last=first)
    async with asyncio.timeout(10):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    await settle()
    _, _, _, tenant, session_id, _ = LEDGER.split(".")
    subject = f"gr.v1.stored.{tenant}.{session_id}"
    assert heard == [(subject, b"first", str(first)), (subject, b"second", str(second))]
