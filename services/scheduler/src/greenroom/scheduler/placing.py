"""One plan's leases: granted one after the other on the board's own counts, and taken back when the plan is made.

Until an action is under way nothing has changed, so a plan leaves everything as it was. (It says what it would do if it
were carried out at once; whoever plans again without doing so gets the same.)
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from greenroom.common.lifecycle import Ended, Leased, Outcome, Priority, Session
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import ColdLease, Lease, Refuse, Why
from greenroom.scheduler.capacity import ColdAllowance, too_late
from greenroom.scheduler.fleet import Hold
from greenroom.scheduler.history import History
from greenroom.scheduler.limits import Book, Tally
from greenroom.scheduler.placement import Rack, Seat, wish_of
from greenroom.scheduler.queues import Line, Queue, Queues, Turn, age
from greenroom.scheduler.ranking import Ranking
from greenroom.scheduler.seats import Seats
from greenroom.scheduler.settle import PlanLimits, Tracked
from greenroom.scheduler.versions import Rollouts

# Of those whom a launch would come too late for, in one plan and pool.
_MOST_PASSED_OVER: Final = 256
# Reasons for which a further runner would help.
SHORT: frozenset[Reason] = frozenset({Reason.NO_FREE_SLOT, Reason.RUNNER_DRAINING, Reason.RUNNER_OVERLOADED})


class Desk(NamedTuple):
    """What leases are granted from."""

    limits: PlanLimits
    policy_revision: int
    sessions: Mapping[str, Tracked]
    seats: Seats
    queues: Queues
    book: Book[Line]
    rollouts: Rollouts
    history: History

    def versions(self, queue: Queue) -> tuple[int, ...]:
        """Return the versions that the sessions of a queue may get, the preferred one first."""
        wish = queue.wish
        return self.rollouts.versions(queue.kind.share, self.seats.versions(wish.pool, wish.bot))

    def racks(self, queue: Queue) -> list[Rack]:
        """Return the seats for the sessions of a queue, by version, the preferred one first."""
        return [self.seats.rack(queue.wish, version) for version in self.versions(queue)]

    def of_version(self, session: Session, version: int) -> tuple[Tally[Line], ...]:
        """Return what a session counts by if it gets a version."""
        if not self.book.by_version:
            return ()
        return self.book.of_version(msgspec.structs.replace(session, agent_version=version))

    def short(self, queue: Queue, refused_by: Sequence[str]) -> tuple[Reason, str] | None:
        """Return why no runner takes a session of a queue, or None when one would."""
        wish, racks = queue.wish, self.racks(queue)
        counts = [rack.busy(refused_by) for rack in racks]
        willing, used, slots, small = (sum(count) for count in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
        if used < slots:
            return None
        if willing:
            what = f" is large enough for bot {wish.bot}" if small else ""
            return Reason.NO_FREE_SLOT, f"no free slot in pool {wish.pool}{what} ({used}/{slots + small} busy)"
        if any(racks):
            return Reason.RUNNER_REFUSED, f"every runner that offers bot {wish.bot} has refused the session"
        return self.seats.shortage(wish, self.versions(queue) if queue.kind.share.rollout else None)


class _Grant(NamedTuple):
    line: Line
    session: Session
    seat: Seat | None
    tallies: tuple[Tally[Line], ...]


class _Move(NamedTuple):
    session: Session
    seat: Seat
    tallies: tuple[Tally[Line], ...]


class Placing:
    """See the module.

    Args:
        desk: what leases are granted from.
        now: the time.
        most: how many actions there may be.
    """

    def __init__(self, desk: Desk, now: datetime, most: int) -> None:
        self.actions: list[Lease | ColdLease | Refuse] = []
        self._desk = desk
        self._now = now
        self._most = most
        self._grants: list[_Grant] = []
        self._moves: list[_Move] = []
        self._placed: Counter[str] = Counter()
        # Lines that are passed over in this plan and are looked at again in the next.
        self._aside: list[Line] = []
        self._racks: dict[Queue, list[Rack]] = {}

    # ------------------------------------------------------------------------ slots that there are

    def warm(self, pool: str) -> None:
        """Hand out the free slots of a pool."""
        for priority in Priority:
            self._go_through(self._desk.queues.of(pool, priority), self._seat_first)

    def _go_through(self, queues: Iterable[Queue], attempt: Callable[[Queue, Line], bool]) -> None:
        """Attempt to place those whose turn it is, one after the other.

        Args:
            queues: of one class.
            attempt: places the first of a line, or parks the line, or returns False: the queue has come to its end.
        """
        order: Ranking[Queue, Turn] = Ranking()
        for queue in queues:
            front = queue.front()
            if front is not None:
                order.put(queue, front[1])
        while len(self.actions) < self._most and (queue := order.first()) is not None:
            front = queue.front()
            if front is None:
                order.drop(queue)
            elif front[1] != order.key(queue):
                order.put(queue, front[1])
            elif not attempt(queue, front[0]):
                order.drop(queue)

    def _seat_first(self, queue: Queue, line: Line) -> bool:
        if self._blocked(line):
            return True
        racks = self._racks.get(queue)
        if racks is None:
            racks = self._racks[queue] = self._desk.racks(queue)
        refused_by = line.like.refused_by
        for rack in racks:
            seat = rack.best(refused_by)
            if seat is None:
                continue
            tallies = self._desk.of_version(line.like, rack.version)
            if not any(tally.blocks(self._now) for tally in tallies):
                self._lease(line, rack, seat, tallies)
                return True
        if not any(rack.free for rack in racks):
            return False
        self._set_aside(line)
        return True

    def _blocked(self, line: Line) -> bool:
        for tally in line.tallies:
            if tally.blocks(self._now):
                self._desk.queues.park(line)
                self._desk.book.park(line, tally)
                return True
        return False

    def _set_aside(self, line: Line) -> None:
        self._desk.queues.park(line)
        self._aside.append(line)

    def _lease(self, line: Line, rack: Rack, seat: Seat, by_version: tuple[Tally[Line], ...]) -> None:
        runner_id, is_warm = seat.key[1], seat.warm > 0
        facts = {"candidates": len(rack), "free": rack.free, "warm": rack.warm}
        session, tallies = self._next(line), line.tallies + by_version
        why = Why(
            reason="slot-free",
            text=f"runner {runner_id} has a {'warm' if is_warm else 'cold'} slot",
            inputs=facts | self._facts(session, tallies, rack.version),
        )
        leased = Leased(
            runner_id=runner_id,
            epoch=session.epoch + 1,
            expires_at=self._now + timedelta(seconds=self._desk.limits.lease_s),
            agent_version=rack.version,
        )
        self.actions.append(Lease(session_id=session.id, transition=leased, why=why))
        self._grant(_Grant(line, session, seat, tallies))

    def move(self, launching: Iterable[Session]) -> None:
        """Give slots that nobody waits for to sessions whose runners are still being launched.

        Nothing but the runner changes, so whatever they count by they go on counting by. Only that they start is new: a
        cold lease is no start until its runner is there.

        Args:
            launching: sessions with a cold lease, in the order in which they get slots.
        """
        for session in launching:
            if len(self.actions) >= self._most:
                return
            rack = self._desk.seats.rack(wish_of(session), session.agent_version)
            seat = rack.best(session.refused_by)
            tallies = (*self._desk.book.of(session), *self._desk.book.of_version(session))
            if seat is None or any(tally.paced_out(self._now) for tally in tallies):
                continue
            why = Why(
                reason="slot-free",
                text=f"runner {seat.key[1]} has a slot before the one that is launched for it is up",
                inputs={"launched_for": session.epoch} | self._facts(session, tallies, rack.version),
            )
            leased = Leased(
                runner_id=seat.key[1],
                epoch=session.epoch + 1,
                expires_at=self._now + timedelta(seconds=self._desk.limits.lease_s),
                agent_version=rack.version,
            )
            self.actions.append(Lease(session_id=session.id, transition=leased, why=why))
            seat.take(session.bot, 1)
            self._moves.append(_Move(session, seat, tallies))
            for tally in tallies:
                if tally.starts is not None:
                    tally.starts.put(_hold(session), self._now)

    # ------------------------------------------------------------------------ runners that are to be launched

    def cold(self, pool: str, allowance: ColdAllowance) -> None:
        """Grant runners that are launched to sessions that wait for nothing but a slot."""
        left = allowance.count
        queues = self._desk.queues
        passed_over: list[tuple[Line, Session]] = []
        bots = {bot: each.count for bot, each in allowance.bots.items()}

        def launch(queue: Queue, line: Line) -> bool:
            nonlocal left
            bot = queue.wish.bot
            if not left or not bots.get(bot, left):
                return False
            if self._blocked(line):
                return True
            # While nobody offers anything, the version that was asked for is as good as any.
            version = next(iter(self._desk.versions(queue)), line.like.agent_version)
            by_version = self._desk.of_version(line.like, version)
            if not self._short_of_slots(queue, line) or any(tally.blocks(self._now) for tally in by_version):
                self._set_aside(line)
                return True
            session = self._next(line)
            if too_late(session, allowance, self._now):
                # Others of its line may have more patience; who has none left is gone soon.
                queues.take(line, session.id)
                passed_over.append((line, session))
                return len(passed_over) < _MOST_PASSED_OVER
            left -= 1
            if bot in bots:
                bots[bot] -= 1
            self._cold_lease(line, version, allowance, line.tallies + by_version)
            return True

        for priority in Priority:
            self._go_through(queues.of(pool, priority) if left else (), launch)
        for line, session in passed_over:
            queues.put(line, session)

    def _short_of_slots(self, queue: Queue, line: Line) -> bool:
        short = self._desk.short(queue, line.like.refused_by)
        if short is None:
            return False
        nobody_up = not any(seat.up for seat in self._desk.seats.of(queue.wish.pool))
        return short[0] in SHORT or (nobody_up and short[0] is Reason.NO_RUNNER_FOR_AGENT)

    def _cold_lease(self, line: Line, version: int, allowance: ColdAllowance, tallies: tuple[Tally[Line], ...]) -> None:
        session = self._next(line)
        why = Why(
            reason=Reason.LAUNCHING,
            text=f"no slot is free in pool {session.pool}, so a runner is launched for it",
            inputs={"allowed": allowance.count} | self._facts(session, tallies, version),
        )
        epoch = session.epoch + 1
        leased = Leased(
            runner_id=f"cold-{session.id}-{epoch}",
            epoch=epoch,
            # Nobody is there any more for a runner that comes after its caller has given up.
            expires_at=min(self._now + timedelta(seconds=allowance.deadline_s), session.queue_deadline_at),
            cold=True,
            agent_version=version,
        )
        self.actions.append(ColdLease(session_id=session.id, transition=leased, why=why))
        self._grant(_Grant(line, session, None, tallies))

    # ------------------------------------------------------------------------ who may not wait

    def refuse(self) -> None:
        """Refuse those that a limit neither lets in nor lets wait."""
        refused: list[tuple[Session, Tally[Line]]] = []
        for line in self._desk.queues.refusable:
            tally = self._refusing(line)
            if tally is not None:
                refused += [(self._desk.sessions[each].session, tally) for each in line.sessions]
        refused.sort(key=lambda row: age(row[0]))
        for session, tally in refused[: self._most - len(self.actions)]:
            mean_s = self._desk.history.mean_s(session.pool, tally.measure)
            reason, text, after_s = tally.refusal(self._now, mean_s)
            ended = Ended(
                by="scheduler",
                epoch=session.epoch,
                outcome=Outcome.REJECTED,
                reason=reason,
                detail=text,
                retry_after_s=after_s,
            )
            facts = {"mean_duration_s": mean_s, "retry_after_s": after_s}
            inputs = facts | self._facts(session, (tally,), session.agent_version)
            why = Why(reason=reason, text=text, inputs=inputs)
            held = tally.holds(session.tenant)
            self.actions.append(Refuse(session_id=session.id, transition=ended, why=why, held=held))

    def _refusing(self, line: Line) -> Tally[Line] | None:
        """Return the limit that refuses the sessions of a line, if any does; of versions, whichever they would get."""
        for tally in line.tallies:
            if tally.refusing(self._now):
                return tally
        if not self._desk.book.by_version:
            return None
        versions = self._desk.versions(line.party.queue)
        full = [
            next((tally for tally in self._desk.of_version(line.like, version) if tally.full), None)
            for version in versions
        ]
        return full[0] if full and all(full) and full[0] and full[0].refuses else None

    # ------------------------------------------------------------------------ grant and take back

    def _next(self, line: Line) -> Session:
        session_id = line.sessions.first()
        return self._desk.sessions[session_id].session if session_id else line.like

    def _facts(self, session: Session, tallies: Iterable[Tally[Line]], version: int) -> dict[str, Any]:
        return {
            # How many of its pool were before it in this plan, and it.
            "position": self._placed[session.pool] + 1,
            "limits": {f"{tally.limit.id} {tally.key}": tally.use for tally in tallies},
            "version": version,
            "policy_revision": self._desk.policy_revision,
        }

    def _grant(self, grant: _Grant) -> None:
        session, queues = grant.session, self._desk.queues
        self._grants.append(grant)
        self._placed[session.pool] += 1
        self._desk.book.add(grant.tallies, _hold(session), self._now)
        if grant.seat is not None:
            grant.seat.take(session.bot, 1)
        queues.take(grant.line, session.id)
        queues.use(session.pool, session.tenant, 1)

    def take_back(self) -> None:
        """Leave everything as it was before."""
        queues = self._desk.queues
        for session, seat, tallies in reversed(self._moves):
            seat.take(session.bot, -1)
            for tally in tallies:
                if tally.starts is not None:
                    tally.starts.discard(_hold(session))
        for line, session, seat, tallies in reversed(self._grants):
            queues.wake(self._desk.book.remove(tallies))
            for tally in tallies:
                if tally.starts is not None:
                    tally.starts.discard(_hold(session))
            if seat is not None:
                seat.take(session.bot, -1)
            queues.put(line, session)
            queues.use(session.pool, session.tenant, -1)
        queues.wake(self._aside)


def _hold(session: Session) -> Hold:
    return session.id, session.epoch + 1
