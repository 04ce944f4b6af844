"""Media messages and their numbers."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.api import closes
from greenroom.common import media_frames as frames
from greenroom.common.lifecycle import Outcome
from greenroom.common.media_frames import Close, Join, Lull, MalformedFrame, Sequence

kinds = st.sampled_from([frames.TEXT, frames.BINARY, frames.CLOSE, frames.PACKED, frames.JOIN])
packs = st.lists(st.tuples(st.sampled_from([frames.TEXT, frames.BINARY]), st.binary(max_size=50)), max_size=8)
numbers = st.integers(0, 2**32 - 1)


@given(kinds, numbers, st.binary(max_size=100))
def test_what_is_encoded_is_decoded(kind: int, number: int, payload: bytes) -> None:
    """A message comes out as it went in."""
    assert frames.decode(frames.encode(kind, number, payload)) == (kind, number, payload)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_frame_or_malformed(message: bytes) -> None:
    """Whatever comes over the wire, nothing else is raised."""
    try:
        kind, _, payload = frames.decode(message)
    except MalformedFrame:
        assert len(message) < 5 or message[0] > 4
    else:
        assert (kind, payload) == (message[0], message[5:])


@given(packs)
def test_what_is_packed_is_unpacked(messages: list[tuple[int, bytes]]) -> None:
    """Several messages in one come out as they went in, also empty ones."""
    assert frames.unpack(frames.pack(messages)) == messages


@given(packs, st.integers(1, 300))
def test_a_pack_that_breaks_off_is_malformed(messages: list[tuple[int, bytes]], cut: int) -> None:
    """What isn't whole isn't taken for less: either it is cut between two messages, or nothing of it counts."""
    payload = frames.pack(messages)
    try:
        got = frames.unpack(payload[:-cut])
    except MalformedFrame:
        return
    assert got == messages[: len(got)]
    assert frames.pack(got) == payload[:-cut]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_pack_or_malformed(payload: bytes) -> None:
    """Whatever comes over the wire, nothing else is raised, and only text and binary messages come out."""
    try:
        messages = frames.unpack(payload)
    except MalformedFrame:
        return
    assert frames.pack(messages) == payload
    assert {kind for kind, _ in messages} <= {frames.TEXT, frames.BINARY}


@given(st.integers(0, 255), st.integers(0, 65_535))
def test_a_wish_is_understood(messages: int, hold_ms: int) -> None:
    """How many messages the process wants in one, and how long one may be held, come out as they went in."""
    wish = Join(messages=messages, hold_ms=hold_ms)
    kind, _, payload = frames.decode(frames.encode_join(7, wish))
    assert (kind, frames.decode_join(payload)) == (frames.JOIN, wish)
    with pytest.raises(MalformedFrame):
        frames.decode_join(payload[:2])


@given(st.integers(0, 2**16), st.integers(0, 2**16), st.integers(0, 2**16), st.integers(0, 2**64 - 1))
def test_a_lull_is_understood(size: int, start: int, samples: int, loud: int) -> None:
    """It comes out as it went in; who knows of no lulls reads the rest of the wish; all samples are in the message."""
    lull = Lull(size=size, start=start, samples=samples, loud=loud, messages=8, hold_ms=180)
    wish = Join(messages=3, hold_ms=60, lull=lull)
    _, _, payload = frames.decode(frames.encode_join(7, wish))
    _, _, before = frames.decode(frames.encode_join(7, Join(messages=3, hold_ms=60)))
    assert payload.startswith(before)
    if start + 2 * samples > size:
        with pytest.raises(MalformedFrame):
            frames.decode_join(payload)
    else:
        assert frames.decode_join(payload) == wish


def test_a_lull_covers_what_is_of_its_size_and_quiet() -> None:
    """The squares of 16-bit samples count, wherever they lie; another message is no audio."""
    lull = Lull(size=21, start=3, samples=8, loud=100, messages=8, hold_ms=180)
    assert lull.covers(struct.pack("<3s8h2s", b"abc", 4, 4, 4, 4, -2, -2, -2, -2, b"xy"))
    assert not lull.covers(struct.pack("<3s8h2s", b"abc", 4, 4, 4, 4, -3, -3, -3, -3, b"xy"))
    assert not lull.covers(struct.pack("<3s8h2s", b"abc", 256, 0, 0, 0, 0, 0, 0, 0, b"xy"))
    assert not lull.covers(struct.pack("<3s8h1s", b"abc", 4, 4, 4, 4, -2, -2, -2, -2, b"x"))


def test_of_lengths_that_sessions_tell_few_are_remembered() -> None:
    """A session process may say anything, again and again: the edge isn't filled by it."""
    for samples in range(4, 4_004, 4):
        Lull(size=2 * samples, start=0, samples=samples, loud=1, messages=8, hold_ms=180).covers(bytes(2 * samples))
    assert frames._some.cache_info().currsize < 100


@settings(deadline=None)
@given(st.floats(60, 1_500), st.floats(60, 1_500), st.integers(0, 2**32))
def test_one_sample_of_four_tells_how_loud_a_sound_is(low: float, high: float, seed: int) -> None:
    """Within 3 dB for tones with some noise; the bound of what is quiet has 4 dB to spare there (see `quiet`)."""
    random = np.random.default_rng(seed)
    time_s = np.arange(320) / 16_000
    sound = 40 * np.sin(2 * np.pi * low * time_s + seed) + 40 * np.sin(2 * np.pi * high * time_s)
    pcm = np.round(sound + random.normal(0, 30, 320)).astype("<i2")
    energy = int(np.sum(pcm.astype(int) ** 2))
    bounds = {"size": 640, "start": 0, "samples": 320, "messages": 8, "hold_ms": 180}
    assert Lull(loud=energy * 2, **bounds).covers(pcm.tobytes())
    assert not Lull(loud=energy // 2, **bounds).covers(pcm.tobytes())


def test_a_number_wraps() -> None:
    """After 2³² messages the count begins anew."""
    assert frames.encode(frames.TEXT, 2**32 + 1, b"") == frames.encode(frames.TEXT, 1, b"")


@given(st.integers(0, 65_535), st.text(max_size=200))
def test_a_close_keeps_its_code_and_what_fits_of_its_reason(code: int, reason: str) -> None:
    """A close frame has 123 bytes for the reason; it is cut between characters."""
    _, _, payload = frames.decode(frames.encode_close(7, Close(code=code, reason=reason)))
    close = frames.decode_close(payload)
    assert close.code == code
    assert reason.startswith(close.reason)
    assert len(close.reason.encode()) <= 123
    assert close.reason == reason or len(close.reason.encode()) > 119


def test_a_close_without_a_code_has_none() -> None:
    """An empty close is what RFC 6455 calls 1005."""
    assert frames.decode_close(b"") == frames.decode_close(b"\x03") == Close(code=1005)


@pytest.mark.parametrize(
    ("code", "sent"),
    [(1000, 1000), (1001, 1001), (1011, 1011), (1014, 1014), (3000, 3000), (4999, 4999)]
    + [(code, 1011) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)],
)
def test_only_codes_that_may_be_sent_are_sent(code: int, sent: int) -> None:
    """A bot's reserved or invented code would break the client's connection; it becomes `server error`."""
    assert frames.sendable(Close(code=code, reason="why")) == Close(code=sent, reason="why")


def take(sequence: Sequence, *given: int) -> list[str]:
    """Hand numbers to an accepted connection."""
    return [sequence.take(number, accepted=True) for number in given]


def test_numbers_in_order_lose_nothing() -> None:
    """The usual case."""
    sequence = Sequence()
    assert take(sequence, 0, 1, 2) == ["new", "new", "new"]
    assert sequence.lost == 0


def test_holes_are_counted_and_what_comes_late_is_stale() -> None:
    """A jump is a loss; what jumped over comes too late, and a repetition is nothing new."""
    sequence = Sequence()
    assert take(sequence, 0, 3, 1, 3, 4) == ["new", "new", "stale", "stale", "new"]
    assert sequence.lost == 2


def test_before_the_answer_only_number_0_begins_a_connection() -> None:
    """What an earlier connection left in flight is not the beginning of this one."""
    sequence = Sequence()
    assert [sequence.take(number, accepted=False) for number in (57, 58, 0)] == ["stale", "stale", "new"]
    assert sequence.lost == 0


def test_after_the_answer_a_late_beginning_is_a_loss() -> None:
    """If the first messages were lost, the connection still begins."""
    sequence = Sequence()
    assert take(sequence, 2) == ["new"]
    assert sequence.lost == 2


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), max_size=50))
def test_losses_add_up_over_the_wrap(start: int, skips: list[int]) -> None:
    """Every number that was skipped is counted once, wherever the count wraps."""
    sequence = Sequence()
    sequence.take(0, accepted=True)
    # As if `start` messages had come.
    sequence._expected = start
    number = start
    for skip in skips:
        number += skip
        assert sequence.take(number % 2**32, accepted=True) == "new"
        number += 1
    assert sequence.lost == sum(skips)


def test_every_outcome_has_a_close() -> None:
    """A socket closes with a code for each way a session can end, all of which may be sent."""
    assert {outcome: closes.code_of(outcome) for outcome in Outcome} == {
        Outcome.COMPLETED: 1000,
        Outcome.FAILED: 1011,
        Outcome.LOST: 1011,
        Outcome.CANCELED: 4004,
        Outcome.REJECTED: 4004,
        Outcome.EXPIRED: 4004,
    }
