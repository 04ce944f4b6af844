"""The spool in virtual time: order, bounds, and what becomes of messages while the broker is away."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.errors import BrokerUnavailable
from greenroom.common.spool import Spool
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer

EVENT = "gr.v1.session.acme.s1.event.note"
AUDIO = "gr.v1.session.acme.s1.audio.user"
# What a message of 1,000 bytes takes of the bound.
SIZE = 1256


@asynccontextmanager
async def running(spool: Spool) -> AsyncGenerator[asyncio.Task[None]]:
    """Run the spool for the time of the block."""
    task = asyncio.create_task(spool.run())
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


def put_event(spool: Spool, name: str, size: int = 1000) -> bool:
    """Put something that isn't to be dropped."""
    return spool.put(EVENT, name.encode().ljust(size), msg_id=name)


def put_audio(spool: Spool, name: str, size: int = 1000) -> bool:
    """Put something that may be dropped."""
    return spool.put(AUDIO, name.encode().ljust(size), msg_id=name, headers={"Gr-Seq": name}, droppable=True)


def stored(server: MemoryServer, *streams: str) -> list[str]:
    """Return what the streams hold, each in its order."""
    return [
        message.data.decode().strip()
        for name in streams or ("SESSIONS", "AUDIO")
        for message in server.stream(name).messages.values()
    ]


def test_messages_are_published_in_order_with_their_headers() -> None:
    """A thousand put at once arrive in the order in which they were put, each under its id."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker)
        names = [f"e{number}" for number in range(1000)]
        for name in names:
            assert put_event(spool, name)
        assert put_audio(spool, "a0")
        assert len(spool) == 1001
        async with running(spool):
            assert await spool.flush(10) == 0
        assert stored(broker.server, "SESSIONS") == names
        (audio,) = broker.server.stream("AUDIO").messages.values()
        assert dict(audio.headers) == {"Gr-Seq": "a0", "Nats-Msg-Id": "a0"}
        assert (spool.published, spool.dropped, len(spool)) == (1001, 0, 0)

    run_virtual(scenario())


def test_putting_is_possible_at_any_time() -> None:
    """Before it runs, while it publishes, while the broker is away, and after everything was flushed."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker)
        put_event(spool, "before")
        async with running(spool):
            await spool.flush(1)
            put_event(spool, "after a flush")
            broker.connected = False
            put_event(spool, "while it is away")
            assert await spool.flush(5) == 2
            broker.connected = True
            put_event(spool, "when it is back")
            assert await spool.flush(5) == 0
        assert stored(broker.server) == ["before", "after a flush", "while it is away", "when it is back"]

    run_virtual(scenario())


def test_what_is_sent_again_is_stored_once() -> None:
    """An acknowledgement that got lost has the message sent again, and those behind it: the broker knows their ids."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker)
        broker.lose_acks = 3
        names = [f"e{number}" for number in range(20)]
        for name in names:
            put_event(spool, name)
        async with running(spool):
            assert await spool.flush(10) == 0
        assert stored(broker.server) == names
        assert spool.published == 20

    run_virtual(scenario())


def test_a_flush_ends_at_its_deadline() -> None:
    """And says how many messages are left; they are still there."""

    async def scenario() -> None:
        broker = MemoryBroker()
        broker.connected = False
        spool = Spool(broker)
        for number in range(3):
            put_event(spool, f"e{number}")
        began = asyncio.get_running_loop().time()
        async with running(spool):
            assert await spool.flush(2.5) == 3
            assert asyncio.get_running_loop().time() - began == pytest.approx(2.5)
            broker.connected = True
            assert await spool.flush(2.5) == 0

    run_virtual(scenario())


def test_a_flush_of_nothing_is_done_at_once() -> None:
    """Whether or not the spool runs."""

    async def scenario() -> None:
        assert await Spool(MemoryBroker()).flush(10) == 0
        assert asyncio.get_running_loop().time() < 1

    run_virtual(scenario())


def test_when_it_is_full_the_oldest_audio_makes_room() -> None:
    """Events stay, and so does the newest audio, in order."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker, max_bytes=6 * SIZE)
        for name in ("e1", "a1", "a2", "e2", "a3", "e3"):
            assert put_event(spool, name) if name.startswith("e") else put_audio(spool, name)
        assert put_event(spool, "e4")  # a1 goes
        assert put_audio(spool, "a4")  # a2 goes
        assert (spool.dropped, len(spool)) == (2, 6)
        async with running(spool):
            assert await spool.flush(1) == 0
        assert stored(broker.server) == ["e1", "e2", "e3", "e4", "a3", "a4"]

    run_virtual(scenario())


def test_events_are_refused_only_when_there_is_nothing_to_drop() -> None:
    """And refusing one drops nothing, whether it is audio that is refused or an event."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker, max_bytes=4 * SIZE)
        put_audio(spool, "a1")
        for number in range(3):
            put_event(spool, f"e{number}")
        assert not put_event(spool, "too large to make room for", size=3000)
        assert not put_event(spool, "larger than all", size=100_000)
        assert (len(spool), spool.dropped) == (4, 2)
        assert put_event(spool, "e3")
        assert not put_event(spool, "e4")
        assert not put_audio(spool, "a2")
        assert spool.dropped == 5
        async with running(spool):
            assert await spool.flush(1) == 0
            assert put_event(spool, "e5")
            assert await spool.flush(1) == 0
        assert stored(broker.server) == ["e0", "e1", "e2", "e3", "e5"]

    run_virtual(scenario())


def test_a_flood_of_empty_messages_is_bounded_too() -> None:
    """A message costs something beside its body."""
    spool = Spool(MemoryBroker(), max_bytes=100_000)
    accepted = sum(spool.put(EVENT, b"", msg_id=f"{number}") for number in range(1000))
    assert accepted == len(spool) == 100_000 // 256


def test_a_message_that_can_never_be_stored_does_not_block() -> None:
    """It is dropped and counted, wherever it is refused: by the stream, or before it is sent at all."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker)
        put_event(spool, "e1")
        put_event(spool, "large for the stream", size=600 * 1024)
        put_event(spool, "e2")
        async with running(spool):
            assert await spool.flush(5) == 0
        assert stored(broker.server) == ["e1", "e2"]
        assert (spool.published, spool.dropped) == (2, 1)

        refusing = Refusing(broker.server)
        spool = Spool(refusing)
        for name in ("e3", "refused", "e4"):
            put_event(spool, name)
        async with running(spool):
            assert await spool.flush(5) == 0
        assert stored(broker.server) == ["e1", "e2", "e3", "e4"]
        assert (spool.published, spool.dropped) == (2, 1)

    run_virtual(scenario())


class Refusing(MemoryBroker):
    """A connection that refuses one message before it is sent."""

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        if msg_id == "refused":
            await self.append(subject, bytes(600 * 1024))
        return await super().append_soon(subject, data, msg_id=msg_id, headers=headers)


class Flickering(MemoryBroker):
    """A connection that is lost and found again between two messages: what was sent last got lost."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.losses = {"e3", "e7"}

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        if msg_id in self.losses:
            self.losses.remove(msg_id)
            lost: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            lost.set_exception(BrokerUnavailable("lost"))
            return lost
        return await super().append_soon(subject, data, msg_id=msg_id, headers=headers)


class Slow(MemoryBroker):
    """A connection on which acknowledgements take a second."""

    async def append_soon(
        self, subject: str, data: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[int]:
        """See `Broker.append_soon`."""
        sequence = await (await super().append_soon(subject, data, msg_id=msg_id, headers=headers))
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, acknowledged.set_result, sequence)
        return acknowledged


def test_audio_that_is_on_its_way_may_be_dropped() -> None:
    """What was put meanwhile isn't taken for it when its acknowledgement comes."""

    async def scenario() -> None:
        broker = Slow()
        spool = Spool(broker, max_bytes=4 * SIZE)
        for name in ("a1", "e1", "a2", "e2"):
            assert put_event(spool, name) if name.startswith("e") else put_audio(spool, name)
        async with running(spool):
            await asyncio.sleep(0.1)
            assert put_event(spool, "e3")
            assert put_event(spool, "e4")
            assert len(spool) == 4
            assert await spool.flush(10) == 0
        assert stored(broker.server, "SESSIONS") == ["e1", "e2", "e3", "e4"]
        assert spool._bytes == spool._droppable_bytes == 0

    run_virtual(scenario())


def test_nothing_overtakes_what_was_lost() -> None:
    """Though the broker is there again for the next message, the lost one is sent again first."""

    async def scenario() -> None:
        broker = Flickering(MemoryServer())
        spool = Spool(broker)
        names = [f"e{number}" for number in range(10)]
        for name in names:
            put_event(spool, name)
        async with running(spool):
            assert await spool.flush(5) == 0
        assert stored(broker.server) == names

    run_virtual(scenario())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["event", "audio"]), st.integers(0, 3000)),
            st.tuples(st.sampled_from(["cut", "mend", "lose"]), st.just(0)),
            st.tuples(st.just("wait"), st.sampled_from([0, 1, 300])),
        ),
        max_size=80,
    )
)
def test_whatever_happens_order_and_bound_are_kept(steps: list[tuple[str, int]]) -> None:
    """Accepted events are all stored, once and in order; audio too, less what was dropped; never too much is held."""

    async def scenario() -> None:
        broker = MemoryBroker()
        spool = Spool(broker, max_bytes=12_000)
        accepted: dict[str, list[str]] = {"event": [], "audio": []}
        async with running(spool):
            for number, (step, value) in enumerate(steps):
                match step:
                    case "event" | "audio":
                        put = put_event if step == "event" else put_audio
                        if put(spool, f"{step}{number}", max(value, 10)):
                            accepted[step].append(f"{step}{number}")
                    case "wait":
                        await asyncio.sleep(value / 1000)
                    case "lose":
                        broker.lose_acks = 1
                    case _:
                        broker.connected = step == "mend"
                assert spool._bytes <= 12_000
                assert spool._bytes == sum(item.size for item in spool._items)
                assert spool._droppable_bytes == sum(item.size for item in spool._items if item.droppable)
            broker.connected = True
            assert await spool.flush(60) == 0
        assert stored(broker.server, "SESSIONS") == accepted["event"]
        audio = stored(broker.server, "AUDIO")
        assert audio == [name for name in accepted["audio"] if name in audio]
        refused = sum(step in accepted for step, _ in steps) - len(accepted["event"]) - len(accepted["audio"])
        assert spool.dropped >= refused + len(accepted["audio"]) - len(audio)

    run_virtual(scenario())


@given(names=st.lists(st.integers(0, 99), unique=True, max_size=20), published=st.integers(0, 20))
def test_what_is_taken_is_what_was_not_published_yet(names: list[int], published: int) -> None:
    """In its order; afterwards the spool is empty, and takes messages again up to its bound."""

    async def scenario() -> None:
        server = MemoryServer()
        broker = server.connect()
        spool = Spool(broker, max_bytes=SIZE * 40)
        async with running(spool):
            for name in names[:published]:
                put_event(spool, str(name))
            await spool.flush(1)
            broker.connected = False
            for name in names[published:]:
                put_event(spool, str(name))
            taken = [item.msg_id for item in spool.take()]
            assert taken == [str(name) for name in names[published:]]
            assert len(spool) == 0
            broker.connected = True
            assert all(put_event(spool, f"later{number}") for number in range(40))
            assert await spool.flush(10) == 0
        assert stored(server) == [str(name) for name in names[:published]] + [f"later{number}" for number in range(40)]

    run_virtual(scenario())
