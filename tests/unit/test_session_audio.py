"""Where recorded audio lies on the timeline of a call."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.session.audio import MAX_CHUNK_SAMPLES, RATE, WIDTH, Anchor, Chunk, Chunker, Placement, Placer

FRAME = RATE // 50
TOLERANCE = RATE // 10

# Frames of up to 100 ms: how long after the last one each came, in samples, and how many samples it has.
arrivals = st.lists(st.tuples(st.integers(0, RATE), st.integers(1, RATE // 10)), min_size=1, max_size=60)
anchors = st.sampled_from(["first_sample", "last_sample"])


def place_all(frames: list[tuple[int, int]], anchor: Anchor) -> list[tuple[int, int, Placement]]:
    """Return for each frame when it came, how long it is, and where it was put."""
    placer = Placer(anchor=anchor, tolerance=TOLERANCE)
    now = 0
    placed: list[tuple[int, int, Placement]] = []
    for delay, samples in frames:
        now += delay
        placed.append((now, samples, placer.place(now, samples)))
    return placed


@given(arrivals, anchors)
def test_audio_is_never_laid_over_audio(frames: list[tuple[int, int]], anchor: Anchor) -> None:
    """However frames come, each begins at or behind the end of the one before it, and none before the beginning."""
    placed = place_all(frames, anchor)
    assert placed[0][2].position >= 0
    assert all(after.position >= before.position + samples for (_, samples, before), (_, _, after) in pairwise(placed))


@given(arrivals, anchors)
def test_a_run_is_contiguous_and_a_gap_begins_a_run(frames: list[tuple[int, int]], anchor: Anchor) -> None:
    """A frame lies right behind the one before it unless it begins a run."""
    for (_, samples, before), (_, _, after) in pairwise(place_all(frames, anchor)):
        if not after.begins_run:
            assert after.position == before.position + samples


@given(arrivals, anchors)
def test_a_pause_is_as_long_as_it_was(frames: list[tuple[int, int]], anchor: Anchor) -> None:
    """A frame that begins a run lies exactly where the clock says."""
    for now, samples, placement in place_all(frames, anchor)[1:]:
        if placement.begins_run:
            assert placement.position == (now - samples if anchor == "last_sample" else now)


@given(arrivals, anchors)
def test_audio_is_late_by_the_tolerance_at_most(frames: list[tuple[int, int]], anchor: Anchor) -> None:
    """No frame lies further before its time than jitter is tolerated."""
    for now, samples, placement in place_all(frames, anchor):
        due = now - samples if anchor == "last_sample" else now
        assert due - placement.position <= TOLERANCE


@given(st.lists(st.integers(-TOLERANCE // 2, TOLERANCE // 2), min_size=1, max_size=100))
def test_jitter_doesnt_tear_a_stream(jitter: list[int]) -> None:
    """Frames of a steady stream lie back to back although each comes early or late."""
    placer = Placer(anchor="last_sample", tolerance=TOLERANCE)
    first = placer.place(RATE, FRAME)
    for index, late in enumerate(jitter, start=1):
        placement = placer.place(RATE + index * FRAME + late, FRAME)
        assert placement == Placement(position=first.position + index * FRAME, begins_run=False)


def test_a_burst_after_a_stall_continues_where_the_stream_was() -> None:
    """Frames that come all at once are laid out one after the other, not on top of each other."""
    placer = Placer(anchor="last_sample", tolerance=TOLERANCE)
    positions = [placer.place(RATE, FRAME).position for _ in range(5)]
    assert positions == [RATE - FRAME + index * FRAME for index in range(5)]


def test_after_the_end_of_a_run_the_next_frame_begins_one() -> None:
    """A run that was ended isn't continued, however soon the next frame comes."""
    placer = Placer(anchor="first_sample", tolerance=TOLERANCE)
    placer.place(0, FRAME)
    placer.end_run()
    assert placer.place(FRAME + 10, FRAME) == Placement(position=FRAME + 10, begins_run=True)


# ---------------------------------------------------------------------------- chunks

pieces = st.lists(st.tuples(st.integers(0, RATE), st.integers(0, 3 * RATE // 2)), min_size=1, max_size=12)


def cut_all(gaps: list[tuple[int, int]]) -> tuple[bytes, list[Chunk]]:
    """Add pieces with gaps between them; return the timeline as it should be, and the chunks."""
    chunker = Chunker()
    timeline = bytearray()
    chunks: list[Chunk] = []
    for number, (gap, samples) in enumerate(gaps, start=1):
        timeline += bytes(gap * WIDTH)
        pcm = bytes([number, 1]) * samples
        chunks += chunker.add(len(timeline) // WIDTH, pcm, at=number)
        timeline += pcm
    return bytes(timeline), chunks + chunker.flush()


@given(pieces)
def test_chunks_hold_every_sample_at_its_place(gaps: list[tuple[int, int]]) -> None:
    """Written at their positions over silence, the chunks give back exactly what was added."""
    timeline, chunks = cut_all(gaps)
    written = bytearray(len(timeline))
    for chunk in chunks:
        start = chunk.position * WIDTH
        assert not any(written[start : start + len(chunk.pcm)]), "chunks overlap"
        written[start : start + len(chunk.pcm)] = chunk.pcm
    assert written == timeline


@given(pieces)
def test_a_chunk_is_never_longer_than_a_second_and_never_empty(gaps: list[tuple[int, int]]) -> None:
    """Readers may rely on the size of a chunk."""
    _, chunks = cut_all(gaps)
    assert all(0 < len(chunk.pcm) <= MAX_CHUNK_SAMPLES * WIDTH for chunk in chunks)


def test_what_would_lie_over_earlier_samples_is_left_out() -> None:
    """Of a piece that overlaps the one before, only the part behind it counts."""
    chunker = Chunker()
    chunker.add(0, b"\x01\x00" * 100, at=0)
    chunker.add(60, b"\x02\x00" * 100, at=0)
    (chunk,) = chunker.flush()
    assert chunk == Chunk(position=0, pcm=b"\x01\x00" * 100 + b"\x02\x00" * 60)


def test_a_chunk_is_due_by_the_age_of_its_first_sample() -> None:
    """What was gathered comes out when its oldest sample was heard long enough ago, whatever came since."""
    chunker = Chunker()
    chunker.add(0, bytes(2 * FRAME), at=10.0)
    chunker.add(FRAME, bytes(2 * FRAME), at=10.9)
    assert chunker.due(9.9) == []
    assert [len(chunk.pcm) for chunk in chunker.due(10.0)] == [4 * FRAME]
    assert chunker.due(99) == []
