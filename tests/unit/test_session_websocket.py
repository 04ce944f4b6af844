"""The client's WebSocket, its frames carried by the broker."""

import asyncio
import json
import struct

import msgspec
import pytest
from pipecat.runner.utils import parse_telephony_websocket
from starlette.websockets import WebSocketDisconnected, WebSocketState

from greenroom.common import media_frames, subjects
from greenroom.common.broker import Message
from greenroom.common.lifecycle import Session
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaAnswer, MediaKind, MediaRefused
from greenroom.common.messages import encode
from greenroom.runner.session.transports.nats_websocket import MAX_FRAME_BYTES, MAX_INBOX_FRAMES, MediaLink
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.session_rig import new_session

HEADER = struct.Struct(">BI")


class World:
    """A link, and the edge at its other end."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.edge: MemoryBroker = self.server.connect()
        self.session: Session = new_session("echo")
        self.connected: list[str] = []
        self.disconnected: list[tuple[str, int, str]] = []
        self.out: list[tuple[int, int, bytes]] = []
        self.link = MediaLink(
            self.broker,
            self.session,
            on_connected=self.connected.append,
            on_disconnected=lambda by, code, reason: self.disconnected.append((by, code, reason)),
        )
        self._sequence = 0

    async def open(self) -> None:
        """Open the link, and listen at the edge."""
        await self.link.open()
        self.listening = await self.edge.subscribe(self._media("out"), self._on_out)

    async def connect(self, connection_id: str = "c1", *, packs: bool = False) -> MediaAnswer:
        """Ask for the connection."""
        tokens = {"tenant": self.session.tenant, "session_id": self.session.id}
        subject = subjects.SESSION_CMD.format(name="connect", **tokens)
        request = ConnectMedia(
            connection_id=connection_id, headers={"Origin": "https://x"}, query={"lang": "de"}, packs=packs
        )
        reply = await self.edge.request(subject, encode(request), timeout_s=1)
        return msgspec.json.decode(reply.data, type=MediaAccepted | MediaRefused)

    async def send(self, kind: int, payload: bytes, *, sequence: int | None = None) -> None:
        """Send a frame from the edge."""
        number = self._sequence if sequence is None else sequence
        await self.edge.publish(self._media("in"), HEADER.pack(kind, number) + payload)
        self._sequence = number + 1
        await settle()

    async def _on_out(self, message: Message) -> None:
        if not message.data:
            return  # a look, whether anybody is there
        kind, sequence = HEADER.unpack_from(message.data)
        self.out.append((kind, sequence, message.data[HEADER.size :]))

    def _media(self, direction: str) -> str:
        tokens = {"tenant": self.session.tenant, "session_id": self.session.id}
        return subjects.SESSION_MEDIA.format(direction=direction, **tokens)


async def settle() -> None:
    """Let messages arrive."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    """A link that listens."""
    world = World()
    await world.open()
    return world


async def test_frames_go_both_ways_in_order(world: World) -> None:
    """Text and binary frames arrive as Starlette's messages, and leave with growing sequence numbers."""
    await world.connect()
    await world.send(MediaKind.TEXT, b"hello")
    await world.send(MediaKind.BINARY, b"\x00\x01")
    assert await world.link.websocket.receive() == {"type": "websocket.receive", "text": "hello"}
    assert await world.link.websocket.receive() == {"type": "websocket.receive", "bytes": b"\x00\x01"}
    await world.link.websocket.send_text("hi")
    await world.link.websocket.send_bytes(b"\x02")
    await settle()
    assert world.out == [(MediaKind.TEXT, 0, b"hi"), (MediaKind.BINARY, 1, b"\x02")]


async def test_frames_that_come_in_one_message_are_frames(world: World) -> None:
    """They arrive one after the other, each is counted, and a close comes by itself."""
    await world.connect(packs=True)
    packed = media_frames.pack([(MediaKind.BINARY, b"1"), (MediaKind.TEXT, b"2"), (MediaKind.BINARY, b"3")])
    assert not world.link.packing
    await world.send(MediaKind.PACKED, packed)
    assert world.link.packing
    received = [await world.link.websocket.receive() for _ in range(3)]
    assert [message.get("bytes") or message.get("text") for message in received] == [b"1", "2", b"3"]
    assert world.link.counts.received == 3
    await world.send(MediaKind.PACKED, packed[:-1])
    await world.send(MediaKind.BINARY, b"4")
    assert await world.link.websocket.receive() == {"type": "websocket.receive", "bytes": b"4"}
    assert (world.link.counts.received, world.link.counts.lost) == (4, 1)


@pytest.mark.parametrize("packs", [True, False])
async def test_only_an_edge_that_can_is_asked_for_packs(world: World, packs: bool) -> None:  # noqa: FBT001
    """An edge of an earlier version would take the wish for a lost frame."""
    await world.link.pack(3, 60)
    await world.connect(packs=packs)
    await world.link.pack(3, 60)
    await settle()
    wish = [(MediaKind.JOIN, 0, b"\x03\x00\x3c")]
    assert world.out == (wish if packs else [])
    assert world.link.counts.sent == 0


async def test_the_handshake_is_seen_once_somebody_is_there(world: World) -> None:
    """Headers and query of the client's request are those of the socket, in Starlette's own types."""
    assert "origin" not in world.link.websocket.headers
    assert world.link.websocket.client_state is WebSocketState.CONNECTING
    await world.connect()
    assert world.link.websocket.headers["origin"] == "https://x"
    assert world.link.websocket.query_params["lang"] == "de"
    assert world.link.websocket.client_state is WebSocketState.CONNECTED
    assert world.connected == ["c1"]


async def test_nothing_is_sent_before_somebody_is_there(world: World) -> None:
    """What a bot sends to nobody goes nowhere, and takes no sequence number."""
    await world.link.websocket.send_text("too early")
    await world.connect()
    await world.link.websocket.send_text("hello")
    await settle()
    assert world.out == [(MediaKind.TEXT, 0, b"hello")]


async def test_one_connection_at_a_time(world: World) -> None:
    """A second client is refused; the first may ask again, in case its answer got lost."""
    assert await world.connect("c1") == MediaAccepted(connection_id="c1")
    assert await world.connect("c2") == MediaRefused(code="media-already-connected")
    assert await world.connect("c1") == MediaAccepted(connection_id="c1")
    assert len(world.connected) == 1


async def test_a_hang_up_is_received_behind_what_was_said_before(world: World) -> None:
    """Frames that came before the close are still received, then the disconnect, then nothing."""
    await world.connect()
    await world.send(MediaKind.TEXT, b"bye")
    await world.send(MediaKind.CLOSE, struct.pack(">H", 1001) + b"going away")
    assert world.disconnected == [("client", 1001, "going away")]
    assert (await world.link.websocket.receive())["text"] == "bye"
    assert await world.link.websocket.receive() == {
        "type": "websocket.disconnect",
        "code": 1001,
        "reason": "going away",
    }
    with pytest.raises(WebSocketDisconnected):
        await world.link.websocket.receive()


async def test_nothing_is_sent_after_a_hang_up(world: World) -> None:
    """A bot that hasn't noticed yet sends to nobody; another client isn't taken."""
    await world.connect()
    await world.send(MediaKind.CLOSE, b"")
    await world.link.websocket.send_text("still there?")
    await settle()
    assert world.out == []
    assert world.disconnected == [("client", 1005, "")]
    assert await world.connect("c2") == MediaRefused(code="session-ended")


async def test_the_bot_closes_with_the_reason_of_the_session(world: World) -> None:
    """A bot's plain close tells the client why the session ends; what it says itself goes before."""
    await world.connect()
    world.link.prepare_to_close(1000, "goodbye")
    await world.link.websocket.close()
    await settle()
    assert world.out == [(MediaKind.CLOSE, 0, struct.pack(">H", 1000) + b"goodbye")]
    assert world.disconnected == [("bot", 1000, "goodbye")]


async def test_a_session_that_ends_takes_no_client(world: World) -> None:
    """Whoever comes while the session ends is refused; whoever is there stays until the bot closes."""
    world.link.prepare_to_close(1011, "bot-failed")
    assert await world.connect("c1") == MediaRefused(code="session-ended")
    await world.link.close()
    assert world.out == []


async def test_closing_tells_the_client_why(world: World) -> None:
    """A client whom the bot left without a close is told how the session went."""
    await world.connect()
    world.link.prepare_to_close(1011, "bot-failed")
    await world.link.close()
    await settle()
    assert world.out == [(MediaKind.CLOSE, 0, struct.pack(">H", 1011) + b"bot-failed")]


async def test_a_long_reason_is_cut_at_a_character(world: World) -> None:
    """A close frame holds 123 bytes of reason."""
    await world.connect()
    await world.link.websocket.close(1008, "ä" * 100)
    await settle()
    assert world.out[0][2][2:].decode() == "ä" * 61


async def test_lost_frames_are_counted_and_repeated_ones_ignored(world: World) -> None:
    """Sequence numbers that never came are lost; one that comes again is dropped."""
    await world.connect()
    await world.send(MediaKind.TEXT, b"a")
    await world.send(MediaKind.TEXT, b"d", sequence=3)
    await world.send(MediaKind.TEXT, b"d again", sequence=3)
    assert (world.link.counts.received, world.link.counts.lost) == (2, 2)


async def test_a_bot_that_cant_keep_up_loses_the_oldest_audio(world: World) -> None:
    """The inbox is bounded: the oldest binary frames go first, text stays, and what went is counted."""
    await world.connect()
    await world.send(MediaKind.TEXT, b"start")
    for number in range(MAX_INBOX_FRAMES + 10):
        await world.send(MediaKind.BINARY, bytes([number % 256]))
    assert world.link.counts.dropped_in == 11
    assert (await world.link.websocket.receive())["text"] == "start"
    assert (await world.link.websocket.receive())["bytes"] == bytes([11])


async def test_frames_while_the_broker_is_away_are_dropped_and_seen_as_lost(world: World) -> None:
    """Live audio is better dropped than late: it isn't kept, but its sequence number is gone."""
    await world.connect()
    world.broker.connected = False
    await world.link.websocket.send_bytes(b"lost")
    world.broker.connected = True
    await world.link.websocket.send_bytes(b"kept")
    await settle()
    assert world.out == [(MediaKind.BINARY, 1, b"kept")]
    assert world.link.counts.dropped_out == 1


async def test_an_oversized_frame_is_refused(world: World) -> None:
    """A frame that NATS wouldn't take is the sender's error."""
    await world.connect()
    with pytest.raises(ValueError, match="bytes"):
        await world.link.websocket.send_bytes(bytes(MAX_FRAME_BYTES + 1))


async def test_malformed_frames_are_ignored(world: World) -> None:
    """What is no frame doesn't reach the bot."""
    await world.connect()
    await world.edge.publish(world._media("in"), b"\x00")
    await world.send(9, b"unknown kind")
    await world.send(MediaKind.TEXT, b"real")
    assert (await world.link.websocket.receive())["text"] == "real"


async def test_closing_the_link_ends_a_bot_that_waits_for_a_client(world: World) -> None:
    """When nobody ever came, whoever waits for a message is told that it is over."""
    waiting = asyncio.create_task(world.link.websocket.receive())
    await settle()
    await world.link.close()
    assert (await waiting)["type"] == "websocket.disconnect"


async def test_pipecat_parses_a_carriers_handshake_on_it(world: World) -> None:
    """`parse_telephony_websocket` waits for the client and reads its first messages."""
    parsing = asyncio.create_task(parse_telephony_websocket(world.link.websocket))
    await settle()
    await world.connect()
    await world.send(MediaKind.TEXT, json.dumps({"event": "connected"}).encode())
    start = {"event": "start", "start": {"streamSid": "MZ1", "callSid": "CA1", "customParameters": {}}}
    await world.send(MediaKind.TEXT, json.dumps(start).encode())
    kind, call = await asyncio.wait_for(parsing, 2)
    assert (kind, call.stream_id, call.call_id) == ("twilio", "MZ1", "CA1")


async def test_an_edge_that_is_gone_without_a_word_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no frames come, it is looked whether anybody listens; nobody twice in a row is a hang-up."""
    monkeypatch.setattr("greenroom.runner.session.transports.nats_websocket.LOOK_EVERY_S", 0.02)
    watching = asyncio.create_task(world.link.watch_edge())
    await world.connect()
    await asyncio.sleep(0.2)
    assert world.disconnected == []
    assert world.out == []
    await world.listening.unsubscribe()
    async with asyncio.timeout(2):
        while not world.disconnected:
            await asyncio.sleep(0.01)
    assert world.disconnected == [("client", 1006, "")]
    watching.cancel()


async def test_an_edge_that_sends_isnt_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that come are proof enough, whoever listens."""
    monkeypatch.setattr("greenroom.runner.session.transports.nats_websocket.LOOK_EVERY_S", 0.02)
    watching = asyncio.create_task(world.link.watch_edge())
    await world.connect()
    await world.listening.unsubscribe()
    for _ in range(20):
        await world.send(MediaKind.BINARY, b"\x00")
        await asyncio.sleep(0.01)
    assert world.disconnected == []
    watching.cancel()
