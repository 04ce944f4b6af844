"""What a simulation measured: figures that are the same for the same seed, and how long the planning really took."""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Leased, Outcome, Requeued, Session, Started, State
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.runners import Counted

_HOUR_S: Final = 3600.0
_WAITS: Final = frozenset({State.REQUESTED, State.LEASED})
# For people: a tenth of a millisecond, four places of a share.
_DIGITS: Final = 4


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """How long sessions waited from the request to a runner's first claim, in seconds; of those that were placed."""

    count: int
    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. Shares and hours are of the time in which callers came, not of that in which the last ones left.

    Attributes:
        title: of the scenario.
        seed: of chance.
        virtual_s: how long it went on.
        sessions: asked for.
        outcomes: how many ended in which way.
        reasons: of those that didn't complete, why.
        waited: see there; over all tenants and by tenant.
        most_waiting: at one time.
        requeued: how often sessions went back to the queue, by reason.
        utilisation: busy slots / slots, over the time.
        slot_hours, busy_hours, runner_hours: of runners that are up.
        most_slots: at one time.
        cold_leases: leases on runners to be launched; `cold_started` of them were claimed.
        pool_decisions: what was done about pools (`scale`, `retire`, `hold_back`, `reconcile`), how often.
    """

    title: str
    seed: int
    virtual_s: float
    sessions: int
    outcomes: dict[str, int]
    reasons: dict[str, int]
    waited: Waits
    waited_by_tenant: dict[str, Waits]
    most_waiting: int
    requeued: dict[str, int]
    utilisation: float
    slot_hours: float
    busy_hours: float
    runner_hours: float
    most_slots: int
    cold_leases: int
    cold_started: int
    pool_decisions: dict[str, int]


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """What it cost in real time: this depends on the machine."""

    took_s: float
    plans: int
    plan_mean_ms: float
    plan_longest_ms: float
    look_longest_ms: float


class Moment(NamedTuple):
    """How things stood at one time, and how long those waited that were placed since the moment before.

    In seconds; None when nobody was.
    """

    at_s: float
    waiting: int
    busy: int
    slots: int
    target: int
    p50_s: float | None
    p95_s: float | None


class Measure:
    """Collects it.

    Args:
        clock: virtual time.
        count: of runners, slots and busy ones, kept current by others; they call `pass_time` before they change it.
        until_s: until when shares and hours are counted.
    """

    def __init__(self, clock: Clockwork, count: Counted, until_s: float) -> None:
        self.moments: list[Moment] = []
        self.waiting = 0
        self.plans = 0
        self.plan_s = 0.0
        self.plan_longest_s = 0.0
        self.look_longest_s = 0.0
        self.pool_decisions: Counter[str] = Counter()
        self._clock = clock
        self._count = count
        self._until_s = until_s
        self._since_s = 0.0
        self._runner_s = self._slot_s = self._busy_s = 0.0
        self._most_slots = 0
        self._most_waiting = 0
        self._waits: dict[str, array[float]] = {}
        self._lately: list[float] = []
        # Those that were claimed once: what they wait after a loss isn't the caller's first impression.
        self._claimed: set[str] = set()
        self._sessions = 0
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._requeued: Counter[str] = Counter()
        self._cold_leases = 0
        self._cold_started = 0

    # ------------------------------------------------------------------------ what comes in

    def follow(self, before: Session | None, entry: Entry) -> None:
        """Take in an entry of the ledger."""
        session = entry.session
        self.waiting += (session.state in _WAITS) - (before is not None and before.state in _WAITS)
        self._most_waiting = max(self._most_waiting, self.waiting)
        if before is None:
            self._sessions += 1
        match entry.transition:
            case Started():
                self._cold_started += session.cold
                if session.id not in self._claimed:
                    self._claimed.add(session.id)
                    self._waited(session, (entry.at - session.requested_at).total_seconds())
            case Leased():
                self._cold_leases += entry.transition.cold
            case Requeued():
                self._requeued[str(entry.transition.reason)] += 1
            case Ended():
                self._claimed.discard(session.id)
                self._outcomes[str(entry.transition.outcome)] += 1
                if entry.transition.outcome is not Outcome.COMPLETED:
                    self._reasons[str(entry.transition.reason)] += 1
            case _:
                pass

    def _waited(self, session: Session, waited_s: float) -> None:
        self._waits.setdefault(session.tenant, array("d")).append(waited_s)
        self._lately.append(waited_s)

    def planned(self, took_s: float) -> None:
        """Take in how long a plan took, in real seconds."""
        self.plans += 1
        self.plan_s += took_s
        self.plan_longest_s = max(self.plan_longest_s, took_s)

    def looked(self, took_s: float) -> None:
        """Take in how long a look at the pools took, in real seconds."""
        self.look_longest_s = max(self.look_longest_s, took_s)

    def pass_time(self) -> None:
        """Count runners, slots and calls up to now."""
        now_s = min(self._clock.now_s, self._until_s)
        passed_s = now_s - self._since_s
        if passed_s > 0:
            self._since_s = now_s
            self._runner_s += passed_s * self._count.runners
            self._slot_s += passed_s * self._count.slots
            self._busy_s += passed_s * self._count.busy
            self._most_slots = max(self._most_slots, self._count.slots)

    def sample(self, target: int) -> None:
        """Take in how things stand."""
        lately, self._lately = sorted(self._lately), []
        self.moments.append(
            Moment(
                at_s=self._clock.now_s,
                waiting=self.waiting,
                busy=self._count.busy,
                slots=self._count.slots,
                target=target,
                p50_s=_quantile(lately, 0.5) if lately else None,
                p95_s=_quantile(lately, 0.95) if lately else None,
            )
        )

    # ------------------------------------------------------------------------ what comes out

    def summary(self, title: str, seed: int) -> Summary:
        """Return the figures."""
        self.pass_time()
        everybody = sorted(wait for waits in self._waits.values() for wait in waits)
        return Summary(
            title=title,
            seed=seed,
            virtual_s=_rounded(self._clock.now_s),
            sessions=self._sessions,
            outcomes=_ordered(self._outcomes),
            reasons=_ordered(self._reasons),
            waited=_waits(everybody),
            waited_by_tenant={tenant: _waits(sorted(self._waits[tenant])) for tenant in sorted(self._waits)},
            most_waiting=self._most_waiting,
            requeued=_ordered(self._requeued),
            utilisation=_rounded(self._busy_s / self._slot_s if self._slot_s else 0.0),
            slot_hours=_rounded(self._slot_s / _HOUR_S),
            busy_hours=_rounded(self._busy_s / _HOUR_S),
            runner_hours=_rounded(self._runner_s / _HOUR_S),
            most_slots=self._most_slots,
            cold_leases=self._cold_leases,
            cold_started=self._cold_started,
            pool_decisions=_ordered(self.pool_decisions),
        )

    def effort(self, took_s: float) -> Effort:
        """Return what it cost."""
        return Effort(
            took_s=round(took_s, 2),
            plans=self.plans,
            plan_mean_ms=round(1000 * self.plan_s / max(self.plans, 1), 3),
            plan_longest_ms=round(1000 * self.plan_longest_s, 1),
            look_longest_ms=round(1000 * self.look_longest_s, 1),
        )


def _waits(ordered: Sequence[float]) -> Waits:
    return Waits(
        count=len(ordered),
        p50_s=_rounded(_quantile(ordered, 0.5)),
        p95_s=_rounded(_quantile(ordered, 0.95)),
        p99_s=_rounded(_quantile(ordered, 0.99)),
        longest_s=_rounded(ordered[-1] if ordered else 0.0),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, by nearest rank; 0 of none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
