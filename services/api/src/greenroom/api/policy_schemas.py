"""What goes in and out where operators decide about scheduling. Fields are only ever added."""

from datetime import UTC, datetime, time
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from greenroom.api.body import pointer
from greenroom.api.canonical import canonical_number
from greenroom.api.schemas import PoolName, Seconds
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.messages import PoolState, WaitingSession
from greenroom.common.policy import (
    EACH,
    AtLimit,
    Limit,
    Placement,
    PoolPolicy,
    Reservation,
    Rollout,
    Schedule,
    Scope,
)

# Nobody has more slots or sessions; PostgreSQL's integer holds twice the thousandfold.
MAX_COUNT: Final = 1_000_000
MAX_NOTE: Final = 200
_MAX_SCHEDULES: Final = 32

type Rate = Annotated[float, Meta(gt=0, le=10_000)]
type Amount = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
type Tenant = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9_-]{1,128})(?!\n)$", description="`*`: each tenant")]
# No control characters: keys are shown on terminals, and PostgreSQL has no NUL.
type Key = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,160}(?!\n)$", description="`*`: each by itself")]
type Hour = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?(?!\n)$")]
type Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]
type Moment = Annotated[datetime, Meta(tz=True)]
type Note = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}(?!\n)$")]


# ---------------------------------------------------------------------------- in


class LimitWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many sessions there may be at once, or how many may start in a second. At least one of the two."""

    scope: Annotated[Scope, Meta(description="What it counts by")]
    tenant: Tenant = EACH
    key: Key = EACH
    max_sessions: Annotated[Amount | None, Meta(description="At once; 0: none at all")] = None
    max_starts_per_s: Rate | None = None
    at_limit: Annotated[AtLimit, Meta(description="What becomes of a session above `max_sessions`")] = AtLimit.QUEUE

    def limit(self, limit_id: str) -> Limit:
        """Return the limit.

        Raises:
            InvalidBody: what it says can't be meant.
        """
        if self.max_sessions is None and self.max_starts_per_s is None:
            raise _invalid("max_sessions", "Needed, or `max_starts_per_s`: this limits nothing.")
        if self.scope is Scope.TENANT and self.key != EACH:
            raise _invalid("key", "Sessions of a tenant are counted by `tenant`; the key stays `*`.")
        if self.scope is Scope.AGENT_VERSION and self.key != EACH and not _is_version(self.key):
            raise _invalid("key", "An agent and its version, e.g. `frontdesk@3`.")
        return Limit(
            id=limit_id,
            scope=self.scope,
            tenant=self.tenant,
            key=canonical_number(self.key) if self.scope is Scope.NUMBER else self.key,
            max_sessions=self.max_sessions,
            max_starts_per_s=self.max_starts_per_s,
            at_limit=self.at_limit,
        )


class ScheduleWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many warm slots at these hours; an `end` at or before `begin` is on the next day."""

    days: Annotated[
        list[Annotated[int, Meta(ge=0, le=6)]],
        Meta(min_length=1, max_length=7, description="0 is Monday"),
    ]
    begin: Annotated[Hour, Meta(description="Local time, e.g. `08:00`")]
    end: Hour
    zone: Annotated[str, Meta(min_length=1, max_length=64, description="IANA name, e.g. `Europe/Berlin`")]
    warm: Amount

    def schedule(self, place: int) -> Schedule:
        """Return the schedule; it is the one at `place`. Raises `InvalidBody`."""
        if not _is_zone(self.zone):
            raise _invalid("schedules", place, "zone", "There is no such time zone.")
        return Schedule(
            days=tuple(sorted(set(self.days))),
            begin=time.fromisoformat(self.begin),
            end=time.fromisoformat(self.end),
            zone=self.zone,
            warm=self.warm,
        )


class PoolWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pool is filled and grows; what is left out is as it is for a pool that nobody wrote anything about."""

    placement: Annotated[Placement, Meta(description="Fill the fullest runner first, or the emptiest")] = "packed"
    baseline: Annotated[Amount, Meta(description="Warm free slots that are kept whatever comes")] = 0
    minimum: Annotated[Amount, Meta(description="Bound of the warm target")] = 0
    maximum: Annotated[Amount, Meta(description="Bound of the warm target; 0: the pool isn't scaled")] = 0
    max_runners: Annotated[Amount, Meta(description="That the launcher may have up, cold ones included")] = 100
    safety: Annotated[float, Meta(gt=0, le=100, description="Factor on arrivals during a cold start")] = 1.5
    slots_per_runner: Annotated[int, Meta(ge=1, le=10_000)] = 1
    cold_starts: Annotated[Amount, Meta(description="Launches for single sessions that may be in flight")] = 0
    cold_deadline_s: Annotated[Seconds, Meta(description="From a launch to its claim")] = 90.0
    idle_retire_s: Annotated[Seconds, Meta(description="Idle, and not needed, before a runner is retired")] = 300.0
    cooldown_s: Annotated[Seconds, Meta(description="Between two changes of the group's size")] = 60.0
    schedules: Annotated[list[ScheduleWish], Meta(max_length=_MAX_SCHEDULES)] = []

    def pool(self, name: str) -> PoolPolicy:
        """Return the policy of the pool `name`. Raises `InvalidBody`."""
        if self.minimum > self.maximum:
            raise _invalid("minimum", "It is larger than `maximum`.")
        plain = {field: getattr(self, field) for field in self.__struct_fields__ if field != "schedules"}
        schedules = tuple(wish.schedule(place) for place, wish in enumerate(self.schedules))
        return PoolPolicy(name=name, schedules=schedules, **plain)


class ReservationWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many warm slots more, for a time that ends."""

    pool: PoolName
    warm: Annotated[int, Meta(ge=1, le=MAX_COUNT, description="Slots, added to whatever else is wanted")]
    starts_at: Annotated[Moment | None, Meta(description="Default: now")] = None
    ends_at: Moment
    note: Annotated[Note, Meta(description="What for, for people")] = ""

    def reservation(self, now: datetime) -> Reservation:
        """Return the reservation, under a new id. Raises `InvalidBody`."""
        starts_at = _utc("starts_at", self.starts_at or now)
        ends_at = _utc("ends_at", self.ends_at)
        if ends_at <= max(starts_at, now):
            raise _invalid("ends_at", "It is over before it begins.")
        return Reservation(
            id=uuid7(), pool=self.pool, warm=self.warm, starts_at=starts_at, ends_at=ends_at, note=self.note
        )


class RolloutWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version of an agent new sessions get."""

    current: Version
    canary: Annotated[Version | None, Meta(description="Version under trial")] = None
    canary_share: Annotated[float, Meta(ge=0, le=1, description="Part of the sessions that get the canary")] = 0.0
    min_starts: Annotated[int, Meta(ge=1, le=MAX_COUNT, description="Before the canary is judged")] = 10
    max_failure_rate: Annotated[float, Meta(ge=0, le=1, description="Above it the canary is rolled back")] = 0.2

    def rollout(self, tenant: str, agent: str) -> Rollout:
        """Return the rollout of a tenant's agent. Raises `InvalidBody`."""
        if self.canary == self.current:
            raise _invalid("canary", "It is the current version.")
        if self.canary is None and self.canary_share > 0:
            raise _invalid("canary_share", "There is no canary.")
        plain = {field: getattr(self, field) for field in self.__struct_fields__}
        return Rollout(tenant=tenant, agent=agent, **plain)


class WeightWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant's share of scarce slots."""

    weight: Annotated[float, Meta(ge=0.001, le=1000, description="Relative to 1, which everybody has")]


# ---------------------------------------------------------------------------- out


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a limit one key uses."""

    tenant: str
    key: str
    active: int
    waiting: int


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A limit; `usage` is of the keys that use it now, None where no scheduler tells."""

    id: str
    scope: Scope
    tenant: str
    key: str
    max_sessions: int | None
    max_starts_per_s: float | None
    at_limit: AtLimit
    usage: list[UsageView] | None = None


class LimitList(msgspec.Struct, frozen=True, kw_only=True):
    """Limits by id.

    `revision` is the policy's, `applied_revision` the one that the leading scheduler goes by; None where none leads,
    which `problem` then says.
    """

    revision: int
    applied_revision: int | None
    problem: str | None
    limits: list[LimitView]


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool: how it is run, and how it stands.

    `decided` says whether somebody wrote the policy, or the defaults hold. `state` is None where no scheduler tells.
    """

    name: str
    decided: bool
    policy: PoolPolicy
    state: PoolState | None


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    """Pools by name; `revision`, `applied_revision` and `problem` as of limits."""

    revision: int
    applied_revision: int | None
    problem: str | None
    leader: str | None
    pools: list[PoolView]


class ReservationList(msgspec.Struct, frozen=True, kw_only=True):
    """Reservations that aren't over, by their beginning."""

    revision: int
    reservations: list[Reservation]


class RolledBackView(msgspec.Struct, frozen=True, kw_only=True):
    """A canary that the scheduler gives to nobody any more, and what that was decided from."""

    version: int
    at: datetime
    starts: int
    failures: int


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout; `tenant` `*` is one for all. `rolled_back` is of its canary, None also where no scheduler tells."""

    tenant: str
    agent: str
    current: int
    canary: int | None
    canary_share: float
    min_starts: int
    max_failure_rate: float
    rolled_back: RolledBackView | None


class WeightList(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the tenants that have another one than 1."""

    revision: int
    weights: dict[str, float]


class WeightView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's share of scarce slots relative to 1."""

    tenant: str
    weight: float


class QueueList(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting sessions in the order of the queue; `total` of all that match."""

    total: int
    waiting: list[WaitingSession]
    # Pass as `offset` for the next page; None on the last. The queue moves on meanwhile.
    next: int | None


def _invalid(*place: str | int) -> InvalidBody:
    """Return the refusal of a field; the last argument says why."""
    *steps, detail = place
    problem = FieldProblem(pointer=pointer(*steps), detail=str(detail))
    return InvalidBody(f"{problem.pointer}: {problem.detail}", errors=[problem])


def _is_version(key: str) -> bool:
    agent, _, version = key.rpartition("@")
    return bool(agent) and version.isascii() and version.isdigit()


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; outside of the folder of zones; a folder of zones
        return False
    return True


def _utc(field: str, at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise _invalid(field, "There is no such time.") from error
