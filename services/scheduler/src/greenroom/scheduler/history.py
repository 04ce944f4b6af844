"""What a board remembers of sessions that it no longer has, within bounds: lease times, durations, starts that failed.

Everything else that a plan is made from is in the sessions, the fleet and the policy. So two boards that are given the
same of these, and the same history, make the same plan, however each came by it.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

import msgspec

from greenroom.common.lifecycle import Ended, Outcome, Ready, Requeued, Session, Transition
from greenroom.common.reasons import Reason
from greenroom.scheduler.limits import MAX_DEPARTED, Measure

# Requeues for these reasons say something of the bot; the others, of the runner or of the network.
START_FAILURES: Final = frozenset(
    {Reason.BOT_IMPORT_FAILED, Reason.BOT_FAILED, Reason.START_TIMEOUT, Reason.PROCESS_KILLED}
)
# Each ended session moves the estimate by at least a fiftieth: it follows a change of the callers' habits within some
# hundred calls, and one odd call doesn't turn it.
_HORIZON: Final = 50
# Of pools, and of keys of limits, with an estimate; those that no session has ended in for longest go first.
_MAX_KEPT: Final = 4096
# From so many ends on a key of a limit speaks for itself. Calls vary in length about as much as their mean, so that a
# mean of ten is within a third of the true one as a rule; tenants' calls differ by more than that.
ENOUGH: Final = 10


class Durations[K: Hashable]:
    """How long sessions take from the lease to the end, by what they belong to, as running means that forget."""

    def __init__(self) -> None:
        self._means: OrderedDict[K, tuple[int, float]] = OrderedDict()

    def add(self, key: K, took_s: float) -> None:
        """Take in a session that has ended."""
        count, mean_s = self._means.get(key, (0, 0.0))
        count = min(count + 1, _HORIZON)
        self._means[key] = (count, mean_s + (took_s - mean_s) / count)
        self._means.move_to_end(key)
        if len(self._means) > _MAX_KEPT:
            self._means.popitem(last=False)

    def mean_s(self, key: K, *, least: int = 1) -> float | None:
        """Return the mean in seconds, or None while fewer than `least` sessions were seen to end."""
        count, mean_s = self._means.get(key, (0, 0.0))
        return mean_s if count >= least else None


class Trial(msgspec.Struct, kw_only=True):
    """How the starts of a version went."""

    starts: int = 0
    failures: int = 0


class History:
    """See the module.

    Attributes:
        durations: of sessions that have ended, by pool.
        measured: the same, by what limits count.
        departed: the last sessions whose lease counts for a rate of starts although they don't run any more, each as
            it was while it did.
        trials: how the starts went of each version that is under trial, by tenant (of the rollout), agent and version.
    """

    def __init__(self) -> None:
        self.durations: Durations[str] = Durations()
        self.measured: Durations[Measure] = Durations()
        self.departed: deque[Session] = deque(maxlen=MAX_DEPARTED)
        self.trials: dict[tuple[str, str, int], Trial] = {}

    def mean_s(self, pool: str, measure: Measure | None = None) -> float | None:
        """Return how long sessions take, in seconds; None while none was seen to end.

        Args:
            pool: of theirs.
            measure: what a limit counts them by; without enough of those, all of the pool are as good as any.
        """
        own_s = self.measured.mean_s(measure, least=ENOUGH) if measure else None
        return self.durations.mean_s(pool) if own_s is None else own_s


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
