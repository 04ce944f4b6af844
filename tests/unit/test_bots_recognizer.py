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
    assert turns > 10


async def test_input_at_another_rate_is_refused(frontdesk: GrammarRecognizer) -> None:
    """Audio that would be heard at the wrong speed is an error when the pipeline is set up."""
    setup: Any = SimpleNamespace(audio_in_sample_rate=8_000)
    with pytest.raises(ValueError, match="16000 Hz"):
        await PocketsphinxSTTService(frontdesk).setup(setup)
