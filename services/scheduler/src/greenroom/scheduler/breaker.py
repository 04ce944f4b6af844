"""Backs off from what fails again and again: the launches of a pool, the starts of a bot.

Three failures in a row open a breaker. It lets nothing through for ten seconds, then one try; if that fails, nothing
for twice as long, and so on up to five minutes. The first success closes it. A failure of something that was begun
before the breaker opened is no news, so that twenty launches that fail together count like the one cause they have.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

# One failure is bad luck and two may be; a crash loop doesn't end by itself.
THRESHOLD: Final = 3
# Like the back-off of a pod in a crash loop (Kubernetes): 10 s, doubled each time, at most 5 minutes.
FIRST_DELAY_S: Final = 10.0
LONGEST_DELAY_S: Final = 300.0
# Whatever dies sooner than this after its start is taken to be unable to run; what lives longer has shown it can.
FIRST_MINUTE_S: Final = 60.0
# Of what went wrong last, as much as people read.
_LAST_CHARS: Final = 200


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one thing that may fail.

    Attributes:
        failures: in a row.
        last: what the last of them was, for people.
        opened: how many times in a row it has opened; 0: it is closed.
        opened_at: when it did so last.
        until: nothing is let through before.
        trial_until: the one try that was let through is given up by then, should nothing be heard of it.
    """

    failures: int = 0
    last: str = ""
    opened: int = 0
    opened_at: datetime | None = None
    until: datetime | None = None
    trial_until: datetime | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How many may be begun now (None: any number), and if not any number, why and until when (None: a success)."""

    allowed: int | None = None
    reason: str | None = None
    until: datetime | None = None


CLOSED: Final = Breaker()


def failed(breaker: Breaker, now: datetime, what: str, *, begun_at: datetime) -> Breaker:
    """Return the breaker after a failure.

    Args:
        breaker: as it was.
        now: when the failure was noticed.
        what: what went wrong, for people.
        begun_at: when that which failed was begun, by the same clock.
    """
    noted = msgspec.structs.replace(breaker, failures=breaker.failures + 1, last=what[:_LAST_CHARS])
    if noted.failures < THRESHOLD or (breaker.opened_at is not None and begun_at <= breaker.opened_at):
        return noted
    opened = breaker.opened + 1
    until = now + timedelta(seconds=delay_s(opened))
    return msgspec.structs.replace(noted, opened=opened, opened_at=now, until=until, trial_until=None)


def succeeded(breaker: Breaker) -> Breaker:
    """Return the breaker after a success: closed, and nothing counted."""
    del breaker
    return CLOSED


def begun(breaker: Breaker, now: datetime, *, patience_s: float) -> Breaker:
    """Return the breaker after something was begun: if it isn't closed, that is the one try.

    Args:
        breaker: as it was.
        now: the time.
        patience_s: how long that may take to fail or succeed; after this another try is let through.
    """
    if breaker.opened_at is None:
        return breaker
    # A clock that was set back would make the try look like one from before.
    opened_at = min(breaker.opened_at, now)
    return msgspec.structs.replace(breaker, opened_at=opened_at, trial_until=now + timedelta(seconds=patience_s))


def verdict(breaker: Breaker, now: datetime, noun: str = "launches") -> Verdict:
    """Return what may be begun now.

    Args:
        breaker: as it is.
        now: the time.
        noun: what it counts, in the plural.
    """
    if breaker.opened_at is None or breaker.until is None:
        return Verdict()
    story = f"{breaker.failures} {noun} failed in a row, last: {breaker.last}"
    # Before it opened: the clock was set back, and what was noted by it says nothing any more.
    if breaker.opened_at <= now < breaker.until:
        wait_s = max(round((breaker.until - now).total_seconds()), 1)
        return Verdict(allowed=0, reason=f"{story}; next try in {wait_s} s", until=breaker.until)
    if breaker.trial_until is not None and breaker.opened_at <= now < breaker.trial_until:
        return Verdict(allowed=0, reason=f"{story}; one try is under way", until=breaker.trial_until)
    return Verdict(allowed=1, reason=f"{story}; one try is let through")


def delay_s(opened: int) -> float:
    """Return for how long a breaker that opens for the `opened`th time in a row lets nothing through, in seconds."""
    # The exponent is bounded too: a float overflows after a thousand failures.
    return min(FIRST_DELAY_S * 2.0 ** min(opened - 1, 16), LONGEST_DELAY_S)
