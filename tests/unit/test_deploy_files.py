"""What of deploy/ is no job: agents, policies, volumes, images, alerts; and the runbooks that name all of it."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support import jobspec
from tests.support.deployed_jobs import JOBS, NOMAD, job_of, main_task, only_group, values
from tests.support.jobspec import Body, block, blocks, labelled
from tests.support.workspace import ROOT

SERVICES: Final = ("api", "scheduler", "runner", "recorder")
DOCUMENTS: Final = [NOMAD / "README.md", *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
RUNBOOKS: Final = {
    *("install.md", "upgrade.md", "drain-a-node.md"),
    *("lose-a-node.md", "lose-nats-quorum.md", "restore.md"),
}

# -------------------------------------------------------------------------------------------------- agents and policies

# Of Nomad's own configuration: what these files use.
_AGENT_KEYS: Final = {
    "server": {"enabled", "bootstrap_expect", "default_scheduler_config"},
    "client": {"enabled", "max_kill_timeout", "host_volume"},
    "acl": {"enabled"},
    "plugin": {"docker"},
    "telemetry": {"prometheus_metrics", "publish_allocation_metrics"},
}


def _hcl(*path: str) -> Body:
    return jobspec.parse(NOMAD.joinpath(*path).read_text())


@pytest.mark.parametrize("name", ["server.hcl", "client.hcl", "dev.hcl"])
def test_agents_are_told_what_nomad_knows(name: str) -> None:
    """No block or attribute that Nomad's configuration doesn't have."""
    for kind, bodies in _hcl("agent", name).items():
        assert {key for body in bodies for key in body} <= _AGENT_KEYS[kind]


@pytest.mark.parametrize("name", ["client.hcl", "dev.hcl"])
def test_clients_have_the_volumes_that_are_not_made(name: str) -> None:
    """Host volumes of the jobs are made by volumes/*.hcl or said by the agent."""
    said = labelled(block(_hcl("agent", name), "client"), "host_volume")
    made = {_hcl("volumes", path.name)["name"] for path in (NOMAD / "volumes").glob("*.hcl")}
    wanted = {volume["source"] for job in JOBS for volume in labelled(only_group(job_of(job)), "volume").values()}
    assert wanted == said.keys() | made


@pytest.mark.parametrize("path", sorted((NOMAD / "volumes").glob("*.hcl")), ids=lambda path: path.stem)
def test_a_volume_belongs_to_who_mounts_it(path: Path) -> None:
    """It is in the jobs' namespace, has one writer, and the user that the container runs as."""
    volume = _hcl("volumes", path.name)
    (job,) = (job_of(name) for name in JOBS if name == path.stem)
    (asked,) = labelled(only_group(job), "volume").values()
    assert (volume["name"], volume["namespace"]) == (asked["source"], job["namespace"])
    assert block(volume, "capability") == {key: asked[key] for key in ("access_mode", "attachment_mode")}
    owner = {str(block(volume, "parameters")[key]) for key in ("uid", "gid")}
    assert owner == set(main_task(job)["user"].split(":"))


@pytest.mark.parametrize("path", sorted((NOMAD / "policies").glob("*.hcl")), ids=lambda path: path.stem)
def test_policies_are_about_our_namespace(path: Path) -> None:
    """That of the jobs, and none grants everything."""
    policy = _hcl("policies", path.name)
    assert set(labelled(policy, "namespace")) == {values("prod")["namespace"]}
    assert "policy" not in labelled(policy, "namespace")["voice"]
    assert policy.keys() <= {"namespace", "node"}


def test_workload_identities_have_the_least() -> None:
    """The scheduler launches and reads no secrets; a cold runner reads those of the runners and does nothing else."""
    scheduler = labelled(_hcl("policies", "scheduler.hcl"), "namespace")["voice"]
    assert set(scheduler.pop("capabilities")) == {
        *("list-jobs", "read-job", "dispatch-job", "read-job-scaling", "scale-job", "deregister-job"),
    }
    assert scheduler == {}
    cold = labelled(_hcl("policies", "runner-cold.hcl"), "namespace")["voice"]
    paths = labelled(block(cold, "variables"), "path")
    assert cold.keys() == {"variables"}
    read = {path for each in main_task(job_of("runner-cold"))["template"] for path in _variables_in(each["data"])}
    # What is directly under nomad/jobs every job of the namespace may read.
    assert paths.keys() == read - {"nomad/jobs"}
    assert {capability for each in paths.values() for capability in each["capabilities"]} == {"read"}


def test_jobs_read_only_variables_of_their_own() -> None:
    """Nomad lets a job read those that are named after it, and its group, without a policy."""
    for name in JOBS:
        if name == "runner-cold":
            continue
        own = {"nomad/jobs", f"nomad/jobs/{name}", f"nomad/jobs/{name}/{next(iter(labelled(job_of(name), 'group')))}"}
        tasks = labelled(only_group(job_of(name)), "task").values()
        data = [template["data"] for task in tasks for template in blocks(task, "template")]
        assert {path for each in data for path in _variables_in(each)} <= own


def _variables_in(data: str) -> set[str]:
    return set(re.findall(r'nomadVar(?:Exists)? "([^"]+)"', data))


# --------------------------------------------------------------------------------------------------------------- images


def _containerfile(service: str) -> tuple[str, list[str]]:
    """Return a Containerfile's text and its stages."""
    text = (NOMAD / "containers" / f"{service}.Containerfile").read_text()
    return text, re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_built_in_one_stage_and_run_in_another(service: str) -> None:
    """What runs isn't root, has nothing to build or install with, and starts the service."""
    _, (_build, run) = _containerfile(service)
    assert re.findall(r"^USER (.*)$", run, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^COPY (.*)$", run, re.MULTILINE) == ["--from=build /app /app"]
    assert not re.search(r"apt-get|pip install|gcc|build-essential|\buv\b", run)
    (command,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', run, re.MULTILINE)
    scripts = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]["scripts"]
    assert command in scripts


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_what_its_service_needs_and_no_more(service: str) -> None:
    """Hash-pinned packages of that service and its own members; Pipecat is in the runner's alone."""
    text, (build, _run) = _containerfile(service)
    copied = {source for line in re.findall(r"^COPY (?!--)(.*) \S+$", build, re.MULTILINE) for source in line.split()}
    assert copied == {
        *("requirements/build.txt", f"requirements/{service}.txt"),
        *("libs/common", f"services/{service}"),
    }
    assert all((ROOT / source).exists() for source in copied)
    assert text.count("--require-hashes") == 2
    packages = (ROOT / "requirements" / f"{service}.txt").read_text()
    assert ("\npipecat-ai==" in packages) == (service == "runner")
    assert re.search(r"^ARG PYTHON=docker\.io/library/python:3\.12-slim", text, re.MULTILINE)


def test_the_recorders_image_migrates() -> None:
    """The command of the recorder job's first task is one of the recorder's."""
    task = labelled(only_group(job_of("recorder")), "task")["migrate"]
    scripts = tomllib.loads((ROOT / "services/recorder/pyproject.toml").read_text())["project"]["scripts"]
    (command,) = block(task, "config")["entrypoint"]
    assert command in scripts


# ----------------------------------------------------------------------------------------------------------- Prometheus


def _rules() -> list[dict[str, Any]]:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    return [rule for group in alerts["groups"] for rule in group["rules"]]


def test_alerts_look_at_metrics_that_there_are() -> None:
    """Each metric that an alert names is made somewhere in the services."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "services").glob("*/src/**/*.py")))
    made = {(kind, name) for kind, name in re.findall(r'\.(counter|gauge|histogram)\(\s*"(\w+)"', code)}
    exported = {f"greenroom_{name}" + ("_total" if kind == "counter" else "") for kind, name in made}
    named = {name for rule in _rules() for name in re.findall(r"\bgreenroom_\w+", rule["expr"])}
    assert named
    assert named <= exported


def test_alerts_send_people_to_runbooks_that_there_are() -> None:
    """And tell what is wrong."""
    for rule in _rules():
        assert rule["annotations"]["summary"]
        assert (ROOT / rule["annotations"].get("runbook", "docs")).exists()


def test_prometheus_asks_where_services_say_they_are() -> None:
    """Every service's health registration is among the targets; the file is the one that the job writes."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    templates = {Path(each["destination"]).name: each["data"] for each in main_task(job_of("prometheus"))["template"]}
    assert config["scrape_configs"][0]["file_sd_configs"][0]["files"] == ["targets.yml"]
    assert set(config["rule_files"]) <= templates.keys()
    asked = set(re.findall(r'nomadService "([\w-]+)"', templates["targets.yml"]))
    registered = {service["name"] for name in JOBS for service in blocks(only_group(job_of(name)), "service")}
    assert asked == {name for name in registered if name.endswith("-health")}


# ------------------------------------------------------------------------------------------------------------ documents


def test_all_runbooks_are_there() -> None:
    """One for each thing that happens to an installation."""
    assert {path.name for path in (ROOT / "docs" / "runbooks").glob("*.md")} == RUNBOOKS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    """Relative links from where the document is, paths of the checkout from its root."""
    text = path.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"(?<![\w./-])((?:deploy|docs|tests|services|libs|requirements)/[\w./-]*[\w])", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_jobs_and_variables_that_there_are(path: Path) -> None:
    """`nomad job status NAME`, `nomad/jobs/NAME`, `-var name=`."""
    text = path.read_text()
    assert set(re.findall(r"nomad job (?:status|scale|stop) ([a-z][a-z-]*)", text)) <= set(JOBS)
    assert {name.split("/")[0] for name in re.findall(r"nomad/jobs/([a-z/-]+)", text)} <= set(JOBS)
    assert set(re.findall(r"-var[ =](\w+)=", text)) <= values("prod").keys()
