"""The scheduler's own settings as a scenario has them: the same structs, of which a misspelt field is an error."""

from greenroom.common.policy import Limit, Policy, PoolPolicy, Reservation, Rollout, Schedule
from greenroom.scheduler.settle import PlanLimits


class _Limit(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Schedule(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _PoolPolicy(PoolPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schedules: tuple[_Schedule, ...] = ()


class _Reservation(Reservation, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Rollout(Rollout, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class StrictPolicy(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy, of which a misspelt field is an error."""

    limits: tuple[_Limit, ...] = ()
    pools: tuple[_PoolPolicy, ...] = ()
    reservations: tuple[_Reservation, ...] = ()
    rollouts: tuple[_Rollout, ...] = ()


class StrictPlanLimits(PlanLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How patient the scheduler is."""
