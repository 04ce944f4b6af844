"""What a call owes, and when that is overdue. Pure: no clock, no I/O; times are seconds of any monotonic clock.

It is told what happens (`ready`, `connected`, `heard`, `moved`, …) and says, when it is asked, what follows, and when
it is to be asked again if nothing happens (`due`):

| finding | when |
|---|---|
| `EndingSoon` | `ending_soon_s` before the longest duration is over, and never before half of it |
| `Stalled` `first-audio` | somebody is there, and the bot has made no sound for 10 s |
| `Stalled` `no-progress` | audio comes in, and nothing has come through the pipeline for 10 s |
| `Over` `no-first-audio` | … for `first_audio_timeout_s`, if there is such a limit |
| `Over` `no-progress` | … for `no_progress_timeout_s`, if there is such a limit |
| `Over` `silence-timeout` | nobody has spoken for `silence_timeout_s`, if there is such a limit |
| `Over` `room-empty` | everybody has left, and nobody has come back for `rejoin_timeout_s` |

The runner watches over the process (does it answer, how large is it, has its time run out): see `runner.watchdog`.
"""

import enum
import math
from typing import Final

import msgspec

from greenroom.common.lifecycle import Limits
from greenroom.common.reasons import Reason

# The first answer of a slow provider takes some seconds.
STALLED_AFTER_S: Final = 10.0
# So long after the last frame of the caller's audio it no longer counts as coming in.
FRESH_S: Final = 2.0
# Time that passes between two looks counts for so much at most: a process that was stopped, or a loop that was
# blocked, finds much time gone, in which nothing could have moved.
_MOST_BETWEEN_S: Final = 1.5
# Longer than between two heartbeats of a pipeline that moves.
_STILL_S: Final = 3.0
_SOON_S: Final = 0.25


class Wait(enum.StrEnum):
    """What it is that doesn't come."""

    FIRST_AUDIO = "first-audio"
    NO_PROGRESS = "no-progress"


class EndingSoon(msgspec.Struct, frozen=True, kw_only=True):
    """The longest duration is near."""

    seconds_left: float


class Stalled(msgspec.Struct, frozen=True, kw_only=True):
    """Something doesn't come that should; it isn't the end yet."""

    wait: Wait
    for_s: float


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """The session is to end."""

    reason: Reason
    detail: str


type Finding = EndingSoon | Stalled | Over


def notice_s(limits: Limits) -> float:
    """Return how long before its end a session of the longest duration is told; 0: it isn't."""
    return min(limits.ending_soon_s, limits.max_duration_s / 2)


class Vigil:
    """Over one call. See the module.

    Args:
        limits: of the session.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ready_at: float | None = None
        self._connected_at: float | None = None
        self._left_at: float | None = None
        self._audio_at: float | None = None
        self._sounded = False
        self._still_s = 0.0
        # Until when it is known what stood still.
        self._seen_until: float | None = None
        self._speaking: set[str] = set()
        self._spoke_at = 0.0
        self._told: set[str] = set()

    # ------------------------------------------------------------------------ what happens

    def ready(self, now: float) -> None:
        """The pipeline runs."""
        if self._ready_at is None:
            self._ready_at = now

    def connected(self, now: float) -> None:
        """Somebody is there, for the first time or again."""
        if self._connected_at is None:
            self._connected_at = self._spoke_at = now
        if self._left_at is not None:
            self._left_at, self._spoke_at = None, now
        self._stirs(now)

    def left(self, now: float) -> None:
        """Nobody is there any more, but somebody may come back."""
        if self._connected_at is not None and self._left_at is None:
            self._left_at = now
            self._speaking.discard("user")

    def moves(self, now: float) -> None:
        """The bot goes to another room: nobody is there, and what is owed to whoever comes is owed anew."""
        self._connected_at = self._left_at = None
        self._sounded = False
        self._speaking.clear()
        self._told -= set(Wait)
        self._stirs(now)

    def heard(self, now: float, since: float | None = None) -> None:
        """Audio of the caller has come in, speech or not; `since`: it has come so long, unless that is known."""
        if not self._flows(now):
            # Before it came, nothing could have come through.
            self._seen_until = max(self._seen_until or 0.0, now if since is None else since)
        self._audio_at = now

    def moved(self, now: float) -> None:
        """Something has come through the pipeline."""
        self._stirs(now)
        self._told.discard(Wait.NO_PROGRESS)

    def sounded(self, now: float) -> None:
        """The bot's audio has gone out."""
        self._sounded = True
        self.moved(now)

    def excused(self, now: float) -> None:
        """The way that media may take is cut, by nobody's fault: neither silence nor standing still counts."""
        self._spoke_at = now
        self._stirs(now)

    def speaks(self, who: str, now: float, *, begins: bool) -> None:
        """Somebody (`user`, `bot`) begins or ends to speak."""
        if begins:
            self._speaking.add(who)
        else:
            self._speaking.discard(who)
        self._spoke_at = now

    # ------------------------------------------------------------------------ what follows

    def look(self, now: float) -> list[Finding]:
        """Return what has come due since the last time; after an `Over` there is nothing more to ask."""
        self._pass(now)
        findings: list[Finding] = []
        self._check_duration(now, findings)
        if self._left_at is not None:
            self._check_room(now - self._left_at, findings)
        elif self._connected_at is not None:
            self._check_first_audio(now - self._connected_at, findings)
            self._check_progress(findings)
            self._check_silence(now, findings)
        return findings

    def due(self, now: float) -> float:
        """Return when something comes due if nothing happens until then; infinity: nothing does."""
        limits, dues = self._limits, [math.inf]
        early_s = notice_s(limits)
        if self._ready_at is not None and early_s > 0 and "ending-soon" not in self._told:
            dues.append(self._ready_at + limits.max_duration_s - early_s)
        if self._still_s >= _STILL_S:
            # Audio may have paused, and come again.
            dues.append(now + _SOON_S)
        if self._left_at is not None:
            dues.append(self._left_at + limits.rejoin_timeout_s)
        elif self._connected_at is not None:
            if not self._sounded:
                dues += self._steps(self._connected_at, limits.first_audio_timeout_s, Wait.FIRST_AUDIO)
            if self._flows(now):
                still_since = (self._seen_until or now) - self._still_s
                dues += self._steps(still_since, limits.no_progress_timeout_s, Wait.NO_PROGRESS)
            if limits.silence_timeout_s > 0 and not self._speaking:
                dues.append(self._spoke_at + limits.silence_timeout_s)
        return min(dues)

    def _steps(self, since: float, limit_s: float, wait: Wait) -> list[float]:
        """Return when a wait is told of, if it hasn't been, and when it ends."""
        told = [] if wait in self._told else [since + _warned_after_s(limit_s)]
        return [*told, since + limit_s] if limit_s > 0 else told

    def _stirs(self, now: float) -> None:
        self._still_s = 0.0
        self._seen_until = now if self._seen_until is None else max(self._seen_until, now)

    def _flows(self, now: float) -> bool:
        """Tell whether audio comes in, and could come through."""
        return self._ready_at is not None and self._audio_at is not None and now - self._audio_at <= FRESH_S

    def _pass(self, now: float) -> None:
        seen_until, self._seen_until = self._seen_until, now
        if self._ready_at is None or self._audio_at is None or seen_until is None:
            return
        flowed_until = min(now, self._audio_at + FRESH_S)
        self._still_s += min(max(flowed_until - seen_until, 0.0), _MOST_BETWEEN_S)

    def _check_duration(self, now: float, findings: list[Finding]) -> None:
        early_s = notice_s(self._limits)
        if self._ready_at is None or early_s <= 0:
            return
        left_s = self._ready_at + self._limits.max_duration_s - now
        if left_s <= early_s and self._once("ending-soon"):
            findings.append(EndingSoon(seconds_left=round(max(left_s, 0.0), 1)))

    def _check_first_audio(self, waited_s: float, findings: list[Finding]) -> None:
        if self._sounded:
            return
        limit_s = self._limits.first_audio_timeout_s
        if waited_s >= _warned_after_s(limit_s) and self._once(Wait.FIRST_AUDIO):
            findings.append(Stalled(wait=Wait.FIRST_AUDIO, for_s=round(waited_s, 1)))
        if 0 < limit_s <= waited_s:
            findings.append(Over(reason=Reason.NO_FIRST_AUDIO, detail=f"no sound for {limit_s:g} s"))

    def _check_progress(self, findings: list[Finding]) -> None:
        limit_s = self._limits.no_progress_timeout_s
        if self._still_s >= _warned_after_s(limit_s) and self._once(Wait.NO_PROGRESS):
            findings.append(Stalled(wait=Wait.NO_PROGRESS, for_s=round(self._still_s, 1)))
        if 0 < limit_s <= self._still_s:
            findings.append(Over(reason=Reason.NO_PROGRESS, detail=f"nothing moved for {limit_s:g} s of audio"))

    def _check_silence(self, now: float, findings: list[Finding]) -> None:
        limit_s = self._limits.silence_timeout_s
        if limit_s > 0 and not self._speaking and now - self._spoke_at >= limit_s:
            findings.append(Over(reason=Reason.SILENCE_TIMEOUT, detail=f"nobody spoke for {limit_s:g} s"))

    def _check_room(self, empty_s: float, findings: list[Finding]) -> None:
        limit_s = self._limits.rejoin_timeout_s
        if empty_s >= limit_s:
            findings.append(Over(reason=Reason.ROOM_EMPTY, detail=f"nobody came back for {limit_s:g} s"))

    def _once(self, what: str) -> bool:
        if what in self._told:
            return False
        self._told.add(what)
        return True


def _warned_after_s(limit_s: float) -> float:
    """Return after how much waiting it is told of; `limit_s`: after how much it ends, 0: never."""
    return min(limit_s, STALLED_AFTER_S) if limit_s > 0 else STALLED_AFTER_S
