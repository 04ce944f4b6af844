"""Recordings as WAV, FLAC and Opus, in every layout: what is read back by FFmpeg is what was sent."""

import array
import itertools
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from greenroom.common.lifecycle import Session
from greenroom.common.recordings import FORMATS, LAYOUTS, Format, Layout, RecordingChoice
from greenroom.recorder import files, mixing
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.encoding import encode
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import write_recording
from greenroom.recorder.storage import Folder, digest_of
from tests.support.recordings import ended_session, pcm_chunk

RATE = 16_000
type Samples = NDArray[np.int16]


def decoded(path: Path, *, rate: int = RATE) -> NDArray[np.float64]:
    """Return a file's samples as FFmpeg decodes them, one row a channel, at full scale 32768."""
    with av.open(path) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout=stream.layout, rate=rate)
        frames = [frame.to_ndarray() for raw in file.decode(stream) for frame in resampler.resample(raw)]
        frames += [frame.to_ndarray() for frame in resampler.resample(None)]
        channels = stream.layout.nb_channels
    flat = np.concatenate([frame.reshape(-1) for frame in frames])
    return flat.reshape(-1, channels).T.astype(np.float64)


def speech(seconds: float, seed: int) -> Samples:
    """Return something like speech: harmonics of a voice that rises and falls, in syllables."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = np.sum([np.sin(phase * k) / k for k in range(1, 12)], axis=0)
    syllables = np.clip(np.sin(2 * np.pi * 3 * t + seed) + 0.4, 0, 1)
    return np.asarray(6000 * voice * syllables, np.int16)


def recorded(
    folder: Path, user: Samples, bot: Samples, form: Format, layout: Layout, *, session: Session | None = None
) -> dict[str, NDArray[np.float64]]:
    """Record two tracks of a session and return the decoded files by their names."""
    parts = Parts(folder / ".parts", max_open=8)
    chunks: list[Chunk] = []
    for track, voice in (("user", user), ("bot", bot)):
        for seq, start in enumerate(range(0, len(voice), RATE), 1):
            chunks.append(pcm_chunk(track, seq, start, voice[start : start + RATE].astype("<i2").tobytes()))
    parts.write(chunks)
    try:
        manifest = write_recording(
            session or ended_session(), parts, Folder(folder), rate=RATE, form=form, layout=layout
        )
    finally:
        parts.shutdown()
    assert manifest is not None
    for file in manifest.files:
        assert (folder / file.path).stat().st_size == file.bytes
    return {Path(file.path).name: decoded(folder / file.path) for file in manifest.files}


def together(layout: Layout, user: Samples, bot: Samples) -> list[NDArray[np.int64]]:
    """Return the channels of each file of a layout, as they must be."""
    length = max(len(user), len(bot))
    left, right = (np.pad(voice.astype(np.int64), (0, length - len(voice))) for voice in (user, bot))
    if layout == "mixed":
        return [np.clip(left + right, -32_768, 32_767)[None]]
    return [np.stack([left, right])] if layout == "stereo" else [left[None], right[None]]


voices = st.integers(1, 5000).flatmap(
    lambda length: st.integers(0, 2**32).map(
        lambda seed: np.random.default_rng(seed).integers(-32_768, 32_768, length).astype(np.int16)
    )
)


@settings(max_examples=40, deadline=None)
@given(
    user=voices,
    bot=voices,
    form=st.sampled_from(["wav", "flac"]),
    layout=st.sampled_from(LAYOUTS),
    block=st.integers(100, 5000),
)
def test_lossless_formats_are_bit_for_bit(
    user: Samples, bot: Samples, form: Format, layout: Layout, block: int
) -> None:
    """WAV and FLAC give back each sample that was sent, in every layout and of any length; silence fills the rest."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "BLOCK", block)
        files = recorded(Path(name), user, bot, form, layout)
    wanted = together(layout, user, bot)
    suffixes = ["s.user", "s.bot"] if layout == "tracks" else ["s"]
    assert list(files) == [f"{suffix}.{form}" for suffix in suffixes]
    for found, expected in zip(files.values(), wanted, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opus_sounds_like_what_was_sent(tmp_path: Path, layout: Layout) -> None:
    """Opus has the same length to the millisecond and the same sound, each channel its own."""
    user, bot = speech(6.5, 1), speech(5.0, 4)
    files = recorded(tmp_path, user, bot, "opus", layout)
    for found, expected in zip(files.values(), together(layout, user, bot), strict=True):
        assert found.shape[0] == expected.shape[0]
        assert abs(found.shape[1] - expected.shape[1]) <= RATE // 1000
        length = min(found.shape[1], expected.shape[1])
        for heard, spoken in zip(found, expected, strict=True):
            assert np.corrcoef(heard[:length], spoken[:length])[0, 1] > 0.95
    if layout == "stereo":
        left, right = next(iter(files.values()))
        assert np.corrcoef(left, np.pad(bot, (0, len(left) - len(bot))))[0, 1] < 0.5
        assert np.abs(right[5 * RATE + 800 :]).max() < 100


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_audio_is_the_same_file(tmp_path: Path, form: Format) -> None:
    """Made again, a file is the same to the byte in every format: so sealing can be begun again at any point."""
    made: list[bytes] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recorded(tmp_path / name, speech(1, 1), speech(2, 2), form, "stereo")
        made.append(next((tmp_path / name).glob(f"**/s.{form}")).read_bytes())
    assert made[0] == made[1]


def test_an_agent_chooses_its_own_format(tmp_path: Path) -> None:
    """What the session's agent says goes before what the recorder was told, each part for itself."""
    session = ended_session(recording=RecordingChoice(format="flac"))
    assert list(recorded(tmp_path / "one", speech(1, 1), speech(1, 2), "opus", "tracks", session=session)) == [
        "s.user.flac",
        "s.bot.flac",
    ]
    session = ended_session(recording=RecordingChoice(layout="mixed"))
    files = recorded(tmp_path / "two", speech(1, 1), speech(1, 2), "wav", "tracks", session=session)
    assert {name: channels.shape[0] for name, channels in files.items()} == {"s.wav": 1}


def blocks(minutes: int) -> Iterator[NDArray[np.int16]]:
    """Yield stereo frames, block by block."""
    frames = np.frombuffer(array.array("h", range(-32_768, 32_768)).tobytes(), np.int16).reshape(-1, 2)
    return itertools.repeat(frames, minutes * 60 * RATE // len(frames))


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_memory_does_not_grow_with_the_length(tmp_path: Path, form: Format) -> None:
    """An encoder keeps nothing of what has passed: twenty minutes take no more memory than two."""
    encode(tmp_path / "short", form, blocks(2), channels=2, samples=0, rate=RATE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encode(tmp_path / "long", form, blocks(20), channels=2, samples=0, rate=RATE)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (tmp_path / "long").stat().st_size > 9 * (tmp_path / "short").stat().st_size > 100_000
    assert grown_kib < 8 * 1024


@pytest.mark.parametrize("form", FORMATS)
def test_the_digest_is_that_of_the_file(tmp_path: Path, form: Format) -> None:
    """What is said of a file was digested while it was written, or behind that: it is what the disk has."""
    sha256 = encode(tmp_path / "file", form, blocks(1), channels=2, samples=0, rate=RATE)
    assert sha256 == digest_of(tmp_path / "file")


def test_a_long_file_goes_to_the_disk_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel hears every 16 MiB that the file may be written, is given what there is, and changes nothing of it."""
    handed_over: list[tuple[int, int]] = []
    minutes, let_go = 15, files.let_go

    def hand_over(file: int, start: int, size: int) -> None:
        assert os.fstat(file).st_size == start + size
        handed_over.append((start, size))
        let_go(file, start, size)

    monkeypatch.setattr(files, "let_go", hand_over)
    sha256 = encode(tmp_path / "file", "wav", blocks(minutes), channels=2, samples=0, rate=RATE)
    frames = b"".join(block.tobytes() for block in blocks(minutes))
    assert len(handed_over) == len(frames) // (16 * 1024 * 1024) == 3
    assert (tmp_path / "file").read_bytes()[-len(frames) :] == frames
    assert sha256 == digest_of(tmp_path / "file")
