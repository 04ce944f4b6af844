"""Audio that is too quiet to count as a voice, told by its energy alone. Pure: no clock, no I/O.

Voice detection asks for two things: a model that is confident, and a volume above a threshold (`VADParams.min_volume`,
by default -50 LUFS). What doesn't reach the volume needs no model. The volume itself is costly too (ITU-R BS.1770 over
the last 400 ms), so here it is only bounded from above: BS.1770 weighs no frequency by more than 4 dB.

The model remembers what it has heard. So what was kept from it is held back, the last of it, and given to it when the
volume may be reached: it hears what comes before a voice, and decides on the voice as if it had heard all.
"""

import math
from collections import deque
from typing import Final

import numpy as np

# What the filters of BS.1770 add to a sound at most: 4.0 dB at high frequencies, 4.1 with the rounding of designs.
_MOST_GAIN_DB: Final = 4.1
# Loudness of a mean square of 1, before the filters.
_OFFSET_DB: Final = -0.691
# Over how much audio volume is measured.
_BLOCK_S: Final = 0.4
# Pipecat's scale: 0 is -110 LUFS, 1 is -10.
_QUIETEST_DB: Final = -110.0
_RANGE_DB: Final = 100.0
# Share of the earlier volume in the smoothed one, for each window; a piece has one window at least.
_SMOOTHING: Final = 0.8
# Held back for the model, and heard by it after the last loud piece: 20 windows.
_MEMORY_S: Final = 0.64
_WIDTH: Final = 2


class QuietGate:
    """Bounds the volume of one stream of 16-bit mono audio, and holds back what is too quiet.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self.rate: Final = rate
        self._block_bytes = round(_BLOCK_S * rate) * _WIDTH
        self._memory_bytes = round(_MEMORY_S * rate) * _WIDTH
        # Energies of the pieces in the last block, with their bytes; what is older than a block may be among them.
        self._pieces: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._volume = 1.0
        self._quiet_bytes = 0
        self._held = bytearray()

    @property
    def holding(self) -> bool:
        """Whether it is quiet, and has been for so long that nothing is analyzed."""
        return bool(self._held)

    def hear(self, piece: bytes, min_volume: float, *, idle: bool) -> bytes:
        """Return what is to be analyzed now: nothing, or all that was held back and the piece.

        Args:
            piece: whole samples.
            min_volume: from which on a voice counts, on Pipecat's scale.
            idle: whether nobody speaks, nor may have begun to, as far as was analyzed.
        """
        self._measure(piece)
        if self._volume >= min_volume or not idle:
            self._quiet_bytes = 0
        else:
            self._quiet_bytes += len(piece)
        if self._quiet_bytes <= self._memory_bytes:
            due, self._held = bytes(self._held) + piece if self._held else piece, bytearray()
            return due
        self._held += piece
        del self._held[: max(len(self._held) - self._memory_bytes, 0)]
        return b""

    def _measure(self, piece: bytes) -> None:
        samples = np.frombuffer(piece, dtype="<i2").astype(np.float32)
        energy = float(np.dot(samples, samples))
        self._pieces.append((energy, len(piece)))
        self._bytes += len(piece)
        while self._pieces and self._bytes - self._pieces[0][1] >= self._block_bytes:
            self._bytes -= self._pieces.popleft()[1]
        mean = sum(energy for energy, _ in self._pieces) / (self._block_bytes // _WIDTH) / 32768.0**2
        loudness = _OFFSET_DB + _MOST_GAIN_DB + 10 * math.log10(mean) if mean else -math.inf
        volume = min(max((loudness - _QUIETEST_DB) / _RANGE_DB, 0.0), 1.0)
        self._volume = max(volume, self._volume * _SMOOTHING + volume * (1 - _SMOOTHING))


def loud_from(min_volume: float) -> float:
    """Return the mean square of samples (16 bit) below which no sound reaches a volume on Pipecat's scale."""
    loudness = _QUIETEST_DB + _RANGE_DB * min_volume
    return 10 ** ((loudness - _OFFSET_DB - _MOST_GAIN_DB) / 10) * 32768.0**2
