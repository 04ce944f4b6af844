"""The audio of several messages that came at once, read in one go."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames.frames import InputAudioRawFrame
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer

from greenroom.api import low_water
from greenroom.common import media_frames
from greenroom.common.media_frames import Join, Lull
from greenroom.common.media_messages import MediaKind
from greenroom.devtools import protobuf_frames
from greenroom.runner.session.audio import RATE
from greenroom.runner.session.chunking import PACKED_PATIENCE
from greenroom.runner.session.recording import USER_TOLERANCE
from greenroom.runner.session.transports.joined import (
    LULL_HOLD_MS,
    JoinedAudio,
    JoinedReading,
    Layout,
    lull_of,
    reads_alike,
)
from greenroom.runner.session.transports.nats_websocket import MAX_INBOX_FRAMES
from tests.unit.test_session_websocket import World, settle

_PB: Any = frames_pb2


class _Carrier:
    def __init__(self) -> None:
        self.layout: Layout | None = None


class _Reader:
    """A serializer that counts what it reads itself, and reads what was joined."""

    def __init__(self) -> None:
        self.serializer = ProtobufFrameSerializer()
        self.read = 0
        self.carrier = _Carrier()
        inner = self.serializer.deserialize

        async def count(data: str | bytes) -> Any:
            self.read += 1
            return await inner(data)

        self.serializer.deserialize = count
        JoinedReading(self.serializer, self.carrier)

    async def hear(self, data: bytes) -> InputAudioRawFrame:
        """Read a message of audio."""
        frame = await self.serializer.deserialize(data)
        assert type(frame) is InputAudioRawFrame
        return frame


def _numbered(number: int, pcm: bytes) -> bytes:
    audio = _PB.AudioRawFrame(id=number, name=f"audio{number}", audio=pcm, sample_rate=16_000, num_channels=1)
    return _PB.Frame(audio=audio).SerializeToString()


async def test_messages_that_differ_in_their_samples_only_are_one_frame() -> None:
    """All samples in order, of the rate and channels that each said, and the serializer isn't asked for them."""
    reader = _Reader()
    heard = [bytes([number]) * 640 for number in range(1, 5)]
    messages = [protobuf_frames.encode_audio(pcm, 16_000) for pcm in heard]
    await reader.hear(messages[0])
    assert reader.carrier.layout is not None
    joined = reader.carrier.layout.joined(messages[1:])
    assert joined is not None
    read = reader.read
    frame = await reader.hear(joined)
    assert (frame.audio, type(frame.audio)) == (b"".join(heard[1:]), bytes)
    assert (frame.sample_rate, frame.num_channels, frame.num_frames) == (16_000, 1, 960)
    assert reader.read == read


@given(st.sampled_from([8_000, 16_000, 24_000, 48_000]), st.integers(0, 700), st.binary(min_size=1, max_size=4))
def test_any_other_message_is_not_joined(rate: int, length: int, noise: bytes) -> None:
    """Another rate, another length, something else: what isn't of the layout makes no frame of audio."""
    message = protobuf_frames.encode_audio(b"\x01\x02" * 320, 16_000)
    start = message.index(b"\x01\x02" * 320)
    layout = Layout(message[:start], message[start + 640 :], 640, 16_000, 1)
    other = protobuf_frames.encode_audio(bytes(length), rate)
    expected = rate == 16_000 and length == 640
    assert (layout.joined([message, other]) is not None) == expected
    assert layout.joined([message, message + noise]) is None
    assert layout.joined([message, noise]) is None


async def test_silence_is_found_where_it_is() -> None:
    """Zeros might begin anywhere among zeros: what was found is tried with other samples."""
    reader = _Reader()
    await reader.hear(protobuf_frames.encode_audio(bytes(640), 16_000))
    layout = reader.carrier.layout
    assert layout is not None
    loud = protobuf_frames.encode_audio(b"\x11\x22" * 320, 16_000)
    joined = layout.joined([loud, loud])
    assert joined == b"\x11\x22" * 640


async def test_messages_with_numbers_of_their_own_are_read_one_by_one() -> None:
    """No two of them are of one layout, and it isn't tried for ever."""
    reader = _Reader()
    for number in range(1, 100):
        frame = await reader.hear(_numbered(number, bytes(640)))
        assert (frame.id, frame.name) == (number, f"audio{number}")
        assert (
            reader.carrier.layout is None or reader.carrier.layout.joined([_numbered(number + 1, bytes(640))]) is None
        )
    assert reader.read <= 99 + 5


def test_only_pipecats_serializer_as_it_is_reads_alike() -> None:
    """What another class, or a bot that has put something of its own in its place, makes of a message isn't known."""

    class Own(ProtobufFrameSerializer):
        pass

    patched = ProtobufFrameSerializer()
    patched.deserialize = Own().deserialize
    assert reads_alike(ProtobufFrameSerializer())
    assert not reads_alike(Own())
    assert not reads_alike(patched)


@pytest.fixture
async def world() -> World:
    """A link that listens, and knows how its client's audio is laid out."""
    world = World()
    await world.open()
    await world.connect(packs=True)
    reader = _Reader()
    await reader.hear(protobuf_frames.encode_audio(bytes(640), 16_000))
    world.link.layout = reader.carrier.layout
    return world


def _pack(*pieces: bytes) -> bytes:
    return media_frames.pack([(MediaKind.BINARY, protobuf_frames.encode_audio(pcm, 16_000)) for pcm in pieces])


async def test_a_pack_of_audio_is_received_as_one(world: World) -> None:
    """It counts as the frames that it has; a pack with anything else in it comes frame by frame."""
    await world.send(MediaKind.PACKED, _pack(b"a" * 640, b"b" * 640, b"c" * 640))
    message = await world.link.websocket.receive()
    assert isinstance(message["bytes"], JoinedAudio)
    assert message["bytes"] == b"a" * 640 + b"b" * 640 + b"c" * 640
    await world.send(MediaKind.PACKED, _pack(b"d" * 640, b"e" * 320))
    for pcm in (b"d" * 640, b"e" * 320):
        assert (await world.link.websocket.receive())["bytes"] == protobuf_frames.encode_audio(pcm, 16_000)
    assert world.link.counts.received == 5


def test_what_a_silent_client_leaves_behind_still_continues_what_came_before() -> None:
    """In the kernel until it is looked for, then in its pack, then in its piece: not so late as a pause is."""
    piece_s, frame_s = 0.06, 0.02
    in_kernel_s = piece_s + low_water.SLACK_S - frame_s
    late_s = in_kernel_s + LULL_HOLD_MS / 1000 + PACKED_PATIENCE * piece_s
    assert late_s < USER_TOLERANCE / RATE - 0.01
    # Packs that come in time don't wait in vain: the next frames are there before what is held goes.
    assert piece_s + low_water.SLACK_S < LULL_HOLD_MS / 1000


async def test_a_silent_client_is_asked_for_more_at_once(world: World) -> None:
    """Once where its audio lies is known; again when the edge has ended the lull; and no more when he may speak."""
    await world.link.rest(100.0)
    await settle()
    assert world.out == []
    await world.link.pack(3, 60)
    for quiet_below in (100.0, 100.0):
        await world.link.rest(quiet_below)
    await settle()
    wishes = [media_frames.decode_join(payload) for _, _, payload in world.out]
    message = protobuf_frames.encode_audio(bytes(640), 16_000)
    start = protobuf_frames.encode_audio(b"x" * 640, 16_000).index(b"x" * 640)
    lull = Lull(size=len(message), start=start, samples=320, loud=32_000, messages=15, hold_ms=100)
    assert wishes == [Join(messages=3, hold_ms=60), Join(messages=3, hold_ms=60, lull=lull)]
    # An edge that bounds packs more narrowly hasn't ended the lull.
    for messages in (15, 8, 4):
        await world.send(MediaKind.PACKED, _pack(*[bytes(640)] * messages))
        await world.link.rest(100.0)
    assert len(world.out) == 2
    await world.send(MediaKind.PACKED, _pack(*[bytes(640)] * 3))
    await world.link.rest(100.0)
    for quiet_below in (None, None):
        await world.link.rest(quiet_below)
    await settle()
    assert [media_frames.decode_join(payload).lull for _, _, payload in world.out[2:]] == [lull, None]


@pytest.mark.parametrize(("frame_ms", "messages"), [(1, 40), (10, 30), (20, 15), (60, 5), (100, None)])
def test_a_lull_is_asked_for_where_it_saves_something(frame_ms: int, messages: int | None) -> None:
    """As many as make 300 ms, if that is more than come at once anyway, and for one channel."""
    layout = Layout(b"h", b"t", 32 * frame_ms, 16_000, 1)
    lull = lull_of(layout, 100.0, 3)
    assert (lull.messages if lull else None) == messages
    assert lull_of(layout._replace(channels=2), 100.0, 3) is None
    assert lull_of(layout, None, 3) is None
    assert lull_of(None, 100.0, 3) is None


async def test_a_bot_that_cant_keep_up_loses_as_many_frames(world: World) -> None:
    """Packs are bounded by the frames in them, and what is thrown away is counted so."""
    for number in range(MAX_INBOX_FRAMES // 3 + 2):
        await world.send(MediaKind.PACKED, _pack(*[bytes([number]) * 640] * 3))
    assert world.link.counts.dropped_in == 6
    assert (await world.link.websocket.receive())["bytes"][0] == 2
    assert (await world.link.websocket.receive())["bytes"][0] == 3
