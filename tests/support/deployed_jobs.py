"""The jobs of deploy/nomad as they are at a site, for tests to look at and to damage."""

import copy
from functools import cache
from pathlib import Path
from typing import Final

from greenroom.api.settings import ApiSettings
from greenroom.recorder.settings import RecorderSettings
from greenroom.runner.settings import RunnerSettings
from greenroom.scheduler.launchers.nomad_wire import META_KEYS
from greenroom.scheduler.settings import SchedulerSettings
from tests.support import jobspec
from tests.support.jobspec import Body, block, labelled, seconds, tasks_of
from tests.support.jobspec_rules import Site
from tests.support.workspace import ROOT

NOMAD: Final = ROOT / "deploy" / "nomad"
JOBS: Final = tuple(sorted(path.name.removesuffix(".nomad.hcl") for path in (NOMAD / "jobs").glob("*.nomad.hcl")))
SITES: Final = ("dev", "prod")
# Which agent's settings a site goes with.
_CLIENTS: Final = {"dev": "dev.hcl", "prod": "client.hcl"}


def path_of(name: str) -> Path:
    """Return the file of a job."""
    return NOMAD / "jobs" / f"{name}.nomad.hcl"


@cache
def site(name: str) -> Site:
    """Return what the rules need to know about a site."""
    client = block(jobspec.parse((NOMAD / "agent" / _CLIENTS[name]).read_text()), "client")
    return Site(
        settings={
            "api": ApiSettings,
            "recorder": RecorderSettings,
            "runner": RunnerSettings,
            "scheduler": SchedulerSettings,
        },
        max_kill_timeout_s=seconds(client["max_kill_timeout"]),
        cold_meta=frozenset(META_KEYS),
    )


@cache
def parsed(name: str) -> Body:
    """Return a job's file, as it is written."""
    return jobspec.parse(path_of(name).read_text())


@cache
def values(name: str) -> Body:
    """Return what a site's var-file says."""
    return jobspec.parse((NOMAD / "vars" / f"{name}.hcl").read_text())


@cache
def _evaluated(job: str, where: str) -> Body:
    return jobspec.evaluate(parsed(job), values(where), path_of(job).parent)


def job_of(name: str, where: str = "prod") -> Body:
    """Return a job as it is at a site; the caller may change it."""
    return copy.deepcopy(_evaluated(name, where))


def only_group(job: Body) -> Body:
    """Return the group of a job that has one."""
    (group,) = labelled(job, "group").values()
    return group


def main_task(job: Body) -> Body:
    """Return the last task of a job: those before it prepare."""
    return tasks_of(job)[-1][2]
