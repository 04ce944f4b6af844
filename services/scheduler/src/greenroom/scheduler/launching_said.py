"""What a caller reads whose session has the lease of a runner that is still being launched."""

import math
from datetime import datetime

from greenroom.common.lifecycle import Session, State
from greenroom.scheduler.arrivals import ColdStarts, quantile_s


def is_launching(session: Session) -> bool:
    """Tell whether a session waits for the runner that is launched for it."""
    return session.cold and session.state is State.LEASED


def launching(session: Session, known: ColdStarts, now: datetime) -> str:
    """Return it, e.g. `a runner is being launched for it; expected in ~12 s`.

    Args:
        session: one with a cold lease.
        known: how long launches took in its pool.
        now: the time.
    """
    said = "a runner is being launched for it"
    left_s = expected_s(session, known, now)
    if left_s is not None:
        return f"{said}; expected in ~{max(math.ceil(left_s), 1)} s"
    until = session.lease_expires_at
    return said if until is None else f"{said}; given up in {max(math.ceil((until - now).total_seconds()), 0)} s"


def expected_s(session: Session, known: ColdStarts, now: datetime) -> float | None:
    """Return in how many seconds the runner is expected; None: it can't be told.

    That is what is left of the time that half of the launches took, or, when that is over, nineteen of twenty. A launch
    that takes longer than those isn't like them.
    """
    since = session.leased_at or now
    waited_s = max((now - since).total_seconds(), 0.0)
    for share in (0.5, 0.95):
        took_s = quantile_s(known, share)
        if took_s is not None and took_s > waited_s:
            return took_s - waited_s
    return None
