"""Runners as Nomad allocations: a service job with the baseline group of a pool, a parameterized one for cold starts.

Overflow is dispatched, not scaled: each scaling starts a deployment that blocks the next, and ends the instance with
the highest ordinal, idle or not. That a session runs once is held by its lease, not by Nomad's idempotency token.
"""

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import structlog

from greenroom.common import telemetry
from greenroom.common.clock import Clock
from greenroom.scheduler.launchers import nomad_wire as wire
from greenroom.scheduler.launchers.base import ColdStart, Instance, LauncherUnavailable, LaunchRefused, Retires
from greenroom.scheduler.launchers.nomad_client import NomadClient
from greenroom.scheduler.launchers.nomad_events import EventFollower
from greenroom.scheduler.launchers.nomad_names import JobNames, launch_of, ordinal_of
from greenroom.scheduler.launchers.nomad_picture import NomadPicture

_log = structlog.get_logger()

# Before 1.11.2 two dispatches at once with one idempotency token could both run.
MIN_VERSION: Final = (1, 11, 2)
# A scaling starts a deployment, which takes at least as long as an allocation needs to become healthy.
SCALE_COOLDOWN_S: Final = 10.0
_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class NomadTooOld(LaunchRefused):
    """Nomad is older than 1.11.2: two dispatches at once with one idempotency token could both be carried out.

    Upgrade the servers and clients of the cluster; GREENROOM_LAUNCHER=none goes on with the fleet as it is.
    """

    code = "nomad-too-old"
    title = "Nomad is too old"


class NomadLauncher:
    """See `base.Launcher`; a group shrinks from its highest ordinal.

    Args:
        client: to Nomad.
        names: of the jobs.
        clock: time.
        version: of Nomad where the token isn't allowed to ask for it; empty: not known either.
        scale_cooldown_s: at least so long between two changes of a group's size.
    """

    name = "nomad"
    retires: Retires = "last"

    def __init__(
        self,
        client: NomadClient,
        names: JobNames,
        *,
        clock: Clock,
        version: str = "",
        scale_cooldown_s: float = SCALE_COOLDOWN_S,
    ) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._told_version = version
        self._version_checked = False
        self._scale_cooldown_s = scale_cooldown_s
        self._picture = NomadPicture(names)
        self._follower = EventFollower(client, self._picture, names, clock=clock, check=self._check_version)
        # What was last refused in a pool, until something isn't.
        self._refused: dict[str, str] = {}
        # Monotonic time before which a group isn't scaled again.
        self._scale_again_at: dict[str, float] = {}
        self._scaling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def cold_start(self, start: ColdStart) -> None:
        """Dispatch the cold job of the pool; asked again, Nomad names what it has started already."""
        meta = {
            wire.META_TENANT: start.tenant,
            wire.META_SESSION_ID: start.session_id,
            wire.META_LEASE_ID: start.launch_id,
            wire.META_EPOCH: str(start.epoch),
        }
        with telemetry.session_span(
            "nomad.dispatch", session_id=start.session_id, tenant=start.tenant, traceparent=start.traceparent
        ):
            try:
                await self._check_version()
                dispatched = await self._client.dispatch(
                    self._names.cold_job(start.pool),
                    launch_id=start.launch_id,
                    meta=meta,
                    # 0 would mean the job's own.
                    priority=max(start.priority, 1),
                )
            except LaunchRefused as error:
                self._refused[start.pool] = error.detail
                raise
        self._refused.pop(start.pool, None)
        # Without an evaluation it is an answer to a repeated question, and the launch may be over by now.
        if dispatched.eval_id:
            self._picture.note_launch(dispatched.job_id, self._clock.now())
            await self._note_evaluation(dispatched.eval_id)
            _log.info(
                "nomad_dispatched", launch_id=start.launch_id, job=dispatched.job_id, evaluation=dispatched.eval_id
            )

    async def cancel(self, launch_id: str) -> None:
        """Stop the jobs that were dispatched for a launch."""
        listed = await self._client.jobs(self._names.children)
        for job in listed.items:
            if launch_of(job.id) == launch_id and self._names.pool_of(job.id) is not None:
                await self._client.deregister(job.id)
                _log.info("nomad_stopped", launch_id=launch_id, job=job.id)

    async def instances(self, pool: str) -> Sequence[Instance]:
        """Return the allocations of a pool, and the launches that have none yet."""
        if not self._follower.current:
            await self._follower.list_all()
        return self._picture.instances(pool)

    async def set_count(self, pool: str, count: int) -> None:
        """Scale the runner job of the pool.

        Raises:
            LaunchRefused: for a while, when a deployment of the job is under way or the last scaling is too recent.
        """
        await self._check_version()
        job = self._names.runner_job(pool)
        async with self._scaling[pool]:
            if await self._client.desired(job, self._names.group) != count:
                await self._scale(pool, job, count, "the scheduler sizes the pool")

    async def retire(self, instance: Instance) -> None:
        """Scale the runner job down to the ordinal of its last instance. One that goes already changes nothing.

        Raises:
            LaunchRefused: it isn't the last; or for a while, as for `set_count`.
        """
        job, ordinal = self._names.runner_job(instance.pool), instance.ordinal
        if instance.launch_id is not None or ordinal is None:
            raise LaunchRefused(f"{instance.id} is of no group: a cold start ends by itself")
        await self._check_version()
        async with self._scaling[instance.pool]:
            allocations = await self._client.allocations_of(job)
            running = {each.id: each for each in allocations.items if each.stays}
            desired = await self._client.desired(job, self._names.group)
            # `desired` counts ordinals from 0. Asked again after a lost answer, the group is that small already.
            if instance.id not in running or desired <= ordinal:
                return
            last = max(ordinal_of(each.name) or 0 for each in running.values())
            if ordinal != last or desired > ordinal + 1:
                raise LaunchRefused(
                    f"{instance.id} is number {ordinal} of {desired}: a group shrinks from its last", permanent=False
                )
            await self._scale(instance.pool, job, ordinal, f"the scheduler retires {instance.id}")

    def held_back(self, pool: str) -> str | None:
        """Return that Nomad can't be reached, what it has refused, or what there is no room for."""
        return self._follower.trouble or self._refused.get(pool) or self._picture.held_back(pool)

    async def run(self) -> None:
        """Follow Nomad's events."""
        await self._follower.run()

    async def _scale(self, pool: str, job: str, count: int, message: str) -> None:
        wait_s = self._scale_again_at.get(pool, 0.0) - self._clock.monotonic()
        if wait_s > 0:
            raise LaunchRefused(f"{job} was scaled a moment ago", permanent=False, retry_after_s=wait_s)
        deployment = await self._client.deployment(job)
        if deployment is not None and deployment.active:
            raise LaunchRefused(
                f"{job} isn't scaled while a deployment of it is {deployment.status}",
                permanent=False,
                retry_after_s=self._scale_cooldown_s,
            )
        try:
            await self._client.scale(job, self._names.group, count, message)
        finally:
            # Also when the answer is lost or says that a deployment is under way: nothing is asked in quick succession.
            self._scale_again_at[pool] = self._clock.monotonic() + self._scale_cooldown_s
        _log.info("nomad_scaled", pool=pool, job=job, count=count)

    async def _note_evaluation(self, eval_id: str) -> None:
        """Learn at once that there is no room for a launch; where that can't be read, the events tell it later."""
        with contextlib.suppress(LaunchRefused, LauncherUnavailable):
            self._picture.note_evaluation(await self._client.evaluation(eval_id))

    async def _check_version(self) -> None:
        """Check once that Nomad is new enough.

        Raises:
            NomadTooOld: it isn't.
            LauncherUnavailable: it doesn't answer.
        """
        if self._version_checked:
            return
        version = await self._client.version() or self._told_version
        match = _NUMBERS.match(version)
        if match is None:
            _log.warning("nomad_version_unknown", needed=_dotted(MIN_VERSION))
        elif tuple(int(part) for part in match.groups()) < MIN_VERSION:
            raise NomadTooOld(f"Nomad is {version}, and {_dotted(MIN_VERSION)} is needed")
        self._version_checked = True


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
