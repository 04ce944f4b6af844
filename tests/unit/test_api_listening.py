"""A listener's socket: what it is sent, when it is closed, and what it may send."""

import asyncio
from array import array
from datetime import timedelta
from typing import Any

import pytest

from greenroom.api import listening
from greenroom.api.listening import Listener, mixed
from greenroom.common import media_frames as frames
from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.command_errors import SessionNotLive
from greenroom.common.commands import Listen, Listening
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.messages import Ticket
from tests.support.memory_broker import MemoryServer

WINDOW = 160


class Socket:
    """A listener's end, and the session process on the other one."""

    def __init__(self, **ticket: Any) -> None:
        server = MemoryServer()
        self.broker, self.api = server.connect(), server.connect()
        expires_at = utcnow() + timedelta(minutes=1)
        self.ticket = Ticket(tenant="t", session_id=uuid7(), expires_at=expires_at, by="key", **ticket)
        tokens = {"tenant": "t", "session_id": self.ticket.session_id}
        self.tap = subjects.SESSION_TAP.format(**tokens, direction="listen")
        self.barge = subjects.SESSION_TAP.format(**tokens, direction="barge")
        self.lease = subjects.SESSION_CMD.format(**tokens, name="listen")
        self.sent: list[dict[str, Any]] = []
        self.leases: list[Listen] = []
        self.voices: list[bytes] = []
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.stuck = False
        self.number = 0
        self.listener = Listener(self.ticket, broker=self.api, ledger=Ledger(self.api), send=self.send, stall_s=0.05)

    async def send(self, message: Any) -> None:
        """Take what is sent to the listener."""
        if self.stuck and message["type"] == "websocket.send":
            await asyncio.sleep(3600)
        self.sent.append(message)

    async def on_lease(self, message: Message) -> bytes:
        """Be the process: take a lease."""
        self.leases.append(messages.decode(message.data, Listen))
        return messages.encode(Listening(listeners=1))

    async def on_voice(self, message: Message) -> None:
        """Be the process: hear a supervisor."""
        self.voices.append(frames.decode(message.data)[2])

    async def start(self) -> "asyncio.Task[None]":
        """Let it run, with a process on the other side."""
        self.serving = await self.broker.serve(self.lease, self.on_lease)
        await self.broker.subscribe(self.barge, self.on_voice)
        running = asyncio.create_task(self.listener.run(self.incoming.get))  # pyright: ignore[reportArgumentType]
        await self.until(lambda: bool(self.sent))
        await self.until(lambda: len(self.broker.server.subscriptions) == 3)
        return running

    async def window(self, position: int, left: int, right: int) -> None:
        """Be the process: publish a window of two levels."""
        samples = array("h", [left, right] * WINDOW).tobytes()
        frame = frames.encode(frames.BINARY, self.number, position.to_bytes(8) + samples)
        self.number += 1
        await self.broker.publish(self.tap, frame)

    @staticmethod
    async def until(look: Any) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(10):
            while not look():
                await asyncio.sleep(0.005)

    @property
    def heard(self) -> array[int]:
        """All samples that were sent."""
        return array("h", b"".join(each["bytes"] for each in self.sent if each["type"] == "websocket.send"))


def test_both_sides_at_once_do_not_clip() -> None:
    """Mono is the mean of both, whatever they are."""
    loudest = array("h", [32767, 32767, -32768, -32768, 100, -100]).tobytes()
    assert array("h", mixed(loudest)).tolist() == [32767, -32768, 0]


async def test_a_hole_is_silence_and_a_repeat_is_nothing() -> None:
    """What got lost on the way leaves its length behind; what comes late isn't heard twice."""
    socket = Socket(tracks="both")
    running = await socket.start()
    await socket.window(0, 1, 2)
    await socket.window(3 * WINDOW, 3, 4)
    await socket.window(0, 5, 6)
    await socket.broker.publish(socket.tap, b"\x07")
    await socket.until(lambda: len(socket.heard) >= 8 * WINDOW)
    heard = socket.heard.tolist()
    assert heard == [1, 2] * WINDOW + [0, 0] * 2 * WINDOW + [3, 4] * WINDOW
    await socket.incoming.put({"type": "websocket.disconnect"})
    await running
    await socket.until(lambda: socket.leases[-1].over)
    assert {lease.by for lease in socket.leases} == {"key"}


async def test_a_listener_that_takes_nothing_is_given_up() -> None:
    """It is closed as too slow, and its lease is given back."""
    socket = Socket()
    running = await socket.start()
    socket.stuck = True
    await socket.window(0, 1, 1)
    await asyncio.wait_for(running, 10)
    assert socket.sent[-1] == {"type": "websocket.close", "code": 4008, "reason": "too-slow"}
    await socket.until(lambda: socket.leases[-1].over)


async def test_a_supervisor_is_heard_in_bounds() -> None:
    """Whole samples go through; more than half a second at a time closes the socket."""
    socket = Socket(barge_in=True)
    running = await socket.start()
    await socket.incoming.put({"type": "websocket.receive", "bytes": b"abc"})
    await socket.until(lambda: socket.voices == [b"ab"])
    await socket.incoming.put({"type": "websocket.receive", "bytes": bytes(16_002)})
    await asyncio.wait_for(running, 10)
    assert (socket.sent[-1]["code"], socket.sent[-1]["reason"]) == (1009, "frame-too-large")


async def test_nobody_to_listen_to() -> None:
    """Without a process the handshake is refused; one that vanishes ends it after some tries."""
    socket = Socket()
    with pytest.raises(SessionNotLive):
        await socket.listener.run(socket.incoming.get)  # pyright: ignore[reportArgumentType]
    assert socket.sent == []


async def test_a_process_that_vanishes_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease can't be renewed, and the ledger has no such session any more."""
    monkeypatch.setattr(listening, "_RENEW_S", 0.01)
    socket = Socket()
    running = await socket.start()
    await socket.until(lambda: len(socket.leases) > 2)
    await socket.serving.unsubscribe()
    await asyncio.wait_for(running, 10)
    assert socket.sent[-1]["code"] == 4004
