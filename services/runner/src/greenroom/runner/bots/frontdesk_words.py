"""What a caller of the front desk means: words in, requests and details of a booking out. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

COUNTS: Final = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_HOURS_OF_A_CLOCK: Final = 12

_NUMBER: Final = "|".join((*COUNTS, r"\d{1,2}"))
_HALF_OF_DAY: Final = r"(?P<half>pm|p m|am|a m|in the (?:morning|afternoon|evening))"
_HOUR: Final = rf"(?:(?P<past>half past) )?(?P<hour>{_NUMBER})\b(?: (?P<minutes>thirty|30))?(?: o'clock)?"
_TIME: Final = re.compile(rf"\bat {_HOUR}(?: {_HALF_OF_DAY}\b)?")
_NOON: Final = re.compile(r"\bat noon\b")
_PARTY: Final = re.compile(rf"\bfor (?P<a>{_NUMBER})\b|\b(?P<b>{_NUMBER}) (?:people|persons|guests)\b")
_JUST_A_NUMBER: Final = re.compile(rf"^(?P<a>{_NUMBER})$")
_DAY: Final = re.compile(rf"\b(?P<day>{'|'.join(WEEKDAYS)}|today|tonight|tomorrow)\b")


class Request(StrEnum):
    """What a caller wants, the most urgent first: of several requests in one sentence, the first counts."""

    BYE = "bye"
    TRANSFER = "transfer"
    REPEAT = "repeat"
    BOOK = "book"
    TIME = "time"
    HOURS = "hours"
    MENU = "menu"
    NO = "no"
    YES = "yes"
    HELLO = "hello"


_REQUESTS: Final = {
    Request.BYE: re.compile(r"\b(?:good)?bye\b|\bthat is all\b"),
    Request.TRANSFER: re.compile(
        r"\b(?:transfer|connect) me\b|\b(?:speak|talk) to (?:a (?:person|human)|some(?:one|body))\b|\boperator\b"
    ),
    Request.REPEAT: re.compile(r"\brepeat\b|\bsay that again\b|^(?:pardon|what)$"),
    Request.BOOK: re.compile(r"\b(?:book|reserve|have|need)\b.*\btable\b|^a table\b"),
    Request.TIME: re.compile(r"\bwhat time is it\b|\bwhat is the time\b"),
    Request.HOURS: re.compile(r"\bopening hours\b|\bare you open\b"),
    Request.MENU: re.compile(r"\bmenu\b"),
    Request.NO: re.compile(r"\bno\b|\bthat is wrong\b"),
    Request.YES: re.compile(r"\byes\b|\bcorrect\b|\bthat is right\b|\bokay\b"),
    Request.HELLO: re.compile(r"^hello\b|^hi\b|^good (?:morning|afternoon|evening)\b"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A table that is being asked for; what isn't known yet is None.

    Attributes:
        party: number of people, 1 to 12.
        day: a weekday, `today` or `tomorrow`.
        time: `HH:MM`.
    """

    party: int | None = None
    day: str | None = None
    time: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return None not in (self.party, self.day, self.time)

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return self == Booking()

    def updated(self, newer: "Booking") -> "Booking":
        """Return this booking with whatever `newer` knows."""
        return Booking(party=newer.party or self.party, day=newer.day or self.day, time=newer.time or self.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was understood of a sentence; both parts may be empty."""

    request: Request | None
    details: Booking


def understand(text: str) -> Heard:
    """Return what a sentence means; any text is fine, in whatever case and punctuation."""
    words = _plain(text)
    request = next((request for request, pattern in _REQUESTS.items() if pattern.search(words)), None)
    # The party is looked for where no time is: "at seven for four people".
    party_words = _TIME.sub(" ", words)
    day = _DAY.search(words)
    return Heard(
        request=request,
        details=Booking(
            party=_party(party_words),
            day=None if day is None else day["day"].replace("tonight", "today"),
            time=_time(words),
        ),
    )


def _plain(text: str) -> str:
    spaced = re.sub(r"[^a-z0-9':]+", " ", text.lower().replace("p.m", "pm").replace("a.m", "am"))
    return " ".join(spaced.replace(":30", " thirty").replace(":00", " ").split())


def _party(words: str) -> int | None:
    match = _PARTY.search(words) or _JUST_A_NUMBER.search(words.strip())
    if match is None:
        return None
    found = match.groupdict()
    number = _number(found["a"] or found["b"])
    return number if 1 <= number <= len(COUNTS) else None


def _time(words: str) -> str | None:
    if _NOON.search(words):
        return "12:00"
    match = _TIME.search(words)
    if match is None:
        return None
    hour = _number(match["hour"])
    if not 1 <= hour <= _HOURS_OF_A_CLOCK:
        return None
    # A table is for the afternoon or the evening, unless the caller says that it isn't.
    morning = match["half"] in {"am", "a m", "in the morning"}
    minute = 30 if match["past"] or match["minutes"] else 0
    return f"{hour % _HOURS_OF_A_CLOCK + (0 if morning else _HOURS_OF_A_CLOCK):02}:{minute:02}"


def _number(word: str) -> int:
    return int(word) if word.isdigit() else COUNTS.index(word) + 1
