"""How jobs, launches and pools are found in Nomad's names, which are all there is: no state is kept elsewhere."""

import re
from typing import Final

import msgspec

from greenroom.scheduler.launchers.base import LaunchRefused

PLACEHOLDER: Final = "{pool}"
# The one pool that a job without the placeholder in its name serves.
_DEFAULT_POOL: Final = "default"
_POOL: Final = r"(?P<pool>[A-Za-z0-9_-]{1,128})"
# `<parent>/dispatch-[<prefix>-]<unix seconds>-<8 hex digits>`; the prefix is the launch id.
_CHILD: Final = re.compile(r"(?P<parent>.+)/dispatch-(?P<launch>.+)-\d+-[0-9a-f]{8}")
_ORDINAL: Final = re.compile(r".*\[(\d+)\]")


class JobNames(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs of a pool are called.

    Attributes:
        runner: template of the job with the baseline group; `{pool}` stands for the pool, and without it the job is
            that of the pool `default`.
        cold: template of the parameterized job.
        group: the group of the runner job that is scaled.
    """

    runner: str
    cold: str
    group: str

    def runner_job(self, pool: str) -> str:
        """Return the job with a pool's baseline group.

        Raises:
            LaunchRefused: no job can be that.
        """
        job = _filled(self.runner, pool)
        if _pool_in(self.cold, job) is not None:
            raise LaunchRefused(f"the runner job of pool {pool}, {job}, would be the cold job of another: rename it")
        return job

    def cold_job(self, pool: str) -> str:
        """Return the job that a pool's cold starts are dispatched from.

        Raises:
            LaunchRefused: no job can be that.
        """
        return _filled(self.cold, pool)

    @property
    def children(self) -> str:
        """What the IDs of all dispatched jobs begin with, whatever their pool."""
        return self.cold.partition(PLACEHOLDER)[0]

    def pool_of(self, job_id: str) -> str | None:
        """Return the pool that a job belongs to: a runner job, or a child of a cold one."""
        child = _CHILD.fullmatch(job_id)
        return _pool_in(self.cold, child["parent"]) if child else _pool_in(self.runner, job_id)


def launch_of(job_id: str) -> str | None:
    """Return the launch that a child was dispatched for; None for other jobs."""
    match = _CHILD.fullmatch(job_id)
    return match["launch"] if match else None


def ordinal_of(allocation_name: str) -> int | None:
    """Return the place of an allocation in its group: `runner.runner[3]` is 3."""
    match = _ORDINAL.fullmatch(allocation_name)
    return int(match[1]) if match else None


def _filled(template: str, pool: str) -> str:
    if PLACEHOLDER not in template and pool != _DEFAULT_POOL:
        raise LaunchRefused(f"there is no job for pool {pool}: {template} serves the pool {_DEFAULT_POOL} only")
    return template.replace(PLACEHOLDER, pool)


def _pool_in(template: str, job: str) -> str | None:
    if PLACEHOLDER not in template:
        return _DEFAULT_POOL if job == template else None
    before, _, after = template.partition(PLACEHOLDER)
    match = re.fullmatch(re.escape(before) + _POOL + re.escape(after), job)
    return match["pool"] if match else None
