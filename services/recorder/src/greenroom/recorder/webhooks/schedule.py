"""What becomes of a delivery after an attempt, and of its endpoint: pure, chance and time are given."""

from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

# 5 s, 10 s, … 43 min, then each hour: some 33 attempts in 24 h.
FIRST_DELAY_S: Final = 5.0
LONGEST_DELAY_S: Final = 3600.0
# So many of the delay are left to chance, so that what failed together isn't tried together.
JITTER: Final = 0.2
# An endpoint that has failed so often in a row isn't asked at all for a while: 2 s, 4 s, … 1 min.
PAUSE_FROM: Final = 3
LONGEST_PAUSE_S: Final = 60.0
GONE: Final = 410
_SUCCESS: Final = 2

type Fate = Literal["delivered", "again", "dead"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt went.

    Attributes:
        status: of the answer; None: there was none.
        error: why there was none (`timeout`, `connection-failed`, …); empty otherwise.
        retry_after_s: when the endpoint wants to be asked again.
        final: it can't go otherwise the next time.
    """

    status: int | None = None
    error: str = ""
    retry_after_s: float | None = None
    final: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the endpoint has taken it."""
        return self.status is not None and self.status // 100 == _SUCCESS


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from an attempt; `delay_s` is until the next one, `pause_s` how long the endpoint isn't asked."""

    fate: Fate
    delay_s: float = 0.0
    pause_s: float = 0.0
    disable: bool = False


def judge(
    outcome: Outcome, *, attempts: int, failures: int, now: datetime, give_up_at: datetime, chance: float
) -> Verdict:
    """Return what follows.

    Args:
        outcome: how it went.
        attempts: how many there were of this delivery, this one included.
        failures: how many of its endpoint failed in a row before.
        now: when.
        give_up_at: until when it is tried.
        chance: from 0 to 1.
    """
    if outcome.accepted:
        return Verdict(fate="delivered")
    if outcome.status == GONE:
        return Verdict(fate="dead", disable=True)
    pause_s = _pause_s(failures + 1, chance)
    left_s = (give_up_at - now) / timedelta(seconds=1)
    if outcome.final or left_s <= 0:
        return Verdict(fate="dead", pause_s=0.0 if outcome.final else pause_s)
    wanted_s = delay_s(attempts, chance)
    if outcome.retry_after_s is not None:
        wanted_s = max(wanted_s, min(outcome.retry_after_s, LONGEST_DELAY_S))
    # The last attempt is made when the time is up, and not an hour before.
    return Verdict(fate="again", delay_s=min(wanted_s, left_s), pause_s=pause_s)


def delay_s(attempts: int, chance: float) -> float:
    """Return how long to wait after the `attempts`-th attempt, with its jitter."""
    exact = min(FIRST_DELAY_S * 2 ** min(max(attempts - 1, 0), 16), LONGEST_DELAY_S)
    return exact * (1 - JITTER + 2 * JITTER * chance)


def _pause_s(failures: int, chance: float) -> float:
    if failures < PAUSE_FROM:
        return 0.0
    return min(2.0 ** min(failures - PAUSE_FROM + 1, 16), LONGEST_PAUSE_S) * (1 - JITTER * chance)
