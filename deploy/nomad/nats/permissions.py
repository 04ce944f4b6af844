#!/usr/bin/env python3
"""Writes users.conf: who may publish and subscribe to what, as it follows from the catalogue of the wire.

    python deploy/nomad/nats/permissions.py > deploy/nomad/nats/users.conf

What somebody may publish is what the catalogue says is his; what he subscribes to, and what he asks of JetStream, is
said here. tests/unit/test_deploy_permissions.py fails when users.conf isn't what this writes, and
tests/integration/test_deploy_nats.py runs every service's own operations on a real server with it.
"""

import sys
from typing import Final

import msgspec

from greenroom.common import subjects, topology
from greenroom.common.message_catalog import CATALOG, Described
from greenroom.common.subjects import Subject

# Who the owners of the catalogue log in as. A session process is a fork of its runner and has the runner's connection
# settings, so the two can't be told apart.
LOGINS: Final = {
    "api": "api",
    "scheduler": "scheduler",
    "runner": "runner",
    "session process": "runner",
    "recorder": "recorder",
    "operator": "operator",
    "any service of the house": "publisher",
    # The server itself needs no login.
    "broker": "",
}
# Where replies and acknowledgements come in: nats-py's own prefix.
INBOX: Final = "_INBOX.>"
# Where a warm session process practises, with nobody listening but itself.
PRACTICE: Final = "_INBOX.practice.>"
# Where servers ask who somebody is that has none of these logins: a session process (runner/isolation/callout.py).
LOGINS_OF_SESSIONS: Final = "$SYS.REQ.USER.AUTH"

# Types of events that only one of those who publish events may use.
RECORDING_SAVED: Final = subjects.SESSION_EVENT.wildcard(type="recording_saved")
RECORDING_MISSING: Final = subjects.SESSION_EVENT.wildcard(type="recording.missing")
CALLS: Final = subjects.SESSION_EVENT.wildcard(type="call_status")
ANSWERED_BY: Final = subjects.SESSION_EVENT.wildcard(type="call_answered_by")
DECIDED: Final = subjects.SESSION_EVENT.wildcard(type="scheduler.decision")
# What the recorder says of a call that is over; the steps that are run then are anybody's.
KEPT: Final = (
    subjects.SESSION_EVENT.wildcard(type="transcript.ready"),
    subjects.SESSION_EVENT.wildcard().removesuffix(">") + "post_call.>",
)
# Types without a dot are Greenroom's own.
FOREIGN: Final = subjects.SESSION_EVENT.wildcard().removesuffix(">") + "*.>"
# Told by people, and by the scheduler, which retires idle runners.
DRAINS: Final = subjects.RUNNER_CMD.wildcard(name="drain")
RECORDER_LEADS: Final = subjects.LEADER.format(name="recorder")
STORED: Final = subjects.SESSION_STORED.wildcard()
# Streams that say in their messages, and not in subjects, which session they are about.
NAMING_SESSIONS: Final = ("TICKETS", "IDEMPOTENCY", "CALLS", "DECISIONS", "PARKED")
LIFECYCLE: Final = subjects.SESSION_LIFECYCLE.wildcard()
HEARTBEATS: Final = subjects.RUNNER_HEARTBEAT.wildcard()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """What one login may do.

    Attributes:
        name: of the login.
        publish: subjects, wildcards included.
        never: of those, which ones not.
        subscribe: likewise.
        responds: may answer what it received, once and within 30 s, whatever the reply's subject.
    """

    name: str
    publish: tuple[str, ...]
    never: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = (INBOX,)
    responds: bool = False


def users() -> tuple[User, ...]:
    """Return all logins of the account, each with the least that its service can do its work with."""
    return (
        User(
            name="api",
            publish=(
                *owned("api"),
                ANSWERED_BY,
                *_reads_last("SESSIONS", subjects.SESSION_LIFECYCLE),
                *_reads_last("TICKETS", subjects.TICKET),
                *_reads_last("IDEMPOTENCY", subjects.IDEMPOTENCY),
                *_reads_last("LEADERS", subjects.LEADER),
                *_reads_last("POLICY", subjects.POLICY),
                *_reads_last("SECRETS", subjects.SECRET),
                *_reads_last("CALLS", subjects.CALL),
                *_reads_last("CALLS", subjects.WEBHOOK),
                *_reads_last("CALLS", subjects.ROOMS),
                *_follows("SESSIONS"),
                *_follows("POLICY"),
                *_pulls("api"),
                *_checks_topology(),
            ),
            subscribe=(
                INBOX,
                HEARTBEATS,
                STORED,
                subjects.SESSION_MEDIA.wildcard(direction="out"),
                subjects.SESSION_TAP.wildcard(direction="listen"),
                subjects.SESSION_ASK.wildcard(name="transfer"),
            ),
            responds=True,
        ),
        User(
            name="scheduler",
            publish=(
                *sorted({*owned("scheduler"), DECIDED, DRAINS}),
                *_reads_last("SESSIONS", subjects.SESSION_LIFECYCLE),
                *_reads_last("LEADERS", subjects.LEADER),
                *_reads_last("POLICY", subjects.POLICY),
                *_follows("SESSIONS"),
                *_follows("POLICY"),
                *_checks_topology(),
            ),
            never=(RECORDER_LEADS,),
            subscribe=(INBOX, HEARTBEATS, subjects.REQUEST.wildcard(service="scheduler")),
            responds=True,
        ),
        User(
            name="runner",
            publish=(
                *owned("runner"),
                PRACTICE,
                *_reads_last("SESSIONS", subjects.SESSION_LIFECYCLE),
                *_reads_last("SECRETS", subjects.SECRET),
                *_names_streams(),
            ),
            never=(RECORDING_SAVED, RECORDING_MISSING, DECIDED, *KEPT),
            subscribe=(
                INBOX,
                LOGINS_OF_SESSIONS,
                LIFECYCLE,
                subjects.RUNNER_CMD.wildcard(),
                subjects.SESSION_CMD.wildcard(),
                subjects.SESSION_MEDIA.wildcard(direction="in"),
                subjects.SESSION_TAP.wildcard(direction="barge"),
            ),
            responds=True,
        ),
        User(
            name="recorder",
            publish=(
                *owned("recorder"),
                RECORDING_MISSING,
                *KEPT,
                *_reads_last("SESSIONS", subjects.SESSION_LIFECYCLE),
                f"$JS.API.DIRECT.GET.LEADERS.{RECORDER_LEADS}",
                *_follows("SESSIONS"),
                f"$JS.API.DIRECT.GET.POLICY.{subjects.POLICY.format(name='spending')}",
                *_pulls("recorder"),
                *_forgets(),
                *_checks_topology(),
            ),
        ),
        User(
            name="operator",
            # Makes, changes, backs up and restores streams, with `greenroom topology` and `nats`; puts parked messages
            # back, with `greenroom parked replay`.
            publish=(*owned("operator"), *replays(), "$JS.API.>", "$JS.SNAPSHOT.>", "$JS.ACK.>", "$JS.FC.>"),
            subscribe=(INBOX, HEARTBEATS, "$JS.EVENT.>"),
        ),
        # Other services of the house: a pattern for logins of their own, each for the types that begin with its name.
        User(name="publisher", publish=(FOREIGN,), never=(RECORDING_MISSING, DECIDED, *KEPT)),
    )


def owned(login: str) -> tuple[str, ...]:
    """Return the subjects that the catalogue says are published by those who log in as `login`."""
    return tuple(dict.fromkeys(_published(row, login) for row in CATALOG if login in _logins(row)))


def _logins(row: Described) -> set[str]:
    return {LOGINS[owner.strip()] for owner in row.owner.split(",")}


def _published(row: Described, login: str) -> str:
    """Return what `login` may publish of a row: the whole, except where several share a subject."""
    match row.subject, login:
        case subjects.SESSION_EVENT, "recorder" | "api":
            return {"recorder": RECORDING_SAVED, "api": CALLS}[login]
        case subjects.LEADER, "recorder":
            return RECORDER_LEADS
        case subjects.SESSION_MEDIA, _:
            return row.subject.wildcard(direction={"api": "in", "runner": "out"}[login])
        case subjects.SESSION_TAP, _:
            return row.subject.wildcard(direction={"api": "barge", "runner": "listen"}[login])
        case subjects.REQUEST, _:
            return row.subject.wildcard(service="scheduler", name=row.name or "")
        case _:
            return row.subject.wildcard(**({} if row.name is None else {row.subject.fields[-1]: row.name}))


def _reads_last(stream: str, subject: Subject) -> tuple[str, ...]:
    """Direct reads: the server takes them on a subject that ends with the one that is read."""
    return (f"$JS.API.DIRECT.GET.{stream}.{subject.wildcard()}",)


def _follows(stream: str) -> tuple[str, ...]:
    """Ordered readers make a consumer without acknowledgements or flow control; what it delivers comes to the inbox."""
    return (f"$JS.API.CONSUMER.CREATE.{stream}.*",)


def _pulls(service: str) -> tuple[str, ...]:
    """The durable consumers of a service, which are named after it: looked up, fetched from, acknowledged.

    Servers put domain and account in front of the stream in acknowledgements, or leave them out.
    """
    own = (consumer for consumer in topology.CONSUMERS if consumer.name.startswith(f"{service}-"))
    return tuple(
        subject
        for where in (f"{consumer.stream}.{consumer.name}" for consumer in own)
        for subject in (f"$JS.API.CONSUMER.MSG.NEXT.{where}", f"$JS.ACK.{where}.>", f"$JS.ACK.*.*.{where}.>")
    )


def replays() -> tuple[str, ...]:
    """What durable consumers are fed with may be parked, and put back; but the ledger's entries never are."""
    return tuple(subject for consumer in topology.CONSUMERS for subject in consumer.filters if subject != LIFECYCLE)


def _checks_topology() -> tuple[str, ...]:
    """Services look whether all streams and consumers are there, count what a stream holds, and never make any."""
    return (
        *(f"$JS.API.STREAM.INFO.{stream.name}" for stream in topology.STREAMS),
        *(f"$JS.API.CONSUMER.INFO.{consumer.stream}.{consumer.name}" for consumer in topology.CONSUMERS),
        *_names_streams(),
    )


def _forgets() -> tuple[str, ...]:
    """The recorder lets the broker forget sessions: those that are stored, and those that are erased."""
    return (
        *(f"$JS.API.STREAM.PURGE.{stream}" for stream in ("SESSIONS", "AUDIO", "SECRETS")),
        *(f"$JS.API.STREAM.MSG.DELETE.{stream}" for stream in NAMING_SESSIONS),
        *(consumer for stream in NAMING_SESSIONS for consumer in _follows(stream)),
    )


def _names_streams() -> tuple[str, ...]:
    """Whether no stream takes a subject, or only nobody answers for it now."""
    return ("$JS.API.STREAM.NAMES",)


def render() -> str:
    """Return users.conf."""
    lines = [
        "# Written by permissions.py beside it from the catalogue of the wire; not to be edited.",
        "# The passwords are variables of passwords.conf, which the job makes from Nomad's variables.",
        'include "passwords.conf"',
        "accounts {",
        "  GREENROOM {",
        "    jetstream: enabled",
        "    users: [",
        *(line for user in users() for line in _render_user(user)),
        "    ]",
        "  }",
        "  SYS { users: [{ user: admin, password: $ADMIN_PASSWORD }] }",
        "}",
        "system_account: SYS",
        "authorization {",
        "  auth_callout {",
        "    account: GREENROOM",
        "    issuer: $SESSION_ISSUER",
        f"    auth_users: [{', '.join([*(user.name for user in users()), 'admin'])}]",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _render_user(user: User) -> list[str]:
    lines = [
        "      {",
        f"        user: {user.name}",
        f"        password: ${user.name.upper()}_PASSWORD",
        "        permissions {",
        *_render_list("publish", "allow", user.publish, closed=not user.never),
    ]
    if user.never:
        lines += [f"            deny: [{', '.join(map(_quoted, user.never))}]", "          }"]
    lines += _render_list("subscribe", "allow", user.subscribe)
    if user.responds:
        lines.append("          allow_responses: { max: 1, expires: 30s }")
    return [*lines, "        }", "      }"]


def _render_list(kind: str, rule: str, allowed: tuple[str, ...], *, closed: bool = True) -> list[str]:
    lines = [f"          {kind} {{", f"            {rule}: ["]
    lines += [f"              {_quoted(subject)}" for subject in allowed]
    return [*lines, "            ]", *(["          }"] if closed else [])]


def _quoted(subject: str) -> str:
    return f'"{subject}"'


if __name__ == "__main__":
    sys.stdout.write(render())
