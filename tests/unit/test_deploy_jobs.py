"""The jobs of deploy/nomad: read by two parsers, checked against a table of Nomad's attributes, and by rules."""

import re
from pathlib import Path
from typing import Final

import pytest

from greenroom.api.settings import ApiSettings
from greenroom.common.lifecycle import Limits
from greenroom.common.settings import describe, load
from greenroom.recorder.settings import RecorderSettings
from greenroom.runner.settings import RunnerSettings
from greenroom.scheduler.launchers.nomad_names import JobNames
from greenroom.scheduler.settings import SchedulerSettings
from tests.support import jobspec, jobspec_rules, jobspec_schema
from tests.support.deployed_jobs import JOBS, NOMAD, SITES, job_of, main_task, only_group, parsed, path_of, site, values
from tests.support.jobspec import JobspecError, block, labelled, seconds

FILES: Final = sorted(NOMAD.glob("*/*.hcl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_two_parsers_read_the_same(path: Path) -> None:
    """Each file is HCL to both, with the same blocks, labels and attributes in it."""
    text = path.read_text()
    ours = jobspec.names_in(jobspec.parse(text))
    assert ours == jobspec.names_in(jobspec.parse_with_the_other_parser(text))
    assert ours


@pytest.mark.parametrize("text", ['job "x" {', 'job "x" { group { }', "a = = 1", 'job "x" { a = "b }'])
def test_what_is_no_hcl_is_noticed(text: str) -> None:
    """By both parsers."""
    for parser in (jobspec.parse, jobspec.parse_with_the_other_parser):
        with pytest.raises(JobspecError):
            parser(text)


def test_every_service_has_its_job() -> None:
    """And a file is named after its job."""
    assert set(JOBS) == {
        *("api", "scheduler", "runner", "runner-cold", "recorder"),
        *("nats", "postgres", "jaeger", "prometheus"),
    }
    assert [job_of(name)["id"] for name in JOBS] == list(JOBS)


@pytest.mark.parametrize("where", SITES)
@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_made_of_what_nomad_knows(name: str, where: str) -> None:
    """No block and no attribute that isn't in the table, and each of its type."""
    assert jobspec_schema.complaints(job_of(name, where)) == []


@pytest.mark.parametrize("where", SITES)
@pytest.mark.parametrize("name", JOBS)
def test_a_job_keeps_the_rules(name: str, where: str) -> None:
    """Deadlines, drains, canaries, checks, settings, secrets, containers: see the rules."""
    assert jobspec_rules.broken(job_of(name, where), site(where)) == []


def test_var_files_say_the_same_things_and_nothing_idle() -> None:
    """Both sites set the same variables, and each variable is one of at least one job."""
    declared = {name for job in JOBS for name in jobspec.variables_of(parsed(job))}
    assert values("dev").keys() == values("prod").keys() == declared


@pytest.mark.parametrize("name", JOBS)
def test_no_job_declares_what_it_does_not_use(name: str) -> None:
    """Every declared variable is used."""
    text = path_of(name).read_text()
    assert [variable for variable in jobspec.variables_of(parsed(name)) if f"var.{variable}" not in text] == []


# What is a secret, or belongs to one: the variables of the groups have it, under its own name.
BESIDE_SECRETS: Final = re.compile(
    r"GREENROOM_(TWILIO|TELNYX|PLIVO|EXOTEL|VOBIZ|DAILY)_|LIVEKIT_|GREENROOM_TURN_SECRET$|GREENROOM_SUMMARY_KEY$"
)
# What is the same for every installation, or set there by who has measured something.
DEFAULTS_DO: Final = re.compile(
    r"GREENROOM_(LOG_LEVEL|TRACE_CONTENT|CALL_(ANSWER|HOLD_PAUSE)_S|TURN_LIFETIME_S|RECORDING_LINK_S|API_MAX_\w+|MEDIA_\w+"
    r"|WEBHOOK_ALLOW_HTTP|WEBHOOK_KEYS_DIR|RECORDING_KEYS_DIR|RECORDING_MISSING_S|DATABASE_CONNECTIONS|EVENT_BATCH\w*"
    r"|AUDIO_BATCH|MAX_OPEN_PARTS|SEAL_AT_ONCE|BUDGET_INTERVAL_S|PURGE_GRACE_S|RECORDER_WORK|POST_CALL_TIMEOUT_S"
    r"|POST_CALL_AT_ONCE|SUMMARY_PROMPT|MEETING_NOTES_PROMPT)$"
)


@pytest.mark.parametrize(("name", "settings"), [("api", ApiSettings), ("recorder", RecorderSettings)])
def test_what_an_installation_has_to_say_has_a_variable(
    name: str, settings: type[ApiSettings | RecorderSettings]
) -> None:
    """Each setting is given by the job, or is beside the secrets, or is left to its default; and nothing is both."""
    known = {row.env for row in describe(settings)}
    given = jobspec_rules.variables_of(main_task(job_of(name))).keys() & known
    beside, left = ({one for one in known if pattern.match(one)} for pattern in (BESIDE_SECRETS, DEFAULTS_DO))
    assert known - given - beside - left == set()
    assert (given & beside, given & left, beside & left) == (set(), set(), set())


@pytest.mark.parametrize("name", ["api", "recorder"])
def test_what_both_have_to_know_is_said_once(name: str) -> None:
    """Recordings, keys and webhooks are the same for the api and the recorder, by the same variables, described."""
    text = path_of(name).read_text()
    for variable in ("recordings_url", "recording_keys", "webhook_keys", "webhook_allow"):
        assert re.search(rf"\bGREENROOM_{variable.upper()} += var\.{variable}\n", text)
        assert jobspec.variables_of(parsed(name))[variable]["description"]


def test_in_production_a_deployment_cuts_no_call_of_usual_length() -> None:
    """What carries calls drains for as long as a call may last, and the cold runner runs as long as both."""
    longest_s = Limits().max_duration_s + Limits().end_timeout_s
    for name in ("api", "runner", "runner-cold"):
        drain_s = float(block(main_task(job_of(name)), "env")["GREENROOM_DRAIN_TIMEOUT_S"])
        assert drain_s >= longest_s
    cold = only_group(job_of("runner-cold"))
    assert seconds(cold["max_run_duration"]) > longest_s + RunnerSettings().claim_timeout_s


def test_the_scheduler_finds_the_jobs_that_it_launches() -> None:
    """The names in its own job are those of the runners' jobs and of the group that is scaled."""
    settings = load(SchedulerSettings, jobspec_rules.variables_of(main_task(job_of("scheduler"))) | {"NOMAD_ADDR": "x"})
    names = JobNames(runner=settings.nomad_runner_job, cold=settings.nomad_cold_job, group=settings.nomad_runner_group)
    pool = values("prod")["pool"]
    assert names.runner_job(pool) == job_of("runner")["id"]
    assert names.cold_job(pool) == job_of("runner-cold")["id"]
    assert list(labelled(job_of("runner"), "group")) == [names.group]


def test_a_lame_duck_is_given_its_time() -> None:
    """NATS is stopped by the signal that sends its clients away, and not killed before they have gone."""
    task = main_task(job_of("nats"))
    conf = (NOMAD / "nats" / "server.conf").read_text()
    (lame_s,) = (seconds(line.split('"')[1]) for line in conf.splitlines() if line.startswith("lame_duck_duration"))
    assert task["kill_signal"] == "SIGUSR2"
    assert lame_s < seconds(task["kill_timeout"])


def test_nats_servers_are_on_hosts_of_their_own() -> None:
    """One loses one: three on distinct hosts, none elsewhere while its node is away."""
    job = job_of("nats")
    group = only_group(job)
    assert group["count"] == 3
    assert group["constraint"] == [{"operator": "distinct_hosts", "value": "true"}]
    assert block(group, "disconnect")["replace"] is False
    assert block(job, "update")["max_parallel"] == 1


def test_each_service_logs_in_as_itself() -> None:
    """The login in a job's NATS_URL is that of its service, and the secret that it reads is its own."""
    for name, login in (("api", "api"), ("scheduler", "scheduler"), ("runner", "runner"), ("recorder", "recorder")):
        data = next(each["data"] for each in main_task(job_of(name))["template"] if "NATS_URL" in each["data"])
        assert f"tls://{login}:{{{{ $secret.nats_password }}}}@" in data
        assert f'nomadVar "nomad/jobs/{name}"' in data
    (cold,) = (each["data"] for each in main_task(job_of("runner-cold"))["template"] if "NATS_URL" in each["data"])
    assert 'nomadVar "nomad/jobs/runner"' in cold


@pytest.mark.parametrize(
    "text",
    [
        'variable "a" { type = string }\njob "x" { namespace = var.a }',
        'variable "a" { type = number }\njob "x" { namespace = var.b }',
        'job "x" { namespace = "${upper("x")}" }',
        'locals { a = 1 }\njob "x" { priority = 1 }',
    ],
)
def test_jobs_stay_plain(text: str, tmp_path: Path) -> None:
    """A variable without a value or of another type, a function, a local: nothing of it is let through."""
    with pytest.raises(JobspecError):
        jobspec.evaluate(jobspec.parse(text), {"b": 1, "a": 1} if "var.b" in text else {}, tmp_path)
