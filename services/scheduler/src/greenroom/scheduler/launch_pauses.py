"""For how long a pool launches nothing for single sessions after the launcher didn't take a launch.

The session goes back into the queue, from where the next plan would launch for it at once. So that this isn't a loop,
the launcher is left alone for as long as it asks for, twice as long the next time, and so on up to a minute. (The
breaker judges something else: whether what is launched comes up.)
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from greenroom.scheduler.capacity import ColdAllowance, PoolAssessment
from greenroom.scheduler.holds import HeldBack

# Where the launcher doesn't say when to ask again.
_DELAY_S: Final = 10.0
_LONGEST_S: Final = 60.0


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is launched from `since` to `until`; `text` says why, and `count` how many pauses there were in a row."""

    text: str
    since: datetime
    until: datetime
    count: int = 1


def paused(known: Pause | None, text: str, now: datetime, *, after_s: float | None) -> Pause:
    """Return the pause after the launcher didn't take a launch.

    Args:
        known: the one before, if no launch was taken since.
        text: why it didn't, for people.
        now: the time.
        after_s: when it may be asked again by its own account, in seconds; None: it didn't say.
    """
    if known is not None and _holds(known, now):
        return known  # it was asked before that: no news
    count = known.count + 1 if known is not None else 1
    delay_s = min((_DELAY_S if after_s is None else after_s) * 2.0 ** min(count - 1, 16), _LONGEST_S)
    return Pause(text=text, since=now, until=now + timedelta(seconds=delay_s), count=count)


def bounded(assessed: PoolAssessment, pause: Pause | None, now: datetime) -> PoolAssessment:
    """Return an assessment of a pool without cold starts, and with the reason, while a pause holds."""
    if pause is None or not _holds(pause, now):
        return assessed
    hold = assessed.hold or HeldBack(code="launch-failed", text=pause.text, until=pause.until)
    state = replace(assessed.state, held_back=hold.text, held_back_until=hold.until)
    return replace(assessed, state=state, cold=none_of(assessed.cold, pause), hold=hold)


def none_of(allowance: ColdAllowance, pause: Pause) -> ColdAllowance:
    """Return what is left of an allowance in a pause: nothing, and why."""
    return replace(allowance, count=0, reason=pause.text)


def _holds(pause: Pause, now: datetime) -> bool:
    # Before `since`: the clock was set back, which mustn't make it longer.
    return pause.since <= now < pause.until
