"""What operators decide about scheduling: limits, pools, reservations, rollouts, pins. Data only.

PostgreSQL has the original, edited over the API. The api publishes the whole of it as one message, so that a scheduler
applies all of a change or nothing, needs no database, and finds the policy that holds even while PostgreSQL is away.
"""

import enum
from datetime import datetime, time
from typing import Annotated, Literal

import msgspec

from greenroom.common.pins import Pin

type Positive = Annotated[float, msgspec.Meta(gt=0)]
type Count = Annotated[int, msgspec.Meta(ge=0)]
type Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
type Placement = Literal["packed", "spread"]

# Stands for every value of a key, each counted by itself: a limit on every tenant, say.
EACH = "*"


class Scope(enum.StrEnum):
    """What a limit counts by. The key of a session in each scope is `limits.key_of`."""

    TENANT = "tenant"
    AGENT = "agent"
    # Key: `{agent}@{version}`.
    AGENT_VERSION = "agent_version"
    CARRIER = "carrier"
    NUMBER = "number"
    # Accounts at providers, which tenants may share.
    ACCOUNT = "account"


class AtLimit(enum.StrEnum):
    """What becomes of a session that a limit doesn't let in now."""

    QUEUE = "queue"
    REFUSE = "refuse"


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions there may be at once, or how many may start in a second.

    Attributes:
        id: names it, in answers and decisions.
        scope: what it counts by.
        tenant: whose sessions; `*`: of every tenant, each counted by itself. Accounts, carriers and numbers are counted
            over all tenants whatever stands here when it is `*`.
        key: which agent, account, …; `*`: each by itself. Of scope `tenant` always `*`.
        max_sessions: active (leased or later, not ended) sessions; None: no bound.
        max_starts_per_s: leases per second, as a token bucket of one second's worth, at least one; None: no bound.
        at_limit: whether what is beyond waits or is refused. Starts beyond `max_starts_per_s` always wait.
    """

    id: str
    scope: Scope
    tenant: str = EACH
    key: str = EACH
    max_sessions: Count | None = None
    max_starts_per_s: Positive | None = None
    at_limit: AtLimit = AtLimit.QUEUE


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """So many warm slots at these hours: `days` from 0 (Monday) to 6, local times of `zone` (IANA name).

    An `end` at or before `begin` is on the next day.
    """

    days: tuple[Annotated[int, msgspec.Meta(ge=0, le=6)], ...]
    begin: time
    end: time
    zone: str
    warm: Count


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """So many warm slots, added to whatever else is wanted, for a time that ends."""

    id: str
    pool: str
    warm: Count
    starts_at: datetime
    ends_at: datetime
    note: str = ""


class PoolPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool is filled and grows. A pool without one has the defaults: a fixed fleet, packed.

    Attributes:
        name: of the pool.
        placement: `packed` fills the fullest runner first, so that empty ones can go; `spread` the emptiest.
        baseline: warm free slots that are kept whatever comes.
        minimum, maximum: bounds of the warm target, in slots. `maximum` 0: the pool isn't scaled.
        max_runners: of runners that the launcher may have up in the pool, cold ones included.
        safety: factor on arrivals during a cold start.
        slots_per_runner: how many slots a launched baseline runner brings.
        cold_starts: how many launches for single sessions may be in flight; 0: overflow waits for a slot.
        cold_deadline_s: from the dispatch to the claim; then the session goes back to the queue.
        idle_retire_s: how long a runner must have been idle, and not needed, before it is retired.
        cooldown_s: at least so long between two changes of the group's size.
        schedules: further warm slots at set hours; of several that hold, the largest counts.
    """

    name: str
    placement: Placement = "packed"
    baseline: Count = 0
    minimum: Count = 0
    maximum: Count = 0
    max_runners: Count = 100
    safety: Positive = 1.5
    slots_per_runner: Annotated[int, msgspec.Meta(ge=1)] = 1
    cold_starts: Count = 0
    cold_deadline_s: Positive = 90.0
    idle_retire_s: Positive = 300.0
    cooldown_s: Positive = 60.0
    schedules: tuple[Schedule, ...] = ()


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Which version of an agent new sessions get. An agent without a rollout takes what is offered, newest first.

    Attributes:
        tenant: whose agent; `*`: one shared by all.
        agent: its name.
        current: version that new sessions get.
        canary: version under trial, None: none.
        canary_share: part of the sessions that get the canary, 0 to 1, decided by a hash of `sticky_key` (or id).
        min_starts: starts of the canary that are waited for before it is judged.
        max_failure_rate: with a larger share of failed starts the canary is rolled back by itself.
    """

    tenant: str = EACH
    agent: str
    current: int
    canary: int | None = None
    canary_share: Share = 0.0
    min_starts: Annotated[int, msgspec.Meta(ge=1)] = 10
    max_failure_rate: Share = 0.2


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `revision` grows with each change.

    `weights` are the tenants' shares of scarce slots relative to 1, for those that have another one. New sessions of
    the tenants that are `suspended` are refused by the api, and not asked for by their pins.
    """

    revision: int = 0
    limits: tuple[Limit, ...] = ()
    pools: tuple[PoolPolicy, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    pins: tuple[Pin, ...] = ()
    weights: dict[str, Positive] = {}
    suspended: tuple[str, ...] = ()

    def pool(self, name: str) -> PoolPolicy:
        """Return how a pool is run; the defaults for one that nobody wrote anything about."""
        return next((pool for pool in self.pools if pool.name == name), PoolPolicy(name=name))


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler gives an agent's canary to nobody any more; a rollout with another canary is judged anew."""

    tenant: str
    agent: str
    version: int
    at: datetime
    starts: int
    failures: int


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What the leading scheduler found, kept so that the next leader knows it too."""

    rolled_back: tuple[RolledBack, ...] = ()
