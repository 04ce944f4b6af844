"""Who waits, in the order in which slots are given.

    pool ─▶ class: high, normal, low ─▶ Queue: who wants the same seats ─▶ Party: a tenant's part ─▶ Line: who are alike

**Order.** Classes come strictly one after the other. Within a class each slot goes to the tenant whose use of the pool,
with that slot, is least for its weight: weighted max-min fairness (progressive filling; dominant resource fairness with
slots as the one resource). Within a tenant, and between tenants that are level, first come is first served.

Deficit round robin would give the same shares while calls are short. It was made for packets, where what was served
is over; a call goes on using what it got, and so the deficit here is read off what runs, not kept: any scheduler that
knows the sessions knows whose turn it is, in whichever order it learned of them. A tenant whose use is least for its
weight gets the next slot that becomes free, however many sessions others have waiting.

**Lines.** Sessions of a line are alike in all that decides where and when they may run, so if the first can't be
placed, none can. What is blocked is passed over line by line, and doesn't hold up anybody else.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from greenroom.common.lifecycle import Priority, Session
from greenroom.scheduler.limits import Tally
from greenroom.scheduler.placement import Wish, wish_of
from greenroom.scheduler.ranking import Ranking
from greenroom.scheduler.versions import Share

type Age = tuple[datetime, str]
# What a tenant would use for its weight with one slot more; then its oldest session that may be placed.
type Turn = tuple[float, datetime, str]


def age(session: Session) -> Age:
    """Return what sessions are ordered by: who asked first, then the id, which grows with time."""
    return session.requested_at, session.id


class _Kind(NamedTuple):
    wish: Wish
    priority: Priority
    share: Share


class Line:
    """Sessions of one tenant that are alike, first come first; see the module.

    Attributes:
        party: whose.
        like: the session that it was opened for.
        tallies: what its sessions count by, whichever version they get.
        sessions: their ids by age.
        parked: whether it is known that the first can't be placed: it isn't looked at until that changes.
    """

    __slots__ = ("like", "name", "parked", "party", "sessions", "tallies")

    def __init__(self, name: object, party: "Party", like: Session, tallies: tuple[Tally["Line"], ...]) -> None:
        self.name = name
        self.party = party
        self.like = like
        self.tallies = tallies
        self.sessions: Ranking[str, Age] = Ranking()
        self.parked = False


class Party:
    """What one tenant has waiting in a queue: its lines by the age of their first."""

    __slots__ = ("lines", "of", "queue", "tenant")

    def __init__(self, queue: "Queue", tenant: str) -> None:
        self.queue = queue
        self.tenant = tenant
        # How many lines there are, parked ones too.
        self.of = 0
        self.lines: Ranking[Line, Age] = Ranking()


class Queue:
    """Who waits for the same seats in the same class: the tenants by their share of the pool."""

    __slots__ = ("kind", "lines", "parties")

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        # All of them, parked ones too.
        self.lines: dict[object, Line] = {}
        self.parties: Ranking[Party, Turn] = Ranking()

    @property
    def wish(self) -> Wish:
        """What its sessions ask of a runner."""
        return self.kind.wish

    def front(self) -> tuple[Line, Turn] | None:
        """Return the line whose turn it is, and what its turn depends on; None when none may be placed."""
        party = self.parties.first()
        line = party.lines.first() if party else None
        return (line, self.parties.key(party)) if party and line else None


class Queues:
    """All that waits, and how much of each pool each tenant uses.

    Args:
        weights: of the tenants; those that aren't in have weight 1.

    Attributes:
        refusable: lines that a limit may refuse.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._queues: dict[str, dict[_Kind, Queue]] = {}
        self._lines: dict[str, Line] = {}
        self._active: dict[tuple[str, str], int] = {}
        self._parties: dict[tuple[str, str], dict[Queue, Party]] = {}
        self.refusable: set[Line] = set()

    def pools(self) -> list[str]:
        """Return the pools in which anybody waits."""
        return sorted(pool for pool, queues in self._queues.items() if queues)

    def of(self, pool: str, priority: Priority | None = None) -> list[Queue]:
        """Return the queues of a pool, or those of one class."""
        queues = self._queues.get(pool, {}).values()
        return [queue for queue in queues if priority is None or queue.kind.priority is priority]

    def line(self, session_id: str) -> Line | None:
        """Return where a session stands, if it waits."""
        return self._lines.get(session_id)

    def __len__(self) -> int:
        return len(self._lines)

    # ------------------------------------------------------------------------ who comes and goes

    def join(self, session: Session, share: Share, tallies: tuple[Tally[Line], ...], *, refusable: bool) -> None:
        """Let a session wait.

        Args:
            session: which.
            share: whose versions it gets.
            tallies: what it will count by, whichever version that is.
            refusable: whether a limit may refuse it instead of letting it wait.
        """
        kind = _Kind(wish_of(session), session.priority, share)
        queues = self._queues.setdefault(session.pool, {})
        queue = queues.get(kind)
        if queue is None:
            queue = queues[kind] = Queue(kind)
        name = (session.tenant, session.agent, session.agent_version, session.refused_by, tallies)
        line = queue.lines.get(name)
        if line is None:
            parties = self._parties.setdefault((session.pool, session.tenant), {})
            party = parties.get(queue)
            if party is None:
                party = parties[queue] = Party(queue, session.tenant)
            line = queue.lines[name] = Line(name, party, session, tallies)
            party.of += 1
            if refusable:
                self.refusable.add(line)
        for tally in tallies:
            tally.waiting += 1
        self._lines[session.id] = line
        self.put(line, session)

    def leave(self, session_id: str) -> None:
        """Let a session wait no more, if it does."""
        line = self._lines.pop(session_id, None)
        if line is None:
            return
        for tally in line.tallies:
            tally.waiting -= 1
        self.take(line, session_id)
        if not line.sessions:
            party, queue = line.party, line.party.queue
            del queue.lines[line.name]
            self.refusable.discard(line)
            party.of -= 1
            place = (queue.wish.pool, party.tenant)
            if not party.of:
                del self._parties[place][queue]
            if not self._parties[place]:
                del self._parties[place]
            if not queue.lines:
                del self._queues[queue.wish.pool][queue.kind]

    def put(self, line: Line, session: Session) -> None:
        """Put a session at its place in its line."""
        line.sessions.put(session.id, age(session))
        self._rank(line)

    def take(self, line: Line, session_id: str) -> None:
        """Take a session out of its line; it is about to be placed, or isn't there any more."""
        line.sessions.drop(session_id)
        self._rank(line)

    def park(self, line: Line) -> None:
        """Pass a line over until it is woken."""
        line.parked = True
        self._rank(line)

    def wake(self, lines: Iterable[Line]) -> None:
        """Look at lines again."""
        for line in lines:
            line.parked = False
            self._rank(line)

    def use(self, pool: str, tenant: str, slots: int) -> None:
        """Take in that a tenant uses so many slots more, or fewer."""
        place = (pool, tenant)
        active = self._active.get(place, 0) + slots
        if active:
            self._active[place] = active
        else:
            self._active.pop(place, None)
        for party in self._parties.get(place, {}).values():
            self._rank_party(party)

    def _rank(self, line: Line) -> None:
        first = None if line.parked else line.sessions.first()
        if first is None:
            line.party.lines.drop(line)
        else:
            line.party.lines.put(line, line.sessions.key(first))
        self._rank_party(line.party)

    def _rank_party(self, party: Party) -> None:
        line, queue = party.lines.first(), party.queue
        if line is None:
            queue.parties.drop(party)
        else:
            share = self._share(queue.wish.pool, party.tenant, 1)
            queue.parties.put(party, (share, *party.lines.key(line)))

    def _share(self, pool: str, tenant: str, more: int) -> float:
        """Return how much a tenant would use for its weight, with so many sessions more than it has."""
        return (self._active.get((pool, tenant), 0) + more) / self._weights.get(tenant, 1)

    # ------------------------------------------------------------------------ the order

    def in_order(self, pool: str) -> Iterator[tuple[Line, str]]:
        """Yield the sessions that wait in a pool, with their lines, in the order in which slots would be given now.

        Were there slots for all, and no limits: so what a session can read of its place doesn't jump about with them.
        """
        served: dict[str, int] = {}
        for priority in Priority:
            tenants: dict[str, list[tuple[Age, Line]]] = {}
            for queue in self.of(pool, priority):
                for line in queue.lines.values():
                    rows = tenants.setdefault(line.party.tenant, [])
                    rows += [(line.sessions.key(each), line) for each in line.sessions]
            turns: list[tuple[float, Age, str]] = []
            for tenant, rows in tenants.items():
                rows.sort(key=lambda row: row[0], reverse=True)
                turns.append((self._share(pool, tenant, 1 + served.get(tenant, 0)), rows[-1][0], tenant))
            heapq.heapify(turns)
            while turns:
                tenant = turns[0][2]
                (_, session_id), line = tenants[tenant].pop()
                yield line, session_id
                served[tenant] = served.get(tenant, 0) + 1
                if tenants[tenant]:
                    share = self._share(pool, tenant, 1 + served[tenant])
                    heapq.heapreplace(turns, (share, tenants[tenant][-1][0], tenant))
                else:
                    heapq.heappop(turns)
