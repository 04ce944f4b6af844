"""What a bot says by itself, and when. Pure: no clock, no I/O; times are seconds of any monotonic clock.

It is told what happens (`arrived`, `left`, `user_speaks`, `bot_speaks`) and says, when it is asked, what is due
(`look`), and when it is to be asked again if nothing happens (`due`):

| cue | when |
|---|---|
| `GREET` | somebody is there, nobody has spoken, and the grace is over in which others may come: the more, the longer |
| `WRAP_UP` | the conversation lasts for `wrap_up_after_s`; once |
| `IDLE` | nobody has spoken for `idle_after_s`, then for `idle_again_s`; `idle_times` in a row |

None comes while somebody speaks, nor within `speak_after_s` of the user's last word. One comes at a time.
"""

import enum
import math
from typing import Final

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited, in seconds.

    Attributes:
        greet_after_s: from the first arrival to the greeting, with one, two, or more people there.
        speak_after_s: from the user's last word to the bot's first, where the bot speaks by itself.
        idle_after_s: of silence, before the bot says something.
        idle_again_s: of silence after that, before it does so again.
        idle_times: how often, until the user has spoken again.
        wrap_up_after_s: from the beginning of the conversation until its end is to be come to; 0: never.
    """

    greet_after_s: tuple[float, float, float] = (1.0, 3.0, 5.0)
    speak_after_s: float = 0.75
    idle_after_s: float = 15.0
    idle_again_s: float = 15.0
    idle_times: int = 2
    wrap_up_after_s: float = 1800.0


class Cue(enum.StrEnum):
    """What the bot is to do."""

    GREET = "greet"
    WRAP_UP = "wrap_up"
    IDLE = "idle"


_USER: Final = "user"
_BOT: Final = "bot"


class Conversation:
    """One conversation, from the first arrival on. See the module.

    Args:
        timing: how long is waited.

    Attributes:
        idles: how many `IDLE` there were since the user has spoken.
    """

    def __init__(self, timing: Timing) -> None:
        self.idles = 0
        self._timing = timing
        self._present: set[str] = set()
        self._speaking: set[str] = set()
        self._first_at: float | None = None
        self._begun_at: float | None = None
        self._quiet_since = self._user_spoke_at = -math.inf
        self._wrapped_up = False

    # ------------------------------------------------------------------------ what happens

    def arrived(self, who: str, now: float) -> None:
        """Somebody is there; nothing if he is there already."""
        if not self._present:
            self._first_at = self._quiet_since = now
            self.idles = 0
        self._present.add(who)

    def left(self, who: str, now: float) -> None:
        """Somebody isn't there any more; nothing if he wasn't."""
        if who in self._present:
            self._present.discard(who)
            if not self._present and _USER in self._speaking:
                self.user_speaks(now, begins=False)

    def user_speaks(self, now: float, *, begins: bool) -> None:
        """Somebody who isn't the bot begins or ends to speak."""
        self.idles = 0
        if not begins:
            self._user_spoke_at = now
        self._speaks(_USER, now, begins=begins)

    def bot_speaks(self, now: float, *, begins: bool) -> None:
        """The bot begins or ends to speak."""
        self._speaks(_BOT, now, begins=begins)

    def _speaks(self, who: str, now: float, *, begins: bool) -> None:
        self._quiet_since = now
        if begins:
            self._speaking.add(who)
            self._begin(now)
        else:
            self._speaking.discard(who)

    def _begin(self, now: float) -> None:
        if self._begun_at is None:
            self._begun_at = now

    # ------------------------------------------------------------------------ what follows

    @property
    def somebody_speaks(self) -> bool:
        """Whether somebody speaks now."""
        return bool(self._speaking)

    @property
    def clear_at(self) -> float:
        """From when on the bot may begin to speak by itself; infinity: not while somebody speaks."""
        return math.inf if self._speaking else self._user_spoke_at + self._timing.speak_after_s

    def look(self, now: float) -> Cue | None:
        """Return what is due, if anything is; it counts as done."""
        at, cue = self._next()
        if cue is None or at > now:
            return None
        self._quiet_since = now
        match cue:
            case Cue.GREET:
                self._begin(now)
            case Cue.WRAP_UP:
                self._wrapped_up = True
            case Cue.IDLE:
                self.idles += 1
        return cue

    def due(self) -> float:
        """Return when something is due if nothing happens until then; infinity: nothing is."""
        return self._next()[0]

    def _next(self) -> tuple[float, Cue | None]:
        timing, dues = self._timing, list[tuple[float, Cue]]()
        if self._present and self._first_at is not None and self._begun_at is None:
            dues.append((self._first_at + timing.greet_after_s[min(len(self._present), 3) - 1], Cue.GREET))
        if self._present and self._begun_at is not None:
            if timing.wrap_up_after_s > 0 and not self._wrapped_up:
                dues.append((self._begun_at + timing.wrap_up_after_s, Cue.WRAP_UP))
            if self.idles < timing.idle_times:
                silence_s = timing.idle_again_s if self.idles else timing.idle_after_s
                dues.append((self._quiet_since + silence_s, Cue.IDLE))
        # The first of those that may be spoken by then.
        clear_at = self.clear_at
        dues = [(max(at, clear_at), cue) for at, cue in dues]
        at, cue = min(dues, key=lambda each: each[0], default=(math.inf, None))
        return at, cue if at < math.inf else None
