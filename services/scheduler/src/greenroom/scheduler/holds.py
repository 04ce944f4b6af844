"""What stands in the way of launching anything in a pool, each thing with a code, words and an end if it has one."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from greenroom.common.policy import PoolPolicy
from greenroom.scheduler import breaker as breakers
from greenroom.scheduler.pool_facts import PoolFacts, silent
from greenroom.scheduler.pool_memory import PoolMemory

# A runner is missed after 6 s of silence. So much longer an instance of it may show as up: the launcher needs a moment
# to see that its process has ended.
_GONE: Final = timedelta(seconds=5)
_NAMED: Final = 3


class HeldBack(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is launched: a code that stays the same while the cause does, words, and until when if that is known.

    Codes, in the order in which they are looked for: `no-launcher`, `not-hearing`, `launcher-unreachable`,
    `cloud-guard`, `launcher-held-back`, `breaker`; and of what would be done otherwise: `scale-refused`, `cooldown`,
    `max-runners`, `not-scaled`, `cold-starts`, `unknown-zone`.
    """

    code: str
    text: str
    until: datetime | None = None


def obstacle(now: datetime, facts: PoolFacts, policy: PoolPolicy, memory: PoolMemory) -> HeldBack | None:
    """Return the first thing because of which nothing at all may be launched, or None."""
    if facts.launcher == "none":
        grows = policy.maximum or policy.cold_starts
        return HeldBack(code="no-launcher", text="no launcher is set up: the fleet is fixed") if grows else None
    if not facts.hearing:
        return HeldBack(code="not-hearing", text="this scheduler hasn't been hearing the runners for long enough")
    if facts.instances is None:
        return HeldBack(code="launcher-unreachable", text=facts.launcher_holds or f"{facts.launcher} doesn't answer")
    return _cloud_guard(now, facts, policy, memory) or _backed_off(now, facts, memory)


def _cloud_guard(now: datetime, facts: PoolFacts, policy: PoolPolicy, memory: PoolMemory) -> HeldBack | None:
    """Return a hold when the launcher has more up than reports in: a partition is not a shortage.

    One that was never heard may take as long as a cold start; one that was heard and isn't any more is missed at once.
    """
    first = timedelta(seconds=policy.cold_deadline_s)
    missing = [
        each.id
        for each in silent(facts)
        if now - memory.silent_since.get(each.id, now) >= (_GONE if each.id in memory.reported else first)
    ]
    if not missing:
        return None
    named = ", ".join(sorted(missing)[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    up = len(facts.up)
    text = f"{facts.launcher} has {up} instances up, but {len(missing)} of them don't report in ({named})"
    return HeldBack(code="cloud-guard", text=text)


def _backed_off(now: datetime, facts: PoolFacts, memory: PoolMemory) -> HeldBack | None:
    if facts.launcher_holds is not None:
        return HeldBack(code="launcher-held-back", text=facts.launcher_holds)
    verdict = breakers.verdict(memory.breaker, now)
    return HeldBack(code="breaker", text=verdict.reason or "", until=verdict.until) if verdict.allowed == 0 else None
