"""The judge of turns gets the spectrum of what was said in small pieces.

Pipecat computes the spectra of all 800 frames of 8 s at once: five arrays of 2.5 MB, which come from the kernel page by
page and go back with each turn, longer than computing takes. Here a few frames at a time are computed, in memory that
is there; and what comes before the first word, zeros by which a shorter turn is filled up, once.
"""

from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pipecat.audio.turn.smart_turn import _whisper_features

# Of 400 samples: 51 kB in double precision, below what malloc asks the kernel for.
_FRAMES: Final = 16

type _Array = NDArray[Any]


def compute_spectra_piecewise() -> None:
    """Have all of Smart Turn's analyzers in this process do so; a conformance test compares the features."""
    owner: Any = _whisper_features
    owner._power_spectrogram = power_spectrogram  # noqa: SLF001


def power_spectrogram(waveform: _Array, window: _Array, frame_length: int, hop_length: int) -> _Array:
    """Return the power of each frequency (row) in each frame (column), as Pipecat's function does.

    Args:
        waveform: samples, of any type.
        window: as long as a frame.
        frame_length: in samples; the first frame is centered on the first sample, what is missing is reflected.
        hop_length: from frame to frame, in samples.
    """
    padded = np.pad(waveform, frame_length // 2, mode="reflect")
    frames = sliding_window_view(padded, frame_length)[::hop_length]
    power = np.empty((len(frames), frame_length // 2 + 1))
    alike = _alike(padded, frame_length, hop_length)
    if alike:
        power[:alike] = _power(frames[:1], window)
    for start in range(alike, len(frames), _FRAMES):
        power[start : start + _FRAMES] = _power(frames[start : start + _FRAMES], window)
    return power.T


def _alike(padded: _Array, frame_length: int, hop_length: int) -> int:
    """Return how many of the first frames consist of one and the same sample."""
    other = int(np.argmax(padded != padded[0])) or len(padded)
    return (other - frame_length) // hop_length + 1 if other >= frame_length else 0


def _power(frames: _Array, window: _Array) -> _Array:
    spectra = np.fft.rfft(frames.astype(np.float64) * window, axis=-1)
    return spectra.real**2 + spectra.imag**2
