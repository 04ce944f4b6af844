"""What a scheduler can be told about launching, and the launcher that follows from it."""

import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from greenroom.common.clock import Clock
from greenroom.common.settings import Env, ServiceSettings
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.launchers.nomad import SCALE_COOLDOWN_S, NomadLauncher
from greenroom.scheduler.launchers.nomad_client import NomadClient, http_client, token_from
from greenroom.scheduler.launchers.nomad_names import PLACEHOLDER, JobNames
from greenroom.scheduler.launchers.none import NoLauncher
from greenroom.scheduler.launchers.process import DRAIN_S, KILL_AFTER_S, ProcessLauncher

_POSITIVE: Final = msgspec.Meta(gt=0)


class LauncherSettings(ServiceSettings, frozen=True, kw_only=True):
    """How runners are launched. Variables that begin with NOMAD are named as Nomad itself sets and reads them."""

    launcher: Annotated[
        Literal["none", "process", "nomad"],
        Env(help="What starts and ends runners; none: a fixed fleet; process: this host"),
    ] = "none"
    launcher_folder: Annotated[
        str, Env(help="State of the launcher process; schedulers with the same folder manage the same runners")
    ] = ""
    launcher_kill_after_s: Annotated[
        float, _POSITIVE, Env(help="Launcher process: how long a runner without a call may take to end")
    ] = KILL_AFTER_S
    launcher_drain_s: Annotated[
        float,
        _POSITIVE,
        Env(help="Launcher process: the same with calls; must be longer than the runners' GREENROOM_DRAIN_TIMEOUT_S"),
    ] = DRAIN_S
    nomad_addr: Annotated[
        str,
        Env("NOMAD_ADDR", help="Nomad's HTTP API, http(s)://host:port or unix:///path; unset: the task API's socket"),
    ] = ""
    nomad_token: Annotated[
        str, Env("NOMAD_TOKEN", secret=True, help="Token; unset: the workload identity's in NOMAD_SECRETS_DIR")
    ] = ""
    nomad_namespace: Annotated[str, Env("NOMAD_NAMESPACE", help="Namespace of the runners' jobs")] = "default"
    nomad_secrets_dir: Annotated[
        str, Env("NOMAD_SECRETS_DIR", help="Set by Nomad: where the task API's socket and the identity's token are")
    ] = ""
    nomad_cacert: Annotated[str, Env("NOMAD_CACERT", help="File with the authority of the agent's certificate")] = ""
    nomad_client_cert: Annotated[str, Env("NOMAD_CLIENT_CERT", help="File with the certificate shown to the agent")] = (
        ""
    )
    nomad_client_key: Annotated[str, Env("NOMAD_CLIENT_KEY", help="File with the key of that certificate")] = ""
    nomad_version: Annotated[
        str, Env(help="Version of Nomad, for a token that isn't allowed to ask: ${attr.nomad.version} in the job")
    ] = ""
    nomad_runner_job: Annotated[
        str, Env(help="Job with a pool's baseline group; {pool} stands for it, without it for the pool default only")
    ] = "runner-{pool}"
    nomad_runner_group: Annotated[str, Env(help="Group of that job that is scaled")] = "runner"
    nomad_cold_job: Annotated[str, Env(help="Parameterized job for cold starts, {pool} as above")] = (
        "runner-cold-{pool}"
    )
    nomad_scale_cooldown_s: Annotated[
        float, _POSITIVE, Env(help="At least so long between two changes of a group's size")
    ] = SCALE_COOLDOWN_S

    def __post_init__(self) -> None:
        """Check what the types don't say.

        Raises:
            ValueError: something that the launcher needs isn't set.
        """
        if self.launcher == "process" and not self.launcher_folder:
            raise ValueError("GREENROOM_LAUNCHER is process, so GREENROOM_LAUNCHER_FOLDER must be set")
        if self.launcher != "nomad":
            return
        if not self.nomad_address:
            raise ValueError("GREENROOM_LAUNCHER is nomad, so NOMAD_ADDR must be set, or NOMAD_SECRETS_DIR (by Nomad)")
        if self.nomad_runner_job == self.nomad_cold_job:
            raise ValueError("GREENROOM_NOMAD_RUNNER_JOB and GREENROOM_NOMAD_COLD_JOB must differ")
        for name in (self.nomad_runner_job, self.nomad_cold_job):
            if not name or name.count(PLACEHOLDER) > 1 or "/" in name:
                raise ValueError(f"{name!r} isn't the name of a Nomad job with {PLACEHOLDER} once at most")

    @property
    def nomad_address(self) -> str:
        """Where Nomad is: as told, else the task API's socket, which every task has; empty where neither is."""
        if self.nomad_addr or not self.nomad_secrets_dir:
            return self.nomad_addr
        return f"unix://{self.nomad_secrets_dir}/api.sock"

    @property
    def nomad_token_file(self) -> Path | None:
        """Where Nomad writes the workload identity's token (`identity { file = true }`)."""
        return Path(self.nomad_secrets_dir) / "nomad_token" if self.nomad_secrets_dir else None


@contextlib.asynccontextmanager
async def launcher_for(settings: LauncherSettings, clock: Clock) -> AsyncGenerator[Launcher]:
    """Yield the launcher that is set, and close at the end what it holds open; what it launched runs on."""
    match settings.launcher:
        case "none":
            yield NoLauncher()
        case "process":
            yield ProcessLauncher(
                Path(settings.launcher_folder),
                clock=clock,
                env=os.environ,
                kill_after_s=settings.launcher_kill_after_s,
                drain_s=settings.launcher_drain_s,
            )
        case "nomad":
            async with nomad_client(settings) as client:
                yield NomadLauncher(
                    client,
                    JobNames(
                        runner=settings.nomad_runner_job,
                        cold=settings.nomad_cold_job,
                        group=settings.nomad_runner_group,
                    ),
                    clock=clock,
                    version=settings.nomad_version,
                    scale_cooldown_s=settings.nomad_scale_cooldown_s,
                )


def nomad_client(settings: LauncherSettings) -> NomadClient:
    """Return a client for the Nomad that is set."""
    http = http_client(
        settings.nomad_address,
        ca_cert=settings.nomad_cacert,
        client_cert=settings.nomad_client_cert,
        client_key=settings.nomad_client_key,
    )
    token = token_from(settings.nomad_token, settings.nomad_token_file)
    return NomadClient(http, token=token, namespace=settings.nomad_namespace)
