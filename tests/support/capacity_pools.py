"""Pools in few words, and one that lives: runners come up, take calls and go as the assessments say."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from greenroom.common.policy import PoolPolicy, Reservation
from greenroom.scheduler import pool_memory
from greenroom.scheduler.arrivals import Arrivals, ColdStarts, arrived
from greenroom.scheduler.capacity import PoolAssessment, assess
from greenroom.scheduler.launchers.base import Instance, Retires
from greenroom.scheduler.pool_facts import PoolFacts, RunnerFacts
from greenroom.scheduler.pool_memory import PoolMemory

# A Monday, noon in Greenwich.
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return the time so many seconds after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def instance(name: str, *, launch_id: str | None = None, ordinal: int | None = None, **fields: Any) -> Instance:
    """Return an instance that runs."""
    known: dict[str, Any] = {"pool": "default", "state": "running", "since": NOW} | fields
    return Instance(id=name, launch_id=launch_id, ordinal=ordinal, **known)


def runner(name: str, used: int = 0, **fields: Any) -> RunnerFacts:
    """Return a runner of four slots, by name of its instance `i-{name}`."""
    known: dict[str, Any] = {"slots": 4, "instance": f"i-{name}"} | fields
    known.setdefault("held", frozenset((f"s{number}", 1) for number in range(used)))
    return RunnerFacts(id=name, used=used, **known)


def pool(*runners: RunnerFacts, retires: Retires = "any", **fields: Any) -> PoolFacts:
    """Return a pool of the launcher `process` whose instances are those of the runners, in their order."""
    instances = tuple(
        instance(each.instance, ordinal=number, launch_id=each.claim) for number, each in enumerate(runners)
    )
    known: dict[str, Any] = {"name": "default", "launcher": "process", "instances": instances} | fields
    return PoolFacts(runners=runners, retires=retires, **known)


def policy(**fields: Any) -> PoolPolicy:
    """Return how a pool of four-slot runners is run that may have a hundred slots warm."""
    known: dict[str, Any] = {"name": "default", "maximum": 100, "slots_per_runner": 4} | fields
    return PoolPolicy(**known)


def steady(rate: float, *, cold_s: float = 10.0, **fields: Any) -> PoolMemory:
    """Return the memory of a pool that has been asked for `rate` sessions a second for long."""
    known: dict[str, Any] = {"cold_starts": ColdStarts(took_s=(cold_s,))} | fields
    return PoolMemory(arrivals=Arrivals(fast=rate, slow=rate, at=NOW), **known)


def look(
    facts: PoolFacts,
    how: PoolPolicy,
    memory: PoolMemory | None = None,
    *,
    now: datetime = NOW,
    reservations: tuple[Reservation, ...] = (),
) -> PoolAssessment:
    """Return the assessment of a pool, with its facts observed."""
    seen = pool_memory.observed(memory or PoolMemory(), facts, now)
    return assess(now, facts, how, reservations, seen)


class LivingPool:
    """A pool second by second: calls of one length fill the lowest runner that has a slot, or wait.

    Args:
        how: it is run.
        boot_s: from the order of a runner to its first heartbeat.
        call_s: how long a call takes.
        retires: what the launcher lets go.
    """

    def __init__(self, how: PoolPolicy, *, boot_s: int = 8, call_s: int = 120, retires: Retires = "any") -> None:
        self.how = how
        self.memory = PoolMemory(cold_starts=ColdStarts(took_s=(float(boot_s),)))
        self.sizes: list[int] = []
        self.retired: list[tuple[str, int]] = []
        self.assessments: list[PoolAssessment] = []
        self._boot_s, self._call_s = boot_s, call_s
        self._retires: Retires = retires
        self._second = 0
        self._size = 0
        self._born: dict[int, int] = {}
        self._draining: set[int] = set()
        self._calls: dict[int, list[int]] = {}
        self._waiting = 0

    def live(self, seconds: int, rate: float | Mapping[int, int]) -> None:
        """Let time pass, with `rate` evenly spaced calls a second, or so many as are given for a second."""
        for _ in range(seconds):
            self._second += 1
            if isinstance(rate, Mapping):
                count = rate.get(self._second, 0)
            else:
                count = int(self._second * rate) - int((self._second - 1) * rate)
            self._pass(count)

    def _pass(self, count: int) -> None:
        now = at(self._second)
        if count:
            self.memory = replace(self.memory, arrivals=arrived(self.memory.arrivals, now, count=count))
        self._calls = {each: [end for end in ends if end > self._second] for each, ends in self._calls.items()}
        self._waiting += count
        for number in sorted(self._born):
            if number in self._draining or self._second - self._born[number] < self._boot_s:
                continue
            calls = self._calls.setdefault(number, [])
            while self._waiting and len(calls) < self.how.slots_per_runner:
                calls.append(self._second + self._call_s)
                self._waiting -= 1
        facts = self._facts()
        self.memory = pool_memory.observed(self.memory, facts, now)
        assessment = assess(now, facts, self.how, (), self.memory)
        self.assessments.append(assessment)
        self._carry_out(assessment, now)
        self.sizes.append(self._size)

    def _facts(self) -> PoolFacts:
        heard = [number for number, born in self._born.items() if self._second - born >= self._boot_s]
        runners = [
            runner(
                str(number),
                len(self._calls.get(number, ())),
                slots=self.how.slots_per_runner,
                draining=number in self._draining,
                up_s=float(self._second - self._born[number]),
            )
            for number in heard
        ]
        instances = tuple(instance(f"i-{number}", ordinal=number) for number in self._born)
        return pool(*runners, retires=self._retires, instances=instances, waiting=self._waiting)

    def _carry_out(self, assessment: PoolAssessment, now: datetime) -> None:
        if assessment.scale is not None:
            while self._size < assessment.scale:
                number = next(free for free in range(assessment.scale) if free not in self._born)
                self._born[number] = self._second
                self._size += 1
            self.memory = pool_memory.scaled(self.memory, now, patience_s=90)
        for step in assessment.retire:
            number = int(step.runner_id)
            if step.step == "drain":
                self._draining.add(number)
                self.memory = pool_memory.drained(self.memory, step.runner_id, now)
                continue
            self.retired.append((step.runner_id, len(self._calls.pop(number, ()))))
            del self._born[number]
            self._draining.discard(number)
            self._size -= 1
            self.memory = pool_memory.retired(self.memory, step.runner_id, now)
