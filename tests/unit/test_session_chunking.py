"""Audio of users in larger pieces."""

import asyncio
import inspect
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames.frames import InputAudioRawFrame, UserAudioRawFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketInputTransport

from greenroom.runner.session.chunking import InputChunks, piece_ms
from tests.support.leaping_time import run_virtual

_PIECE_S = 0.06
_FRAME_S = 0.02


class _Carrier:
    """Whoever brings the frames: does as it is asked, or doesn't."""

    def __init__(self, *, able: bool = True) -> None:
        self.able = able
        self.asked: list[tuple[int, int]] = []

    @property
    def packing(self) -> bool:
        """Whether frames come several at once."""
        return self.able and bool(self.asked)

    async def pack(self, messages: int, hold_ms: int) -> None:
        """Take the wish."""
        self.asked.append((messages, hold_ms))


class _Line:
    """A transport's input side, and what came out of it, with the time."""

    def __init__(self, carrier: "_Carrier | None" = None) -> None:
        self.transport = BaseInputTransport(TransportParams(audio_in_enabled=True))
        self.out: list[tuple[float, InputAudioRawFrame]] = []
        inner: Any = self.transport
        inner.push_audio_frame = self._push
        self.chunks = InputChunks(self.transport, _PIECE_S, carrier)

    async def _push(self, frame: InputAudioRawFrame) -> None:
        self.out.append((asyncio.get_running_loop().time(), frame))

    async def hear(self, audio: bytes, rate: int = 16_000, source: str | None = None) -> None:
        """Receive a frame."""
        frame = InputAudioRawFrame(audio=audio, sample_rate=rate, num_channels=1)
        frame.transport_source = source
        await self.transport.push_audio_frame(frame)

    @property
    def sizes(self) -> list[int]:
        """The bytes of what came out."""
        return [len(frame.audio) for _, frame in self.out]


def test_frames_of_20_ms_become_pieces_of_60() -> None:
    """Three at a time, nothing lost, the samples in order."""

    async def scenario() -> None:
        line = _Line()
        for number in range(9):
            await line.hear(bytes([number]) * 640)
            await asyncio.sleep(_FRAME_S)
        assert line.sizes == [1920] * 3
        assert b"".join(frame.audio for _, frame in line.out) == b"".join(bytes([n]) * 640 for n in range(9))
        assert [frame.num_frames for _, frame in line.out] == [960] * 3

    run_virtual(scenario())


def test_a_client_that_stops_is_heard_to_its_last_sample() -> None:
    """What has begun and isn't continued comes within a piece and a half."""

    async def scenario() -> None:
        line = _Line()
        await line.hear(bytes(640))
        await asyncio.sleep(1)
        assert line.sizes == [640]
        assert line.out[0][0] == pytest.approx(_PIECE_S * 1.5)

    run_virtual(scenario())


def test_what_is_of_another_kind_is_not_joined() -> None:
    """Another rate, another source, another participant: each stays what it is, and nothing overtakes."""

    async def scenario() -> None:
        line = _Line()
        await line.hear(b"a" * 640)
        await line.hear(b"b" * 320, rate=8_000)
        await line.hear(b"c" * 320, rate=8_000, source="screen")
        other = UserAudioRawFrame(user_id="u2", audio=b"d" * 320, sample_rate=8_000, num_channels=1)
        await line.transport.push_audio_frame(other)
        assert [frame.audio[:1] for _, frame in line.out] == [b"a", b"b", b"c", b"d"]
        assert [frame.sample_rate for _, frame in line.out] == [16_000, 8_000, 8_000, 8_000]
        assert line.out[2][1].transport_source == "screen"
        assert line.out[3][1] is other

    run_virtual(scenario())


@pytest.mark.parametrize(("frame_ms", "asked"), [(10, [(6, 60)]), (20, [(3, 60)]), (30, [(2, 60)]), (60, [])])
def test_whoever_brings_the_frames_is_asked_once_for_whole_pieces(frame_ms: int, asked: list[tuple[int, int]]) -> None:
    """As many at once as make a piece, when it is known how long they are; nothing where one is a piece."""

    async def scenario() -> None:
        carrier = _Carrier()
        line = _Line(carrier)
        for _ in range(60):
            await line.hear(bytes(32 * frame_ms))
            await asyncio.sleep(frame_ms / 1000)
        assert carrier.asked == asked

    run_virtual(scenario())


def test_a_piece_that_comes_at_once_waits_for_nothing() -> None:
    """Frames are never held for a pack that is whole, also where resampling has made one a little shorter."""

    async def scenario() -> None:
        carrier = _Carrier()
        line = _Line(carrier)
        for _ in range(24):
            await line.hear(bytes(640))
        await line.hear(bytes(640))
        await asyncio.sleep(1)
        before = len(line.out)
        began = asyncio.get_running_loop().time()
        for samples in (320, 318, 321, 320, 320, 319):
            await line.hear(bytes(2 * samples))
        assert [len(frame.audio) // 2 for _, frame in line.out[before:]] == [959, 959]
        assert [at for at, _ in line.out[before:]] == [began, began]

    run_virtual(scenario())


@pytest.mark.parametrize(("able", "after_s"), [(True, 0.024), (False, 0.09)])
def test_what_is_left_over_waits_as_long_as_more_may_come(able: bool, after_s: float) -> None:  # noqa: FBT001
    """Behind a pack that isn't whole the next one is not mixed with it; frames by themselves get longer."""

    async def scenario() -> None:
        line = _Line(_Carrier(able=able))
        for _ in range(25):
            await line.hear(bytes(640))
        await asyncio.sleep(1)
        before = len(line.out)
        began = asyncio.get_running_loop().time()
        await line.hear(bytes(640))
        await asyncio.sleep(1)
        assert [at - began for at, _ in line.out[before:]] == pytest.approx([after_s])

    run_virtual(scenario())


def test_large_frames_go_through_at_once() -> None:
    """A client that sends more at a time isn't kept waiting."""

    async def scenario() -> None:
        line = _Line()
        await line.hear(bytes(3200))
        assert line.sizes == [3200]

    run_virtual(scenario())


@given(st.lists(st.tuples(st.integers(1, 1000), st.sampled_from([0.0, 0.01, 0.02, 0.2])), max_size=40))
def test_every_sample_comes_once_and_in_order(frames: list[tuple[int, float]]) -> None:
    """Whatever sizes and whatever pauses; no piece waits for longer than a piece and a half."""

    async def scenario() -> None:
        line = _Line()
        said = b""
        for number, (samples, pause_s) in enumerate(frames):
            audio = (number + 1).to_bytes(2, "little") * samples
            said += audio
            await line.hear(audio)
            await asyncio.sleep(pause_s)
        await asyncio.sleep(_PIECE_S * 1.5)
        assert b"".join(frame.audio for _, frame in line.out) == said

    run_virtual(scenario())


def test_transports_push_what_they_receive_the_way_we_listen() -> None:
    """Pipecat's transports hand audio to `push_audio_frame` of their own instance."""
    source = inspect.getsource(FastAPIWebsocketInputTransport)
    assert "self.push_audio_frame(" in source
    for method in (BaseInputTransport.push_audio_frame, BaseInputTransport.cancel, BaseInputTransport.stop):
        assert list(inspect.signature(method).parameters) == ["self", "frame"]
    ends = inspect.getsource(BaseInputTransport.process_frame)
    assert "await self.cancel(frame)" in ends
    assert "await self.stop(frame)" in ends


@pytest.mark.parametrize(
    ("own", "expected"),
    [(None, 60), (20, 20), (0, 0), (200, 200), (201, 60), (-1, 60), ("20", 60), (20.0, 60), (True, 60)],
)
def test_a_bot_says_how_long_its_pieces_are(monkeypatch: pytest.MonkeyPatch, own: object, expected: int) -> None:
    """In its module; where it says nothing, or what can't be meant, the runner's setting holds."""
    module = types.ModuleType("some_bot")
    if own is not None:
        vars(module)["INPUT_CHUNK_MS"] = own
    monkeypatch.setitem(sys.modules, "some_bot", module)
    assert piece_ms("some_bot", 60) == expected
    assert piece_ms("no_such_bot", 60) == piece_ms(None, 60) == 60
