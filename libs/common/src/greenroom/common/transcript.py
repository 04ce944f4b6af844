"""What was said in a call, as its events tell it. Pure: events in, a transcript out.

Each utterance is one event (`user_spoke`, `agent_spoke`), published when it is over; its times count from the origin of
its attempt's timeline. A transcript has one timeline for the whole call, that of the recording: from the origin of the
first attempt on. Events may be given in any order, and twice; other services publish too, so nothing in their data is
trusted: what has no usable time is put where it was published, and what has no text is left out.
"""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from greenroom.common.messages import Event, EventType

type Speaker = Literal["user", "bot"]

# How the speakers are called where people read.
LABELS: Final[dict[Speaker, str]] = {"user": "caller", "bot": "bot"}
_SPEAKERS: Final[dict[str, Speaker]] = {EventType.USER_SPOKE: "user", EventType.AGENT_SPOKE: "bot"}
# A day of speech without a pause is 1 MB; more than this is no conversation, and isn't kept in memory.
BUDGET_BYTES: Final = 16 * 1024 * 1024
# What an utterance takes beside its text.
_ENTRY_BYTES: Final = 200
# Longer than any call: a hundred days.
_MAX_MS: Final = 100 * 86_400_000
# Also what separates lines in Unicode, and halves of characters, which can't be encoded.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of speech. Milliseconds count from the beginning of the call, as in its recording.

    `interrupted`: the other side cut it. `estimated`: where it was cut is known from the audio that was sent only.
    `node` is the step of the bot's flow in which it began, None where there is no flow. `epoch` is that of the attempt.
    """

    speaker: Speaker
    text: str
    start_ms: int
    end_ms: int
    interrupted: bool = False
    estimated: bool = False
    node: str | None = None
    epoch: int = 0


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in a session, in the order in which it began.

    `complete`: the session has ended, so that nothing will be added. `truncated`: there was too much to show all of it.
    """

    session_id: str
    complete: bool
    truncated: bool = False
    duration_ms: int
    entries: tuple[Utterance, ...]


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What one event says was said, with times as its own attempt counts them; None: it has none."""

    speaker: Speaker
    text: str
    start_ms: int | None
    end_ms: int | None
    interrupted: bool
    estimated: bool


def heard(kind: str, data: dict[str, Any]) -> Heard | None:
    """Return what the event of type `kind` says was said; None: it is about something else."""
    speaker = _SPEAKERS.get(kind)
    if speaker is None:
        return None
    text = data.get("text")
    start, end = milliseconds(data.get("start_ms")), milliseconds(data.get("end_ms"))
    return Heard(
        speaker=speaker,
        text=text if isinstance(text, str) else "",
        start_ms=start,
        end_ms=end if end is None or start is None else max(start, end),
        interrupted=data.get("interrupted") is True,
        estimated=data.get("estimated") is True,
    )


def milliseconds(value: object) -> int | None:
    """Return a number of milliseconds out of an event's data; None: it isn't one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if math.isfinite(value) and 0 <= value <= _MAX_MS else None


def unix_ms(at: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return round(at.timestamp() * 1000)


class Origins:
    """Where the timelines of a session's attempts begin, and so that of the whole call.

    An attempt's timeline begins when somebody connects (`call_connected`). Where that event is missing, it is
    estimated from the others, which have both a wall time and one on the timeline.
    """

    def __init__(self) -> None:
        self._connected: dict[int, int] = {}
        self._estimated: dict[int, int] = {}

    def see(self, event: Event) -> None:
        """Take into account what an event says."""
        at = unix_ms(event.at)
        if event.type == EventType.CALL_CONNECTED:
            self._connected[event.epoch] = min(at, self._connected.get(event.epoch, at))
            return
        moment = milliseconds(event.data.get("at_ms" if event.type not in _SPEAKERS else "end_ms"))
        if moment is not None and event.epoch > 0:
            origin = at - moment
            self._estimated[event.epoch] = min(origin, self._estimated.get(event.epoch, origin))

    @property
    def first(self) -> int | None:
        """Where the call begins, in milliseconds since 1970; None: it hasn't begun."""
        known = {**self._estimated, **self._connected}
        return min(known.values(), default=None)

    def offset_ms(self, epoch: int) -> int:
        """Return where the timeline of an attempt begins on that of the call."""
        origin = self._connected.get(epoch, self._estimated.get(epoch))
        return 0 if origin is None or self.first is None else min(origin - self.first, _MAX_MS)

    def place(self, at: datetime) -> int | None:
        """Return where a wall time lies in the call; None: it hasn't begun, or not yet by then."""
        first = self.first
        if first is None:
            return None
        ms = unix_ms(at) - first
        return ms if 0 <= ms <= _MAX_MS else None


class Speech:
    """Gathers what was said, event by event, in memory that is bounded."""

    def __init__(self) -> None:
        self.origins: Final = Origins()
        self.truncated = False
        self._left = BUDGET_BYTES
        self._said: dict[str, tuple[Event, Heard]] = {}
        self._nodes: dict[str, tuple[Event, str]] = {}

    def add(self, event: Event) -> None:
        """Take what an event says; one that is known by its id changes nothing."""
        self.origins.see(event)
        said = heard(event.type, event.data)
        if said is not None and event.id not in self._said:
            if self._spend(said.text):
                # The data isn't kept twice.
                self._said[event.id] = (msgspec.structs.replace(event, data={}), said)
        elif event.type == EventType.NODE_ENTERED and event.id not in self._nodes:
            node = event.data.get("node")
            if isinstance(node, str) and node and self._spend(node):
                self._nodes[event.id] = (msgspec.structs.replace(event, data={}), node)

    def utterances(self) -> list[Utterance]:
        """Return all stretches of speech in the order in which they began, also those whose words aren't known."""
        placed = [(self._placed(event, said), event) for event, said in self._said.values()]
        placed.sort(key=lambda one: (one[0].start_ms, one[0].end_ms, one[1].seq, one[1].id))
        first = self.origins.first
        if first is None or not self._nodes:
            return [utterance for utterance, _ in placed]
        entered = sorted(
            self._nodes.values(), key=lambda one: (unix_ms(one[0].at), one[0].seq, one[0].id), reverse=True
        )
        # The node that each attempt is in at the moment which the walk has come to.
        current: dict[int, str] = {}
        found: list[Utterance] = []
        for utterance, _ in placed:
            while entered and unix_ms(entered[-1][0].at) - first <= utterance.start_ms:
                event, node = entered.pop()
                current[event.epoch] = node
            found.append(msgspec.structs.replace(utterance, node=current.get(utterance.epoch)))
        return found

    def _placed(self, event: Event, said: Heard) -> Utterance:
        offset = self.origins.offset_ms(event.epoch)
        published = self.origins.place(event.at) or 0
        end = said.end_ms if said.end_ms is not None else said.start_ms
        start = said.start_ms if said.start_ms is not None else end
        return Utterance(
            speaker=said.speaker,
            text=said.text,
            start_ms=published if start is None else start + offset,
            end_ms=published if end is None else end + offset,
            interrupted=said.interrupted,
            estimated=said.estimated,
            epoch=event.epoch,
        )

    def _spend(self, text: str) -> bool:
        self._left -= len(text) + _ENTRY_BYTES
        self.truncated = self.truncated or self._left < 0
        return self._left >= 0


def transcript(session_id: str, speech: Speech, *, complete: bool) -> Transcript:
    """Return the transcript of what was gathered."""
    said = tuple(utterance for utterance in speech.utterances() if utterance.text.strip())
    return Transcript(
        session_id=session_id,
        complete=complete,
        truncated=speech.truncated,
        duration_ms=max((utterance.end_ms for utterance in said), default=0),
        entries=said,
    )


def transcript_of(session_id: str, events: Iterable[Event], *, complete: bool) -> Transcript:
    """Return the transcript of a session's events."""
    speech = Speech()
    for event in events:
        speech.add(event)
    return transcript(session_id, speech, complete=complete)


# ---------------------------------------------------------------------------- for people and players


def as_text(spoken: Transcript) -> Iterator[str]:
    """Yield the transcript as lines of text: when, who, what."""
    for entry in spoken.entries:
        cut = "  ⟵ interrupted" if entry.interrupted else ""
        yield f"[{_clock(entry.start_ms)[:-2]}] {LABELS[entry.speaker]:>6}: {one_line(entry.text)}{cut}\n"
    if spoken.truncated:
        yield "[…] there is more than can be shown here\n"


def as_vtt(spoken: Transcript) -> Iterator[str]:
    """Yield the transcript as WebVTT: subtitles of the recording, with the speakers as voices."""
    yield "WEBVTT\n"
    for number, entry in enumerate(spoken.entries, start=1):
        # A cue ends after it begins.
        end = max(entry.end_ms, entry.start_ms + 1)
        text = one_line(entry.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"\n{number}\n{_clock(entry.start_ms)} --> {_clock(end)}\n<v {LABELS[entry.speaker]}>{text}\n"


def one_line(text: str) -> str:
    """Return a text without line breaks and other control characters."""
    return " ".join(_CONTROLS.sub(" ", text).split())


def _clock(ms: int) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"
