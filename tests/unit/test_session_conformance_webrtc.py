"""What is used of Pipecat's SmallWebRTC, aiortc and aioice beyond their documented interfaces, on what is installed."""

import asyncio
import errno
import sys
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from aioice import ice
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.transport import RawAudioTrack
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport as PipecatTransport

from greenroom.runner.rtc import Network
from greenroom.runner.session import transports
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports import rtc_network
from greenroom.runner.session.transports.base import SessionTransport
from greenroom.runner.session.transports.rtc_connection import PeerConnection
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session

MODULE = "greenroom.runner.session.transports.smallwebrtc"


def made() -> SessionTransport:
    """Return the transport of a session over SmallWebRTC."""
    session = new_session("echo", transport="smallwebrtc")
    return transports.make_transport(session, MemoryServer().connect(), lambda _: None, lambda *_: None)


class Heard:
    """What a connection tells whom."""

    def __init__(self) -> None:
        self.there = 0
        self.over: list[tuple[bool, bool]] = []
        self.events: list[str] = []
        self.connection = PeerConnection(self._on_there, lambda by_us, clean: self.over.append((by_us, clean)))
        for event in ("connecting", "connected", "disconnected", "failed", "closed"):
            self.connection.add_event_handler(event, self._hear(event))

    def _on_there(self) -> None:
        self.there += 1

    def _hear(self, event: str) -> Any:
        async def hear(_connection: object) -> None:
            self.events.append(event)

        return hear

    async def say(self, *events: str) -> None:
        """Have the connection say something, as Pipecat has it."""
        for event in events:
            await self.connection._call_event_handler(event)
            await asyncio.sleep(0)


@pytest.fixture
async def heard() -> AsyncGenerator[Heard]:
    """A connection that waits for its offer."""
    heard = Heard()
    yield heard
    await heard.connection.pc.close()


async def test_the_bot_hears_of_its_client_once_the_session_knows(heard: Heard) -> None:
    """`connected` is held until the welcome; what belongs to a client that is there passes."""
    await heard.say("connecting", "connected")
    assert (heard.there, heard.events) == (1, ["connecting"])
    await heard.connection.welcome()
    await asyncio.sleep(0)
    assert heard.events == ["connecting", "connected"]
    await heard.say("disconnected", "connected", "closed")
    assert heard.events[2:] == ["disconnected", "connected", "closed"]
    assert (heard.there, heard.over) == (1, [(False, True)])


async def test_a_try_that_came_to_nothing_is_no_client_that_left(heard: Heard) -> None:
    """Until a client is there, connections that fail or close are nobody's business but ours."""
    await heard.say("connecting", "failed", "closed", "disconnected")
    assert (heard.there, heard.over, heard.events) == (0, [], ["connecting"])


async def test_a_connection_that_failed_was_not_hung_up(heard: Heard) -> None:
    """When ICE gives a client up, its leaving isn't as it should be."""
    await heard.say("connected", "failed", "closed")
    assert heard.over == [(False, False)]


async def test_what_a_closed_connection_had_to_say_is_said_by_the_next(heard: Heard) -> None:
    """Audio that waits in Pipecat's track goes to the one that takes its place, and its writer goes on."""
    await heard.connection.pc.close()
    before, after = RawAudioTrack(sample_rate=16_000), RawAudioTrack(sample_rate=16_000)
    heard.connection.replace_audio_track(before)
    said = np.arange(320, dtype=np.int16).tobytes()
    writing = before.add_audio_bytes(said)
    heard.connection.replace_audio_track(after)
    frames = [await after.recv() for _ in range(2)]
    assert b"".join(frame.to_ndarray().tobytes() for frame in frames) == said
    assert writing.done()


async def test_the_bot_is_told_of_its_client_once() -> None:
    """A client that has found a new way is no new client: the bot's `on_client_connected` runs once."""
    transport = made()
    await transport.open()
    arguments: Any = transport.arguments({})
    connection = arguments.webrtc_connection
    bots = PipecatTransport(connection, TransportParams())
    told: list[object] = []

    @bots.event_handler("on_client_connected")
    async def on_client_connected(_transport: object, client: object) -> None:
        told.append(client)

    transport.attach(Attachment(PipelineWorker(Pipeline([bots.input(), bots.output()]))))
    for _ in range(2):
        await bots._client._callbacks.on_client_connected(connection)
        await asyncio.sleep(0)
    assert told == [connection]
    await transport.close()


async def test_candidates_are_gathered_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aioice asks for addresses by the function that is replaced, and binds by the loop's method that is replaced."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(ice, "get_host_addresses", ice.get_host_addresses)
    monkeypatch.setattr(loop, "create_datagram_endpoint", loop.create_datagram_endpoint)
    rtc_network.use(Network(addresses=("127.0.0.1", "::1"), first_port=42_100, last_port=42_109), loop)
    connection = ice.Connection(ice_controlling=True, use_ipv6=False)
    await connection.gather_candidates()
    (candidate,) = connection.local_candidates
    assert candidate.host == "127.0.0.1"
    assert 42_100 <= candidate.port <= 42_109
    await connection.close()


async def test_a_range_that_is_full_is_an_error() -> None:
    """When all ports are taken, whoever wants one more is told of the setting."""
    tried: list[int] = []

    async def taken(_factory: object, local_addr: tuple[str, int], **_: object) -> None:
        tried.append(local_addr[1])
        raise OSError(errno.EADDRINUSE, "taken")

    create = rtc_network._in_range(Network(first_port=5, last_port=7), taken)
    with pytest.raises(OSError, match="GREENROOM_RTC_PORTS"):
        await create(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    assert sorted(tried) == [5, 6, 7]


def test_without_aiortc_the_transport_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner without the extra offers its bots over what else they take."""
    assert transports.preload(("websocket", "smallwebrtc")) == ("websocket", "smallwebrtc")
    monkeypatch.setitem(sys.modules, MODULE, None)
    monkeypatch.delattr(transports, "smallwebrtc")
    assert transports.preload(("websocket", "smallwebrtc")) == ("websocket",)
