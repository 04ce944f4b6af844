"""WAV files of the caller."""

import math
import wave
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.devtools import wav


def tone(rate: int, hz: float = 440.0, seconds: float = 0.25, amplitude: int = 10_000) -> bytes:
    """Return a sine as mono PCM16."""
    return array(
        "h", [round(amplitude * math.sin(2 * math.pi * hz * n / rate)) for n in range(int(rate * seconds))]
    ).tobytes()


def write(path: Path, pcm: bytes, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> Path:
    """Write a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(pcm)
    return path


def test_a_mono_file_at_the_rate_is_read_as_it_is(tmp_path: Path) -> None:
    """Sample by sample."""
    pcm = tone(16_000)
    assert wav.read_mono(write(tmp_path / "a.wav", pcm), 16_000) == pcm


def test_channels_are_mixed(tmp_path: Path) -> None:
    """Each sample is the mean of the channels', without overflow."""
    left, right = [30_000, -30_000, 100, 0], [30_000, -30_000, -100, 200]
    pcm = array("h", [sample for pair in zip(left, right, strict=True) for sample in pair]).tobytes()
    mono = array("h", wav.read_mono(write(tmp_path / "a.wav", pcm, channels=2), 16_000))
    assert list(mono) == [30_000, -30_000, 0, 100]


@pytest.mark.parametrize("source", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_another_rate_is_the_same_sound(tmp_path: Path, source: int) -> None:
    """As long as before, and close to what the sound would be at that rate."""
    pcm = array("h", wav.read_mono(write(tmp_path / "a.wav", tone(source), rate=source), 16_000))
    wanted = array("h", tone(16_000))
    assert abs(len(pcm) - len(wanted)) <= 1
    error = max(abs(a - b) for a, b in zip(pcm[:-1], wanted, strict=False))
    assert error < 350


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Even in the middle of a sample."""
    pcm = array("h", range(1, 101)).tobytes()
    whole = write(tmp_path / "a.wav", pcm, channels=2).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-3])
    mono = array("h", wav.read_mono(tmp_path / "cut.wav", 16_000))
    assert list(mono) == [2 * n + 1 for n in range(49)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "No such file"),
        (lambda path: path.write_bytes(b"") and path, "a.wav"),
        (lambda path: path.write_bytes(b"ID3 this is no WAV file") and path, "RIFF"),
        (lambda path: write(path, bytes(30), width=3), "24 bits"),
        (lambda path: write(path, bytes(10), width=1), "8 bits"),
        (lambda path: write(path, bytes(10), rate=7_999), "7999 samples"),
        (lambda path: write(path, bytes(10), rate=96_000), "96000 samples"),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, make: object, says: str) -> None:
    """With the file's name, and the error of the catalogue."""
    assert callable(make)
    make(tmp_path / "a.wav")
    with pytest.raises(wav.NotUsable, match=says):
        wav.read_mono(tmp_path / "a.wav", 16_000)


@given(
    st.lists(st.integers(-32_768, 32_767), max_size=200),
    st.integers(8_000, 48_000),
    st.integers(8_000, 48_000),
)
def test_resampling_keeps_length_and_range(samples: list[int], source: int, rate: int) -> None:
    """As long in time, to a sample; never louder than before, never a sample out of range."""
    pcm = wav.resample(array("h", samples).tobytes(), source, rate)
    result = array("h", pcm)
    assert len(result) == (len(samples) if source == rate else len(samples) * rate // source)
    if result:
        assert min(samples) <= min(result)
        assert max(result) <= max(samples)


def test_two_tracks_are_written_side_by_side(tmp_path: Path) -> None:
    """Left and right from the same moment on; the shorter one is silent at its end; folders are made."""
    path = tmp_path / "new" / "folder" / "call.wav"
    wav.write_stereo(path, array("h", [1, 2, 3]).tobytes(), array("h", [9]).tobytes(), 16_000)
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (2, 2, 16_000, 3)
        assert list(array("h", file.readframes(3))) == [1, 9, 2, 0, 3, 0]
    wav.write_stereo(path, b"", b"", 16_000)
    assert wav.read_mono(path, 16_000) == b""
