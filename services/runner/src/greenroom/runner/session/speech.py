"""What was said, by whom, from when to when. Pure: moments come in, utterances go out through a callback.

All moments are milliseconds on the call's timeline.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from pipecat.utils.string import TextPartForConcatenation, concatenate_aggregated_text

# Texts of one utterance; a turn of many minutes has hundreds.
_MAX_PARTS: Final = 2_000
# Sentences between synthesis and loudspeaker.
_MAX_SEGMENTS: Final = 200
# Words with a time of their own travel beside the audio: the last one may come this long behind it.
LATE_WORD_MS: Final = 300
# How fast a voice speaks of which nothing was heard to its end yet: 150 words a minute.
USUAL_CHARACTERS_S: Final = 15.0
# What is under way when the caller cuts in may still go out; a bot that sends more than this goes on speaking.
UNINTERRUPTED_S: Final = 0.25
# A transcript that belongs to no turn is said to be an utterance of its own after this.
STRAY_TRANSCRIPT_MS: Final = 2_000


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of speech of one side.

    `interrupted`: the other side cut it. `estimated`: the last words are those whose share of the sentence's audio
    had been sent when it was cut, because the voice doesn't report its words.
    """

    text: str
    start_ms: int
    end_ms: int
    interrupted: bool = False
    estimated: bool = False


type Say = Callable[[Utterance], None]


class Texts:
    """Parts of a text, joined as Pipecat joins them for the bot's own context."""

    def __init__(self) -> None:
        self._parts: deque[TextPartForConcatenation] = deque(maxlen=_MAX_PARTS)

    def __bool__(self) -> bool:
        """Whether there is any text."""
        return bool(self._parts)

    def add(self, text: str, *, spaced: bool = False) -> None:
        """Add a part; `spaced`: it brings the spaces around it along."""
        if text:
            self._parts.append(TextPartForConcatenation(text, includes_inter_part_spaces=spaced))

    def take(self) -> str:
        """Return the whole and begin anew."""
        whole = concatenate_aggregated_text(list(self._parts))
        self._parts.clear()
        return whole


class UserSpeech:
    """Puts together what the caller said.

    Where the pipeline rules on turns (`has_turns`), an utterance is a turn: all final transcripts until the turn
    stops. Elsewhere each final transcript is one.
    """

    def __init__(self, say: Say, *, has_turns: bool) -> None:
        self._say = say
        self._has_turns = has_turns
        self._texts = Texts()
        self._in_turn = False
        self._started: int | None = None
        self._stopped: int | None = None
        self._last_transcript = 0

    def speech_started(self, at: int) -> None:
        """The voice detector hears speech since `at`."""
        if self._texts and not self._in_turn and at - self._last_transcript > STRAY_TRANSCRIPT_MS:
            self.finish(self._last_transcript)
        if self._started is None or (not self._in_turn and not self._texts):
            self._started = at
        self._stopped = None

    def speech_stopped(self, at: int) -> None:
        """The voice detector has heard silence since `at`."""
        self._stopped = at

    def turn_started(self, at: int) -> None:
        """It is the caller's turn."""
        self._in_turn = True
        if self._started is None:
            self._started = at

    def turn_stopped(self, at: int) -> None:
        """The caller's turn is over: what was understood is an utterance. A transcript may still be under way."""
        self._in_turn = False
        if self._texts:
            self.finish(at)
        elif self._stopped is None:
            self._stopped = at

    def transcript(self, text: str, at: int) -> None:
        """The recognizer has understood `text`, finally."""
        self._texts.add(text.strip())
        self._last_transcript = at
        overdue = not self._in_turn and self._stopped is not None
        if not self._has_turns or overdue:
            self.finish(at)

    def finish(self, at: int) -> None:
        """Say what was gathered, if anything; `at` bounds what has no times of its own."""
        text = self._texts.take()
        started, stopped = self._started, self._stopped
        self._started = self._stopped = None
        if text:
            end = at if stopped is None else stopped
            self._say(Utterance(text=text, start_ms=min(end if started is None else started, end), end_ms=end))


class _Segment:
    """A sentence on its way: how much audio was made of it, and how much of that has been sent, in seconds.

    `complete`: the voice makes no more of it.
    """

    __slots__ = ("complete", "context", "made_s", "sent_s", "text")

    def __init__(self, text: str, context: str | None) -> None:
        self.text = text
        self.context = context
        self.made_s = 0.0
        self.sent_s = 0.0
        self.complete = False


class _Pace:
    """How fast the voice speaks, by the sentences that it has made as a whole."""

    __slots__ = ("_characters", "_seconds")

    def __init__(self) -> None:
        self._characters = 0
        self._seconds = 0.0

    def heard(self, segment: _Segment) -> None:
        """Go by a sentence that is complete."""
        self._characters += len(segment.text)
        self._seconds += segment.made_s

    def takes_s(self, text: str) -> float:
        """Return for how long it will speak a text."""
        pace = self._characters / self._seconds if self._seconds and self._characters else USUAL_CHARACTERS_S
        return len(text) / pace


class AgentSpeech:
    """Puts together what the bot said, from what has really been sent.

    Voices that report their words, or a sentence behind its audio, give the text exactly; a sentence that is cut in
    the middle is cut at the share of its audio that was sent. Of a sentence that the voice was still making, that is
    the share of the audio that there would have been, at the pace of the sentences before it.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._texts = Texts()
        self._segments: dict[int, _Segment] = {}
        self._pace = _Pace()
        self._making: int | None = None
        self._sending: int | None = None
        self._started: int | None = None
        self._stopped: int | None = None
        self._interrupted = False
        # Seconds sent since the caller cut in.
        self._defiant_s = 0.0
        self._word_by_word = False
        # Letters that were announced and haven't been reported as spoken.
        self._owed = 0

    # ------------------------------------------------------------------------ at the voice

    def announced(self, segment: int, text: str, context: str | None = None) -> None:
        """The voice will speak `text` next, in a `context` of its own or that of the sentences before."""
        if self._making is not None and self._making != segment:
            # It makes one sentence behind the other.
            self.completed(self._making)
        while len(self._segments) >= _MAX_SEGMENTS:
            del self._segments[next(iter(self._segments))]
        self._segments[segment] = _Segment(text, context)
        self._making = segment

    def made(self, seconds: float) -> None:
        """The voice has made audio of what it announced last."""
        if self._making is not None and (segment := self._segments.get(self._making)):
            segment.made_s += seconds

    def completed(self, segment: int) -> None:
        """The voice has made all audio of a sentence, if it has made any: some say so before they begin."""
        known = self._segments.get(segment)
        if known is not None and known.made_s > 0 and not known.complete:
            known.complete = True
            self._pace.heard(known)

    def voice_stopped(self, context: str | None) -> None:
        """The voice has made all audio of a context; None: of whatever it was told to speak.

        Behind an interruption it only says that it makes no more.
        """
        if self._interrupted:
            return
        for number, segment in self._segments.items():
            if context is None or segment.context in {None, context}:
                self.completed(number)

    # ------------------------------------------------------------------------ at the loudspeaker

    def started(self, at: int) -> None:
        """The bot is heard."""
        if self._stopped is not None:
            self.finish()
        if self._started is None:
            self._started = at

    def began(self, segment: int) -> None:
        """What is sent from here on belongs to `segment`."""
        self._sending = segment
        if known := self._segments.get(segment):
            self._owed += _letters(known.text)

    def sent(self, seconds: float) -> None:
        """Audio has been sent."""
        if self._interrupted:
            self._defiant_s += seconds
            if self._defiant_s > UNINTERRUPTED_S:
                self._interrupted = False
        if self._sending is not None and (segment := self._segments.get(self._sending)):
            segment.sent_s += seconds

    def spoken(self, text: str, *, segment: int | None, spaced: bool, timed: bool) -> None:
        """This text has been heard; `timed`: it is a word with a time of its own."""
        self._texts.add(text, spaced=spaced)
        self._owed -= _letters(text)
        self._word_by_word = self._word_by_word or timed
        if segment is not None and not timed:
            self._segments.pop(segment, None)
            if self._sending == segment:
                self._sending = None

    def interrupted(self) -> None:
        """The caller cuts in."""
        if self._stopped is not None:
            self.finish()
        if self._started is None:
            self._forget()
        else:
            self._interrupted, self._defiant_s = True, 0.0

    def stopped(self, at: int) -> None:
        """The bot is no longer heard."""
        if self._started is None:
            return
        self._stopped = at
        if self._interrupted or not self._word_by_word or self._owed <= 0:
            self.finish()

    @property
    def awaits_word(self) -> bool:
        """Whether the bot is no longer heard, and its last word may still come."""
        return self._stopped is not None

    def tick(self, at: int) -> None:
        """Say what waited for a late word long enough."""
        if self._stopped is not None and at - self._stopped >= LATE_WORD_MS:
            self.finish()

    def finish(self, at: int | None = None) -> None:
        """Say what was gathered; `at`: the call ends now, in the middle of it if it is so."""
        started, stopped = self._started, self._stopped
        if started is None or (stopped is None and at is None):
            return
        end = stopped if stopped is not None else at or started
        cut = "" if self._word_by_word else self._cut_text()
        self._texts.add(cut)
        utterance = Utterance(
            text=self._texts.take(),
            start_ms=started,
            end_ms=max(end, started),
            interrupted=self._interrupted,
            estimated=bool(cut),
        )
        if self._interrupted:
            self._forget()
        self._started = self._stopped = None
        self._interrupted = self._word_by_word = False
        self._owed = 0
        self._say(utterance)

    def _cut_text(self) -> str:
        """Return the words of the unfinished sentence that were heard, judged by the audio that was sent."""
        segment = self._segments.get(self._sending) if self._sending is not None else None
        if segment is None or segment.made_s <= 0:
            return ""
        takes_s = segment.made_s
        if not segment.complete:
            # What there is isn't all that there would have been.
            takes_s = max(takes_s, self._pace.takes_s(segment.text))
        return heard_words(segment.text, segment.sent_s / takes_s)

    def _forget(self) -> None:
        # What was on its way is thrown away by the interruption.
        self._segments.clear()
        self._making = self._sending = None
        self._owed = 0
        self._texts.take()


def _letters(text: str) -> int:
    return sum(not character.isspace() for character in text)


def heard_words(text: str, share: float) -> str:
    """Return the whole words of the first `share` (0..1) of a text, going by their length."""
    limit = len(text) * min(max(share, 0.0), 1.0)
    heard: list[str] = []
    length = 0
    for word in text.split():
        length += len(word)
        if length > limit:
            break
        heard.append(word)
        length += 1
    return " ".join(heard)
