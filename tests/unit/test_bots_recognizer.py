"""Recognition of synthetic callers, offline."""

import asyncio
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from greenroom.runner.speech.pocketsphinx_stt import PocketsphinxSTTService
from greenroom.runner.speech.recognizer import RATE, GrammarRecognizer, recognizer
from tests.support.bot_line import backwards, spoken

# What the documentation and the demo say, and more.
SENTENCES = (
    "what are your opening hours",
    "i would like to book a table",
    "for four people",
    "on friday",
    "at seven pm",
    "yes please",
    "what time is it",
    "please transfer me to a person",
    "no thank you",
    "goodbye",
    "at seven in the evening",
    "book a table for four people on friday at seven pm",
    "hello i would like to book a table for two people",
    "tomorrow at half past eight",
    "for six people on saturday",
    "at eight o'clock",
    "no at nine pm",
    "that is right",
    "yes",
    "no",
    "tell me about the menu",
    "can you say that again",
    "thank you goodbye",
)
_SILENCE = bytes(RATE)


@pytest.fixture(scope="module")
def frontdesk() -> GrammarRecognizer:
    """The recognizer of the front desk."""
    return recognizer(resources.files("greenroom.runner.bots").joinpath("frontdesk.jsgf").read_text())


@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_is_recognised_word_for_word(frontdesk: GrammarRecognizer, text: str) -> None:
    """The caller's voice is understood exactly, with silence around it as a call has it."""
    assert frontdesk.transcribe(_SILENCE + spoken(text) + _SILENCE) == text


@pytest.mark.parametrize("noise", [30, 150, 400])
def test_noise_on_the_line_is_no_obstacle(frontdesk: GrammarRecognizer, noise: int) -> None:
    """Noise of up to 38 dB below full scale changes nothing."""
    text = "book a table for four people on friday at seven pm"
    clean = np.frombuffer(_SILENCE + spoken(text) + _SILENCE, dtype="<i2")
    noisy = np.clip(clean + np.random.default_rng(1).normal(0, noise, len(clean)), -32_768, 32_767).astype("<i2")
    assert frontdesk.transcribe(noisy.tobytes()) == text


def test_one_utterance_has_no_influence_on_another(frontdesk: GrammarRecognizer) -> None:
    """The same sound gives the same text, whatever was heard before."""
    sound = spoken("for four people")
    before = frontdesk.transcribe(sound)
    frontdesk.transcribe(np.random.default_rng(2).normal(0, 8_000, RATE).astype("<i2").tobytes())
    assert frontdesk.transcribe(sound) == before == "for four people"


@pytest.mark.parametrize(
    "pcm",
    [
        b"",
        b"\0",
        _SILENCE,
        backwards(spoken("what are your opening hours")),
        spoken("could you tell me how much that is"),
    ],
    ids=["nothing", "half a sample", "silence", "backwards", "another sentence"],
)
def test_what_isnt_in_the_grammar_isnt_recognised(frontdesk: GrammarRecognizer, pcm: bytes) -> None:
    """Silence and sounds that make no sentence of the grammar give no text."""
    assert frontdesk.transcribe(pcm) == ""


@pytest.mark.parametrize("text", SENTENCES)
def test_speech_backwards_is_no_sentence(frontdesk: GrammarRecognizer, text: str) -> None:
    """What sounds like a voice and says nothing isn't mistaken for what the grammar has."""
    assert frontdesk.transcribe(_SILENCE + backwards(spoken(text)) + _SILENCE) == ""


@pytest.mark.parametrize(
    "text",
    [
        *("the weather is terrible today", "i lost my umbrella at your place yesterday", "my name is alexander"),
        *("could i have the recipe", "when does the train leave", "we waited for an hour", "turn off the lights"),
        *("cats chase mice", "nine eight seven six", "there is somebody at the door", "i do not know", "umbrella"),
    ],
)
def test_other_sentences_are_none_of_the_grammar(frontdesk: GrammarRecognizer, text: str) -> None:
    """A caller who says something else isn't told what they didn't say."""
    assert frontdesk.transcribe(_SILENCE + spoken(text) + _SILENCE) == ""


def test_a_room_full_of_people_says_nothing(frontdesk: GrammarRecognizer) -> None:
    """Several voices at once, and noise that comes and goes, are no sentence."""
    voices = [np.frombuffer(spoken(text), dtype="<i2") for text in SENTENCES[:6]]
    babble = np.sum([np.resize(voice, 2 * RATE) / 2 for voice in voices], axis=0).clip(-32_768, 32_767)
    bursts = np.random.default_rng(3).normal(0, 4_000, 2 * RATE) * (np.arange(2 * RATE) % 8_000 < 4_000)
    for sound in (babble, bursts):
        assert frontdesk.transcribe(_SILENCE + sound.astype("<i2").tobytes() + _SILENCE) == ""


@pytest.mark.parametrize("grammar", ["", "#JSGF V1.0; grammar g; public <a> = flubbergust;"])
def test_a_grammar_that_cant_be_used(grammar: str) -> None:
    """A grammar that can't be parsed, or has words without a pronunciation, is refused at once."""
    with pytest.raises(ValueError, match="grammar"):
        GrammarRecognizer(grammar)


async def test_the_event_loop_goes_on_while_speech_is_decoded(frontdesk: GrammarRecognizer) -> None:
    """Decoding happens beside the event loop, which gets its turn all the time."""
    turns = 0
    decoding = asyncio.create_task(
        asyncio.to_thread(frontdesk.transcribe, spoken("book a table for four people on friday at seven pm"))
    )
    while not decoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert await decoding == "book a table for four people on friday at seven pm"
    # It gets one for each 20 ms of speech, heard twice: 90 where nothing else runs, 5 if it has to wait for the GIL.
    assert turns > 30


async def test_input_at_another_rate_is_refused(frontdesk: GrammarRecognizer) -> None:
    """Audio that would be heard at the wrong speed is an error when the pipeline is set up."""
    setup: Any = SimpleNamespace(audio_in_sample_rate=8_000)
    with pytest.raises(ValueError, match="16000 Hz"):
        await PocketsphinxSTTService(frontdesk).setup(setup)
