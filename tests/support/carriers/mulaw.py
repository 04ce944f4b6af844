"""G.711 mu-law, by its definition and not by the library that the bots use."""

from typing import Any, Final

import numpy as np

_BIAS: Final = 0x84
_CLIP: Final = 32_635


def encode(pcm: bytes) -> bytes:
    """Return PCM (16 bit, little-endian) as mu-law."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.int32)
    sign = (samples < 0) * 0x80
    magnitude = np.minimum(np.abs(samples), _CLIP) + _BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | exponent << 4 | mantissa) & 0xFF).astype(np.uint8).tobytes()


def decode(data: bytes) -> bytes:
    """Return mu-law as PCM (16 bit, little-endian)."""
    codes: Any = ~np.frombuffer(data, dtype=np.uint8).astype(np.int32) & 0xFF
    exponent, mantissa = codes >> 4 & 0x07, codes & 0x0F
    magnitude = ((mantissa << 3) + _BIAS << exponent) - _BIAS
    return np.where(codes & 0x80, -magnitude, magnitude).astype("<i2").tobytes()
