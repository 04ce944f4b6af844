"""What a board remembers of sessions that it no longer has, within bounds: lease times, durations, starts that failed.

Everything else that a plan is made from is in the sessions, the fleet and the policy. So two boards that are given the
same of these, and the same history, make the same plan, however each came by it.
"""

from collections import deque
from typing import Final

import msgspec

from greenroom.common.lifecycle import Ended, Outcome, Ready, Requeued, Session, Transition
from greenroom.common.reasons import Reason
from greenroom.scheduler.limits import MAX_DEPARTED

# Requeues for these reasons say something of the bot; the others, of the runner or of the network.
START_FAILURES: Final = frozenset(
    {Reason.BOT_IMPORT_FAILED, Reason.BOT_FAILED, Reason.START_TIMEOUT, Reason.PROCESS_KILLED}
)
# Each ended session moves the estimate by at least a fiftieth: it follows a change of the callers' habits within some
# hundred calls, and one odd call doesn't turn it.
_HORIZON: Final = 50
# Of pools with an estimate; no installation has as many, so one that reaches it has names that are made up.
_MAX_POOLS: Final = 1000


class Durations:
    """How long sessions of a pool take from the lease to the end, as a running mean that forgets."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[int, float]] = {}

    def add(self, pool: str, took_s: float) -> None:
        """Take in a session that has ended."""
        if pool not in self._means and len(self._means) >= _MAX_POOLS:
            return
        count, mean_s = self._means.get(pool, (0, 0.0))
        count = min(count + 1, _HORIZON)
        self._means[pool] = (count, mean_s + (took_s - mean_s) / count)

    def mean_s(self, pool: str) -> float | None:
        """Return the mean in seconds, or None while no session of the pool was seen to end."""
        known = self._means.get(pool)
        return known[1] if known else None


class Trial(msgspec.Struct, kw_only=True):
    """How the starts of a version went."""

    starts: int = 0
    failures: int = 0


class History:
    """See the module.

    Attributes:
        durations: of sessions that have ended.
        departed: the last sessions whose lease counts for a rate of starts although they don't run any more, each as
            it was while it did.
        trials: how the starts went of each version that is under trial, by tenant (of the rollout), agent and version.
    """

    def __init__(self) -> None:
        self.durations = Durations()
        self.departed: deque[Session] = deque(maxlen=MAX_DEPARTED)
        self.trials: dict[tuple[str, str, int], Trial] = {}


def started_well(transition: Transition, session: Session) -> bool | None:
    """Tell whether a transition shows that a start went well, or that it didn't; None: neither.

    Args:
        transition: what happened.
        session: as it is after it.
    """
    match transition:
        case Ready():
            return True
        case Requeued():
            return False if transition.reason in START_FAILURES else None
        case Ended():
            failed = transition.outcome is Outcome.FAILED and session.leased_at and not session.ready_at
            return False if failed else None
        case _:
            return None
