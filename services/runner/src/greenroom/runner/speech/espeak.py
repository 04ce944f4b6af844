"""Text to speech with espeak-ng, in-process. Imports the standard library only.

The library and its voices come from the package `espeakng-loader` (the extra `frontdesk`); they are loaded with the
first sentence. espeak-ng is GPL-3 and loaded as a shared library.

The library keeps global state, so one sentence is made at a time, whichever thread asks. It starts no threads and
opens no audio device: it may be loaded before a fork, and each fork then goes on by itself.
"""

import ctypes
import functools
import importlib
import threading
from array import array
from typing import Any, Final, NamedTuple

# What espeak-ng makes, in Hz. The voices have no other rate.
RATE: Final = 22_050

# The front desk's own voice.
BOT_VOICE: Final = "en-us+m3"
BOT_RATE_WPM: Final = 170
# The voice of a scripted caller: of all voices here the one that offline recognition mistakes least (one of 318
# sentences of the front desk's grammar, clean and with noise 58 dB below full scale).
CALLER_VOICE: Final = "en-us+f2"
CALLER_RATE_WPM: Final = 165

MIN_RATE_WPM: Final = 80
MAX_RATE_WPM: Final = 450

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_DONT_EXIT: Final = 0x8000
_CHARS_UTF8: Final = 1
_PARAMETER_RATE: Final = 1
_POSITION_CHARACTER: Final = 1
_EVENT_LIST_TERMINATED: Final = 0
_EVENT_WORD: Final = 1
_OK: Final = 0
_CONTINUE: Final = 0
# Breath and friction are made from random numbers; the same seed makes a process say the same thing the same way.
_SEED: Final = 1


class EspeakUnavailable(Exception):
    """espeak-ng can't be loaded: install the extra `frontdesk` of greenroom-runner."""


class UnknownVoice(ValueError):
    """espeak-ng has no voice of this name."""


class Word(NamedTuple):
    """A word of the text, as written there with its punctuation, and when it starts, in seconds."""

    text: str
    start_s: float


class Speech(NamedTuple):
    """What was made of a text: PCM16 mono at `RATE`, and when each of its words is heard."""

    pcm: bytes
    words: tuple[Word, ...]


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def synthesize(text: str, *, voice: str = BOT_VOICE, rate_wpm: int = BOT_RATE_WPM) -> bytes:
    """Speak a text.

    Args:
        text: one or more sentences; an empty text gives no samples.
        voice: name of a voice, with a variant if wanted, e.g. `en-us+f2`.
        rate_wpm: words a minute, 80 to 450.

    Returns:
        PCM16 mono at `RATE`, little-endian.

    Raises:
        EspeakUnavailable: the library isn't installed, or doesn't load.
        UnknownVoice: there is no such voice.
        ValueError: the rate is out of its bounds.
    """
    return speak(text, voice=voice, rate_wpm=rate_wpm).pcm


def speak(text: str, *, voice: str = BOT_VOICE, rate_wpm: int = BOT_RATE_WPM) -> Speech:
    """Speak a text, and tell when its words are heard; arguments and errors are those of `synthesize`."""
    if not MIN_RATE_WPM <= rate_wpm <= MAX_RATE_WPM:
        raise ValueError(f"rate_wpm is {rate_wpm}, not {MIN_RATE_WPM} to {MAX_RATE_WPM}")
    # A zero byte would end the text for the library.
    text = text.replace("\0", " ")
    if not text.strip():
        return Speech(b"", ())
    with _lock:
        pcm, starts = _engine().run(text, voice, rate_wpm)
    return Speech(pcm, _words(text, starts))


def check_voice(voice: str) -> None:
    """Make sure that a voice exists, before there is something to say.

    Raises:
        EspeakUnavailable: the library isn't installed, or doesn't load.
        UnknownVoice: there is no such voice.
    """
    _exists(voice)


@functools.lru_cache(maxsize=64)
def _exists(voice: str) -> bool:
    with _lock:
        _engine().use(voice)
    return True


def warm() -> None:
    """Load the library and its voices now; what is loaded before a fork is shared by all forks.

    Raises:
        EspeakUnavailable: the library isn't installed, or doesn't load.
    """
    check_voice(BOT_VOICE)
    synthesize("Hello.")


class _Engine:
    """The library, initialised. Used by one thread at a time."""

    def __init__(self) -> None:
        try:
            loader: Any = importlib.import_module("espeakng_loader")
            self._library = ctypes.CDLL(loader.get_library_path())
            data_path: str = loader.get_data_path()
        except (ImportError, OSError, RuntimeError) as error:
            raise EspeakUnavailable(f"espeak-ng doesn't load: {error}") from error
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT)
        if rate != RATE:
            raise EspeakUnavailable(f"espeak-ng gave {rate} instead of a sample rate of {RATE} Hz")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
        self._samples = array("h")
        self._starts: list[tuple[int, float]] = []
        # The library keeps a bare pointer: the callback has to live as long as the engine.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def run(self, text: str, voice: str, rate_wpm: int) -> tuple[bytes, list[tuple[int, float]]]:
        """Return the samples, and for each word that was spoken its index in the text and its time in seconds."""
        self._samples = array("h")
        self._starts = []
        self.use(voice)
        self._library.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        data = text.encode() + b"\0"
        status = self._library.espeak_Synth(data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        if status != _OK:
            raise RuntimeError(f"espeak_Synth failed with status {status}")
        return self._samples.tobytes(), self._starts

    def use(self, voice: str) -> None:
        """Speak with this voice from now on."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != _OK:
            raise UnknownVoice(f"espeak-ng has no voice {voice!r}")

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._samples.frombytes(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._starts.append((event.text_position - 1, event.audio_position_ms / 1000))
            index += 1
        return _CONTINUE


_lock = threading.Lock()


@functools.cache
def _engine() -> _Engine:
    return _Engine()


def _words(text: str, starts: list[tuple[int, float]]) -> tuple[Word, ...]:
    """Give each word of the text the time of the first sound that was made from it.

    What the library counts as a word differs ("7:30" is two of them, a dash none): a word without a sound of its own
    starts with the one before it.
    """
    words: list[Word] = []
    position, at = 0, 0.0
    remaining = iter(starts)
    following = next(remaining, None)
    for word in text.split():
        begin = text.index(word, position)
        position = begin + len(word)
        first = True
        while following is not None and following[0] < position:
            if first:
                at, first = max(at, following[1]), False
            following = next(remaining, None)
        words.append(Word(word, at))
    return tuple(words)
