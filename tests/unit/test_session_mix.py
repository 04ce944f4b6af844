"""Live audio for listeners: everything in its place, nothing twice, nothing for ever."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.messages import Track
from greenroom.runner.session.listening.mix import HEAD, MAX_HELD, WINDOW, Mix

TRACKS: list[Track] = ["user", "bot"]


def decoded(window: bytes) -> tuple[int, np.ndarray]:
    """Return where a window begins, and its samples by track."""
    [position] = HEAD.unpack_from(window)
    return position, np.frombuffer(window[HEAD.size :], dtype="<i2").reshape(-1, 2)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(TRACKS), st.integers(0, 2_000), st.integers(1, 3_000)),
            st.integers(0, 4 * WINDOW),
        ),
        max_size=40,
    )
)
def test_what_comes_in_time_is_heard_in_its_place(steps: list[tuple[Track, int, int] | int]) -> None:
    """Windows follow each other without gap or overlap; a sample that came before its window was taken is in it."""
    mix = Mix()
    cursor = dict.fromkeys(TRACKS, 0)
    wanted = np.zeros((500 * WINDOW, 2), dtype="<i2")
    heard = np.zeros_like(wanted)
    until = ends = late = 0
    for step in steps:
        if isinstance(step, int):
            until += step
            for window in mix.take(until):
                position, samples = decoded(window)
                assert len(samples) == WINDOW
                assert position >= ends
                assert position == ends or until - ends > MAX_HELD
                wanted[ends:position] = 0
                ends = position + WINDOW
                heard[position:ends] = samples
        else:
            track, gap, count = step
            begin = cursor[track] + gap
            values = (np.arange(begin, begin + count) % 30_000 + 1).astype("<i2")
            mix.add(track, begin, values.tobytes())
            cursor[track] = begin + count
            channel = TRACKS.index(track)
            in_time = (np.arange(begin, begin + count) >= ends) & (np.arange(begin, begin + count) < ends + MAX_HELD)
            late += int((~in_time).sum())
            wanted[begin : begin + count, channel] = np.where(in_time, values, wanted[begin : begin + count, channel])
    assert mix.late == late
    assert (heard[:ends] == wanted[:ends]).all()


def test_a_listener_far_behind_goes_on_with_now() -> None:
    """After a standstill longer than what is held, the next window is the last one."""
    mix = Mix()
    mix.begin(0)
    [window] = mix.take(MAX_HELD + 10 * WINDOW + 7)
    position, _ = decoded(window)
    assert position == MAX_HELD + 9 * WINDOW
