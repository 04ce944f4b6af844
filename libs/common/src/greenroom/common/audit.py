"""The table `audit`: who did what to whom, written where it is done and in the same transaction.

So what was done is in it, and what is in it was done. It is append-only (the table refuses anything else), and of a
session it has the id and counts, never what was said in it.
"""

import enum
from typing import Any, Final, Protocol

import msgspec

_INSERT: Final = """
INSERT INTO audit (actor, action, tenant, subject, detail) VALUES ($1, $2, $3, $4, $5::jsonb)
"""


class Action(enum.StrEnum):
    """What can stand in the column `action`."""

    # Somebody asked for a session to be erased; it was; so were parts of it, by their rule.
    ERASURE_REQUESTED = "session.erasure_requested"
    ERASED = "session.erased"
    RECORDING_DELETED = "recording.deleted"
    EVENTS_DELETED = "events.deleted"
    # A rule's deletion met a hold before it had begun.
    DELETION_WITHHELD = "deletion.withheld"
    # A daily run is over; its subject is the day that it was due.
    CLEANUP_COMPLETED = "cleanup_completed"

    RULE_SET = "retention.rule_set"
    RULE_DELETED = "retention.rule_deleted"
    HOLD_SET = "retention.hold_set"
    HOLD_LIFTED = "retention.hold_lifted"
    SESSION_HELD = "session.held"
    SESSION_RELEASED = "session.hold_lifted"

    # An administrator made a tenant's row or changed it; the state is told by two of their own.
    TENANT_CHANGED = "tenant.changed"
    TENANT_SUSPENDED = "tenant.suspended"
    TENANT_RESUMED = "tenant.resumed"

    # An operator told a runner something, and it obeyed; with `answered` false nobody knows.
    RUNNER_DRAINED = "runner.drained"
    RUNNER_RESUMED = "runner.resumed"
    RUNNER_STANDBY_SET = "runner.standby_set"


class Connection(Protocol):
    """What is needed of a connection to PostgreSQL (asyncpg comes without types)."""

    async def execute(self, query: str, *args: Any) -> Any:
        """Carry out a statement."""
        ...


def key_actor(key_id: str) -> str:
    """Return how an API key is named as an actor."""
    return f"key:{key_id}"


async def write(
    connection: Connection, *, actor: str, action: Action, tenant: str, subject: str, **detail: Any
) -> None:
    """Add a line, within the transaction of what it tells of.

    Args:
        connection: inside that transaction.
        actor: who: see `key_actor`; of a service its name.
        action: what was done.
        tenant: whose; `*`: of each.
        subject: to what: a session's id, `{tenant}/{agent}`, or `{pool}/{runner}`.
        detail: numbers, names and times; no content of sessions.
    """
    text = msgspec.json.encode(detail).decode()
    await connection.execute(_INSERT, actor, action.value, tenant, subject, text)
