"""What was said, by whom, from when to when."""

from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.session.speech import (
    LATE_WORD_MS,
    STRAY_TRANSCRIPT_MS,
    UNINTERRUPTED_S,
    AgentSpeech,
    UserSpeech,
    Utterance,
    heard_words,
)


def user(*, has_turns: bool = True) -> tuple[UserSpeech, list[Utterance]]:
    """Return a caller and what they are said to have said."""
    said: list[Utterance] = []
    return UserSpeech(said.append, has_turns=has_turns), said


def agent() -> tuple[AgentSpeech, list[Utterance]]:
    """Return a bot and what it is said to have said."""
    said: list[Utterance] = []
    return AgentSpeech(said.append), said


def speak(bot: AgentSpeech, sentence: str, segment: int, *, seconds: float = 1.0) -> None:
    """Have the voice make a whole sentence, and begin to send it."""
    bot.announced(segment, sentence)
    bot.made(seconds)
    bot.began(segment)


# ---------------------------------------------------------------------------- the caller


def test_a_turn_is_an_utterance() -> None:
    """All final transcripts of a turn are one utterance, from the first sound to the last."""
    caller, said = user()
    caller.speech_started(1000)
    caller.turn_started(1100)
    caller.speech_stopped(1800)
    caller.transcript(" a table ", 1900)
    caller.speech_started(2000)
    caller.speech_stopped(2600)
    caller.transcript("for two", 2700)
    caller.turn_stopped(3000)
    assert said == [Utterance(text="a table for two", start_ms=1000, end_ms=2600)]


def test_a_late_transcript_belongs_to_the_turn_that_is_over() -> None:
    """A transcript that comes after its turn has stopped is said at once, with the times of the turn."""
    caller, said = user()
    caller.speech_started(1000)
    caller.turn_started(1050)
    caller.speech_stopped(2000)
    caller.turn_stopped(2500)
    assert said == []
    caller.transcript("too late", 3000)
    assert said == [Utterance(text="too late", start_ms=1000, end_ms=2000)]


def test_a_turn_without_words_is_no_utterance() -> None:
    """A cough opens and closes a turn; the next turn has times of its own."""
    caller, said = user()
    caller.speech_started(1000)
    caller.turn_started(1050)
    caller.speech_stopped(1200)
    caller.turn_stopped(1500)
    caller.speech_started(5000)
    caller.turn_started(5050)
    caller.transcript("hello", 5500)
    caller.speech_stopped(5600)
    caller.turn_stopped(6000)
    assert said == [Utterance(text="hello", start_ms=5000, end_ms=5600)]


def test_without_turns_each_transcript_is_an_utterance() -> None:
    """Where nobody rules on turns, every final transcript stands for itself."""
    caller, said = user(has_turns=False)
    caller.speech_started(1000)
    caller.speech_stopped(1500)
    caller.transcript("one", 1600)
    caller.transcript("two", 2000)
    assert said == [
        Utterance(text="one", start_ms=1000, end_ms=1500),
        Utterance(text="two", start_ms=2000, end_ms=2000),
    ]


def test_a_transcript_of_no_turn_isnt_mixed_into_the_next() -> None:
    """What was understood while the caller had no turn is said before a new turn begins."""
    caller, said = user()
    caller.transcript("muted", 1000)
    caller.speech_started(1000 + STRAY_TRANSCRIPT_MS + 1)
    caller.turn_started(3100)
    caller.transcript("heard", 3500)
    caller.turn_stopped(4000)
    assert [utterance.text for utterance in said] == ["muted", "heard"]


def test_the_end_of_the_call_ends_the_utterance() -> None:
    """What was understood when the call ends is said."""
    caller, said = user()
    caller.turn_started(1000)
    caller.transcript("good", 1500)
    caller.finish(1600)
    caller.finish(1600)
    assert said == [Utterance(text="good", start_ms=1000, end_ms=1600)]


# ---------------------------------------------------------------------------- the bot


def test_whole_sentences_are_exact() -> None:
    """Sentences that were heard to their end are said as the voice reported them."""
    bot, said = agent()
    bot.started(100)
    for number, sentence in enumerate(("Hello there.", "How are you?")):
        speak(bot, sentence, number)
        bot.sent(1.0)
        bot.spoken(sentence, segment=number, spaced=False, timed=False)
    bot.stopped(2100)
    assert said == [Utterance(text="Hello there. How are you?", start_ms=100, end_ms=2100)]


def test_a_sentence_that_is_cut_ends_where_its_audio_did() -> None:
    """After a barge-in the text has the whole sentences, and of the last one the share that was sent."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "Hello.", 1)
    bot.sent(1.0)
    bot.spoken("Hello.", segment=1, spaced=False, timed=False)
    speak(bot, "We are open from seven to nine.", 2, seconds=2.0)
    bot.sent(1.0)
    bot.interrupted()
    bot.stopped(2000)
    assert said == [Utterance(text="Hello. We are open", start_ms=0, end_ms=2000, interrupted=True, estimated=True)]


def test_what_was_thrown_away_isnt_said_later() -> None:
    """Sentences that a barge-in has dropped don't turn up in the next utterance."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "One two three four.", 1)
    bot.announced(2, "Never heard.")
    bot.interrupted()
    bot.stopped(100)
    bot.started(5000)
    speak(bot, "Yes?", 3)
    bot.sent(1.0)
    bot.spoken("Yes?", segment=3, spaced=False, timed=False)
    bot.stopped(6000)
    assert [(utterance.text, utterance.interrupted) for utterance in said] == [("", True), ("Yes?", False)]


def test_words_with_times_are_exact_at_a_barge_in() -> None:
    """A voice that reports its words gives the text to the word, without an estimate."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "We are open.", 1)
    bot.spoken("We", segment=1, spaced=False, timed=True)
    bot.spoken("are", segment=1, spaced=False, timed=True)
    bot.sent(0.9)
    bot.interrupted()
    bot.stopped(900)
    assert said == [Utterance(text="We are", start_ms=0, end_ms=900, interrupted=True)]


def test_a_late_word_is_waited_for() -> None:
    """Words travel beside the audio: the last one may come shortly behind it."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "Good bye", 1)
    bot.spoken("Good", segment=1, spaced=False, timed=True)
    bot.stopped(1000)
    bot.tick(1000 + LATE_WORD_MS - 1)
    assert said == []
    bot.spoken("bye", segment=1, spaced=False, timed=True)
    bot.tick(1000 + LATE_WORD_MS)
    assert said == [Utterance(text="Good bye", start_ms=0, end_ms=1000)]


def test_nothing_is_waited_for_when_all_words_have_come() -> None:
    """Once every announced word has been spoken, the end of the sound is the end of the utterance."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "Good bye", 1)
    bot.spoken("Good", segment=1, spaced=False, timed=True)
    bot.spoken("bye", segment=1, spaced=False, timed=True)
    bot.stopped(1000)
    assert said == [Utterance(text="Good bye", start_ms=0, end_ms=1000)]


def test_speech_that_cant_be_interrupted_isnt() -> None:
    """A bot that goes on speaking after the caller has cut in wasn't interrupted."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "This call is recorded.", 1)
    bot.interrupted()
    bot.sent(UNINTERRUPTED_S + 0.1)
    bot.spoken("This call is recorded.", segment=1, spaced=False, timed=False)
    bot.stopped(3000)
    assert said == [Utterance(text="This call is recorded.", start_ms=0, end_ms=3000)]


def test_an_interruption_of_silence_cuts_nothing() -> None:
    """Each turn of the caller interrupts the pipeline; a bot that is silent has nothing cut."""
    bot, said = agent()
    bot.interrupted()
    bot.stopped(10)
    bot.started(100)
    bot.spoken("Hm.", segment=None, spaced=False, timed=False)
    bot.stopped(200)
    assert said == [Utterance(text="Hm.", start_ms=100, end_ms=200)]


def test_the_end_of_the_call_cuts_the_bot() -> None:
    """What the bot was saying when the call ends is said up to there."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "One two three four", 1, seconds=4.0)
    bot.sent(2.0)
    bot.finish(2000)
    assert said == [Utterance(text="One two", start_ms=0, end_ms=2000, estimated=True)]


@given(st.lists(st.text("ab", min_size=1, max_size=8), max_size=20), st.floats(-1, 2))
def test_heard_words_are_a_prefix(words: list[str], share: float) -> None:
    """Whatever share was sent, the words are the first ones; all of it gives all, nothing gives none."""
    heard = heard_words(" ".join(words), share).split()
    assert heard == words[: len(heard)]
    assert heard_words(" ".join(words), 1.0).split() == words
    assert heard_words(" ".join(words), 0.0) == ""


# ---------------------------------------------------------------------------- cut while it is still being made


def test_of_a_sentence_that_is_still_made_only_what_was_heard_is_told() -> None:
    """All audio that there is was sent, yet the voice wasn't done: its pace so far says how much that was."""
    bot, said = agent()
    bot.started(0)
    speak(bot, "A sentence of thirty characters", 1, seconds=2.0)
    bot.completed(1)
    bot.sent(2.0)
    bot.spoken("A sentence of thirty characters", segment=1, spaced=False, timed=False)
    speak(bot, "Another one, that is twice as long as the one that was before.", 2, seconds=1.0)
    bot.sent(1.0)
    bot.interrupted()
    bot.voice_stopped(None)
    bot.stopped(3000)
    assert said[0].text == "A sentence of thirty characters Another one,"
    assert said[0].estimated


def test_a_sentence_that_is_complete_is_cut_by_its_own_audio() -> None:
    """A voice may be faster than any: what it has made as a whole is the measure."""
    bot, said = agent()
    bot.started(0)
    bot.announced(1, "one two three four five six seven eight nine ten", "context")
    bot.made(0.2)
    bot.voice_stopped("context")
    bot.began(1)
    bot.sent(0.2)
    bot.interrupted()
    bot.stopped(200)
    assert said[0].text == "one two three four five six seven eight nine ten"


def test_another_contexts_end_completes_nothing() -> None:
    """A voice that has stopped elsewhere may still be at work here; nor is a sentence complete of which nothing is."""
    bot, said = agent()
    bot.started(0)
    bot.announced(1, "one two three four five six seven eight nine ten", "mine")
    bot.completed(1)
    bot.made(0.2)
    bot.voice_stopped("other")
    bot.began(1)
    bot.sent(0.2)
    bot.interrupted()
    bot.stopped(200)
    assert said[0].text == "one"


@given(
    made=st.floats(0.1, 20.0),
    share=st.floats(0.0, 1.0),
    words=st.integers(1, 60),
    whole=st.booleans(),
)
def test_never_more_is_told_of_a_sentence_in_the_making(made: float, share: float, words: int, whole: bool) -> None:  # noqa: FBT001
    """What is told of one that isn't complete is a beginning of what would be told if that were all of it."""
    told: list[str] = []
    for complete in (False, True):
        bot, said = agent()
        bot.started(0)
        speak(bot, "word " * words, 1, seconds=made)
        if complete:
            bot.completed(1)
        bot.sent(made * (1.0 if whole else share))
        bot.interrupted()
        bot.stopped(1000)
        told.append(said[0].text)
    assert told[1].startswith(told[0])
