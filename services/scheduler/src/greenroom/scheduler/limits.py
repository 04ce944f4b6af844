"""How much of each limit is used, exactly: by what runs, by what was just leased, by what this plan leases itself."""

import bisect
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, override

from greenroom.common.lifecycle import Session
from greenroom.common.policy import EACH, AtLimit, Limit, Scope
from greenroom.common.reasons import Reason
from greenroom.scheduler.fleet import Hold
from greenroom.scheduler.held import Held, Place

# Lease times that are kept beyond their session's end. A tenant that starts and ends more within a second than this is
# let through too fast after a change of leader, for that second.
MAX_DEPARTED: Final = 4096

# Why a session is refused, as a code and for people, and when asking again may go better, in seconds.
type Refusal = tuple[Reason, str, float]
# Scope, tenant (`*`: of all together) and key: what a limit counts, whichever limit that is.
type Measure = tuple[Scope, str, str]

_SHARED: Final = frozenset({Scope.CARRIER, Scope.NUMBER, Scope.ACCOUNT})
# Tallies that nothing counts by any more are looked for when there are so many more than were of use the last time.
_SLACK: Final = 1024
# Nobody knows how long calls take before the first has ended; this is what a caller is told to wait then, at most.
_GUESSED_CALL_S: Final = 60.0
_MIN_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 300.0


def key_of(scope: Scope, session: Session) -> tuple[str, ...]:
    """Return what a session is counted by in a scope: one key as a rule, none, or several accounts."""
    match scope:
        case Scope.TENANT:
            return (session.tenant,)
        case Scope.AGENT:
            return (session.agent,)
        case Scope.AGENT_VERSION:
            return (f"{session.agent}@{session.agent_version}",)
        case Scope.CARRIER:
            return (session.carrier,) if session.carrier else ()
        case Scope.NUMBER:
            return (session.number,) if session.number else ()
        case Scope.ACCOUNT:
            return tuple(dict.fromkeys(session.accounts))


def retry_after_s(mean_s: float | None, active: int) -> float:
    """Return when asking again may go better, in seconds: when a session under the limit is expected to end.

    Calls of the mean length that began independently of each other end at a rate of `active / mean`, so the next end
    is `mean / active` away, whenever one asks. At most 5 minutes, since the estimate is from the past; at least 1 s.

    Args:
        mean_s: how long such sessions take; None: not known.
        active: how many there are.
    """
    return min(max((mean_s or _GUESSED_CALL_S) / max(active, 1), _MIN_RETRY_S), _MAX_RETRY_S)


class Starts:
    """A bucket of start tokens: one second's worth, at least one; each comes back that second after it was taken.

    So no window of that length sees more starts than the bucket holds, which a bucket that is refilled steadily
    wouldn't ensure. And what is left depends on the lease times alone, not on the order in which they are learned.
    """

    __slots__ = ("_sorted", "_times", "bucket", "window")

    def __init__(self, per_s: float) -> None:
        self.bucket = max(math.floor(per_s), 1)
        self.window = timedelta(seconds=self.bucket / per_s)
        self._times: dict[Hold, datetime] = {}
        self._sorted: list[tuple[datetime, Hold]] = []

    def put(self, hold: Hold, at: datetime) -> None:
        """Take in when a lease was granted."""
        if self._times.get(hold) != at:
            self.discard(hold)
            self._times[hold] = at
            bisect.insort(self._sorted, (at, hold))

    def discard(self, hold: Hold) -> None:
        """Take in that a lease wasn't granted after all, or was so long ago that it doesn't count."""
        at = self._times.pop(hold, None)
        if at is not None:
            del self._sorted[bisect.bisect_left(self._sorted, (at, hold))]

    def taken(self, now: datetime) -> int:
        """Return how many tokens are out.

        A time that is ahead of the clock by more than the window is one from before the clock was set back.
        """
        since = bisect.bisect_right(self._sorted, now - self.window, key=_time)
        until = bisect.bisect_left(self._sorted, now + self.window, lo=since, key=_time)
        return until - since


def _time(lease: tuple[datetime, Hold]) -> datetime:
    return lease[0]


class Tally[L]:
    """How much of a limit is used by one key.

    Attributes:
        limit: which one.
        tenant: whose; `*`: of all tenants together.
        key: which agent, account, ….
        active: sessions that are leased or later and haven't ended.
        waiting: sessions that count when they are placed.
        starts: lease times, if the limit bounds their rate.
        parked: lines of the queue that wait for it to go down.
    """

    __slots__ = ("active", "key", "limit", "parked", "starts", "tenant", "waiting")

    def __init__(self, limit: Limit, tenant: str, key: str) -> None:
        self.limit = limit
        self.tenant = tenant
        self.key = key
        self.active = 0
        self.waiting = 0
        self.starts = Starts(limit.max_starts_per_s) if limit.max_starts_per_s else None
        self.parked: list[L] = []

    @property
    def measure(self) -> Measure:
        """What it counts."""
        return self.limit.scope, self.tenant, self.key

    @property
    def full(self) -> bool:
        """Whether there are as many sessions as there may be."""
        return self.limit.max_sessions is not None and self.active >= self.limit.max_sessions

    @property
    def refuses(self) -> bool:
        """Whether what is beyond is refused, not left to wait."""
        return self.limit.at_limit is AtLimit.REFUSE

    def blocks(self, now: datetime) -> bool:
        """Tell whether no further session may be leased now."""
        return self.full or self.paced_out(now)

    def paced_out(self, now: datetime) -> bool:
        """Tell whether no further session may start now, however many there are."""
        return self.starts is not None and self.starts.taken(now) >= self.starts.bucket

    def idle(self, now: datetime) -> bool:
        """Tell whether one made anew would say the same."""
        return not self.active and not self.waiting and (self.starts is None or not self.starts.taken(now))

    @property
    def use(self) -> str:
        """How much is used, e.g. `20/20`."""
        return f"{self.active}/{'-' if self.limit.max_sessions is None else self.limit.max_sessions}"

    def refusing(self, now: datetime) -> bool:  # noqa: ARG002 a limit on how many there are doesn't pass with time
        """Tell whether what waits is to be refused now."""
        return self.full and self.refuses

    def refusal(self, now: datetime, mean_s: float | None) -> Refusal:  # noqa: ARG002 the same
        """Return how a session is refused; `mean_s` is how long those it counts take, if that is known."""
        text = f"limit {self.limit.id}: {self.reason()[1]}"
        return Reason.LIMIT_REACHED, text, retry_after_s(mean_s, self.active)

    def reason(self) -> tuple[Reason, str]:
        """Return why a session waits that this blocks, as a code and for people, e.g. `tenant acme at 20/20`."""
        what = f"{self.limit.scope.replace('_', ' ')} {self.key}"
        if self.full:
            code = Reason.TENANT_LIMIT if self.limit.scope is Scope.TENANT else Reason.LIMIT_REACHED
            return code, f"{what} at {self.use}"
        return Reason.STARTS_LIMIT, f"{what} starts as fast as it may, {self.limit.max_starts_per_s:g}/s"

    def holds(self, tenant: str) -> Held | None:
        """Return what somebody is to be told who is held back by it; None: that is told otherwise."""
        return Held(self.limit, self.tenant, self.key, tenant, self.active, self.reason()[0])


class Gate[L](Tally[L]):
    """Lets nobody begin who is concerned, whatever there is of anything, until a time; counts nothing.

    Args:
        limit: what it is shown as; it bounds nothing itself.
        tenant: whose sessions.
        key: which agent's; `*`: all of them.
        until: when it opens.
    """

    __slots__ = ("until",)

    def __init__(self, limit: Limit, tenant: str, key: str, until: datetime) -> None:
        super().__init__(limit, tenant, key)
        self.until = until

    def concerns(self, session: Session) -> bool:
        """Tell whether a session may be held back: one that ever had a slot goes on."""
        return session.tenant == self.tenant and self.key in {EACH, session.agent} and not session.epoch

    def blocks(self, now: datetime) -> bool:
        """See `Tally`."""
        return now < self.until

    def refusing(self, now: datetime) -> bool:
        """See `Tally`."""
        return self.refuses and self.blocks(now)

    @override
    def holds(self, tenant: str) -> Held | None:
        """See `Tally`: it is told when it closes, by whoever closes it."""
        return None


class Book[L]:
    """All limits and their use. `L` is what waits in line for them.

    Args:
        limits: of the policy.
        gates: what lets nobody begin for now.

    Attributes:
        by_version: whether any limit is on a version of an agent.
        version_refuses: whether such a one refuses.
    """

    def __init__(self, limits: Iterable[Limit], gates: Iterable[Gate[L]] = ()) -> None:
        self._gates = tuple(gates)
        self._limits: dict[Scope, dict[tuple[str, str], list[Limit]]] = {}
        for limit in sorted(limits, key=lambda each: each.id):
            self._limits.setdefault(limit.scope, {}).setdefault((limit.tenant, limit.key), []).append(limit)
        self._scopes = [scope for scope in Scope if scope in self._limits and scope is not Scope.AGENT_VERSION]
        self._tallies: dict[tuple[str, str, str], Tally[L]] = {}
        # Those that lines are parked at because of their rate: time alone lets them go on.
        self._paced: set[Tally[L]] = set()
        self._tidy_at = _SLACK
        self.by_version = Scope.AGENT_VERSION in self._limits
        self.version_refuses = any(
            limit.at_limit is AtLimit.REFUSE
            for limits in self._limits.get(Scope.AGENT_VERSION, {}).values()
            for limit in limits
        )

    def of(self, session: Session) -> tuple[Tally[L], ...]:
        """Return what a session counts by whichever version it runs in."""
        if not self._scopes and not self._gates:
            return ()
        counted = (tally for scope in self._scopes for tally in self._in_scope(scope, session))
        return (*(gate for gate in self._gates if gate.concerns(session)), *counted)

    def of_version(self, session: Session) -> tuple[Tally[L], ...]:
        """Return what a session counts by because of its version."""
        return tuple(self._in_scope(Scope.AGENT_VERSION, session)) if self.by_version else ()

    def tallies(self) -> Sequence[Tally[L]]:
        """Return all that anything counted by of late."""
        return list(self._tallies.values())

    def add(self, tallies: Iterable[Tally[L]], hold: Hold, leased_at: datetime | None) -> None:
        """Count a session."""
        for tally in tallies:
            tally.active += 1
            if tally.starts is not None and leased_at is not None:
                tally.starts.put(hold, leased_at)

    def remove(self, tallies: Iterable[Tally[L]]) -> list[L]:
        """Count a session no more, and return the lines that may go on; that it started stays counted."""
        woken: list[L] = []
        for tally in tallies:
            tally.active -= 1
            woken += tally.parked
            tally.parked = []
        return woken

    def park(self, line: L, tally: Tally[L]) -> None:
        """Take in that a line waits for a tally to go down, or for its tokens to come back."""
        tally.parked.append(line)
        if not tally.full:
            self._paced.add(tally)

    def paced(self, now: datetime) -> list[L]:
        """Return the lines that may go on because time has passed."""
        woken: list[L] = []
        for tally in [each for each in self._paced if not each.blocks(now)]:
            self._paced.discard(tally)
            woken += tally.parked
            tally.parked = []
        return woken

    def used_up(self, now: datetime) -> set[Place]:
        """Return the limits that nobody may begin under now."""
        return {place for place, tally in self._tallies.items() if tally.blocks(now)}

    def tidy(self, now: datetime) -> None:
        """Forget tallies that nothing counts by, if there are many: numbers and accounts come and go."""
        if len(self._tallies) >= self._tidy_at:
            self._tallies = {name: tally for name, tally in self._tallies.items() if not tally.idle(now)}
            self._tidy_at = 2 * len(self._tallies) + _SLACK

    def _in_scope(self, scope: Scope, session: Session) -> Iterable[Tally[L]]:
        limits = self._limits[scope]
        for key in key_of(scope, session):
            for tenant in (EACH, session.tenant):
                for name in (EACH, key):
                    for limit in limits.get((tenant, name), ()):
                        shared = scope in _SHARED and limit.tenant == EACH
                        yield self._tally(limit, EACH if shared else session.tenant, key)

    def _tally(self, limit: Limit, tenant: str, key: str) -> Tally[L]:
        name = (limit.id, tenant, key)
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = Tally(limit, tenant, key)
        return tally
