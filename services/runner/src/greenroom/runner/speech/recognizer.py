"""Speech to text with pocketsphinx and a grammar, in-process.

With a grammar of what can be said the small acoustic model that comes with pocketsphinx is accurate; without one it
isn't usable. A loop of all phones competes with the grammar's sentences: what isn't one of them is mostly heard as a
row of phones, and so isn't recognised.
"""

import functools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pocketsphinx

from greenroom.runner.speech.grammar import WordGraph, word_graph
from greenroom.runner.speech.pronunciation import PHONES, Pronunciation, pronunciations

# The acoustic model was trained with this rate, in Hz.
RATE: Final = 16_000

_BYTES_PER_SAMPLE: Final = 2
# The decoder holds the GIL: it gets 20 ms of audio at a time, 1 ms of work, and then the event loop its turn.
_PIECE_BYTES: Final = RATE // 50 * _BYTES_PER_SAMPLE
# Longer speech is cut: nothing in a grammar of requests takes longer.
MAX_SPEECH_S: Final = 20.0
# Silence from a computer is exactly zero, which no microphone ever gave and the acoustic model never heard. Noise
# 60 dB below full scale in all of it takes the errors on such speech from 5 % to none. It is the same noise each time:
# what was recognised once is recognised again.
_NOISE_SAMPLES: Final = RATE // 10
_NOISE_FLOOR: Final = np.random.default_rng(0).normal(0.0, 30.0, _NOISE_SAMPLES).astype(np.int32)

# How much worse than the best a way through the grammar may be for the moment and still be followed. With 1e-48 and
# 7e-29, which are pocketsphinx's own, the phones crowd out what was said.
_BEAM: Final = 1e-80
_WORD_BEAM: Final = 1e-60
# pocketsphinx's own 0.005 makes a pause dearer than a phone: pauses would be heard as phones, and short sentences not.
_PAUSE_PROBABILITY: Final = 0.1
# What a phone costs that belongs to no sentence. With 10 times as much a few more sentences aren't heard (of voices
# that the model finds hard, one in 100), and a third of what is mistaken for one remains.
_PHONE_PROBABILITY: Final = 1e-6
# A phone of the loop is a word with this before its name.
_LOOSE: Final = "~"

_SEARCH: Final = "grammar"
_CALIBRATION: Final = "calibration"
_CEPSTRA: Final = 13
# What is 35 dB below the loudest moment, or more, is no speech. Moments are 10 ms long.
_QUIET: Final = 10 ** (-35 / 20)
_MOMENT_SAMPLES: Final = RATE // 100
# Speech that the acoustic model learned from had some silence around it.
_MARGIN_MOMENTS: Final = 20
# pocketsphinx gives a mean that it was told the weight of this many frames (CMN_WIN).
_PRIOR_FRAMES: Final = 500

# From, to, probability, and a word if there is one.
type _Transition = tuple[int, int, float] | tuple[int, int, float, str]


class GrammarRecognizer:
    """Recognises sentences of one grammar; remembers nothing from one utterance to the next.

    May be used from several threads, one after the other. Starts none, so it may be made before a fork; each fork
    goes on with a copy of its own. Takes 0.1 s to make and 6 MB.

    Args:
        grammar: JSGF; all of its words must be in the CMU dictionary.

    Raises:
        ValueError: the grammar can't be parsed, or has words that aren't in the dictionary.
    """

    def __init__(self, grammar: str) -> None:
        graph = word_graph(grammar)
        model = _models() / "en-us"
        known = pronunciations(model / "cmudict-en-us.dict", graph.words)
        self._decoder: Any = pocketsphinx.Decoder(
            hmm=str(model / "en-us"),
            dict=None,
            lm=None,
            samprate=RATE,
            beam=_BEAM,
            pbeam=_BEAM,
            wbeam=_WORD_BEAM,
            silprob=_PAUSE_PROBABILITY,
            # Through the lattice, sentences come out that the grammar doesn't have.
            bestpath=False,
            loglevel="FATAL",
        )
        loose = [Pronunciation(_LOOSE + phone, phone) for phone in PHONES]
        for word, phones in (*known, *loose):
            self._decoder.add_word(word, phones, False)  # noqa: FBT003 the signature is theirs
        self._add_search(_SEARCH, _with_loose_phones(graph))
        # Nothing is recognised with it; it is the cheapest search there is.
        self._add_search(_CALIBRATION, [(0, 1, 1.0, _LOOSE + PHONES[0])])
        self._lock = threading.Lock()

    def _add_search(self, name: str, transitions: list[_Transition]) -> None:
        end = max(target for _, target, *_ in transitions)
        self._decoder.add_fsg(name, self._decoder.create_fsg(name, 0, end, transitions))

    def transcribe(self, pcm: bytes) -> str:
        """Return the sentence that was said, or nothing if it is none of the grammar.

        Args:
            pcm: PCM16 mono at `RATE`; what is longer than `MAX_SPEECH_S` is cut.
        """
        speech = pcm[: min(int(MAX_SPEECH_S * RATE), len(pcm) // _BYTES_PER_SAMPLE) * _BYTES_PER_SAMPLE]
        if not speech:
            return ""
        with self._lock:
            self._set_mean(self._mean_of(speech))
            self._decode(_SEARCH, speech)
            hypothesis = self._decoder.hyp()
        sentence = str(hypothesis.hypstr) if hypothesis is not None else ""
        return "" if _LOOSE in sentence else sentence

    def _mean_of(self, speech: bytes) -> list[float]:
        """Return the mean cepstrum of the utterance.

        Subtracting it takes microphone and room out of the signal. pocketsphinx measures it by itself for an utterance
        that it gets in one piece, which would stop the event loop for as long as that takes to decode; in pieces, it
        only goes by what it knew before. So it is measured first, with a search that costs next to nothing, and where
        somebody speaks: how long nobody did before and after is no property of the microphone.
        """
        self._set_mean([0.0] * _CEPSTRA)
        self._decode(_CALIBRATION, _loud_part(speech))
        frames: int = self._decoder.n_frames()
        weight = (_PRIOR_FRAMES + frames) / max(frames, 1)
        blended: str = self._decoder.get_cmn(True)  # noqa: FBT003 the signature is theirs
        return [float(value) * weight for value in blended.split(",")]

    def _set_mean(self, mean: list[float]) -> None:
        self._decoder.set_cmn(",".join(f"{value:.5f}" for value in mean))

    def _decode(self, search: str, speech: bytes) -> None:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        for piece in _with_noise_floor(speech):
            self._decoder.process_raw(piece, False, False)  # noqa: FBT003 the signature is theirs
            # Waiting for the interpreter's switch interval instead, the event loop has gaps of up to 75 ms, not of 3.
            time.sleep(0)
        self._decoder.end_utt()


@functools.cache
def recognizer(grammar: str) -> GrammarRecognizer:
    """Return the recognizer of a grammar: one in a process, made on first use; errors are those of its class."""
    return GrammarRecognizer(grammar)


def _models() -> Path:
    package: Any = pocketsphinx
    return Path(package.get_model_path())


def _with_loose_phones(graph: WordGraph) -> list[_Transition]:
    """Return the grammar's graph with another way from start to end: any phones in any order."""
    loop, end = graph.states, graph.states + 1
    ways: Iterable[_Transition] = (
        *((source, target, 1.0, word) for source, word, target in graph.arcs),
        *((state, end, 1.0) for state in sorted(graph.accepting)),
        (0, loop, 1.0),
        *((loop, loop, _PHONE_PROBABILITY, _LOOSE + phone) for phone in PHONES),
        (loop, end, 1.0),
    )
    return list(ways)


def _loud_part(speech: bytes) -> bytes:
    """Return the speech without the silence before and after it, but for a margin."""
    moments = len(speech) // (_MOMENT_SAMPLES * _BYTES_PER_SAMPLE)
    if not moments:
        return speech
    samples = np.frombuffer(speech, dtype="<i2", count=moments * _MOMENT_SAMPLES).reshape(moments, _MOMENT_SAMPLES)
    heights = samples.max(axis=1).astype(np.int32) - samples.min(axis=1)
    loud = np.flatnonzero(heights >= heights.max() * _QUIET)
    first, last = max(int(loud[0]) - _MARGIN_MOMENTS, 0), int(loud[-1]) + 1 + _MARGIN_MOMENTS
    return speech[first * _MOMENT_SAMPLES * _BYTES_PER_SAMPLE : last * _MOMENT_SAMPLES * _BYTES_PER_SAMPLE]


def _with_noise_floor(speech: bytes) -> Iterator[bytes]:
    """Yield the speech in pieces, with noise: no more than 0.1 s of it is copied at a time."""
    for start in range(0, len(speech) // _BYTES_PER_SAMPLE, _NOISE_SAMPLES):
        count = min(_NOISE_SAMPLES, len(speech) // _BYTES_PER_SAMPLE - start)
        clean = np.frombuffer(speech, "<i2", count, start * _BYTES_PER_SAMPLE)
        noisy = np.clip(clean + _NOISE_FLOOR[:count], -32_768, 32_767).astype("<i2").tobytes()
        for piece in range(0, len(noisy), _PIECE_BYTES):
            yield noisy[piece : piece + _PIECE_BYTES]
