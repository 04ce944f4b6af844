"""Reading and writing WAV files of 16 bit PCM."""

import wave
from array import array
from pathlib import Path
from typing import Final

from greenroom.common.errors import GreenroomError

MIN_RATE: Final = 8_000
MAX_RATE: Final = 48_000


class NotUsable(GreenroomError):
    """The WAV file can't be used: it must be uncompressed, 16 bit, with 8,000 to 48,000 samples per second."""

    code = "wav-not-usable"
    status = 422
    title = "The WAV file can't be used"


def read_mono(path: Path, rate: int) -> bytes:
    """Return a WAV file as mono PCM16 at `rate` samples per second (linear interpolation where it differs).

    Raises:
        NotUsable: it isn't a WAV file of 16 bit PCM with 8,000 to 48,000 samples per second.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, source_rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            pcm = file.readframes(file.getnframes())
    except (OSError, wave.Error, EOFError) as error:
        raise NotUsable(f"{path}: {error}") from error
    if width != 2:  # noqa: PLR2004 - bytes of a 16 bit sample
        raise NotUsable(f"{path} has {8 * width} bits a sample, not 16")
    if not MIN_RATE <= source_rate <= MAX_RATE:
        raise NotUsable(f"{path} has {source_rate} samples a second, not {MIN_RATE} to {MAX_RATE}")
    # A file that was cut off may end within a sample.
    samples = array("h", pcm[: len(pcm) - len(pcm) % (2 * channels)])
    if channels > 1:
        samples = array("h", [sum(samples[i : i + channels]) // channels for i in range(0, len(samples), channels)])
    return resample(samples.tobytes(), source_rate, rate)


def resample(pcm: bytes, source_rate: int, rate: int) -> bytes:
    """Return mono PCM16 at another rate, by linear interpolation: good enough for speech that a person listens to."""
    if source_rate == rate or not pcm:
        return pcm
    samples = array("h", pcm)
    count = len(samples) * rate // source_rate
    result = array("h", bytes(2 * count))
    for index in range(count):
        position = index * source_rate / rate
        left = int(position)
        right = min(left + 1, len(samples) - 1)
        result[index] = round(samples[left] + (samples[right] - samples[left]) * (position - left))
    return result.tobytes()


def write_stereo(path: Path, left: bytes, right: bytes, rate: int) -> None:
    """Write two mono PCM16 tracks as one stereo file; the shorter one is filled with silence."""
    length = max(len(left), len(right))
    interleaved = array("h", bytes(2 * length))
    interleaved[0::2] = array("h", left.ljust(length, b"\0"))
    interleaved[1::2] = array("h", right.ljust(length, b"\0"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(interleaved.tobytes())
