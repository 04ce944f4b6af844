"""Audio that is too quiet to count as a voice."""

import base64
import functools
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipecat.audio.utils import exp_smoothing
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState
from pipecat.audio.volume import AudioVolumeTracker

from greenroom.runner.session.quiet import QuietGate, loud_from
from greenroom.runner.session.voice import look_for_voices_inline

_RATE = 16_000
_PIECE = 1920
_BREATH_S = 0.3
_MIN_VOLUME = 0.6
_MEMORY_BYTES = round(0.64 * _RATE) * 2


class _Volumes(VADAnalyzer):
    """Measures as Pipecat does, and remembers."""

    def __init__(self) -> None:
        super().__init__(sample_rate=_RATE)
        self.set_sample_rate(_RATE)
        self.volumes: list[float] = []

    def num_frames_required(self) -> int:
        """Return Silero's window."""
        return 512

    def voice_confidence(self, buffer: bytes) -> float:
        """Believe in no voice."""
        del buffer
        return 0.0

    def measure(self, piece: bytes) -> float:
        """Return the loudest of the windows that end with a piece."""
        self._vad_buffer += piece
        volumes = [0.0]
        while len(self._vad_buffer) >= self._vad_frames_num_bytes:
            window = self._vad_buffer[: self._vad_frames_num_bytes]
            self._vad_buffer = self._vad_buffer[self._vad_frames_num_bytes :]
            self._prev_volume = self._get_smoothed_volume(window)
            volumes.append(self._prev_volume)
        return max(volumes)


def _noise(level_db: float, seconds: float, seed: int, *, high: bool = False) -> bytes:
    random = np.random.default_rng(seed)
    samples = random.standard_normal(round(seconds * _RATE))
    if high:
        # All of it above 4 kHz, where loudness is weighed most.
        spectrum = np.fft.rfft(samples)
        spectrum[: len(spectrum) // 2] = 0
        samples = np.fft.irfft(spectrum, len(samples))
        samples /= samples.std()
    return np.clip(samples * 10 ** (level_db / 20) * 32768, -32768, 32767).astype("<i2").tobytes()


def _pieces(pcm: bytes, size: int = _PIECE) -> list[bytes]:
    return [pcm[start : start + size] for start in range(0, len(pcm) - len(pcm) % size, size)]


levels = st.sampled_from([-90.0, -75.0, -62.0, -56.0, -53.0, -50.0, -40.0, -20.0])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(levels, st.sampled_from([0.1, 0.4, 0.9, 1.5])), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([320, 640, 1920, 3200, 5120, 9600, 16_000]),
)
# A window that ends where a piece begins is measured from further back; and a piece may be shorter than a window.
@example(parts=[(-56.0, 0.1), (-20.0, 0.1), (-90.0, 0.9)], high=True, size=3200)
@example(parts=[(-30.0, 0.3), (-90.0, 0.4), (-48.0, 0.4)], high=True, size=320)
def test_what_is_withheld_is_too_quiet_by_pipecats_own_measure(
    parts: list[tuple[float, float]],
    high: bool,  # noqa: FBT001
    size: int,
) -> None:
    """Whatever noise at whatever level, in whatever pieces: no window that reaches the volume is held back."""
    gate, volumes = QuietGate(_RATE), _Volumes()
    pcm = b"".join(_noise(level, seconds, number, high=high) for number, (level, seconds) in enumerate(parts))
    for piece in _pieces(pcm, size):
        due = gate.hear(piece, _MIN_VOLUME, volumes._prev_volume, idle=True)
        volume = volumes.measure(piece)
        assert due or volume < _MIN_VOLUME


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.booleans()), max_size=12),
    st.sampled_from([320, 640, 1920, 3200, 5120, 9600]),
)
def test_all_is_heard_once_and_in_order_but_for_long_quiet(parts: list[tuple[bool, int, bool]], size: int) -> None:
    """What comes out is what went in, without samples from the middle of quiet; what comes before a voice is there."""
    gate = QuietGate(_RATE)
    said = heard = 0
    loud = b"\x00\x40" * (size // 2)
    for is_loud, count, idle in parts:
        for _ in range(count):
            piece = loud if is_loud else said.to_bytes(4, "little") + bytes(size - 4)
            quiet_before = said - heard
            due = gate.hear(piece, _MIN_VOLUME, 0.0, idle=idle)
            said += size
            if is_loud or not idle:
                assert due.endswith(piece)
                assert len(due) == size + min(quiet_before, _MEMORY_BYTES)
            if due:
                heard = said


@given(st.floats(0.3, 0.9), st.floats(50, 7_900), st.integers(0, 2**32))
def test_what_is_below_the_bound_of_energy_reaches_no_volume(min_volume: float, hertz: float, seed: int) -> None:
    """Whatever its frequency, by Pipecat's own measure; frames that are all below it are together."""
    loud = loud_from(min_volume)
    random = np.random.default_rng(seed)
    samples = math.sqrt(2 * loud * 0.99) * np.sin(2 * np.pi * hertz / _RATE * np.arange(_RATE) + random.uniform(0, 6))
    piece = np.clip(np.trunc(samples), -32768, 32767).astype("<i2").tobytes()
    assert _Volumes().measure(piece) < min_volume


def test_a_quiet_minute_costs_nothing_but_its_beginning() -> None:
    """The model hears what follows a voice for as long as that may still count as loud, and then nothing."""
    gate, volumes = QuietGate(_RATE), _Volumes()
    heard: list[bool] = []
    for piece in _pieces(_noise(-20, 2, 1) + _noise(-65, 60, 1)):
        heard.append(bool(gate.hear(piece, _MIN_VOLUME, volumes._prev_volume, idle=True)))
        volumes.measure(piece)
    spoken = 2 * _RATE * 2 // _PIECE
    # The 0.4 s that a volume is measured over, and what it takes to smooth it.
    assert all(heard[1 : spoken + 6])
    assert not any(heard[spoken + 12 :])


@pytest.mark.parametrize("size", [1920, 5120, 9600, 16_000])
def test_long_pieces_are_no_louder_than_short_ones(size: int) -> None:
    """In a room that is only just quiet enough it stays so, whatever comes at once."""
    gate = QuietGate(_RATE)
    heard = [bool(gate.hear(piece, _MIN_VOLUME, 0.0, idle=True)) for piece in _pieces(_noise(-55, 20, 1), size)]
    assert not any(heard)


def test_a_bot_that_counts_every_volume_gets_everything() -> None:
    """Without a volume that a voice has to reach, nothing is too quiet."""
    gate = QuietGate(_RATE)
    assert all(gate.hear(bytes(_PIECE), 0.0, 0.0, idle=True) for _ in range(100))


def test_pipecat_measures_as_we_bound() -> None:
    """The scale, the block and the smoothing that the bound is made for."""
    tracker = AudioVolumeTracker()
    sine = np.sin(np.arange(_RATE) * 2 * math.pi * 1000 / _RATE)
    tracker.update((sine * 32767 * 10 ** (-40 / 20)).astype("<i2").tobytes(), _RATE)
    assert tracker.volume == pytest.approx((-43.0 + 110) / 100, abs=0.01)
    assert exp_smoothing(1.0, 0.0, _Volumes()._smoothing_factor) == pytest.approx(0.2)


async def _turns(pcm: bytes, *, skip_quiet: bool) -> tuple[list[tuple[float, VADState]], int]:
    """Return when speech was found to begin and end, in seconds, and how many windows the model was asked about."""
    look_for_voices_inline(skip_quiet=skip_quiet)
    analyzer = SileroVADAnalyzer(sample_rate=_RATE)
    analyzer.set_sample_rate(_RATE)
    asked = 0
    confidence = analyzer.voice_confidence

    def counted(buffer: bytes) -> float:
        nonlocal asked
        asked += 1
        return confidence(buffer)

    analyzer.voice_confidence = counted
    states = [VADState.QUIET]
    found: list[tuple[float, VADState]] = []
    try:
        for number, piece in enumerate(_pieces(pcm)):
            state = await analyzer.analyze_audio(piece)
            if state in {VADState.QUIET, VADState.SPEAKING} and state != states[-1]:
                found.append((number * 0.06, state))
                states.append(state)
    finally:
        await analyzer.cleanup()
        look_for_voices_inline()
    return found, asked


def _without_breaths(turns: list[tuple[float, VADState]]) -> list[tuple[float, VADState]]:
    """Return turns without the pauses that no strategy takes for an end: the model finds such a one now and again."""
    kept: list[tuple[float, VADState]] = []
    for at, state in turns:
        if kept and state is VADState.SPEAKING and at - kept[-1][0] < _BREATH_S:
            kept.pop()
        else:
            kept.append((at, state))
    return kept


@functools.cache
def _said_anew(*sentences: str) -> list[bytes]:
    """Return sentences as a process says them that has said nothing yet: how espeak begins depends on what it said."""
    script = """
import base64, sys
from tests.support.bot_line import spoken
for sentence in sys.argv[1:]:
    print(base64.b64encode(spoken(sentence)).decode())
"""
    done = subprocess.run([sys.executable, "-c", script, *sentences], capture_output=True, check=True)
    return [base64.b64decode(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("level_db", [-90, -65, -57, -45])
async def test_speech_is_found_as_if_the_model_had_heard_all(level_db: int) -> None:
    """The same turns, each beginning and end within two pieces of where it was; less work unless the room is loud."""
    sentences = ["what are your opening hours", "yes", "a table for two, please", "no", "thank you, goodbye"]
    silences = [2.5, 0.7, 4.0, 1.5, 3.0]
    speech = b"".join(
        bytes(round(seconds * _RATE) * 2) + pcm for seconds, pcm in zip(silences, _said_anew(*sentences), strict=True)
    ) + bytes(3 * _RATE * 2)
    noise = np.frombuffer(_noise(level_db, len(speech) / 2 / _RATE, 7), dtype="<i2").astype(int)
    pcm = np.clip(np.frombuffer(speech, dtype="<i2")[: len(noise)] + noise, -32768, 32767).astype("<i2").tobytes()
    everything, all_windows = await _turns(pcm, skip_quiet=False)
    skipping, windows = await _turns(pcm, skip_quiet=True)
    everything, skipping = _without_breaths(everything), _without_breaths(skipping)
    assert [state for _, state in skipping] == [state for _, state in everything]
    assert len(everything) >= 2 * len(sentences)
    assert all(abs(left - right) <= 0.121 for (left, _), (right, _) in zip(skipping, everything, strict=True))
    assert all(before < after for (before, _), (after, _) in pairwise(skipping))
    assert windows < 0.8 * all_windows if level_db < -55 else windows <= all_windows
