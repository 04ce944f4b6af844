"""How the session process publishes."""

import asyncio
from typing import Any

import pytest

from greenroom.common import subjects
from greenroom.common.events import decode_event
from greenroom.common.messages import AudioHeader, EventType
from greenroom.common.recordings import RecordingChoice
from greenroom.common.spool import Spool
from greenroom.runner.session.audio import Chunk
from greenroom.runner.session.emitter import EVENTS_BURST, EVENTS_PER_S, MAX_EVENT_BYTES, Emitter, jsonable
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session


class World:
    """An emitter, and the streams it publishes to."""

    def __init__(self, *, max_bytes: int = 1 << 20) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.session = new_session("echo", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        self.spool = Spool(self.broker, max_bytes=max_bytes)
        self.now = 100.0
        self.emitter = Emitter(self.spool, self.session, monotonic=lambda: self.now)

    async def published(self) -> list[Any]:
        """Publish what was emitted, and return the messages of the session."""
        running = asyncio.create_task(self.spool.run())
        await self.spool.flush(2)
        running.cancel()
        return [message for name in ("SESSIONS", "AUDIO") for message in self.server.streams[name].messages.values()]


async def test_events_are_numbered_in_their_envelope() -> None:
    """Events come out in order, numbered from 1, with session, epoch, source and trace."""
    world = World()
    world.emitter.emit(EventType.CALL_STARTED, {"bot": "echo"})
    world.emitter.emit(EventType.USER_SPOKE, {"text": "hi", "start_ms": 1, "end_ms": 2})
    messages = await world.published()
    events = [decode_event(message) for message in messages]
    assert [(event.type, event.seq, event.epoch, event.source) for event in events] == [
        ("call_started", 1, 1, "session"),
        ("user_spoke", 2, 1, "session"),
    ]
    assert events[1].data == {"text": "hi", "start_ms": 1, "end_ms": 2}
    assert {event.session_id for event in events} == {world.session.id}
    assert messages[0].headers["traceparent"] == world.session.traceparent
    assert world.emitter.events == 2


async def test_audio_says_where_it_belongs() -> None:
    """A chunk carries its sequence per track, its position, the origin of the timeline and the rate."""
    world = World()
    world.emitter.audio("user", Chunk(position=0, pcm=b"\x01\x00" * 10), 123)
    world.emitter.audio("bot", Chunk(position=7, pcm=b"\x02\x00"), 123)
    world.emitter.audio("user", Chunk(position=10, pcm=b"\x03\x00"), 123)
    messages = [message for message in await world.published() if message.subject.endswith("user")]
    tokens = {"tenant": "default", "session_id": world.session.id, "track": "user"}
    assert messages[0].subject == subjects.SESSION_AUDIO.format(**tokens)
    assert [message.headers[AudioHeader.SEQ] for message in messages] == ["1", "2"]
    assert [message.headers[AudioHeader.POSITION] for message in messages] == ["0", "10"]
    assert messages[0].headers[AudioHeader.ORIGIN_NS] == "123"
    assert messages[0].headers[AudioHeader.RATE] == "16000"
    assert messages[0].headers[AudioHeader.EPOCH] == "1"
    assert world.emitter.chunks == {"user": 2, "bot": 1}


async def test_a_flood_is_held_back_and_counted() -> None:
    """A bot that floods its session is held at a rate; the frame of the call always goes out."""
    world = World(max_bytes=1 << 24)
    taken = sum(world.emitter.emit(EventType.METRICS, {}) for _ in range(1000))
    assert taken == EVENTS_BURST
    assert world.emitter.suppressed == 1000 - EVENTS_BURST
    assert world.emitter.emit(EventType.CALL_COMPLETED, {})
    world.now += 1
    assert sum(world.emitter.emit(EventType.METRICS, {}) for _ in range(1000)) == EVENTS_PER_S


async def test_an_event_that_was_refused_leaves_a_hole() -> None:
    """What the full spool didn't take has its number, so that readers see it as missing."""
    world = World(max_bytes=4_000)
    while world.emitter.emit(EventType.METRICS, {"fill": "x" * 200}):
        pass
    assert len(await world.published()) == world.emitter.events - 1
    assert world.spool.dropped == 1


async def test_events_push_audio_out_of_a_full_spool() -> None:
    """While the broker is away for long, audio makes room for events."""
    world = World(max_bytes=40_000)
    for index in range(2):
        world.emitter.audio("user", Chunk(position=index * 8000, pcm=bytes(16_000)), 1)
    assert world.emitter.emit(EventType.TOOL_CALLED, {"result": "x" * 10_000})
    assert [message.subject.rpartition(".")[2] for message in await world.published()] == ["tool_called", "user"]


async def test_an_oversized_event_says_so() -> None:
    """An event that is too large for its readers is published with its size in place of its data."""
    world = World()
    world.emitter.emit(EventType.AGENT_SPOKE, {"text": "x" * MAX_EVENT_BYTES})
    (message,) = await world.published()
    data = decode_event(message).data
    assert data["truncated"] is True
    assert data["bytes"] > MAX_EVENT_BYTES


class _Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, "x"]}, {"a": [1, None, "x"]}),
        ({1: "number"}, {"1": "number"}),
        ((1, 2), [1, 2]),
        (_Opaque(), "<opaque>"),
        ("x" * 10_000, {"truncated": True, "bytes": 10_002}),
        (_circle(), {"unserializable": "list"}),
        (float("nan"), None),
    ],
)
def test_foreign_values_become_json(value: object, expected: object) -> None:
    """Whatever a tool takes or returns ends up as bounded JSON."""
    assert jsonable(value) == expected


async def test_an_agent_that_wants_no_recording_publishes_no_audio() -> None:
    """Its audio doesn't leave the process; its events do."""
    world = World()
    session = new_session("echo", recording=RecordingChoice(off=True))
    emitter = Emitter(world.spool, session)
    emitter.audio("user", Chunk(position=0, pcm=b"\x01\x00" * 10), 123)
    emitter.emit(EventType.USER_SPOKE, {"text": "hi"})
    assert [decode_event(message).type for message in await world.published()] == ["user_spoke"]
    assert emitter.chunks == {"user": 0, "bot": 0}
