"""The drift of a sender's sample clock, measured under everything that delays chunks."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.recorder.drift import SHORTEST_RUN_S, Drift
from greenroom.recorder.timeline import ChunkNote, Timeline

RATE = 16_000
ORIGIN = 1_700_000_000_000_000_000
NS = 1_000_000_000


def sent(
    drift: Drift, *, seconds: int, ppm: float, rng: random.Random, start: int = 0, outage: range = range(0)
) -> int:
    """Send chunks of a second whose samples come `ppm` too fast; what falls into `outage` comes all at its end."""
    position = start
    for second in range(seconds):
        due_s = (position - start + RATE) / RATE / (1 + ppm / 1e6)
        if second in outage:
            due_s = max(due_s, outage.stop)
        delay_s = 0.003 + rng.expovariate(100)
        at_ns = ORIGIN + start * NS // RATE + int((due_s + delay_s) * NS)
        drift.add(position=position, samples=RATE, origin_ns=ORIGIN, at_ns=at_ns)
        position += RATE
    return position


@settings(max_examples=50, deadline=None)
@given(
    ppm=st.floats(-500, 500),
    seconds=st.integers(300, 5000),
    outage=st.integers(0, 60),
    at=st.integers(0, 200),
    seed=st.integers(0, 2**32),
)
def test_measured_under_noise(ppm: float, seconds: int, outage: int, at: int, seed: int) -> None:
    """Jitter and an outage of a minute don't hide the drift: it is right to 20 ppm and better in longer calls."""
    drift = Drift(RATE)
    sent(drift, seconds=seconds, ppm=ppm, rng=random.Random(seed), outage=range(at, at + outage))
    measured, weight = drift.measured()
    assert weight == seconds
    assert abs(measured - ppm) < max(20, 30_000 / seconds)


def test_pauses_are_no_drift() -> None:
    """After a pause the sender takes its place from the clock again: runs are measured each for itself."""
    drift, rng = Drift(RATE), random.Random(1)
    end = sent(drift, seconds=200, ppm=100, rng=rng)
    sent(drift, seconds=200, ppm=100, rng=rng, start=end + 7 * RATE)
    measured, weight = drift.measured()
    assert weight == 400
    assert abs(measured - 100) < 50


def test_short_runs_say_nothing() -> None:
    """Below half a minute the noise is larger than any drift, and without times there is nothing to measure."""
    drift, rng = Drift(RATE), random.Random(2)
    end = 0
    for _ in range(20):
        end = sent(drift, seconds=SHORTEST_RUN_S - 1, ppm=300, rng=rng, start=end + RATE)
    assert drift.measured() == (0.0, 0.0)
    untimed = Drift(RATE)
    for second in range(100):
        untimed.add(position=second * RATE, samples=RATE, origin_ns=ORIGIN, at_ns=0)
    assert untimed.measured() == (0.0, 0.0)


def test_in_the_summary() -> None:
    """A track's summary has its drift over all attempts, and none where nothing was long enough."""
    timeline = Timeline(RATE)
    for epoch in (1, 2):
        for second in range(100):
            timeline.add(
                ChunkNote(
                    track="user",
                    epoch=epoch,
                    seq=second + 1,
                    position=second * RATE,
                    samples=RATE,
                    origin_ns=ORIGIN,
                    # Each second of audio takes 200 µs more than a second.
                    at_ns=ORIGIN + int((second + 1) * 1.0002 * NS),
                )
            )
    assert timeline.summary("user").drift_ppm == -200.0
    assert timeline.summary("bot").drift_ppm is None
