"""What must hold at every step whatever the scheduler does. A simulation in which it doesn't has found a fault."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Leased, Session, State
from greenroom.common.policy import EACH, Limit, Policy, Scope
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.runners import Runners, VirtualRunner
from greenroom.scheduler.fleet import Hold, RunnerKey, holder
from greenroom.scheduler.limits import key_of

# Deadlines are looked at each 250 ms, and a plan has so many actions at most.
_LATE: Final = timedelta(seconds=5)
_SHARED: Final = frozenset({Scope.CARRIER, Scope.NUMBER, Scope.ACCOUNT})
# Limit, tenant, key.
type _Key = tuple[str, str, str]


class InvariantBroken(GreenroomError):
    """The scheduler did something that it must never do; the detail has what, and the history of the session.

    This is a fault of the scheduler, or of the simulation. Report it with the scenario and its seed.
    """

    code = "invariant-broken"
    title = "The scheduler broke a promise"


class Invariants:
    """See the module. Counts by itself what the scheduler counts, from the ledger alone.

    Args:
        policy: has the limits.
        ledger: is followed.
        runners: that there are.
    """

    def __init__(self, policy: Policy, ledger: VirtualLedger, runners: Runners) -> None:
        self._limits = policy.limits
        self._ledger = ledger
        self._runners = runners
        self._assigned: dict[RunnerKey, set[Hold]] = {}
        self._active: Counter[_Key] = Counter()
        self._starts: dict[_Key, deque[datetime]] = {}
        self._requested = 0
        self._ended = 0

    def follow(self, before: Session | None, entry: Entry) -> None:
        """Take in an entry of the ledger.

        Raises:
            InvariantBroken: it must not be there.
        """
        after = entry.session
        if before is None:
            self._requested += 1
        was, now = _place(before), _place(after)
        if was != now and was is not None and before is not None:
            self._leave(before, was)
        if was != now and now is not None:
            self._enter(entry, now)
        if after.ended:
            self._ended += 1

    def _leave(self, session: Session, place: tuple[RunnerKey, Hold]) -> None:
        key, hold = place
        self._assigned[key].discard(hold)
        if not self._assigned[key]:
            del self._assigned[key]
        self._active.subtract(name for _, name in self._counted(session))

    def _enter(self, entry: Entry, place: tuple[RunnerKey, Hold]) -> None:
        key, hold = place
        session = entry.session
        assigned = self._assigned.setdefault(key, set())
        assigned.add(hold)
        runner = self._runners.get(key)
        slots = runner.slots if runner else 1 if session.cold else math.inf
        processes = {(each.session_id, each.epoch) for each in runner.held.values()} if runner else set[Hold]()
        if len(assigned | processes) > slots:
            text = f"runner {key[1]} has {len(assigned)} leases and {len(processes)} processes in {slots} slots"
            raise self.broken(text, session.id)
        if runner is not None:
            self._check_host(runner, assigned, session)
        for limit, name in self._counted(session):
            self._active[name] += 1
            if limit.max_sessions is not None and self._active[name] > limit.max_sessions:
                raise self.broken(f"limit {limit.id} of {limit.max_sessions} is at {self._active[name]}", session.id)
            if limit.max_starts_per_s and isinstance(entry.transition, Leased):
                self._check_starts(limit, limit.max_starts_per_s, name, entry)

    def _check_host(self, runner: VirtualRunner, assigned: set[Hold], session: Session) -> None:
        bots = dict(runner.bots)
        for session_id, _ in assigned:
            entry = self._ledger.open.get(session_id)
            bots[session_id] = session.bot if entry is None else entry.session.bot
        load = runner.load(bots.values())
        if load > 1:
            raise self.broken(f"runner {runner.id} has {len(bots)} sessions, {load} of what its host holds", session.id)

    def _check_starts(self, limit: Limit, per_s: float, name: _Key, entry: Entry) -> None:
        bucket = max(math.floor(per_s), 1)
        starts = self._starts.setdefault(name, deque(maxlen=bucket))
        if len(starts) == bucket and entry.at - starts[0] < timedelta(seconds=bucket / per_s):
            text = f"limit {limit.id} of {per_s:g} starts/s: {bucket + 1} within {(entry.at - starts[0])}"
            raise self.broken(text, entry.session.id)
        starts.append(entry.at)

    def _counted(self, session: Session) -> Iterator[tuple[Limit, _Key]]:
        for limit in self._limits:
            if limit.tenant not in {EACH, session.tenant}:
                continue
            shared = limit.scope in _SHARED and limit.tenant == EACH
            for key in key_of(limit.scope, session):
                if limit.key in {EACH, key}:
                    yield limit, (limit.id, EACH if shared else session.tenant, key)

    # ------------------------------------------------------------------------ nobody is forgotten

    def check(self, known: Iterable[str], now: datetime, *, led_s: float) -> None:
        """Check that the scheduler knows all sessions that haven't ended, and leaves none beyond its time.

        Args:
            known: ids of those that it knows.
            now: the time.
            led_s: for how long somebody has been there to decide.

        Raises:
            InvariantBroken: it doesn't.
        """
        ids = set(known)
        for session_id in self._ledger.open.keys() ^ ids:
            what = "has ended and is still known" if session_id in ids else "is forgotten"
            raise self.broken(f"session {session_id} {what}", session_id)
        for entry in self._ledger.open.values():
            session = entry.session
            deadline = {State.REQUESTED: session.queue_deadline_at, State.LEASED: session.lease_expires_at}
            due = deadline.get(session.state)
            if due is not None and now > due + _LATE and led_s > _LATE.total_seconds():
                raise self.broken(f"session {session.id} should have been decided on by {due:%H:%M:%S}", session.id)

    def check_end(self) -> None:
        """Check that every session has ended, in one way.

        Raises:
            InvariantBroken: it has not.
        """
        for session_id in self._ledger.open:
            raise self.broken(f"session {session_id} never ends", session_id)
        if self._requested != self._ended:
            raise InvariantBroken(f"{self._requested} sessions were asked for, and {self._ended} have ended")

    def broken(self, what: str, session_id: str) -> InvariantBroken:
        """Return the error, with the history of the session that it was found at."""
        rows = [
            f"  {entry.at:%H:%M:%S.%f} {type(entry.transition).__name__.lower()} "
            f"runner={entry.session.runner_id} epoch={entry.session.epoch} attempt={entry.session.attempt}"
            for entry in self._ledger.histories.get(session_id, [])
        ]
        return InvariantBroken("\n".join([what, f"history of {session_id}:", *rows]))


def _place(session: Session | None) -> tuple[RunnerKey, Hold] | None:
    """Return which runner has which lease of a session, from the lease to the end."""
    if session is None or session.state in {State.REQUESTED, State.ENDED}:
        return None
    key = holder(session)
    return (key, (session.id, session.epoch)) if key else None
