"""The port to whatever starts and ends runners.

A launcher carries out; what to launch and when is decided elsewhere. It owns no session: a scheduler may be killed at
any moment, and the next leader finds through its own launcher everything that the last one started.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, Protocol

import msgspec

from greenroom.common.errors import GreenroomError

# What a launcher lets go of from the baseline group: any instance; only the one with the highest ordinal; none.
type Retires = Literal["any", "last", "none"]
type InstanceState = Literal["pending", "running", "stopping"]

# How long a refused launch is held off when the launcher doesn't know better.
REFUSED_RETRY_AFTER_S: Final = 10.0


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """A runner that is to be started for one session.

    Attributes:
        launch_id: `{session_id}-{epoch}`: the lease, and what makes the launch happen once.
        runner_id: the id that the runner takes, `cold-{launch_id}`.
        pool: it belongs to.
        tenant: of the session.
        session_id: the one session that it is for.
        epoch: of the lease.
        deadline_at: when the lease runs out, UTC; a runner that comes later ends by itself.
        priority: 0 to 100, the higher the earlier where launches compete for room.
        traceparent: the span of the session's request (W3C), if it has one.
    """

    launch_id: str
    runner_id: str
    pool: str
    tenant: str
    session_id: str
    epoch: int
    deadline_at: datetime
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)]
    traceparent: str | None = None

    @property
    def claim(self) -> str:
        """What the runner is started with (`--claim`, `GREENROOM_CLAIM`): `TENANT/SESSION_ID/EPOCH`."""
        return f"{self.tenant}/{self.session_id}/{self.epoch}"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One runner as its launcher sees it; whether it has reported in is for others to say.

    Attributes:
        id: what the launcher knows it by: an allocation, a process. Heartbeats carry it as `instance`.
        pool: it belongs to.
        state: `pending` until its process runs, `stopping` once it was told to end.
        launch_id: of the cold start that made it; None: it is of the pool's baseline group.
        ordinal: its place in the baseline group, from 0; None where it has none.
        since: when it was asked for, UTC.
    """

    id: str
    pool: str
    state: InstanceState
    launch_id: str | None
    ordinal: int | None
    since: datetime


class Launcher(Protocol):
    """Starts and ends runners.

    Raises (every coroutine but `run`):
        LaunchRefused: the launcher said no, and why; `permanent` tells whether asking again can help.
        LauncherUnavailable: it gave no usable answer. Whether the call was carried out isn't known: it may be made
            again, all of them are idempotent.
    """

    @property
    def name(self) -> str:
        """Which one: `none`, `process`, `nomad`."""
        ...

    @property
    def retires(self) -> Retires:
        """Which instance of a baseline group may be retired."""
        ...

    async def cold_start(self, start: ColdStart) -> None:
        """Ask for a runner for one session; returns before it is up. Idempotent by `launch_id`."""
        ...

    async def cancel(self, launch_id: str) -> None:
        """End what a cold start made, as far as it is there."""
        ...

    async def instances(self, pool: str) -> Sequence[Instance]:
        """Return what is pending, running or stopping in a pool, cold starts included."""
        ...

    async def set_count(self, pool: str, count: int) -> None:
        """Make the baseline group of a pool `count` instances large.

        May refuse for a while (`LaunchRefused.retry_after_s`) while an earlier change is still under way.
        """
        ...

    async def retire(self, instance: Instance) -> None:
        """End one idle, drained instance of the baseline group, and make the group smaller by it.

        Raises:
            LaunchRefused: it isn't one that may go (see `retires`).
        """
        ...

    def held_back(self, pool: str) -> str | None:
        """Return why launches in a pool don't get anywhere ("no capacity: memory exhausted on 3 nodes"), or None."""
        ...

    async def run(self) -> None:
        """Follow what happens at the launcher until cancelled; outages are survived, not raised."""
        ...


class LaunchRefused(GreenroomError):
    """The launcher refused to start or change runners; the detail has what it said.

    `GET /v1/pools` shows it for each pool. A permanent refusal needs somebody: a missing job, a missing permission, a
    bound of the group. Anything else is tried again by itself.
    """

    code = "launch-refused"
    status = 409
    title = "The launcher refused"

    def __init__(self, detail: str = "", *, permanent: bool = True, retry_after_s: float | None = None) -> None:
        """Make the error.

        Args:
            detail: what the launcher said.
            permanent: whether asking again can't help until somebody changes something.
            retry_after_s: when to ask again if it isn't permanent; default `REFUSED_RETRY_AFTER_S`.
        """
        after = None if permanent else REFUSED_RETRY_AFTER_S if retry_after_s is None else retry_after_s
        super().__init__(detail, retry_after_s=after)
        self.permanent = permanent


class LauncherUnavailable(GreenroomError):
    """The launcher doesn't answer, so the fleet stays as it is: live calls go on, and sessions wait for what there is.

    Nomad: check NOMAD_ADDR or the task API socket, that the agent runs, and its log for a lost leader.
    """

    code = "launcher-unavailable"
    status = 503
    title = "The launcher doesn't answer"
    retryable = True
    default_retry_after_s = 2.0
