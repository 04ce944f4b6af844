"""Why sessions wait, for how long, and where they stand: computed when somebody asks, not with each plan."""

import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from greenroom.common.messages import QueuePage, QueuePageQuery, WaitingSession
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Waiting
from greenroom.scheduler.capacity import ColdAllowance, too_late
from greenroom.scheduler.held import Held
from greenroom.scheduler.limits import Tally
from greenroom.scheduler.placing import SHORT, Desk
from greenroom.scheduler.queues import Line


class _Cause(NamedTuple):
    """Why the sessions of a line wait. Those with the same `what` wait for the same thing, one after the other."""

    reason: Reason
    text: str
    what: object
    next_s: float | None


class Outlook:
    """See the module. What was computed for one answer is kept for the next, so an outlook is of a moment.

    When the next slot is expected: of n calls of the mean length m, begun independently of each other, one ends each
    m / n seconds. m is that of the sessions that were seen to end of what the limit counts, or of the pool where those
    are too few; before the first, nothing is said.

    Args:
        desk: what leases are granted from.
        now: of the last plan; None before the first.
        cold: what could be launched then.
    """

    def __init__(self, desk: Desk, now: datetime | None, cold: Mapping[str, ColdAllowance]) -> None:
        self._desk = desk
        self._now = now
        self._cold = cold
        self._causes: dict[Line, _Cause] = {}
        self._pools: dict[str, dict[str, Waiting]] = {}

    def waiting(self, pool: str | None = None) -> list[Waiting]:
        """Return all that wait, or those of one pool, each pool in its order."""
        pools = self._desk.queues.pools() if pool is None else [pool]
        return [each for name in pools for each in self._pool(name).values()]

    def of(self, session_id: str) -> Waiting | None:
        """Return where a session stands and why, or None when it doesn't wait."""
        tracked = self._desk.sessions.get(session_id)
        return self._pool(tracked.session.pool).get(session_id) if tracked else None

    def page(self, query: QueuePageQuery) -> QueuePage:
        """Return a part of the queue."""
        found = [
            each
            for each in self.waiting(query.pool)
            if each.session_id in self._desk.sessions
            and query.tenant in {None, self._desk.sessions[each.session_id].session.tenant}
        ]
        rows = found[query.offset : query.offset + query.limit]
        return QueuePage(total=len(found), waiting=tuple(self._row(each) for each in rows))

    def reasons(self) -> Counter[Reason]:
        """Return how many sessions wait for what."""
        counts: Counter[Reason] = Counter()
        for line in self._lines():
            counts[self._cause(line).reason] += len(line.sessions)
        return counts

    def held(self) -> list[Held]:
        """Return which limits hold somebody back, and whom."""
        causes = ((line, self._cause(line).what) for line in self._lines())
        found = (what.holds(line.like.tenant) for line, what in causes if isinstance(what, Tally))
        return [each for each in found if each is not None]

    def for_slots(self, pool: str) -> int:
        """Return how many sessions wait in a pool for nothing but a slot."""
        causes = ((line, self._cause(line)) for line in self._lines(pool))
        return sum(len(line.sessions) for line, cause in causes if cause.reason in SHORT)

    def _lines(self, pool: str | None = None) -> list[Line]:
        queues = self._desk.queues
        pools = queues.pools() if pool is None else [pool]
        return [line for name in pools for queue in queues.of(name) for line in queue.lines.values()]

    def _pool(self, pool: str) -> dict[str, Waiting]:
        if pool not in self._pools:
            order = list(self._desk.queues.in_order(pool))
            before: Counter[object] = Counter()
            rows: dict[str, Waiting] = {}
            for position, (line, session_id) in enumerate(order, start=1):
                reason, text, what, next_s = self._cause(line)
                before[what] += 1
                rows[session_id] = Waiting(
                    session_id=session_id,
                    position=position,
                    of=len(order),
                    reason=reason,
                    text=text + self._too_late(pool, session_id, reason),
                    next_s=next_s,
                    expected_s=None if next_s is None else next_s * before[what],
                )
            self._pools[pool] = rows
        return self._pools[pool]

    def _cause(self, line: Line) -> _Cause:
        if line not in self._causes:
            self._causes[line] = self._find_cause(line)
        return self._causes[line]

    def _find_cause(self, line: Line) -> _Cause:
        queue, like, desk = line.party.queue, line.like, self._desk
        tallies = line.tallies
        for tally in tallies:
            if self._now is not None and tally.blocks(self._now):
                rate = tally.limit.max_starts_per_s
                next_s = 1 / rate if rate and not tally.full else self._next_below(tally, like.pool)
                return _Cause(*tally.reason(), tally, next_s)
        refused_by = like.refused_by
        short = desk.short(queue, refused_by)
        if short is not None:
            reason, text = short
            busy = sum(rack.busy(refused_by)[1] for rack in desk.racks(queue))
            next_s = _next_s(desk.history.mean_s(like.pool), busy) if reason is Reason.NO_FREE_SLOT else None
            return _Cause(reason, text + self._held_back(like.pool, like.bot), queue.wish, next_s)
        for version in desk.versions(queue):
            for tally in desk.of_version(like, version):
                if self._now is not None and tally.blocks(self._now):
                    return _Cause(*tally.reason(), tally, self._next_below(tally, like.pool))
        return _Cause(Reason.NO_FREE_SLOT, "it is being decided on", queue.wish, None)

    def _next_below(self, tally: Tally[Line], pool: str) -> float | None:
        return _next_s(self._desk.history.mean_s(pool, tally.measure), tally.active)

    def _held_back(self, pool: str, bot: str) -> str:
        """Return why no runner is launched, if that is because something is in the way."""
        allowance = self._cold.get(pool)
        if allowance is None:
            return ""
        tighter = allowance.bots.get(bot)
        bound = tighter if allowance.count and tighter is not None else allowance
        return f"; none is launched: {bound.reason}" if not bound.count and bound.reason else ""

    def _too_late(self, pool: str, session_id: str, reason: Reason) -> str:
        """Return why no runner is launched for a session, if that is because of how long it waits at most."""
        allowance, now = self._cold.get(pool), self._now
        if allowance is None or not allowance.count or now is None or reason not in SHORT:
            return ""
        session = self._desk.sessions[session_id].session
        if not too_late(session, allowance, now):
            return ""
        left_s = max((session.queue_deadline_at - now).total_seconds(), 0.0)
        return (
            f"; none is launched: that takes ~{math.ceil(allowance.usual_s or 0)} s, and it waits {left_s:.0f} s more"
        )

    def _row(self, waiting: Waiting) -> WaitingSession:
        session = self._desk.sessions[waiting.session_id].session
        return WaitingSession(
            session_id=session.id,
            tenant=session.tenant,
            agent=session.agent,
            pool=session.pool,
            priority=session.priority,
            position=waiting.position,
            of=waiting.of,
            reason=waiting.reason,
            text=str(waiting),
            requested_at=session.requested_at,
            deadline_at=session.queue_deadline_at,
            expected_s=waiting.expected_s,
        )


def _next_s(mean_s: float | None, active: int) -> float | None:
    return mean_s / active if mean_s is not None and active else None
