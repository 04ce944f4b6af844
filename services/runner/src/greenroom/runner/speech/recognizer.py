"""Speech to text with pocketsphinx and a grammar, in-process.

With a grammar of what can be said the small acoustic model that comes with pocketsphinx is accurate; without one it
isn't usable. Most of what doesn't follow the grammar isn't recognised; some of it is mistaken for what does.
"""

import functools
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import pocketsphinx

# The acoustic model was trained with this rate, in Hz.
RATE: Final = 16_000

_BYTES_PER_SAMPLE: Final = 2
# The decoder holds the GIL: it gets 0.1 s of audio at a time (4 ms of work), so that the event loop has its turn.
_PIECE_BYTES: Final = RATE // 10 * _BYTES_PER_SAMPLE
# Longer speech is cut: nothing in a grammar of requests takes longer.
MAX_SPEECH_S: Final = 20.0
# Silence from a computer is exactly zero, which no microphone ever gave and the acoustic model never heard. Noise
# 60 dB below full scale in all of it takes the errors on such speech from 5 % to none.
_NOISE_FLOOR: Final = 30.0

# A sentence with a word that fits worse than this (log base 1.0001 per frame, in comparison with the best sound of
# each frame) wasn't said. The worst words of 54 sentences said by three voices are at -66 and above; of 20 sentences
# that aren't in the front desk's grammar, 7 don't follow it and 8 more are below.
_MIN_WORD_SCORE: Final = -72.0

_SEARCH: Final = "grammar"
_CALIBRATION: Final = "calibration"
# Nothing is recognised with it; it is the cheapest search there is.
_CALIBRATION_GRAMMAR: Final = "#JSGF V1.0;\ngrammar calibration;\npublic <nothing> = yes;\n"
_CEPSTRA: Final = 13
# pocketsphinx gives a mean that it was told the weight of this many frames (CMN_WIN).
_PRIOR_FRAMES: Final = 500


class GrammarRecognizer:
    """Recognises sentences of one grammar; remembers nothing from one utterance to the next.

    May be used from several threads, one after the other. Starts none, so it may be made before a fork; each fork
    goes on with a copy of its own. Takes 0.1 s to make and about 40 MB.

    Args:
        grammar: JSGF; all of its words must be in the CMU dictionary.

    Raises:
        ValueError: the grammar can't be parsed, or has words that aren't in the dictionary.
    """

    def __init__(self, grammar: str) -> None:
        model = _models() / "en-us"
        self._decoder: Any = pocketsphinx.Decoder(
            hmm=str(model / "en-us"),
            dict=str(model / "cmudict-en-us.dict"),
            lm=None,
            samprate=RATE,
            # Through the lattice, sentences come out that the grammar doesn't have.
            bestpath=False,
            loglevel="FATAL",
        )
        try:
            self._decoder.add_jsgf_string(_SEARCH, grammar)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"pocketsphinx can't use the grammar: {error}") from error
        self._decoder.add_jsgf_string(_CALIBRATION, _CALIBRATION_GRAMMAR)
        self._lock = threading.Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the sentence that was said, or nothing if it is none of the grammar.

        Args:
            pcm: PCM16 mono at `RATE`; what is longer than `MAX_SPEECH_S` is cut.
        """
        audio = _with_noise_floor(pcm[: int(MAX_SPEECH_S * RATE) * _BYTES_PER_SAMPLE])
        if not audio:
            return ""
        with self._lock:
            self._set_mean(self._mean_of(audio))
            return self._decode(_SEARCH, audio)

    def _mean_of(self, audio: bytes) -> list[float]:
        """Return the mean cepstrum of the utterance.

        Subtracting it takes microphone and room out of the signal. pocketsphinx measures it by itself for an utterance
        that it gets in one piece, which would stop the event loop for as long as that takes to decode; in pieces, it
        only goes by what it knew before. So it is measured first, with a search that costs next to nothing.
        """
        self._set_mean([0.0] * _CEPSTRA)
        self._decode(_CALIBRATION, audio)
        frames: int = self._decoder.n_frames()
        weight = (_PRIOR_FRAMES + frames) / max(frames, 1)
        blended: str = self._decoder.get_cmn(True)  # noqa: FBT003 the signature is theirs
        return [float(value) * weight for value in blended.split(",")]

    def _set_mean(self, mean: list[float]) -> None:
        self._decoder.set_cmn(",".join(f"{value:.5f}" for value in mean))

    def _decode(self, search: str, audio: bytes) -> str:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        for start in range(0, len(audio), _PIECE_BYTES):
            self._decoder.process_raw(audio[start : start + _PIECE_BYTES], False, False)  # noqa: FBT003 theirs
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return str(hypothesis.hypstr) if hypothesis is not None and self._fits() else ""

    def _fits(self) -> bool:
        log = self._decoder.get_logmath().log
        return all(
            log(part.ascore) / (part.end_frame - part.start_frame + 1) >= _MIN_WORD_SCORE
            for part in self._decoder.seg()
            if not part.word.startswith(("<", "[", "(NULL)"))  # silence, noise, and states without a sound
        )


@functools.cache
def recognizer(grammar: str) -> GrammarRecognizer:
    """Return the recognizer of a grammar: one in a process, made on first use; errors are those of its class."""
    return GrammarRecognizer(grammar)


def _models() -> Path:
    package: Any = pocketsphinx
    return Path(package.get_model_path())


def _with_noise_floor(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm[: len(pcm) // _BYTES_PER_SAMPLE * _BYTES_PER_SAMPLE], dtype="<i2")
    # The same noise each time: what was recognised once is recognised again.
    noise = np.random.default_rng(0).normal(0.0, _NOISE_FLOOR, len(samples))
    return np.clip(samples + noise, -32_768, 32_767).astype("<i2").tobytes()
