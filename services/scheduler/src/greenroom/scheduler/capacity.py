"""How many warm slots a pool should have, and what is done about it. Pure: the same facts, the same assessment.

The target is `clamp(max(baseline, demand) + spare, minimum, maximum) + schedule + reserved`, in warm free slots, where
`demand = arrivals/s x cold start p95 x safety` is what will be asked for while a launch is under way, and
`spare = Z x sqrt(arrivals/s x cold start p95)` is for the swings of that. Only what is reckoned is clamped: schedules
and reservations were asked for in so many words and come on top. What bounds them all is `max_runners`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from greenroom.common.lifecycle import Session
from greenroom.common.messages import PoolState
from greenroom.common.policy import PoolPolicy, Reservation
from greenroom.scheduler import breaker as breakers
from greenroom.scheduler.arrivals import expected_s, per_s, quantile_s
from greenroom.scheduler.holds import HeldBack, obstacle
from greenroom.scheduler.pool_facts import PoolFacts, RunnerFacts, silent
from greenroom.scheduler.pool_memory import PoolMemory
from greenroom.scheduler.retirement import Retirement, retirements
from greenroom.scheduler.schedule import reserved_at, unknown_zones, warm_at

# Arrivals in a span are taken for Poisson, whose variance is its mean. In 19 of 20 cold starts no more come than the
# mean and 1.645 standard deviations (the 95 % quantile of the normal distribution).
Z: Final = 1.645


class BotAllowance(msgspec.Struct, frozen=True, kw_only=True):
    """How many cold starts of one bot may be begun now, and why no more."""

    count: int
    reason: str


class ColdAllowance(msgspec.Struct, frozen=True, kw_only=True):
    """How many cold leases may be granted in a pool now.

    Attributes:
        count: that many.
        reason: why no more than that, for people.
        deadline_s: how long each may take to be claimed.
        usual_s: how long half of the launches took; None: not known. Nobody is launched for who won't wait as long.
        bots: tighter bounds, of the bots that are backed off from.
    """

    count: int = 0
    reason: str = ""
    deadline_s: float = 0.0
    usual_s: float | None = None
    bots: Mapping[str, BotAllowance] = {}


class PoolAssessment(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done about a pool's capacity, and how it stands.

    Attributes:
        state: as `GET /v1/pools` shows it: the target and its terms among it.
        cold: for the plan.
        scale: how large the baseline group is to be made; None: it stays. Never smaller than it is.
        retire: the next step of a runner that may go; none or one.
        hold: what is in the way, None: nothing.
    """

    state: PoolState
    cold: ColdAllowance
    scale: int | None = None
    retire: Sequence[Retirement] = ()
    hold: HeldBack | None = None

    @property
    def target(self) -> int:
        """Warm free slots that are wanted."""
        return self.state.target

    @property
    def why(self) -> Mapping[str, float]:
        """The terms of the target."""
        return self.state.target_why


def assess(
    now: datetime, facts: PoolFacts, policy: PoolPolicy, reservations: Sequence[Reservation], memory: PoolMemory
) -> PoolAssessment:
    """Return what is to be done about a pool.

    Args:
        now: UTC, by the clock that `memory` was folded by.
        facts: the pool.
        policy: how it is to be run.
        reservations: of all pools.
        memory: of it, with these facts observed.
    """
    target, why = wanted(now, policy, reservations, memory)
    stopped = obstacle(now, facts, policy, memory)
    warm = warm_free(facts.runners)
    # Who waits takes the first slots that come, so those aren't free.
    short = target + facts.waiting - warm - _coming(facts, policy)
    cold = _cold(now, facts, policy, memory, stopped)
    growth = _growth(now, facts, policy, memory, stopped, short=short, cold=cold)
    if growth.more:
        # Together they mustn't go beyond the bound either, whoever uses the allowance until the next assessment.
        room = policy.max_runners - facts.launched - growth.more
        cold = replace(cold, count=min(cold.count, room))
    hold = stopped or growth.held or _unmet(now, facts, policy, memory, cold)
    return PoolAssessment(
        state=_state(now, facts, memory, target=target, why=why, hold=hold),
        cold=cold,
        scale=facts.group_size + growth.more if growth.more else None,
        retire=() if _blind(stopped) else retirements(now, facts, policy, memory, surplus=warm - target),
        hold=hold,
    )


def warm_free(runners: Iterable[RunnerFacts]) -> int:
    """Return how many slots could take a session now, of whichever bot it is."""
    return sum(each.free for each in runners if not each.draining and not each.braking and each.claim is None)


def wanted(
    now: datetime, policy: PoolPolicy, reservations: Sequence[Reservation], memory: PoolMemory
) -> tuple[int, dict[str, float]]:
    """Return how many warm free slots are wanted, and the terms of that; see the module.

    To the nearest slot: a trickle of calls that asks for a tenth of one doesn't keep a runner up.
    """
    rate, span_s = per_s(memory.arrivals, now), expected_s(memory.cold_starts)
    demand, spare = rate * span_s * policy.safety, Z * math.sqrt(rate * span_s)
    reckoned = min(max(max(policy.baseline, demand) + spare, policy.minimum), policy.maximum)
    # What begins at eight is warm at eight: it is looked at as early as a launch takes.
    ahead = timedelta(seconds=span_s)
    scheduled = warm_at(policy.schedules, now, ahead=ahead)
    reserved = reserved_at(reservations, policy.name, now, ahead=ahead)
    why = {
        "baseline": policy.baseline,
        "arrivals_per_s": rate,
        "cold_start_p95_s": span_s,
        "safety": policy.safety,
        "demand": demand,
        "spare": spare,
        "minimum": policy.minimum,
        "maximum": policy.maximum,
        "schedule": scheduled,
        "reserved": reserved,
    }
    target = math.floor(reckoned + 0.5) + scheduled + reserved
    return target, {name: round(float(term), 3) for name, term in why.items()}


# ---------------------------------------------------------------------------- growing


class _Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How many baseline runners are added, and if none although some are wanted, why."""

    more: int = 0
    held: HeldBack | None = None


def _coming(facts: PoolFacts, policy: PoolPolicy) -> int:
    """Return the slots of baseline runners that were asked for and don't report in so far."""
    quiet = sum(1 for each in silent(facts) if each.launch_id is None)
    return (quiet + facts.group_size - len(facts.baseline)) * policy.slots_per_runner


def _growth(
    now: datetime,
    facts: PoolFacts,
    policy: PoolPolicy,
    memory: PoolMemory,
    stopped: HeldBack | None,
    *,
    short: int,
    cold: ColdAllowance,
) -> _Growth:
    # A caller who gets a cold start of his own needs no slot of the group.
    served = min(cold.count, facts.waiting)
    if short <= served or stopped is not None:
        return _Growth()
    if not policy.maximum:
        # Of the target only schedules and reservations can be left; who merely waits here isn't promised anything.
        text = f"{short} more warm slots are wanted, but the pool isn't scaled (its maximum is 0)"
        return _Growth(held=HeldBack(code="not-scaled", text=text) if short > facts.waiting else None)
    held = _not_yet(now, policy, memory)
    if held is not None:
        return _Growth(held=held)
    more = math.ceil((short - served) / policy.slots_per_runner)
    verdict = breakers.verdict(memory.breaker, now)
    if verdict.allowed is not None:
        more = min(more, verdict.allowed - served)
    more = min(more, policy.max_runners - facts.launched - served)
    if more > 0:
        return _Growth(more=more)
    full = policy.max_runners <= facts.launched + served
    return _Growth(held=_full(facts, policy) if full else HeldBack(code="breaker", text=verdict.reason or ""))


def _not_yet(now: datetime, policy: PoolPolicy, memory: PoolMemory) -> HeldBack | None:
    refusal = memory.refusal
    if refusal is not None and now < refusal.until:
        return HeldBack(code="scale-refused", text=refusal.what, until=refusal.until)
    if memory.resized_at is None:
        return None
    until = memory.resized_at + timedelta(seconds=policy.cooldown_s)
    if not memory.resized_at <= now < until:
        return None
    return HeldBack(code="cooldown", text="the size of the group was changed a moment ago", until=until)


def _full(facts: PoolFacts, policy: PoolPolicy) -> HeldBack:
    text = f"{facts.launched} runners are up or on their way, of at most {policy.max_runners}"
    return HeldBack(code="max-runners", text=text)


# ---------------------------------------------------------------------------- cold starts


def _cold(
    now: datetime, facts: PoolFacts, policy: PoolPolicy, memory: PoolMemory, stopped: HeldBack | None
) -> ColdAllowance:
    in_flight = len(facts.cold_leases)
    bounds = [
        (policy.cold_starts - in_flight, f"{in_flight} of at most {policy.cold_starts} launches are under way"),
        (policy.max_runners - facts.launched, _full(facts, policy).text),
    ]
    if not policy.cold_starts:
        bounds.append((0, f"pool {facts.name} has no cold starts"))
    if stopped is not None:
        bounds.append((0, stopped.text))
    verdict = breakers.verdict(memory.breaker, now)
    if verdict.allowed is not None:
        bounds.append((verdict.allowed, verdict.reason or ""))
    # Of those that leave nothing the last one counts: it is the one that an operator can do most about.
    count, reason = min(reversed(bounds), key=lambda bound: max(bound[0], 0))
    return ColdAllowance(
        count=max(count, 0),
        reason=reason,
        deadline_s=policy.cold_deadline_s,
        usual_s=quantile_s(memory.cold_starts, 0.5),
        bots=_bots(now, memory),
    )


def _bots(now: datetime, memory: PoolMemory) -> dict[str, BotAllowance]:
    verdicts = {bot: breakers.verdict(each, now, f"starts of bot {bot}") for bot, each in memory.bots.items()}
    return {
        bot: BotAllowance(count=verdict.allowed, reason=verdict.reason or "")
        for bot, verdict in verdicts.items()
        if verdict.allowed is not None
    }


def allowed(cold: ColdAllowance, bot: str) -> BotAllowance:
    """Return how many cold starts of a bot may be begun now, and why no more."""
    own = cold.bots.get(bot)
    return own if own is not None and own.count < cold.count else BotAllowance(count=cold.count, reason=cold.reason)


def too_late(session: Session, cold: ColdAllowance, now: datetime) -> bool:
    """Tell whether a runner that is launched now will hardly be up before the session's caller gives up."""
    return cold.usual_s is not None and session.queue_deadline_at - now < timedelta(seconds=cold.usual_s)


def spent(cold: ColdAllowance, bot: str) -> ColdAllowance:
    """Return what is left of an allowance after one cold start of a bot; one assessment may serve several plans."""
    bots = cold.bots
    if bot in bots:
        bots = {**bots, bot: replace(bots[bot], count=max(bots[bot].count - 1, 0))}
    return replace(cold, count=max(cold.count - 1, 0), bots=bots)


# ---------------------------------------------------------------------------- what is told


def _blind(stopped: HeldBack | None) -> bool:
    """Tell whether runners that seem idle or absent may not be so."""
    return stopped is not None and stopped.code in {"not-hearing", "launcher-unreachable", "cloud-guard"}


def _unmet(
    now: datetime, facts: PoolFacts, policy: PoolPolicy, memory: PoolMemory, cold: ColdAllowance
) -> HeldBack | None:
    verdict = breakers.verdict(memory.breaker, now)
    if verdict.allowed is not None:
        return HeldBack(code="breaker", text=verdict.reason or "")
    if facts.waiting and policy.cold_starts and not cold.count:
        return HeldBack(code="cold-starts", text=cold.reason)
    unknown = unknown_zones(policy.schedules)
    if unknown:
        return HeldBack(code="unknown-zone", text=f"no time zone {', '.join(unknown)}: its schedules don't count")
    return None


def _state(
    now: datetime, facts: PoolFacts, memory: PoolMemory, *, target: int, why: dict[str, float], hold: HeldBack | None
) -> PoolState:
    return PoolState(
        name=facts.name,
        runners=len(facts.runners),
        draining=sum(1 for each in facts.runners if each.draining),
        braking=sum(1 for each in facts.runners if each.braking),
        slots=sum(each.slots for each in facts.runners),
        busy=sum(each.used for each in facts.runners),
        warm=warm_free(facts.runners),
        waiting=facts.waiting,
        target=target,
        target_why=why,
        instances=None if facts.instances is None or facts.launcher == "none" else len(facts.up),
        cold_starts_in_flight=len(facts.cold_leases),
        cold_start_p50_s=quantile_s(memory.cold_starts, 0.5),
        cold_start_p95_s=quantile_s(memory.cold_starts, 0.95),
        arrivals_per_s=round(per_s(memory.arrivals, now), 4),
        launcher=facts.launcher,
        held_back=hold.text if hold else None,
        held_back_until=hold.until if hold else None,
    )
