"""Who may publish what on NATS follows from the catalogue of the wire."""

import importlib.util
import re
from functools import cache
from types import ModuleType
from typing import Any, Final

import pytest

from greenroom.common.message_catalog import CATALOG, Described
from tests.support.workspace import ROOT

NATS: Final = ROOT / "deploy" / "nomad" / "nats"


@cache
def permissions() -> ModuleType:
    """Return the generator, which is a script and no package's module."""
    spec = importlib.util.spec_from_file_location("permissions", NATS / "permissions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _users() -> dict[str, Any]:
    return {user.name: user for user in permissions().users()}


def _matches(pattern: str, subject: str) -> bool:
    """Tell whether `pattern` covers all of `subject`, which may have wildcards itself."""
    regex = re.escape(pattern).replace(r"\*", r"[^.>]+").replace(">", ".+")
    return re.fullmatch(regex, subject) is not None


def _may_publish(user: Any, subject: str) -> bool:
    return any(_matches(allowed, subject) for allowed in user.publish) and not any(
        _matches(forbidden, subject) for forbidden in user.never
    )


def _subject_of(row: Described) -> str:
    tokens = dict.fromkeys(row.subject.fields, "x")
    if row.name is not None:
        tokens[row.subject.fields[-1]] = row.name
    if "service" in tokens:
        tokens["service"] = "scheduler"
    return row.subject.format(**tokens)


def test_users_conf_is_what_the_catalogue_says() -> None:
    """`python deploy/nomad/nats/permissions.py > deploy/nomad/nats/users.conf` writes it."""
    assert (NATS / "users.conf").read_text() == permissions().render()


# A subject that several share is cut into parts: media by direction, events by type, leaders by name.
_SHARED: Final = {"gr.v1.session.{tenant}.{session_id}.event.{type*}", "gr.v1.leader.{name}"} | {
    "gr.v1.session.{tenant}.{session_id}.media.{direction}",
    "gr.v1.session.{tenant}.{session_id}.tap.{direction}",
}


@pytest.mark.parametrize("row", CATALOG, ids=lambda row: f"{row.subject.template}:{row.name}")
def test_only_owners_publish(row: Described) -> None:
    """Each message is published by those that the catalogue names; parked ones are put back by operators, too."""
    owners = {permissions().LOGINS[owner.strip()] for owner in row.owner.split(",")} - {""}
    if any(_matches(subject, _subject_of(row)) for subject in permissions().replays()):
        owners.add("operator")
    writers = {name for name, user in _users().items() if _may_publish(user, _subject_of(row))}
    if row.subject.template in _SHARED or row.name == "drain":
        assert writers <= owners | {"scheduler"}
    else:
        assert writers == owners


@pytest.mark.parametrize(
    ("subject", "writers"),
    [
        ("gr.v1.session.t.s.media.in", {"api"}),
        ("gr.v1.session.t.s.media.out", {"runner"}),
        ("gr.v1.session.t.s.tap.barge", {"api"}),
        ("gr.v1.session.t.s.tap.listen", {"runner"}),
        ("gr.v1.session.t.s.cmd.command", {"api"}),
        ("gr.v1.mailbox.t.s", {"api", "runner"}),
        ("gr.v1.posted.t.s", set[str]()),
        ("$JS.API.DIRECT.GET.COMMANDS.gr.v1.mailbox.t.s", {"api", "runner", "operator"}),
        ("gr.v1.session.t.s.event.user_spoke", {"runner", "operator"}),
        ("gr.v1.session.t.s.event.recording_saved", {"recorder", "operator"}),
        ("gr.v1.session.t.s.event.scheduler.decision", {"scheduler", "operator"}),
        ("gr.v1.session.t.s.event.crm.ticket_opened", {"runner", "publisher", "operator"}),
        ("gr.v1.session.t.s.lifecycle", {"api", "scheduler", "runner"}),
        ("gr.v1.session.t.s.event.transcript.ready", {"recorder", "operator"}),
        ("gr.v1.session.t.s.event.post_call.summary", {"recorder", "operator"}),
        ("gr.v1.postcall.t.s.summary", {"recorder", "operator"}),
        ("gr.v1.leader.scheduler-default", {"scheduler"}),
        ("gr.v1.runner.p.r.cmd.drain", {"api", "scheduler", "operator"}),
        ("gr.v1.leader.recorder", {"recorder"}),
        ("$JS.API.STREAM.DELETE.SESSIONS", {"operator"}),
        ("$JS.API.STREAM.PURGE.SESSIONS", {"recorder", "operator"}),
        ("$JS.API.CONSUMER.MSG.NEXT.AUDIO.recorder-audio", {"recorder", "operator"}),
    ],
)
def test_what_several_share_is_cut_into_parts(subject: str, writers: set[str]) -> None:
    """Nobody can speak for another where only a part of the subject tells who speaks."""
    assert {name for name, user in _users().items() if _may_publish(user, subject)} == writers


def test_an_owner_without_a_login_is_noticed() -> None:
    """Every owner that the catalogue names has a login, and every login is somebody's."""
    owners = {owner.strip() for row in CATALOG for owner in row.owner.split(",")}
    assert owners <= permissions().LOGINS.keys()
    assert set(permissions().LOGINS.values()) - {""} == set(_users())


def test_every_login_has_its_password() -> None:
    """The job's passwords.conf defines each variable that users.conf uses."""
    used = set(re.findall(r"password: \$(\w+)", (NATS / "users.conf").read_text()))
    job = (NATS.parent / "jobs" / "nats.nomad.hcl").read_text()
    assert used == set(re.findall(r"^ *(\w+_PASSWORD): ", job, re.MULTILINE))
