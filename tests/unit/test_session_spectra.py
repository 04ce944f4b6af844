"""What the judge of turns gets to see: computed piece by piece, and the same as Pipecat's own."""

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pipecat.audio.turn.smart_turn import _whisper_features, local_smart_turn_v3

from greenroom.runner.session.spectra import compute_spectra_piecewise, power_spectrogram

_SAMPLES = 128_000


def _original() -> ModuleType:
    """Pipecat's module, loaded anew: nobody has changed it."""
    spec = importlib.util.find_spec(_whisper_features.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORIGINAL: Any = _original()


@st.composite
def turns(draw: st.DrawFn) -> NDArray[np.float32]:
    """Eight seconds, of which the last are noise, maybe with silence within."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    spoken = draw(st.sampled_from((0, 1, 159, 200, 401, 16_000, 50_001, _SAMPLES - 1, _SAMPLES)))
    turn = np.zeros(_SAMPLES, np.float32)
    turn[_SAMPLES - spoken :] = random.standard_normal(spoken) * draw(st.sampled_from((1e-4, 0.1, 1.0)))
    silent = draw(st.integers(0, _SAMPLES))
    turn[silent : silent + draw(st.integers(0, 8000))] = draw(st.sampled_from((0.0, 0.25)))
    return turn


@settings(max_examples=30, deadline=None)
@given(turns())
def test_the_spectra_are_those_of_pipecat(turn: NDArray[np.float32]) -> None:
    """Whatever was said: the powers agree to the last digits of a double."""
    arguments = (turn, ORIGINAL._HANN_WINDOW, ORIGINAL._N_FFT, ORIGINAL._HOP_LENGTH)
    ours, theirs = power_spectrogram(*arguments), ORIGINAL._power_spectrogram(*arguments)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * max(theirs.max(), 1e-30))


def test_the_judge_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smart Turn's features are computed with them, and come out as before."""
    monkeypatch.setattr(_whisper_features, "_power_spectrogram", ORIGINAL._power_spectrogram)
    turn = np.random.default_rng(0).standard_normal(_SAMPLES).astype(np.float32)
    turn[:90_000] = 0
    judge: Any = local_smart_turn_v3
    before = judge.compute_whisper_log_mel_features(turn)
    compute_spectra_piecewise()
    assert _whisper_features._power_spectrogram is power_spectrogram
    np.testing.assert_allclose(judge.compute_whisper_log_mel_features(turn), before, atol=1e-6)
