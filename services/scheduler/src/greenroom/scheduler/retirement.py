"""Which runners may go.

In two steps, so that no session is ever cut: an idle runner is told to drain, and only when it is heard draining and
empty does the launcher end it. A session that slipped in between is served to its end.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from greenroom.common.policy import PoolPolicy
from greenroom.scheduler.launchers.base import Instance
from greenroom.scheduler.pool_facts import PoolFacts, RunnerFacts
from greenroom.scheduler.pool_memory import PoolMemory


class Retirement(msgspec.Struct, frozen=True, kw_only=True):
    """The next step of a runner that may go.

    Attributes:
        runner_id: of the runner.
        instance: of the launcher.
        step: `drain`: tell it to drain; `retire`: it is drained and empty, the launcher may end it.
        idle_s: how long it has had no session.
    """

    runner_id: str
    instance: Instance
    step: Literal["drain", "retire"]
    idle_s: float


def retirements(
    now: datetime, facts: PoolFacts, policy: PoolPolicy, memory: PoolMemory, *, surplus: int
) -> Sequence[Retirement]:
    """Return the step that is due, none or one.

    Args:
        now: the time.
        facts: the pool.
        policy: how patient to be; a pool that isn't scaled keeps its runners.
        memory: of the pool, with these facts observed.
        surplus: warm free slots beyond those wanted.
    """
    if not policy.maximum or _recent(memory.resized_at, now, policy.cooldown_s):
        return ()
    idle = _may_go(facts)
    for runner, instance in idle:
        if runner.draining and runner.id in memory.retiring:
            return (_step("retire", runner, instance, memory, now),)
    # Who waits may be placed on the very one that would go.
    if facts.waiting or _recent(memory.drained_at, now, policy.cooldown_s):
        return ()
    patience = timedelta(seconds=policy.idle_retire_s)
    due = [
        _step("drain", runner, instance, memory, now)
        for runner, instance in idle
        # What is left must be more than what is wanted, or the next caller brings it back.
        if not runner.draining and surplus > runner.free and now - _idle_since(memory, runner, now) >= patience
    ]
    return sorted(due, key=lambda step: (-step.idle_s, step.runner_id))[:1]


def _may_go(facts: PoolFacts) -> list[tuple[RunnerFacts, Instance]]:
    """Return the empty baseline runners that the launcher would let go of, were they idle for long enough."""
    if facts.retires == "none":
        return []
    runners = {each.instance: each for each in facts.runners if each.instance}
    allowed = facts.baseline if facts.retires == "any" else _last(facts, {k: v.ordinal for k, v in runners.items()})
    pairs = [(runners[each.id], each) for each in allowed if each.id in runners]
    return [(runner, instance) for runner, instance in pairs if runner.empty and runner.claim is None]


def _last(facts: PoolFacts, reported: dict[str, int | None]) -> list[Instance]:
    """Return the instance that a smaller group would lose; none if that isn't certain."""
    rows: list[tuple[int, Instance]] = []
    for each in facts.baseline:
        ordinal = reported.get(each.id) if each.ordinal is None else each.ordinal
        if ordinal is None:
            return []
        rows.append((ordinal, each))
    highest = max((ordinal for ordinal, _ in rows), default=None)
    last = [each for ordinal, each in rows if ordinal == highest]
    # A group that isn't complete may have its highest number yet to come; two of one number replace each other.
    return last if len(last) == 1 and facts.group_size == len(rows) else []


def _step(
    step: Literal["drain", "retire"], runner: RunnerFacts, instance: Instance, memory: PoolMemory, now: datetime
) -> Retirement:
    idle_s = (now - _idle_since(memory, runner, now)).total_seconds()
    return Retirement(runner_id=runner.id, instance=instance, step=step, idle_s=idle_s)


def _idle_since(memory: PoolMemory, runner: RunnerFacts, now: datetime) -> datetime:
    return memory.idle_since.get(runner.id, now)


def _recent(at: datetime | None, now: datetime, span_s: float) -> bool:
    return at is not None and timedelta() <= now - at < timedelta(seconds=span_s)
