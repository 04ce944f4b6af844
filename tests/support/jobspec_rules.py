"""What must hold in a job beyond its form: each rule returns what is wrong, as text; nothing, when it holds.

What Nomad itself checks only when a job is submitted is among them, and what it doesn't check at all.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from greenroom.common.errors import SettingsInvalid
from greenroom.common.service import CLOSE_TIMEOUT_S
from greenroom.common.settings import ServiceSettings, describe, load
from tests.support.jobspec import Body, block, blocks, labelled, seconds, tasks_of

# What isn't a setting of ours, but means something to Python, OpenSSL or the image.
FOREIGN_VARIABLES: Final = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
# What Nomad gives every task by itself.
_SET_BY_NOMAD: Final = {"NOMAD_SECRETS_DIR": "/secrets", "NOMAD_NAMESPACE": "voice"}
HEALTH_PATHS: Final = frozenset({"/livez", "/readyz"})
# Stands for what Nomad puts in at run time.
_RUNTIME: Final = re.compile(r"\$\{([\w.]+)\}")
# Stands for the addresses that templates make.
_MADE: Final = "tls://somewhere"
_STAND_INS: Final = {"NOMAD_ALLOC_INDEX": "0", "NOMAD_META_epoch": "1"}
_SECRET_NAME: Final = re.compile(r"(PASSWORD|TOKEN|SECRET|_KEY)$")
_CREDENTIALS: Final = re.compile(r"://[^/]*@")
# Blocks of Go templates, and what they print.
_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_TEMPLATE_VARIABLE: Final = re.compile(r"^([A-Z][A-Z0-9_]*)=", re.MULTILINE)


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules need to know beside the job.

    Attributes:
        settings: what each service reads, by the name of its image without `greenroom-`.
        max_kill_timeout_s: the client's.
        cold_meta: the keys that the dispatcher gives.
    """

    settings: Mapping[str, type[ServiceSettings]]
    max_kill_timeout_s: float
    cold_meta: frozenset[str]


type Rule = Callable[[Body, Site], Iterator[str]]


def broken(job: Body, site: Site) -> list[str]:
    """Return what is wrong with a job, each with the name of the rule in front."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(job, site)]


def deadlines_in_order(job: Body, _: Site) -> Iterator[str]:
    """An allocation must be found unhealthy before the whole deployment is given up."""
    for body in (block(job, "update"), block(job, "migrate")):
        if not body:
            continue
        steps = ("min_healthy_time", "healthy_deadline", "progress_deadline")
        times = [seconds(body[step]) for step in steps if step in body]
        if times != sorted(set(times)):
            yield f"{', '.join(steps)} don't grow: {times}"


def time_to_stop(job: Body, site: Site) -> Iterator[str]:
    """A task's time to end fits into the deployment that replaces it, and into what the client allows."""
    update = block(job, "update")
    for name, _group, task in tasks_of(job):
        if "kill_timeout" not in task:
            yield f"{name} has no kill_timeout, so 5 s"
            continue
        kill_timeout_s = seconds(task["kill_timeout"])
        if update and kill_timeout_s >= seconds(update.get("progress_deadline", "10m")):
            yield f"{name}: kill_timeout isn't below the progress deadline"
        if kill_timeout_s > site.max_kill_timeout_s:
            yield f"{name}: kill_timeout is more than the client's max_kill_timeout"


def drain_fits(job: Body, site: Site) -> Iterator[str]:
    """What a service takes to drain and to close is less than what it is given."""
    for name, _group, task in tasks_of(job):
        if (settings := _settings_of(task, site)) is not None:
            needed_s = settings.drain_timeout_s + CLOSE_TIMEOUT_S
            if needed_s >= seconds(task["kill_timeout"]):
                yield f"{name}: the drain takes up to {needed_s:g} s, kill_timeout is {task['kill_timeout']}"


def canaries(job: Body, _: Site) -> Iterator[str]:
    """Nothing is promoted by itself without a canary; who carries calls comes up whole beside the old version."""
    update = block(job, "update")
    if update.get("auto_promote") and not update.get("canary"):
        yield "auto_promote without canary"
    if job["id"] in {"runner", "api"}:
        for name, group in labelled(job, "group").items():
            if not update.get("canary") == update.get("max_parallel") == group["count"]:
                yield f"{name}: canary, max_parallel and count differ"
            if not update.get("auto_revert"):
                yield f"{name}: a version that doesn't come up is not reverted"
    for group in labelled(job, "group").values():
        if update.get("canary") and any(each.get("per_alloc") for each in labelled(group, "volume").values()):
            yield "per_alloc volumes with canaries"


def services_leave_first(job: Body, _: Site) -> Iterator[str]:
    """Whoever is registered is taken off the list before it is stopped."""
    for name, group in labelled(job, "group").items():
        if blocks(group, "service") and seconds(group.get("shutdown_delay", "0s")) <= 0:
            yield f"{name} has services and no shutdown_delay"


def services_and_checks(job: Body, _: Site) -> Iterator[str]:
    """Services and checks are of kinds that Nomad's own registry knows, on ports that there are."""
    for name, group in labelled(job, "group").items():
        ports = labelled(block(group, "network"), "port")
        for service in blocks(group, "service"):
            if service.get("provider") != "nomad":
                yield f"{name}: service {service['name']} isn't registered with Nomad"
            for each in [service, *blocks(service, "check")]:
                port = each.get("port", service.get("port"))
                if port not in ports:
                    yield f"{name}: there is no port {port}"
            for check in blocks(service, "check"):
                if check["type"] not in {"http", "tcp"} or ("path" in check) != (check["type"] == "http"):
                    yield f"{name}: a check is of type {check['type']}, path {check.get('path')}"
                if seconds(check["timeout"]) >= seconds(check["interval"]):
                    yield f"{name}: a check's timeout isn't below its interval"


def health_is_where_it_is_looked_for(job: Body, site: Site) -> Iterator[str]:
    """Ports and paths of checks are those that the service's settings and its health server have."""
    for name, group, task in tasks_of(job):
        settings = _settings_of(task, site)
        if settings is None:
            continue
        ports = labelled(block(group, "network"), "port")
        if ports.get("health", {}).get("to") != settings.health_port or settings.health_host != "0.0.0.0":  # noqa: S104
            yield f"{name}: health isn't on port {settings.health_port} of all addresses"
        if "http" in ports and ports["http"].get("to") != getattr(settings, "api_port", None):
            yield f"{name}: the API isn't on the port that is published"
        if not set(ports) <= set(block(task, "config").get("ports", ())):
            yield f"{name}: the container doesn't publish all of {sorted(ports)}"
        checks = [check for service in blocks(group, "service") for check in blocks(service, "check")]
        paths = {check.get("path") for check in checks}
        if not paths <= HEALTH_PATHS or (job["type"] == "service" and "/readyz" not in paths):
            yield f"{name}: checks look at {sorted(map(str, paths))}"
        if any("check_restart" in check and check["path"] != "/livez" for check in checks):
            yield f"{name}: restarted for not being ready"


def settings_are_known(job: Body, site: Site) -> Iterator[str]:
    """Every variable that is set is one that the service reads, with a value that it takes."""
    for name, _group, task in tasks_of(job):
        if (kind := _kind_of(task, site)) is None:
            continue
        known = {row.env for row in describe(kind)} | FOREIGN_VARIABLES
        if unknown := variables_of(task).keys() - known:
            yield f"{name}: no service reads {', '.join(sorted(unknown))}"
        try:
            load(kind, _SET_BY_NOMAD | variables_of(task))
        except SettingsInvalid as error:
            yield f"{name}: {error.detail}"


def secrets_stay_out_of_the_job(job: Body, _: Site) -> Iterator[str]:
    """Passwords come from Nomad's variables, into files of the task alone, and a change of them restarts nothing."""
    for name, _group, task in tasks_of(job):
        for variable, value in block(task, "env").items():
            if _SECRET_NAME.search(variable) or _CREDENTIALS.search(str(value)):
                yield f"{name}: {variable} is in the job"
        for template in blocks(task, "template"):
            secret = "nomadVar" in template["data"]
            if secret and not template["destination"].startswith("${NOMAD_SECRETS_DIR}/"):
                yield f"{name}: secrets are written to {template['destination']}"
            if template.get("env") and template.get("change_mode") != "noop":
                yield f"{name}: a change of {template['destination']} restarts it"
            if (template.get("change_mode") == "signal") != ("change_signal" in template):
                yield f"{name}: {template['destination']}: change_mode and change_signal don't go together"


def identity_without_end(job: Body, _: Site) -> Iterator[str]:
    """The default identity can't have a time to live: it is valid for as long as its allocation runs."""
    for name, _group, task in tasks_of(job):
        for identity in blocks(task, "identity"):
            if identity.get("name", "default") == "default" and "ttl" in identity:
                yield f"{name}: ttl on the default identity"


def closed_containers(job: Body, _: Site) -> Iterator[str]:
    """No container has capabilities, a writable root, or as many processes as it likes."""
    for name, _group, task in tasks_of(job):
        config = block(task, "config")
        wanted = {"readonly_rootfs": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
        if task["driver"] != "docker" or any(config.get(key) != value for key, value in wanted.items()):
            yield f"{name} isn't closed"
        if not config.get("pids_limit"):
            yield f"{name} has no pids_limit"
        if config.get("cap_add"):
            yield f"{name} adds capabilities"


def resources_fit(job: Body, _: Site) -> Iterator[str]:
    """Shares or whole processors, not both; more memory than reserved may be used, not less."""
    for name, _group, task in tasks_of(job):
        resources = block(task, "resources")
        if ("cpu" in resources) == ("cores" in resources):
            yield f"{name}: cpu or cores"
        if resources.get("memory_max", resources["memory"]) < resources["memory"]:
            yield f"{name}: memory_max is less than memory"


def volumes_are_mounted(job: Body, _: Site) -> Iterator[str]:
    """What a task mounts, its group has; what keeps data stays with it, and has one writer."""
    for name, group, task in tasks_of(job):
        volumes = labelled(group, "volume")
        mounted = {mount["volume"] for mount in blocks(task, "volume_mount")}
        if not mounted <= volumes.keys():
            yield f"{name} mounts {sorted(mounted)}"
        for volume in volumes.values():
            if volume.get("sticky") and volume.get("access_mode") != "single-node-single-writer":
                yield f"{name}: a volume of its own may be written by others"
            if volume.get("sticky") and block(job, "update").get("canary"):
                yield f"{name}: a canary would need the volume that is in use"


def kinds_of_jobs(job: Body, _: Site) -> Iterator[str]:
    """Only services have deployments and migrations; only batch jobs are parameterized."""
    if job["type"] != "service" and (blocks(job, "update") or blocks(job, "migrate")):
        yield f"update or migrate in a job of type {job['type']}"
    if job["type"] not in {"batch", "sysbatch"} and blocks(job, "parameterized"):
        yield f"parameterized in a job of type {job['type']}"
    for name, group in labelled(job, "group").items():
        if "max_run_duration" in group and job["type"] not in {"batch", "sysbatch"}:
            yield f"{name}: max_run_duration in a job of type {job['type']}"
        disconnect = block(group, "disconnect")
        if {"lost_after", "stop_on_client_after"} <= disconnect.keys():
            yield f"{name}: lost_after and stop_on_client_after exclude each other"


def cold_starts(job: Body, site: Site) -> Iterator[str]:
    """A dispatched runner takes what the dispatcher gives, no more and no less, and claims by that."""
    parameterized = block(job, "parameterized")
    if not parameterized:
        return
    if parameterized.get("payload") != "forbidden":
        yield "a payload may come along"
    if site.cold_meta != frozenset(parameterized["meta_required"]) or parameterized.get("meta_optional"):
        yield f"meta keys are {parameterized['meta_required']}"
    for name, _group, task in tasks_of(job):
        used = set(re.findall(r"NOMAD_META_(\w+)", " ".join(map(str, block(task, "env").values()))))
        if not used <= site.cold_meta:
            yield f"{name} uses {sorted(used)}"


def cold_runners_run_once(job: Body, site: Site) -> Iterator[str]:
    """Nomad never starts a dispatched runner again, and lets it run for as long as its call may last."""
    if not block(job, "parameterized"):
        return
    for name, group, task in tasks_of(job):
        if block(group, "restart").get("attempts") != 0 or block(group, "restart").get("mode") != "fail":
            yield f"{name} is restarted"
        if block(group, "reschedule") != {"attempts": 0, "unlimited": False}:
            yield f"{name} is rescheduled"
        if block(group, "disconnect").get("replace") is not False:
            yield f"{name} is replaced while its client is away"
        if group["count"] != 1:
            yield f"{name} is started {group['count']} times"
        settings = _settings_of(task, site)
        if settings and seconds(group.get("max_run_duration", "0s")) <= settings.drain_timeout_s:
            yield f"{name}: max_run_duration cuts the longest call"


def reports_outlive_a_restart(job: Body, site: Site) -> Iterator[str]:
    """A task that is started again finds what it had still to publish, and its sessions don't.

    The allocation's directory stays, no other.
    """
    for name, group, task in tasks_of(job):
        if "reports_dir" not in getattr(_kind_of(task, site), "__struct_fields__", ()):
            continue
        kept = str(block(task, "env").get("GREENROOM_REPORTS_DIR", ""))
        if block(group, "restart").get("attempts") != 0 and not kept.startswith("${NOMAD_ALLOC_DIR}/data/"):
            yield f"{name}: what it has still to publish is kept in {kept or 'memory only'}"
        if kept and kept not in str(block(task, "env").get("GREENROOM_HIDDEN", "")).split(","):
            yield f"{name}: sessions can read what it has still to publish"


RULES: Final[tuple[Rule, ...]] = (
    deadlines_in_order,
    time_to_stop,
    drain_fits,
    canaries,
    services_leave_first,
    services_and_checks,
    health_is_where_it_is_looked_for,
    settings_are_known,
    secrets_stay_out_of_the_job,
    identity_without_end,
    closed_containers,
    resources_fit,
    volumes_are_mounted,
    kinds_of_jobs,
    cold_starts,
    cold_runners_run_once,
    reports_outlive_a_restart,
)


def variables_of(task: Body) -> dict[str, str]:
    """Return the environment that a job gives a task, with stand-ins for what is known at run time only."""
    given = {name: _RUNTIME.sub(_stand_in, str(value)) for name, value in block(task, "env").items()}
    for template in blocks(task, "template"):
        if template.get("env"):
            given |= dict.fromkeys(_TEMPLATE_VARIABLE.findall(_TEMPLATE.sub("", template["data"])), _MADE)
    return given


def _stand_in(match: re.Match[str]) -> str:
    return _STAND_INS.get(match[1], "abc")


def _kind_of(task: Body, site: Site) -> type[ServiceSettings] | None:
    """Return what the service of a task reads; None, if it is none of ours or another command of its image."""
    image = re.search(r"greenroom-([a-z]+):", block(task, "config").get("image", ""))
    return site.settings.get(image[1]) if image and "lifecycle" not in task else None


def _settings_of(task: Body, site: Site) -> Any:
    """Return the settings that a task runs with; None if it is none of ours, or they are wrong (a rule of its own)."""
    if (kind := _kind_of(task, site)) is None:
        return None
    try:
        return load(kind, _SET_BY_NOMAD | variables_of(task))
    except SettingsInvalid:
        return None
