"""Several messages of a client in one."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.packing import Packer
from greenroom.common import media_frames as frames
from greenroom.common.media_frames import Join, Lull
from tests.support.leaping_time import run_virtual

_HOLD_S = 0.06
_THREE = Join(messages=3, hold_ms=60)
_LULL = Join(messages=3, hold_ms=60, lull=Lull(size=12, start=2, samples=4, loud=100, messages=8, hold_ms=180))
_LONG_LULL = Join(messages=3, hold_ms=60, lull=Lull(size=12, start=2, samples=4, loud=100, messages=15, hold_ms=150))


def _audio(sample: int) -> bytes:
    return struct.pack("<2s4h2s", b"au", sample, -sample, sample, -sample, b"en")


class _Process:
    """What came, with the time."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, int, bytes]] = []
        self.packer = Packer(self._take)

    async def _take(self, kind: int, payload: bytes) -> None:
        self.sent.append((asyncio.get_running_loop().time(), kind, payload))

    @property
    def heard(self) -> list[tuple[float, int, bytes]]:
        """What came, out of its packs."""
        return [
            (at, inner_kind, inner)
            for at, kind, payload in self.sent
            for inner_kind, inner in (frames.unpack(payload) if kind == frames.PACKED else [(kind, payload)])
        ]


def test_nothing_is_held_before_it_is_asked_for() -> None:
    """Each message goes by itself, at once."""

    async def scenario() -> None:
        process = _Process()
        await process.packer.add(frames.BINARY, b"a")
        await process.packer.add(frames.TEXT, b"b")
        assert process.sent == [(0.0, frames.BINARY, b"a"), (0.0, frames.TEXT, b"b")]

    run_virtual(scenario())


def test_three_frames_of_20_ms_go_as_one_and_the_first_waits_for_40_ms() -> None:
    """As many as were asked for, as soon as the last of them is there."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_THREE)
        for number in range(6):
            await process.packer.add(frames.BINARY, bytes([number]))
            await asyncio.sleep(0.02)
        assert [at for at, _, _ in process.sent] == pytest.approx([0.04, 0.1])
        assert [payload for _, _, payload in process.heard] == [bytes([number]) for number in range(6)]

    run_virtual(scenario())


def test_a_client_that_stops_is_heard_to_its_last_message() -> None:
    """What has begun and isn't continued goes when its time is up, unpacked if it is alone."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_THREE)
        await process.packer.add(frames.TEXT, b"stop")
        await asyncio.sleep(1)
        assert process.sent == [(pytest.approx(_HOLD_S), frames.TEXT, b"stop")]

    run_virtual(scenario())


def test_what_is_held_goes_out_before_a_goodbye() -> None:
    """Whoever flushes gets all there is, and nothing comes twice."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_THREE)
        await process.packer.add(frames.BINARY, b"a")
        await process.packer.flush()
        await process.packer.flush()
        await asyncio.sleep(1)
        assert process.sent == [(0.0, frames.BINARY, b"a")]

    run_virtual(scenario())


def test_another_process_asks_for_itself() -> None:
    """What was held for the one before is lost and counted; from then on each message goes by itself again."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_THREE)
        await process.packer.add(frames.BINARY, b"a")
        await process.packer.add(frames.BINARY, b"b")
        assert process.packer.forget() == 2
        await process.packer.add(frames.BINARY, b"c")
        await asyncio.sleep(1)
        assert process.sent == [(0.0, frames.BINARY, b"c")]

    run_virtual(scenario())


def test_in_a_lull_more_goes_as_one_until_something_is_to_be_heard() -> None:
    """What isn't quiet goes at once with all that is held, and from then on packs are as before."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LULL)
        for number in range(16):
            await process.packer.add(frames.BINARY, _audio(number % 2))
            await asyncio.sleep(0.02)
        assert [at for at, _, _ in process.sent] == pytest.approx([0.14, 0.3])
        await process.packer.add(frames.BINARY, _audio(1))
        await process.packer.add(frames.BINARY, _audio(1000))
        assert process.sent[-1][0] == pytest.approx(0.32)
        assert [payload for _, _, payload in process.heard[-2:]] == [_audio(1), _audio(1000)]
        for _ in range(3):
            await process.packer.add(frames.BINARY, _audio(1))
        assert len(process.sent) == 4
        process.packer.agree(_LULL)
        await process.packer.add(frames.BINARY, _audio(1))
        await asyncio.sleep(1)
        assert process.sent[-1] == (pytest.approx(0.32 + 0.18), frames.BINARY, _audio(1))

    run_virtual(scenario())


@pytest.mark.parametrize("said", [1, 2, 7, 14])
def test_what_a_client_leaves_behind_in_a_lull_comes_so_late_however_much_it_is(said: int) -> None:
    """From its last message on: who places it on a timeline by when it came is wrong by no more."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LONG_LULL)
        for _ in range(said):
            await process.packer.add(frames.BINARY, _audio(1))
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert [at for at, _, _ in process.sent] == [pytest.approx(0.02 * (said - 1) + 0.15, abs=0.003)]
        assert len(process.heard) == said

    run_virtual(scenario())


def test_a_client_that_dawdles_makes_nothing_late_in_a_lull() -> None:
    """However its messages come, none waits for longer than half a second."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LONG_LULL)
        for _ in range(12):
            await process.packer.add(frames.BINARY, _audio(1))
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert [at for at, _, _ in process.sent] == pytest.approx([0.5, 1.1], abs=0.003)

    run_virtual(scenario())


def test_a_whole_pack_of_a_lull_comes_with_its_last_message() -> None:
    """However long its first one has waited by then."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LONG_LULL)
        for _ in range(30):
            await process.packer.add(frames.BINARY, _audio(1))
            await asyncio.sleep(0.02)
        assert [at for at, _, _ in process.sent] == pytest.approx([0.28, 0.58])

    run_virtual(scenario())


def test_in_a_lull_a_text_waits_for_nobody() -> None:
    """It goes at once, behind what is held, and says nothing of what is to be heard."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LULL)
        await process.packer.add(frames.BINARY, _audio(1))
        await process.packer.add(frames.TEXT, b"hello")
        assert [(at, payload) for at, _, payload in process.heard] == [(0.0, _audio(1)), (0.0, b"hello")]
        for _ in range(8):
            await process.packer.add(frames.BINARY, _audio(1))
        assert len(process.sent) == 2

    run_virtual(scenario())


def test_another_process_knows_of_no_lull() -> None:
    """After a session has gone over, each message goes by itself, and then as the next process asks."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(_LULL)
        process.packer.forget()
        process.packer.agree(_THREE)
        for _ in range(3):
            await process.packer.add(frames.BINARY, _audio(1))
        assert len(process.sent) == 1

    run_virtual(scenario())


def test_no_wish_makes_an_edge_hold_much() -> None:
    """However many messages, however long: there are bounds for number, bytes and time."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(Join(messages=255, hold_ms=65_535))
        await process.packer.add(frames.BINARY, b"a")
        await asyncio.sleep(0.21)
        assert len(process.sent) == 1
        for _ in range(20):
            await process.packer.add(frames.BINARY, b"b")
        assert len(process.sent) == 2
        for _ in range(3):
            await process.packer.add(frames.BINARY, bytes(100_000))
        assert len(process.sent) == 4

    run_virtual(scenario())


_said = st.tuples(
    st.sampled_from([frames.TEXT, frames.BINARY]), st.binary(max_size=4), st.sampled_from([0.0, 0.01, 0.02, 0.1])
)


@given(st.lists(_said, max_size=30), st.integers(0, 6))
def test_every_message_comes_once_in_order_and_in_time(said: list[tuple[int, bytes, float]], messages: int) -> None:
    """Whatever is said at whatever pace, and however many go in one."""

    async def scenario() -> None:
        process = _Process()
        process.packer.agree(Join(messages=messages, hold_ms=60))
        times: list[float] = []
        for kind, payload, pause_s in said:
            times.append(asyncio.get_running_loop().time())
            await process.packer.add(kind, payload)
            await asyncio.sleep(pause_s)
        await asyncio.sleep(_HOLD_S)
        assert [(kind, payload) for _, kind, payload in process.heard] == [(kind, payload) for kind, payload, _ in said]
        assert all(at - began <= _HOLD_S + 1e-6 for (at, _, _), began in zip(process.heard, times, strict=True))

    run_virtual(scenario())


_quietly = st.tuples(st.sampled_from([b"text", _audio(1), _audio(1000)]), st.sampled_from([0.0, 0.01, 0.02, 0.1, 0.2]))


@given(
    st.lists(st.sampled_from([b"text", _audio(1), _audio(1000)]), max_size=40), st.sampled_from([_THREE, _LONG_LULL])
)
def test_what_is_wanted_at_once_is_what_goes_at_once(said: list[bytes], join: Join) -> None:
    """As many messages as are wanted make a pack; in a lull they may be a third of one. One is wanted at least."""

    async def scenario() -> None:
        process = _Process()
        assert process.packer.wanted() == (1, 0.0)
        process.packer.agree(join)
        assert process.packer.wanted() == (3, _HOLD_S)
        in_lull = join is _LONG_LULL
        for added, payload in enumerate(said, 1):
            await process.packer.add(frames.TEXT if payload == b"text" else frames.BINARY, payload)
            in_lull = in_lull and payload != _audio(1000)
            held = added - len(process.heard)
            assert process.packer.wanted() == (min(3, 15 - held) if in_lull else 3 - held, _HOLD_S)
        process.packer.forget()
        assert process.packer.wanted()[0] == 1

    run_virtual(scenario())


@given(st.lists(_quietly, max_size=60), st.integers(0, 255), st.sampled_from([60, 150, 65_535]))
def test_in_a_lull_too_every_message_comes_once_in_order_and_in_time(
    said: list[tuple[bytes, float]], messages: int, hold_ms: int
) -> None:
    """What isn't quiet at once, with all before it; the rest in time, counted from the last message and the first."""

    async def scenario() -> None:
        process = _Process()
        lull = Lull(size=12, start=2, samples=4, loud=100, messages=messages, hold_ms=hold_ms)
        times: list[float] = []
        for payload, pause_s in said:
            process.packer.agree(Join(messages=3, hold_ms=60, lull=lull))
            now = asyncio.get_running_loop().time()
            times.append(now)
            await process.packer.add(frames.TEXT if payload == b"text" else frames.BINARY, payload)
            if payload != _audio(1):
                assert process.heard[-1][2] == payload
                assert len(process.heard) == len(times)
            await asyncio.sleep(pause_s)
        await asyncio.sleep(0.5)
        assert [payload for _, _, payload in process.heard] == [payload for payload, _ in said]
        hold_s = min(hold_ms, 200) / 1000
        for index, ((at, _, _), began) in enumerate(zip(process.heard, times, strict=True)):
            last = max(time for time in times[index:] if time <= at)
            assert at - last <= hold_s + 0.003
            assert at - began <= 0.5 + 0.003

    run_virtual(scenario())
