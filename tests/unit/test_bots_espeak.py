"""Speech made by espeak-ng."""

import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.runner.speech import espeak


def test_a_sentence_is_heard() -> None:
    """A sentence becomes PCM that isn't silent, and takes as long as it takes to say it."""
    pcm = espeak.synthesize("I would like to book a table.", voice=espeak.CALLER_VOICE, rate_wpm=165)
    samples = array("h", pcm)
    assert max(samples) > 5_000
    assert min(samples) < -5_000
    assert 1.2 < len(samples) / espeak.RATE < 3.0


def test_faster_is_shorter() -> None:
    """Twice the words a minute take about half the time."""
    slow = espeak.synthesize("We are open from noon until eleven.", rate_wpm=150)
    fast = espeak.synthesize("We are open from noon until eleven.", rate_wpm=300)
    assert 0.35 < len(fast) / len(slow) < 0.7


def test_words_have_times() -> None:
    """Each word of the text is reported with its punctuation and a time that never goes back."""
    text = "Your table for 4 is booked - it's at 7:30 pm, on Friday; Über's café."
    speech = espeak.speak(text)
    assert [word.text for word in speech.words] == text.split()
    starts = [word.start_s for word in speech.words]
    assert starts == sorted(starts)
    assert starts[0] < 0.1
    assert 0 < starts[-1] < len(speech.pcm) / 2 / espeak.RATE


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_spoken(text: str) -> None:
    """No text breaks the library, and all of its words get a time."""
    speech = espeak.speak(text, rate_wpm=espeak.MAX_RATE_WPM)
    assert len(speech.words) == len(text.replace("\0", " ").split())
    assert len(speech.pcm) % 2 == 0


def test_nothing_is_silence() -> None:
    """An empty text gives no samples."""
    assert espeak.speak("  ") == (b"", ())


def test_a_voice_that_isnt_there() -> None:
    """A voice that doesn't exist is an error that names it, and the next sentence is spoken all the same."""
    with pytest.raises(espeak.UnknownVoice, match="nobody"):
        espeak.synthesize("Hello.", voice="nobody")
    with pytest.raises(espeak.UnknownVoice, match="nobody"):
        espeak.check_voice("nobody")
    espeak.check_voice(espeak.CALLER_VOICE)
    assert espeak.synthesize("Hello.")


@pytest.mark.parametrize("rate_wpm", [0, 79, 451])
def test_a_rate_nobody_speaks_with(rate_wpm: int) -> None:
    """A rate out of the library's bounds is refused."""
    with pytest.raises(ValueError, match="rate_wpm"):
        espeak.synthesize("Hello.", rate_wpm=rate_wpm)


def test_threads_dont_mix_their_voices() -> None:
    """Sentences asked for at the same time are made one after the other, each with its own voice and length."""
    texts = ["Hello.", "We are open from noon until eleven at night.", "Goodbye for now."]
    alone = [len(espeak.synthesize(text)) for text in texts]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda text: len(espeak.synthesize(text)), texts * 4))
    assert together == pytest.approx(alone * 4, rel=0.02)


def test_it_can_be_used_without_pipecat() -> None:
    """The module brings neither Pipecat nor numpy along, and so is there in no time."""
    script = (
        "import sys; from greenroom.runner.speech import espeak;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'pipecat', 'numpy', 'soxr', 'pocketsphinx'}))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == "[]"
