"""What this scheduler knows: the sessions that haven't ended and the runners, kept current from three sides.

The watch of the ledger and the heartbeats feed it, and so does each write of its own, so that the next plan needn't
wait for its echo. An action that is under way shows too: a lease that is being written has its slot already. What
changes is told to the board, which plans are made from.
"""

from collections import Counter
from collections.abc import Collection
from datetime import datetime

import msgspec

from greenroom.common.budgets import Spending, reached
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ready, Session, State
from greenroom.common.messages import Heartbeat
from greenroom.common.policy import Policy, Verdicts
from greenroom.scheduler.core import Board, PlanLimits, Tracked
from greenroom.scheduler.fleet import Fleet, RunnerKey


class Picture:
    """See the module. Nothing here waits, so whoever plans sees all of a change or nothing.

    Args:
        pool: keep only what belongs to this pool; None: all.
        limits: how patient the plans are.

    Attributes:
        fleet: the runners.
        board: what plans are made from.
        verdicts: what leaders found about canaries.
        pools: how many sessions there are in each.
    """

    def __init__(self, pool: str | None = None, *, limits: PlanLimits | None = None) -> None:
        self.fleet = Fleet()
        self.board = Board(self.fleet, limits or PlanLimits())
        self.verdicts = Verdicts()
        self.pools: Counter[str] = Counter()
        self._pool = pool
        self._entries: dict[str, Entry] = {}
        self._asked: dict[str, int] = {}
        # How far the watch has read: what is older and isn't here has ended.
        self._watched = 0
        # Sessions whose end was learned of before the watch has come to it, each with the revision of that.
        self._over: dict[str, int] = {}

    def concerns(self, pool: str) -> bool:
        """Tell whether what belongs to a pool is kept here."""
        return self._pool in {None, pool}

    @property
    def sessions(self) -> Collection[Tracked]:
        """All sessions that haven't ended, for the plan."""
        return self.board.sessions.values()

    def entry(self, session_id: str) -> Entry | None:
        """Return the last entry that is known of a session, or None once it has ended."""
        return self._entries.get(session_id)

    def knows(self, session_id: str) -> bool:
        """Tell whether a session is known, or its end was learned of before the watch has come to that."""
        return session_id in self._entries or session_id in self._over

    # ------------------------------------------------------------------------ what comes in

    def watched(self, entry: Entry, now: datetime, *, replayed: bool = False) -> bool:
        """Take in an entry that the watch has read, and return whether there may be something to decide.

        Args:
            entry: of any session.
            now: the time.
            replayed: whether it was written before the watch began: of each session only the last is read then.
        """
        self._watched = entry.revision
        session = entry.session
        if self.concerns(session.pool):
            # That it had started well must count as much as that others hadn't, or a canary fails by a restart.
            was_ready = replayed and session.ready_at is not None
            # The watch reads each entry once; what was written from here comes by twice.
            self.board.witnessed(Ready(epoch=session.epoch) if was_ready else entry.transition, session)
        return self.fold(entry, now)

    def fold(self, entry: Entry, now: datetime) -> bool:
        """Take in an entry, unless a later one is known, and return whether there may be something to decide."""
        session = entry.session
        if not self.concerns(session.pool):
            return False
        known = self._entries.get(session.id)
        if entry.revision <= (known.revision if known else self._over.get(session.id, self._watched - 1)):
            return False
        if session.ended:
            self.forget(session.id)
            if entry.revision > self._watched:
                self._over[session.id] = entry.revision
            return known is not None
        if known is None:
            self.pools[session.pool] += 1
        tracked = self.board.sessions.get(session.id)
        self._entries[session.id] = entry
        self._track(session, now, busy=tracked is not None and tracked.busy)
        # The rest frees no slot and needs none.
        return session.state is State.REQUESTED or (
            session.state is State.LEASED and not self.board.sessions[session.id].asked
        )

    def forget(self, session_id: str) -> None:
        """Drop a session that the ledger doesn't hold any more, or holds as ended."""
        entry = self._entries.pop(session_id, None)
        if entry is not None:
            self.pools -= Counter((entry.session.pool,))
        self._asked.pop(session_id, None)
        self.board.forget(session_id)

    def heard(self, heartbeat: Heartbeat, now: datetime) -> bool:
        """Take in a heartbeat, and return whether what the runner offers has changed."""
        if not self.concerns(heartbeat.pool):
            return False
        if not self.fleet.heard(heartbeat, now):
            return False
        return self.board.runner_changed((heartbeat.pool, heartbeat.runner_id))

    def ticked(self, now: datetime, *, connected: bool) -> None:
        """Take in that time has passed."""
        for key in self.fleet.ticked(now, connected=connected):
            self.board.runner_changed(key)
        if self._over:
            self._over = {each: revision for each, revision in self._over.items() if revision > self._watched}

    def closed(self, key: RunnerKey) -> None:
        """Take in that a runner had no slot, or gave no answer."""
        self.fleet.closed(key)
        self.board.runner_changed(key)

    def policy_changed(self, policy: Policy) -> None:
        """Take in what operators decided."""
        self.board.policy_changed(policy, self.verdicts.rolled_back)

    def spending_changed(self, spending: Spending) -> None:
        """Take in how budgets stand."""
        self.board.spending_changed(reached(spending))

    def verdicts_changed(self, verdicts: Verdicts) -> None:
        """Take in what a leader found about canaries."""
        self.verdicts = verdicts
        self.board.policy_changed(self.board.policy, verdicts.rolled_back)

    # ------------------------------------------------------------------------ what is under way

    def begin(self, session_id: str, expected: Session | None = None) -> Entry | None:
        """Note that an action on a session is under way; `expected` is the session as it will be, if that is a lease.

        Returns:
            The entry to act on, or None when the session has ended.
        """
        entry = self._entries.get(session_id)
        if entry is not None:
            tracked = self.board.sessions[session_id]
            self.board.session_changed(msgspec.structs.replace(tracked, session=expected or tracked.session, busy=True))
        return entry

    def asked(self, session: Session) -> None:
        """Note that the runner is asked to start a session now."""
        self._asked[session.id] = session.epoch
        tracked = self.board.sessions.get(session.id)
        if tracked is not None and tracked.session.epoch == session.epoch:
            self.board.session_changed(msgspec.structs.replace(tracked, asked=True))

    def finish(self, session_id: str) -> None:
        """Note that the action is over, whatever came of it."""
        entry = self._entries.get(session_id)
        if entry is not None:
            self._track(entry.session, self.board.sessions[session_id].seen_at, busy=False)

    def _track(self, session: Session, seen_at: datetime, *, busy: bool) -> None:
        asked = self._asked.get(session.id) == session.epoch
        self.board.session_changed(Tracked(session=session, seen_at=seen_at, asked=asked, busy=busy))
