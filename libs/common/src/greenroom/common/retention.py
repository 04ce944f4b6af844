"""How long what of a session is kept: rules and holds, and which of them concern a session. No clock, no I/O.

A session is concerned by rules for its tenant and agent, where `*` stands for each. The most specific one holds, as a
whole: the tenant's agent, then the tenant, then the agent, then all. A hold that concerns it wins over every rule.
"""

import enum
from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

EACH = "*"


class What(enum.StrEnum):
    """What can be deleted."""

    # Rows, events, recording, and what is left of it in the broker.
    SESSION = "session"
    RECORDING = "recording"
    EVENTS = "events"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """For how many days after a session's end what of it is kept; None: for ever."""

    tenant: str = EACH
    agent: str = EACH
    recordings_days: int | None = None
    events_days: int | None = None
    # The rest too: the session's row is gone, and with it everything.
    sessions_days: int | None = None

    def days(self, what: What) -> int | None:
        """Return how long `what` is kept."""
        match what:
            case What.SESSION:
                return self.sessions_days
            case What.RECORDING:
                return self.recordings_days
            case What.EVENTS:
                return self.events_days


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of the sessions of a tenant and agent is deleted."""

    tenant: str = EACH
    agent: str = EACH


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An ended session, and what there is of it beside its row."""

    session_id: str
    tenant: str
    agent: str
    ended_at: datetime
    # By a hold of its own.
    held: bool = False
    recording: bool = True
    events: bool = True


def rule_of(rules: Collection[Rule], tenant: str, agent: str) -> Rule | None:
    """Return the rule that holds for sessions of a tenant's agent; None: they are kept for ever."""
    concerned = [rule for rule in rules if rule.tenant in {tenant, EACH} and rule.agent in {agent, EACH}]
    return max(concerned, key=lambda rule: (rule.tenant != EACH, rule.agent != EACH), default=None)


def held(kept: Kept, holds: Collection[Hold]) -> bool:
    """Tell whether nothing of a session may be deleted."""
    return kept.held or any(hold.tenant in {kept.tenant, EACH} and hold.agent in {kept.agent, EACH} for hold in holds)


def due(kept: Kept, rules: Collection[Rule], holds: Collection[Hold], now: datetime) -> tuple[What, ...]:
    """Return what of a session is to be deleted: the whole of it, or parts of it that there are.

    Args:
        kept: the session.
        rules: all there are.
        holds: likewise; the session's own is in `kept`.
        now: aware, as `kept.ended_at`.
    """
    if held(kept, holds):
        return ()
    rule = rule_of(rules, kept.tenant, kept.agent)
    if rule is None:
        return ()
    old = now - kept.ended_at
    if _over(old, rule.days(What.SESSION)):
        return (What.SESSION,)
    there = {What.RECORDING: kept.recording, What.EVENTS: kept.events}
    return tuple(what for what, is_there in there.items() if is_there and _over(old, rule.days(what)))


def horizon(rules: Collection[Rule], now: datetime) -> datetime | None:
    """Return the moment after which nothing that ended can be due; None: nothing is, however old."""
    days = [days for rule in rules for what in What if (days := rule.days(what)) is not None]
    return now - timedelta(days=min(days)) if days else None


def _over(old: timedelta, days: int | None) -> bool:
    return days is not None and old >= timedelta(days=days)
