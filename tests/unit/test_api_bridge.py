"""The bridge between a client's socket and a session process, without either."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from greenroom.api.bridge import WATCHED, Bridge, End
from greenroom.api.handshake import EdgeFull, refuse
from greenroom.api.openings import Opening
from greenroom.api.waiters import Waiters
from greenroom.common import media_frames as frames
from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.errors import (
    BrokerUnavailable,
    Draining,
    GreenroomError,
    MediaAlreadyConnected,
    SessionEnded,
    TicketUsed,
)
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Leased, Ready, Requested, Session, Started
from greenroom.common.media_frames import Close, Join
from greenroom.common.media_messages import ConnectMedia, MediaAccepted
from tests.support.api_world import until
from tests.support.memory_broker import MemoryBroker, MemoryServer

TOKENS = {"tenant": "t", "session_id": "s-1"}
IN = subjects.SESSION_MEDIA.format(**TOKENS, direction="in")
OUT = subjects.SESSION_MEDIA.format(**TOKENS, direction="out")


class Client:
    """A client's socket, as ASGI shows it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        # How long the client takes for a message.
        self.slowness_s = 0.0

    async def receive(self) -> Any:
        """Return what the client does next."""
        return await self.events.get()

    async def send(self, message: Any) -> None:
        """Take a message."""
        if self.slowness_s:
            await asyncio.sleep(self.slowness_s)
        self.sent.append(message)


class Running:
    """A bridge that runs, and its ends."""

    def __init__(self, broker: MemoryBroker, client: Client, bridge: Bridge) -> None:
        self.broker = broker
        self.client = client
        self.bridge = bridge
        self.ended: asyncio.Task[End] | None = None
        self._next = 0
        # What came to the process.
        self.heard: list[tuple[int, bytes]] = []

    async def hear(self, message: Message) -> None:
        """Take a frame as the process."""
        kind, _, payload = frames.decode(message.data)
        self.heard.append((kind, payload))

    async def ask(self, join: Join) -> None:
        """Let the process ask for several messages in one."""
        await self.broker.publish(OUT, frames.encode_join(self._next, join))
        self._next += 1
        await asyncio.sleep(0.01)

    async def say(self, payload: bytes, *, skip: int = 0) -> None:
        """Let the process send a frame."""
        self._next += skip
        await self.broker.publish(OUT, frames.encode(frames.BINARY, self._next, payload))
        self._next += 1
        await asyncio.sleep(0.01)

    async def end(self) -> End:
        """Return how it ended."""
        assert self.ended is not None
        return await asyncio.wait_for(self.ended, 5)


@pytest.fixture
async def running() -> AsyncGenerator[Running]:
    """A bridge between a client and a process that takes everybody."""
    broker, client = MemoryServer().connect(), Client()

    async def accept(message: Message) -> bytes:
        return messages.encode(MediaAccepted(connection_id=messages.decode(message.data, ConnectMedia).connection_id))

    await broker.serve(subjects.SESSION_CMD.format(**TOKENS, name="connect"), accept)
    ledger = Ledger(broker)
    session = Session(id="s-1", tenant="t", agent="a", bot="b", requested_at=utcnow(), queue_deadline_at=utcnow())
    await ledger.create(Requested(session=session))
    bridge = Bridge(
        broker=broker,
        ledger=ledger,
        session=session,
        headers={},
        query={},
        receive=client.receive,
        send=client.send,
        queue_frames=64,
        opening=Opening(kept=True),
    )
    await bridge.connect(1.0)
    made = Running(broker, client, bridge)
    await broker.subscribe(IN, made.hear)
    async with Waiters(broker, ledger).watch("t", "s-1", WATCHED) as watch:
        made.ended = asyncio.create_task(bridge.run(watch))
        yield made
        bridge.end(Close(code=1000), "edge")
        await made.end()


async def test_a_hole_behind_a_stall_is_a_client_that_is_too_slow(running: Running) -> None:
    """What the queue threw away while the client took nothing ends the connection."""
    running.client.slowness_s = 0.1
    await running.say(b"0")
    await running.say(b"9", skip=8)
    assert await running.end() == End(close=Close(code=4008, reason="too-slow"), by="edge")


async def test_a_process_that_takes_over_hears_the_opening_again(running: Running) -> None:
    """What the client said up to its start comes first, numbered from 0, and then what it says from then on."""
    heard: list[tuple[int, int, bytes]] = []

    async def hear(message: Message) -> None:
        heard.append(frames.decode(message.data))

    await running.broker.subscribe(IN, hear)
    opening = ['{"event":"connected"}', '{"event":"start","streamSid":"s"}']
    for text in (*opening, '{"event":"media","media":{}}'):
        await running.client.events.put({"type": "websocket.receive", "text": text})
    await until(lambda: len(heard) == 3)
    heard.clear()
    ledger = Ledger(running.broker)
    entry = await ledger.last("t", "s-1")
    assert entry is not None
    leased = Leased(runner_id="r-2", epoch=1, expires_at=entry.at)
    for transition in (leased, Started(runner_id="r-2", epoch=1), Ready(epoch=1)):
        entry = await ledger.advance(entry, transition)
    await until(lambda: len(heard) == 2)
    await running.client.events.put({"type": "websocket.receive", "text": "more"})
    await until(lambda: len(heard) == 3)
    told = [*opening, "more"]
    assert heard == [(frames.TEXT, number, text.encode()) for number, text in enumerate(told)]


async def test_a_process_gets_several_messages_in_one_if_it_asks_for_that(running: Running) -> None:
    """By themselves before, in packs after; nothing of the wish reaches the client, and it leaves no hole."""
    await running.client.events.put({"type": "websocket.receive", "bytes": b"0"})
    await until(lambda: len(running.heard) == 1)
    await running.ask(Join(messages=2, hold_ms=200))
    await running.client.events.put({"type": "websocket.receive", "bytes": b"1"})
    await running.client.events.put({"type": "websocket.receive", "text": "2"})
    await until(lambda: len(running.heard) == 2)
    assert running.heard[0] == (frames.BINARY, b"0")
    assert running.heard[1][0] == frames.PACKED
    assert frames.unpack(running.heard[1][1]) == [(frames.BINARY, b"1"), (frames.TEXT, b"2")]
    await running.say(b"audio")
    assert [message["bytes"] for message in running.client.sent] == [b"audio"]
    assert running.bridge.lost == 0
    assert running.bridge.counts.received == 3


async def test_what_a_client_said_last_comes_before_its_goodbye(running: Running) -> None:
    """A pack that isn't full yet goes out when the client hangs up."""
    await running.ask(Join(messages=5, hold_ms=200))
    await running.client.events.put({"type": "websocket.receive", "bytes": b"last words"})
    await running.client.events.put({"type": "websocket.disconnect", "code": 1000})
    await running.end()
    await until(lambda: len(running.heard) == 2)
    assert running.heard[0] == (frames.BINARY, b"last words")
    assert running.heard[1][0] == frames.CLOSE


async def test_a_hole_by_itself_is_a_loss(running: Running) -> None:
    """What NATS lost is counted, and the call goes on."""
    await running.say(b"0")
    await running.say(b"9", skip=8)
    assert [message["bytes"] for message in running.client.sent] == [b"0", b"9"]
    assert running.bridge.counts.take() == (0, 2, 8, 0)
    assert running.bridge.lost == 8
    assert running.ended is not None
    assert not running.ended.done()


async def test_a_stall_is_seen_while_it_lasts(running: Running) -> None:
    """How long a write has been waiting for the client can be asked at any time."""
    now = asyncio.get_running_loop().time
    assert running.bridge.stalled_s(now()) == 0
    running.client.slowness_s = 0.2
    saying = asyncio.create_task(running.say(b"0"))
    await asyncio.sleep(0.1)
    assert 0.05 < running.bridge.stalled_s(now()) < 0.2
    await saying


async def test_frames_are_dropped_while_the_broker_is_away(running: Running) -> None:
    """Live audio isn't kept; the numbers go on, so that the process sees the hole."""
    heard: list[int] = []

    async def hear(message: Message) -> None:
        heard.append(frames.decode(message.data)[1])

    await running.broker.subscribe(subjects.SESSION_MEDIA.format(**TOKENS, direction="in"), hear)
    for connected in (True, False, False, True):
        running.broker.connected = connected
        await running.client.events.put({"type": "websocket.receive", "bytes": b"x"})
        await asyncio.sleep(0.02)
    assert heard == [0, 3]
    assert running.bridge.counts.take() == (4, 0, 0, 2)


async def test_the_first_reason_to_end_stands(running: Running) -> None:
    """A connection ends once."""
    running.bridge.end(Close(code=1000, reason="first"), "process")
    running.bridge.end(Close(code=1011, reason="second"), "edge")
    assert (await running.end()).close.reason == "first"
    assert running.client.sent[-1] == {"type": "websocket.close", "code": 1000, "reason": "first"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TicketUsed(), 4001),
        (SessionEnded(), 4004),
        (MediaAlreadyConnected(), 4009),
        (Draining(), 1001),
        (BrokerUnavailable(), 1013),
        (EdgeFull(), 1013),
    ],
)
async def test_servers_that_can_not_answer_a_handshake_close_it(error: GreenroomError, code: int) -> None:
    """Without the extension for HTTP answers the close code tells."""
    client = Client()
    scope: Any = {"type": "websocket", "extensions": {}}
    await refuse(error, scope, client.send)
    assert client.sent == [{"type": "websocket.close", "code": code, "reason": error.code}]
