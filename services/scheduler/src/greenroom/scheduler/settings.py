"""What the scheduler can be told."""

from typing import Annotated, Literal

import msgspec

from greenroom.common.settings import Env
from greenroom.scheduler.core import PlanLimits
from greenroom.scheduler.launchers.settings import LauncherSettings

_POSITIVE = msgspec.Meta(gt=0)


class SchedulerSettings(LauncherSettings, frozen=True, kw_only=True):
    """Settings of `greenroom-scheduler`. All schedulers of an installation are set alike: any may lead."""

    scheduler_pool: Annotated[str, Env(help="The one pool that is scheduled; unset: all of them")] = ""
    scheduler_placement: Annotated[
        Literal["packed", "spread"],
        Env(help="Whether sessions go to the most or the least used runner that has a warm process"),
    ] = "packed"
    scheduler_lease_s: Annotated[
        float, _POSITIVE, Env(help="How long a runner may take to claim a session before it goes to another")
    ] = 5.0
    scheduler_start_timeout_s: Annotated[
        float, _POSITIVE, Env(help="How long a runner may take to say whether it takes a session")
    ] = 1.5
    scheduler_runner_lost_s: Annotated[
        float, _POSITIVE, Env(help="How long a runner may be silent before it and its sessions are lost")
    ] = 6.0
    scheduler_session_missing_s: Annotated[
        float,
        _POSITIVE,
        Env(help="How long a runner may leave a session out of its heartbeats before that one is lost"),
    ] = 3.0
    scheduler_max_attempts: Annotated[
        int, msgspec.Meta(ge=1), Env(help="How often a session may be tried before it fails")
    ] = 10

    @property
    def leadership(self) -> str:
        """What the schedulers compete for."""
        return f"scheduler-{self.scheduler_pool or 'default'}"

    @property
    def plan_limits(self) -> PlanLimits:
        """What of it concerns the plan."""
        return PlanLimits(
            lease_s=self.scheduler_lease_s,
            runner_lost_s=self.scheduler_runner_lost_s,
            session_missing_s=self.scheduler_session_missing_s,
            max_attempts=self.scheduler_max_attempts,
            spread=self.scheduler_placement == "spread",
        )
