"""The pure parts of the launcher for Nomad: names, what errors mean, what lists and events add up to."""

from typing import Any

import msgspec
import pytest

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.scheduler.launchers import nomad_wire as wire
from greenroom.scheduler.launchers.base import LauncherUnavailable, LaunchRefused
from greenroom.scheduler.launchers.nomad_errors import TABLE, Meaning, error_of
from greenroom.scheduler.launchers.nomad_names import JobNames, launch_of, ordinal_of
from greenroom.scheduler.launchers.nomad_picture import NomadPicture, no_capacity
from greenroom.scheduler.launchers.nomad_wire import Allocation, Evaluation, EventBatch, Job, Listing, Metric
from greenroom.scheduler.launchers.settings import LauncherSettings

_NAMES = JobNames(runner="runner-{pool}", cold="runner-cold-{pool}", group="runner")
_CHILD = "runner-cold-blue/dispatch-0190-1-1795224288-8fe96cb2"

# What Nomad 2.0 answers, word by word, and what it means here.
_ANSWERS = [
    (403, "Permission denied", Meaning.PERMANENT),
    (403, "ACL token not found", Meaning.PERMANENT),
    (500, "ACL token is invalid", Meaning.PERMANENT),
    (500, "ACL token expired", Meaning.WAIT),
    (403, "Job registration, dispatch, and scale are disabled by the scheduler configuration", Meaning.WAIT),
    (500, "parameterized job not found", Meaning.PERMANENT),
    (500, 'Specified job "runner" is not a parameterized job', Meaning.PERMANENT),
    (500, 'Specified job "runner-cold" is stopped', Meaning.PERMANENT),
    (500, "Dispatch request included unpermitted metadata keys: [x]", Meaning.PERMANENT),
    (500, "rpc error: Dispatch did not provide required meta keys: [session_id]", Meaning.PERMANENT),
    (500, "Payload is not provided but required by parameterized job", Meaning.PERMANENT),
    (500, "Payload provided but forbidden by parameterized job", Meaning.PERMANENT),
    (500, "Payload exceeds maximum size; 16385 > 16384", Meaning.PERMANENT),
    (400, "job scaling blocked due to active deployment", Meaning.WAIT),
    (500, "Enforcing job modify index 3: job exists with conflicting job modify index: 4", Meaning.WAIT),
    (400, "group count was less than scaling policy minimum: 0 < 1", Meaning.PERMANENT),
    (400, "group count was greater than scaling policy maximum: 9 > 8", Meaning.PERMANENT),
    (400, 'task group "x" specified for scaling does not exist in job', Meaning.PERMANENT),
    (400, 'jobs of type "system" can only be scaled to 1 or 0', Meaning.PERMANENT),
    (404, "job not found", Meaning.PERMANENT),
    (404, 'job "runner" not found', Meaning.PERMANENT),
    (500, "No cluster leader", Meaning.UNAVAILABLE),
    (500, "rpc error: Not ready to serve consistent reads", Meaning.UNAVAILABLE),
    (500, "No path to region", Meaning.UNAVAILABLE),
    (500, "leadership lost while committing log", Meaning.UNAVAILABLE),
    (500, "leadership transfer in progress", Meaning.UNAVAILABLE),
    (500, "node is not the leader", Meaning.UNAVAILABLE),
    (500, "timed out enqueuing operation", Meaning.UNAVAILABLE),
    (500, "raft is already shutdown", Meaning.UNAVAILABLE),
    (500, "no servers", Meaning.UNAVAILABLE),
    (500, "rpc error: failed to get conn: dial tcp 10.0.0.1:4647: connect: connection refused", Meaning.UNAVAILABLE),
    (500, "rpc error: EOF", Meaning.UNAVAILABLE),
    (500, "Unknown rpc method", Meaning.PERMANENT),
    # By their status alone.
    (401, "", Meaning.PERMANENT),
    (400, "Job ID does not match", Meaning.PERMANENT),
    (429, "Your IP is issuing too many concurrent connections", Meaning.WAIT),
    (503, "upstream", Meaning.UNAVAILABLE),
    (500, "something new", Meaning.WAIT),
]


@pytest.mark.parametrize(("status", "text", "meaning"), _ANSWERS, ids=[f"{s} {t[:40]}" for s, t, _ in _ANSWERS])
def test_an_answer_means_what_its_text_says(status: int, text: str, meaning: Meaning) -> None:
    """Not what its status says: nearly everything is 500. The text is shown to whoever has to act."""
    error = error_of(status, text + "\n", doing="dispatch runner-cold")
    assert text in error.detail
    assert error.detail.startswith("Nomad, dispatch runner-cold: ")
    match meaning:
        case Meaning.UNAVAILABLE:
            assert isinstance(error, LauncherUnavailable)
        case Meaning.PERMANENT:
            assert isinstance(error, LaunchRefused)
            assert (error.permanent, error.retry_after_s) == (True, None)
        case Meaning.WAIT:
            assert isinstance(error, LaunchRefused)
            assert not error.permanent
            assert (error.retry_after_s or 0) > 0


def test_every_text_that_is_known_is_tested() -> None:
    """And each is found by its own row, not by an earlier one."""
    found = [next((known.pattern for known in TABLE if known.matches(text)), None) for _, text, _ in _ANSWERS]
    assert {known.pattern for known in TABLE} == set(found) - {None}


# ---------------------------------------------------------------------------- names


def test_the_pool_and_the_launch_are_read_off_the_names() -> None:
    """Of runner jobs and of dispatched children, and of nothing else."""
    assert _NAMES.pool_of("runner-blue") == "blue"
    assert _NAMES.pool_of(_CHILD) == "blue"
    assert _NAMES.pool_of("postgres") is None
    assert _NAMES.pool_of("other/dispatch-0190-1-1795224288-8fe96cb2") is None
    assert launch_of(_CHILD) == "0190-1"
    assert launch_of("runner-cold-blue/dispatch-1795224288-8fe96cb2") is None
    assert launch_of("runner-blue") is None
    assert ordinal_of("runner-blue.runner[3]") == 3
    assert ordinal_of("odd") is None
    assert _CHILD.startswith(_NAMES.children)


def test_a_pool_whose_runner_job_would_be_anothers_cold_job_is_refused() -> None:
    """`runner-cold-x` can't be both."""
    with pytest.raises(LaunchRefused, match="rename"):
        _NAMES.runner_job("cold-x")
    assert _NAMES.cold_job("x") == "runner-cold-x"


def test_without_a_placeholder_a_job_is_that_of_the_default_pool() -> None:
    """For an installation that has one."""
    names = JobNames(runner="runner", cold="overflow", group="runner")
    assert (names.runner_job("default"), names.pool_of("runner")) == ("runner", "default")
    assert names.pool_of("runner-blue") is None
    with pytest.raises(LaunchRefused):
        names.cold_job("blue")


# ---------------------------------------------------------------------------- no room


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric(nodes_evaluated=3, dimension_exhausted={"memory": 3}), "memory exhausted on 3 nodes"),
        (
            Metric(nodes_evaluated=4, dimension_exhausted={"cpu": 1, "memory": 2}, constraint_filtered={"${a} = b": 1}),
            "memory exhausted on 2 nodes, cpu exhausted on 1 node, ${a} = b leaves out 1 node",
        ),
        (Metric(quota_exhausted=["memory"]), "quota exhausted: memory"),
        (Metric(), "no node is eligible"),
        (Metric(nodes_evaluated=2, nodes_filtered=2), "2 nodes don't fit"),
    ],
)
def test_why_there_is_no_room_is_said_in_words(metric: Metric, text: str) -> None:
    """With what is lacking most first."""
    assert no_capacity({"runner": metric}) == f"no capacity: {text}"


# ---------------------------------------------------------------------------- lists and events


def test_events_that_a_list_holds_already_change_nothing() -> None:
    """They may speak of what is gone; later ones count, each topic by the index of its own list."""
    picture = NomadPicture(_NAMES)
    picture.replace(_listing(10), _listing(12), _listing(14))
    picture.apply(_batch(10, "Allocation", _allocation("a1")))
    assert picture.instances("blue") == []
    picture.apply(_batch(11, "Allocation", _allocation("a1")))
    assert [each.id for each in picture.instances("blue")] == ["a1"]
    picture.apply(_batch(12, "Job", _job(), type_="JobRegistered"))
    assert len(picture.instances("blue")) == 1
    picture.apply(_batch(13, "Job", _job(), type_="JobRegistered"))
    assert {each.id for each in picture.instances("blue")} == {"a1", _CHILD}


def test_a_list_replaces_whatever_events_said() -> None:
    """Also when its index is lower: after a restore Nomad counts anew."""
    picture = NomadPicture(_NAMES)
    picture.apply(_batch(90, "Allocation", _allocation("a1")))
    picture.replace(_listing(5), _listing(5), _listing(5))
    assert picture.instances("blue") == []
    picture.apply(_batch(6, "Allocation", _allocation("a2")))
    assert [each.id for each in picture.instances("blue")] == ["a2"]


def test_an_allocation_on_a_lost_node_isnt_counted_on() -> None:
    """Nomad replaces it; if its node comes back it is there again."""
    picture = NomadPicture(_NAMES)
    picture.apply(_batch(1, "Allocation", _allocation("a1", ClientStatus="unknown")))
    assert picture.instances("blue") == []
    picture.apply(_batch(2, "Allocation", _allocation("a1")))
    assert [each.state for each in picture.instances("blue")] == ["running"]


def test_a_launch_is_pending_until_it_has_an_allocation_and_over_with_it() -> None:
    """It is never both, and never comes back by itself."""
    picture = NomadPicture(_NAMES)
    picture.note_launch(_CHILD, wire.at(0))
    assert [(each.id, each.state, each.launch_id) for each in picture.instances("blue")] == [
        (_CHILD, "pending", "0190-1")
    ]
    for status in ("pending", "running"):
        picture.apply(_batch(2, "Allocation", _allocation("a1", JobID=_CHILD, ClientStatus=status)))
        assert [(each.id, each.state) for each in picture.instances("blue")] == [("a1", status)]
    picture.apply(_batch(3, "Allocation", _allocation("a1", JobID=_CHILD, ClientStatus="complete")))
    assert picture.instances("blue") == []


def test_what_isnt_ours_is_left_out() -> None:
    """The namespace may hold other jobs."""
    picture = NomadPicture(_NAMES)
    picture.replace(
        _listing(1, Allocation(id="x", job_id="postgres")),
        _listing(1, Job(id="runner-cold-blue"), Job(id=_CHILD, status="dead")),
        _listing(1, Evaluation(id="e", job_id="postgres", status="blocked", failed={"g": Metric()})),
    )
    picture.apply(_batch(2, "Allocation", _allocation("y", JobID="postgres")))
    picture.apply(_batch(2, "Node", {"ID": "n"}))
    picture.apply(EventBatch())
    assert picture.instances("blue") == []
    assert picture.held_back("blue") is None


def test_a_group_that_lacks_room_is_held_back_until_its_evaluation_is_through() -> None:
    """One of its instances that found room doesn't mean that all did."""
    picture = NomadPicture(_NAMES)
    failed = {"runner": {"NodesEvaluated": 1, "DimensionExhausted": {"memory": 1}}}
    evaluation = {"ID": "e", "JobID": "runner-blue", "Status": "blocked", "FailedTGAllocs": failed}
    picture.apply(_batch(1, "Evaluation", evaluation))
    picture.apply(_batch(2, "Allocation", _allocation("a1")))
    assert picture.held_back("blue") == "no capacity: memory exhausted on 1 node"
    picture.apply(_batch(3, "Evaluation", {**evaluation, "Status": "complete", "FailedTGAllocs": None}))
    assert picture.held_back("blue") is None


def test_an_evaluation_that_is_read_late_holds_nothing_back() -> None:
    """What was looked up before its launch found room is older than the event of its allocation."""
    picture = NomadPicture(_NAMES)
    evaluation = Evaluation(id="e", job_id=_CHILD, status="complete", failed={"runner": Metric(nodes_evaluated=1)})
    picture.note_evaluation(evaluation)
    assert picture.held_back("blue") is not None
    picture.apply(_batch(1, "Allocation", _allocation("a1", JobID=_CHILD)))
    assert picture.held_back("blue") is None
    picture.note_evaluation(evaluation)
    assert picture.held_back("blue") is None


# ---------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"GREENROOM_LAUNCHER": "process"}, "GREENROOM_LAUNCHER_FOLDER must be set"),
        ({"GREENROOM_LAUNCHER": "nomad"}, "NOMAD_ADDR must be set, or NOMAD_SECRETS_DIR"),
        (
            {"GREENROOM_LAUNCHER": "nomad", "NOMAD_ADDR": "http://n", "GREENROOM_NOMAD_COLD_JOB": "a/b"},
            "'a/b' isn't the name of a Nomad job",
        ),
        (
            {
                "GREENROOM_LAUNCHER": "nomad",
                "NOMAD_ADDR": "http://n",
                "GREENROOM_NOMAD_COLD_JOB": "r",
                "GREENROOM_NOMAD_RUNNER_JOB": "r",
            },
            "must differ",
        ),
    ],
)
def test_what_a_launcher_needs_must_be_set(env: dict[str, str], text: str) -> None:
    """Said when the scheduler starts, not when the first launch fails."""
    with pytest.raises(SettingsInvalid, match=text):
        load(LauncherSettings, env)


def test_where_nomad_is_follows_from_what_nomad_sets() -> None:
    """In a task its socket and the token file in the secrets folder, unless an address is named."""
    in_task = {"GREENROOM_LAUNCHER": "nomad", "NOMAD_SECRETS_DIR": "/secrets"}
    settings = load(LauncherSettings, in_task)
    assert settings.nomad_address == "unix:///secrets/api.sock"
    assert str(settings.nomad_token_file) == "/secrets/nomad_token"
    named = load(LauncherSettings, {**in_task, "NOMAD_ADDR": "https://n:4646", "NOMAD_TOKEN": "secret"})
    assert named.nomad_address == "https://n:4646"
    assert "secret'" not in repr(named)


def _listing[T](index: int, *items: T) -> Listing[T]:
    return Listing(index=index, items=items)


def _allocation(id_: str, **fields: str) -> dict[str, Any]:
    base = {"ID": id_, "JobID": "runner-blue", "Name": "runner-blue.runner[0]", "ClientStatus": "running"}
    return {**base, **fields}


def _job() -> dict[str, Any]:
    return {"ID": _CHILD, "Status": "pending", "SubmitTime": 0}


def _batch(index: int, topic: str, what: dict[str, Any], type_: str = "x") -> EventBatch:
    line = {"Index": index, "Events": [{"Topic": topic, "Type": type_, "Key": "k", "Payload": {topic: what}}]}
    return wire.decode(msgspec.json.encode(line), EventBatch)
