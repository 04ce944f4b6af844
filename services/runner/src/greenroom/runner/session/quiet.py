"""Audio that is too quiet to count as a voice, told by its energy alone. Pure: no clock, no I/O.

Voice detection asks for two things: a model that is confident, and a volume above a threshold (`VADParams.min_volume`,
by default -50 LUFS). What doesn't reach the volume needs no model. The volume itself is costly too (ITU-R BS.1770 over
the last 400 ms), so here it is only bounded from above: BS.1770 weighs no frequency by more than 4 dB.

The model remembers what it has heard. So what was kept from it is held back, the last of it, and given to it when the
volume may be reached: it hears what comes before a voice, and decides on the voice as if it had heard all. A pause that
is no longer than what is held back it hears as a whole.
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
# Share of the earlier volume in the smoothed one, for each window.
_SMOOTHING: Final = 0.8
_WINDOW_S: Final = 0.032
# The longer a part is, the more of what was before its block is counted in.
_PART_S: Final = 0.06
# Held back for the model: 20 windows.
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
        self._window_bytes = round(_WINDOW_S * rate) * _WIDTH
        self._part_bytes = round(_PART_S * rate) * _WIDTH
        self._memory_bytes = round(_MEMORY_S * rate) * _WIDTH
        # Energies of the last pieces, with their bytes.
        self._pieces: deque[tuple[float, int]] = deque()
        self._bytes = 0
        # What the smoothed volume is at most, and the bytes since that are less than a window.
        self._volume = 0.0
        self._rest = 0
        self._held = bytearray()

    @property
    def holding(self) -> bool:
        """Whether it is so quiet that nothing is analyzed."""
        return bool(self._held)

    def hear(self, piece: bytes, min_volume: float, volume: float, *, idle: bool) -> bytes:
        """Return what is to be analyzed now: nothing, or all that was held back and the piece.

        Args:
            piece: whole samples.
            min_volume: from which on a voice counts, on Pipecat's scale.
            volume: smoothed, of the last window that was analyzed.
            idle: whether nobody speaks, nor may have begun to, as far as was analyzed.
        """
        if not self._held:
            # All before this piece has been measured.
            self._volume, self._rest = volume, 0
        if self._loudest(piece) >= min_volume or not idle:
            due, self._held = bytes(self._held) + piece if self._held else piece, bytearray()
            return due
        self._held += piece
        del self._held[: max(len(self._held) - self._memory_bytes, 0)]
        return b""

    def _loudest(self, piece: bytes) -> float:
        """Return what the smoothed volume is at most in a piece; a long one is looked at part by part."""
        loudest = 0.0
        for start in range(0, len(piece), self._part_bytes):
            part = piece[start : start + self._part_bytes]
            self._smooth(self._bound(part), len(part))
            loudest = max(loudest, self._volume)
        return loudest

    def _bound(self, piece: bytes) -> float:
        """Return what the volume of any window that ends in a piece is at most."""
        samples = np.frombuffer(piece, dtype="<i2").astype(np.float32)
        self._pieces.append((float(np.dot(samples, samples)), len(piece)))
        self._bytes += len(piece)
        # The block of a window that ends in the beginning of the piece is this much older.
        while self._bytes - self._pieces[0][1] >= self._block_bytes + len(piece):
            self._bytes -= self._pieces.popleft()[1]
        mean = sum(energy for energy, _ in self._pieces) / (self._block_bytes // _WIDTH) / 32768.0**2
        loudness = _OFFSET_DB + _MOST_GAIN_DB + 10 * math.log10(mean) if mean else -math.inf
        return min(max((loudness - _QUIETEST_DB) / _RANGE_DB, 0.0), 1.0)

    def _smooth(self, volume: float, size: int) -> None:
        windows, self._rest = divmod(self._rest + size, self._window_bytes)
        # There may be more windows than one: the first is the loudest.
        earlier = _SMOOTHING if windows else 1.0
        self._volume = max(volume, self._volume * earlier + volume * (1 - earlier))


def loud_from(min_volume: float) -> float:
    """Return the mean square of samples (16 bit) below which no sound reaches a volume on Pipecat's scale."""
    loudness = _QUIETEST_DB + _RANGE_DB * min_volume
    return 10 ** ((loudness - _OFFSET_DB - _MOST_GAIN_DB) / 10) * 32768.0**2
