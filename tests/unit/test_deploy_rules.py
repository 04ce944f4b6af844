"""The checks of the jobs can fail: each is shown a job that is broken in the way it is there for."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support import jobspec_rules, jobspec_schema
from tests.support.deployed_jobs import job_of, main_task, only_group, site
from tests.support.jobspec import Body, block, labelled

type Break = Callable[[Body], None]


def _in_update(**changes: Any) -> Break:
    return lambda job: block(job, "update").update(changes)


def _in_group(**changes: Any) -> Break:
    return lambda job: only_group(job).update(changes)


def _in_task(**changes: Any) -> Break:
    return lambda job: main_task(job).update(changes)


def _in_env(**changes: Any) -> Break:
    return lambda job: block(main_task(job), "env").update(changes)


def _in_config(**changes: Any) -> Break:
    return lambda job: block(main_task(job), "config").update(changes)


def _in_cold(**changes: Any) -> Break:
    return lambda job: block(job, "parameterized").update(changes)


def _in_first_check(**changes: Any) -> Break:
    return lambda job: block(block(only_group(job), "service"), "check").update(changes)


def _in_template(number: int, **changes: Any) -> Break:
    return lambda job: main_task(job)["template"][number].update(changes)


BREAKS: Final[list[tuple[str, str, Break]]] = [
    ("deadlines_in_order", "api", _in_update(healthy_deadline="3h")),
    ("deadlines_in_order", "nats", _in_update(min_healthy_time="5m")),
    ("time_to_stop", "runner", _in_update(progress_deadline="2h")),
    ("time_to_stop", "runner-cold", _in_task(kill_timeout="131m")),
    ("time_to_stop", "postgres", lambda job: main_task(job).pop("kill_timeout")),
    ("drain_fits", "runner", _in_env(GREENROOM_DRAIN_TIMEOUT_S="7500")),
    ("drain_fits", "scheduler", _in_task(kill_timeout="15s")),
    ("canaries", "recorder", _in_update(canary=0)),
    ("canaries", "runner", _in_update(canary=1)),
    ("canaries", "api", _in_update(auto_revert=False)),
    ("canaries", "runner", lambda job: only_group(job).update(volume=[{"x": {"per_alloc": True}}])),
    ("services_leave_first", "nats", _in_group(shutdown_delay="0s")),
    ("services_leave_first", "prometheus", lambda job: only_group(job).pop("shutdown_delay")),
    ("services_and_checks", "api", _in_first_check(type="script")),
    ("services_and_checks", "api", _in_first_check(port="ready")),
    ("services_and_checks", "api", _in_first_check(timeout="5s")),
    ("services_and_checks", "jaeger", lambda job: block(only_group(job), "service").update(provider="consul")),
    ("health_is_where_it_is_looked_for", "runner", _in_env(GREENROOM_HEALTH_PORT="8082")),
    ("health_is_where_it_is_looked_for", "runner", _in_env(GREENROOM_HEALTH_HOST="127.0.0.1")),
    ("health_is_where_it_is_looked_for", "api", _in_env(GREENROOM_API_PORT="80")),
    ("health_is_where_it_is_looked_for", "scheduler", _in_first_check(path="/health")),
    ("health_is_where_it_is_looked_for", "recorder", _in_config(ports=[])),
    ("health_is_where_it_is_looked_for", "runner", _in_first_check(check_restart=[{"limit": 3}])),
    ("reports_outlive_a_restart", "runner", _in_env(GREENROOM_REPORTS_DIR="/tmp/reports")),  # noqa: S108 a wrong one
    ("reports_outlive_a_restart", "runner", lambda job: block(main_task(job), "env").pop("GREENROOM_REPORTS_DIR")),
    ("reports_outlive_a_restart", "runner", lambda job: block(main_task(job), "env").pop("GREENROOM_HIDDEN")),
    ("settings_are_known", "runner", _in_env(GREENROOM_POOLS="default")),
    ("settings_are_known", "runner", _in_env(GREENROOM_SLOTS="many")),
    ("settings_are_known", "scheduler", _in_env(GREENROOM_NOMAD_COLD_JOB="runner")),
    ("settings_are_known", "runner-cold", _in_env(GREENROOM_CLAIM="${NOMAD_META_session_id}")),
    ("settings_are_known", "recorder", _in_template(0, data="NATS={{ env }}", env=True)),
    ("secrets_stay_out_of_the_job", "runner", _in_env(OPENAI_API_KEY="sk-1")),
    ("secrets_stay_out_of_the_job", "api", _in_env(DATABASE_URL="postgresql://greenroom:pw@db/greenroom")),
    ("secrets_stay_out_of_the_job", "api", _in_template(0, destination="local/service.env")),
    ("secrets_stay_out_of_the_job", "runner", _in_template(0, change_mode="restart")),
    ("secrets_stay_out_of_the_job", "nats", _in_template(1, change_signal="SIGHUP", change_mode="restart")),
    ("identity_without_end", "scheduler", _in_task(identity=[{"file": True, "ttl": "1h"}])),
    ("closed_containers", "runner", _in_config(readonly_rootfs=False)),
    ("closed_containers", "nats", _in_config(cap_drop=[])),
    ("closed_containers", "api", _in_config(pids_limit=0)),
    ("closed_containers", "api", _in_config(cap_add=["NET_ADMIN"])),
    ("closed_containers", "api", _in_task(driver="raw_exec")),
    ("resources_fit", "runner", _in_task(resources=[{"cpu": 1, "cores": 1, "memory": 1}])),
    ("resources_fit", "runner", _in_task(resources=[{"cpu": 1, "memory": 2, "memory_max": 1}])),
    ("volumes_are_mounted", "api", _in_task(volume_mount=[{"volume": "records", "destination": "/x"}])),
    ("volumes_are_mounted", "nats", _in_update(canary=1)),
    (
        "volumes_are_mounted",
        "postgres",
        lambda job: labelled(only_group(job), "volume")["database"].update(access_mode="single-node-multi-writer"),
    ),
    ("kinds_of_jobs", "runner-cold", lambda job: job.update(update=[{"max_parallel": 1}])),
    ("kinds_of_jobs", "runner-cold", lambda job: job.update(type="service")),
    ("kinds_of_jobs", "runner", _in_group(max_run_duration="1h")),
    ("kinds_of_jobs", "runner", _in_group(disconnect=[{"lost_after": "1h", "stop_on_client_after": "1h"}])),
    ("cold_starts", "runner-cold", _in_cold(payload="optional")),
    ("cold_starts", "runner-cold", _in_cold(meta_required=["tenant", "session_id", "epoch"])),
    ("cold_starts", "runner-cold", _in_cold(meta_optional=["pool"])),
    ("cold_runners_run_once", "runner-cold", _in_group(restart=[{"attempts": 1, "mode": "fail"}])),
    ("cold_runners_run_once", "runner-cold", _in_group(reschedule=[{"attempts": 1, "unlimited": False}])),
    ("cold_runners_run_once", "runner-cold", _in_group(disconnect=[{"replace": True}])),
    ("cold_runners_run_once", "runner-cold", _in_group(count=2)),
    ("cold_runners_run_once", "runner-cold", _in_group(max_run_duration="1h")),
    ("cold_starts", "runner-cold", _in_env(GREENROOM_CLAIM="${NOMAD_META_tenant}/${NOMAD_META_id}/1")),
]


@pytest.mark.parametrize(
    ("rule", "name", "damage"), BREAKS, ids=[f"{number}-{rule}-{name}" for number, (rule, name, _) in enumerate(BREAKS)]
)
def test_a_rule_notices_when_it_is_broken(rule: str, name: str, damage: Break) -> None:
    """A copy of a job that breaks it doesn't pass."""
    job = job_of(name)
    damage(job)
    assert [problem for problem in jobspec_rules.broken(job, site("prod")) if problem.startswith(f"{rule}: ")]


def test_every_rule_has_been_seen_to_fail() -> None:
    """No rule is there that can't fail: each is broken above at least once."""
    assert {rule for rule, _, _ in BREAKS} == {rule.__name__ for rule in jobspec_rules.RULES}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_in_group(shut_down_delay="1s"), "there is no shut_down_delay"),
        (_in_group(shutdown_delay="1 second"), "not duration"),
        (_in_group(count="4"), "not number"),
        (_in_config(cpu_hard_limit=True), "there is no cpu_hard_limit"),
        (_in_env(GREENROOM_SLOTS=[24]), "not printed"),
        (lambda job: job.update(update=job["update"] * 2), "comes 2 times"),
        (lambda job: job.update(service=[{"name": "x"}]), "there is no service"),
        (_in_task(template=[{"data": "", "destination": "", "envvars": True}]), "there is no envvars"),
        (_in_task(config="image"), "is no block"),
    ],
)
def test_the_table_notices_what_nomad_does_not_know(damage: Break, complaint: str) -> None:
    """Misspelled, misplaced, of the wrong type, or twice."""
    job = job_of("runner")
    damage(job)
    assert complaint in "\n".join(jobspec_schema.complaints(job))
