"""Where audio belongs on the timeline of a recording, and what is missing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from greenroom.recorder.timeline import MAX_OVERLAPS, ChunkNote, Coverage, Gap, Overlap, Timeline, Track

RATE = 16_000
ORIGIN = 1_700_000_000_000_000_000


def note(
    seq: int, *, track: Track = "user", epoch: int = 1, at_s: float | None = None, origin_s: float = 0
) -> ChunkNote:
    """Return the note of a chunk of one second."""
    position = round((seq - 1 if at_s is None else at_s) * RATE)
    origin_ns = ORIGIN + round(origin_s * 1e9)
    return ChunkNote(track=track, epoch=epoch, seq=seq, position=position, samples=RATE, origin_ns=origin_ns)


def test_no_gap_where_numbers_are_whole() -> None:
    """Positions without samples are silence, not a gap, as long as no number is missing."""
    timeline = Timeline.of([note(1), note(2), note(1, track="bot", at_s=5), note(2, track="bot", at_s=9)], rate=RATE)
    assert timeline.gaps() == []
    assert timeline.samples == 10 * RATE


def test_missing_number() -> None:
    """A missing number is a gap from the end of the chunk before to the start of the one behind."""
    timeline = Timeline.of([note(1), note(4), note(5)], rate=RATE)
    assert timeline.gaps() == [Gap(track="user", from_s=1.0, to_s=3.0)]


def test_missing_beginning() -> None:
    """A first chunk that isn't number 1 leaves a gap from the origin on."""
    assert Timeline.of([note(3, track="bot", at_s=7)], rate=RATE).gaps() == [Gap(track="bot", from_s=0.0, to_s=7.0)]


def test_gaps_by_time() -> None:
    """Gaps of all tracks and attempts are in the order of the recording."""
    notes = [
        note(2, track="bot"),
        note(1),
        note(3),
        note(2, epoch=2, origin_s=60),
    ]
    assert Timeline.of(notes, rate=RATE).gaps() == [
        Gap(track="bot", from_s=0.0, to_s=1.0),
        Gap(track="user", from_s=1.0, to_s=2.0),
        Gap(track="user", from_s=60.0, to_s=61.0),
    ]


def test_attempts() -> None:
    """A second attempt lies behind the first by the distance of their origins, and both begin with number 1."""
    timeline = Timeline.of([note(1, epoch=2, origin_s=4.5), note(1), note(2)], rate=RATE)
    assert timeline.origin_ns == ORIGIN
    assert [(part.epoch, part.offset, part.length) for part in timeline.parts()] == [
        (1, 0, 2 * RATE),
        (2, int(4.5 * RATE), RATE),
    ]
    assert [(attempt.epoch, attempt.offset_s) for attempt in timeline.attempts()] == [(1, 0.0), (2, 4.5)]
    assert timeline.gaps() == []
    assert timeline.samples == int(5.5 * RATE)


def test_earlier_origin_later() -> None:
    """The recording begins at the earliest origin, also when its audio comes last."""
    timeline = Timeline.of([note(1, epoch=2), note(1, epoch=3, origin_s=-2)], rate=RATE)
    assert [part.offset for part in timeline.parts()] == [2 * RATE, 0]


def test_summary() -> None:
    """A track's summary counts each chunk once, and knows where it is first and last heard."""
    timeline = Timeline.of([note(1, at_s=0.5), note(1, at_s=0.5), note(2, at_s=3)], rate=RATE)
    user, bot = timeline.summary("user"), timeline.summary("bot")
    assert (user.chunks, user.samples, user.first_s, user.last_s) == (2, 2 * RATE, 0.5, 4.0)
    assert (bot.chunks, bot.samples, bot.first_s, bot.last_s) == (0, 0, None, None)


@given(present=st.sets(st.integers(1, 40), min_size=1), seed=st.integers(0, 1000))
def test_holes_against_reference(present: set[int], seed: int) -> None:
    """Whatever is missing, in whatever order and how often the rest comes, exactly the missing numbers are holes."""
    rng = random.Random(seed)
    arriving = [*present, *(seq for seq in present if rng.random() < 0.3)]
    rng.shuffle(arriving)
    coverage = Coverage(RATE)
    for seq in arriving:
        coverage.add(note(seq))

    missing = [seq for seq in range(1, max(present)) if seq not in present]
    expected: list[tuple[int, int]] = []
    for seq in missing:
        if expected and expected[-1][1] == (seq - 1) * RATE:
            expected[-1] = (expected[-1][0], seq * RATE)
        else:
            expected.append(((seq - 1) * RATE, seq * RATE))
    assert coverage.holes() == expected
    assert coverage.chunks == len(present)
    assert (coverage.begin, coverage.end) == ((min(present) - 1) * RATE, max(present) * RATE)


def laid(seq: int, position: int, samples: int, *, track: Track = "user", epoch: int = 1) -> ChunkNote:
    """Return the note of a chunk of any length, anywhere."""
    return ChunkNote(track=track, epoch=epoch, seq=seq, position=position, samples=samples, origin_ns=ORIGIN)


@given(steps=st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 10)), min_size=1, max_size=30), seed=st.integers())
def test_overlaps_against_reference(steps: list[tuple[int, int]], seed: int) -> None:
    """Where a chunk begins before the one before it has ended, that is told, in whatever order they come."""
    notes: list[ChunkNote] = []
    expected: list[tuple[int, int]] = []
    end = 100
    for seq, (step, samples) in enumerate(steps, 1):
        position = end + step
        if step < 0 and seq > 1:
            expected.append((position, end))
        notes.append(laid(seq, position, samples))
        end = position + samples
    random.Random(seed).shuffle(notes)
    coverage = Coverage(RATE)
    for each in [*notes, *notes]:
        coverage.add(each)
    assert sorted(coverage.overlaps) == sorted(expected)
    assert coverage.overlapped == sum(stop - start for start, stop in expected)


def test_overlapping_attempts() -> None:
    """Where two attempts were heard at the same time, the overlap names both."""
    timeline = Timeline.of([note(1), note(2), note(1, epoch=2, origin_s=1.5)], rate=RATE)
    assert timeline.overlaps() == [Overlap(track="user", from_s=1.5, to_s=2.0, epochs=(1, 2))]
    assert Timeline.of([note(1), note(1, epoch=2, origin_s=1)], rate=RATE).overlaps() == []
    assert Timeline.of([note(1), note(1, epoch=2, track="bot")], rate=RATE).overlaps() == []


def test_overlaps_are_bounded() -> None:
    """A sender that lays everything over itself costs a bounded list; the sum is still right."""
    coverage = Coverage(RATE)
    for seq in range(1, 3 * MAX_OVERLAPS):
        coverage.add(laid(seq, 0, 10))
    assert len(coverage.overlaps) == MAX_OVERLAPS
    assert coverage.overlapped == 10 * (3 * MAX_OVERLAPS - 2)


def test_filled_with_silence() -> None:
    """What a track has no samples for is counted: before, between, behind, and all of it where nothing came."""
    timeline = Timeline.of(
        [note(1, at_s=1), note(2, at_s=1.5), note(3, at_s=4), note(1, epoch=2, track="bot")], rate=RATE
    )
    assert timeline.summary("user").filled_s == 2.5
    assert timeline.summary("bot").filled_s == 4.0
    assert Timeline.of([note(1)], rate=RATE).summary("bot").filled_s == 1.0
