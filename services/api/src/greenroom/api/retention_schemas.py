"""What goes in and out where it is decided how long sessions are kept. Fields are only ever added."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from greenroom.api.examples import SESSION_ID
from greenroom.common.retention import Rule

# A hundred years.
MAX_DAYS: Final = 36_525

type Days = Annotated[int, Meta(ge=0, le=MAX_DAYS)]
# No control characters: PostgreSQL has no NUL, and reasons are shown on terminals.
type HoldReason = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}(?!\n)$")]


class RuleWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many days after a session's end what of it is kept; null: for ever."""

    recordings_days: Annotated[Days | None, Meta(description="The recording and its manifest")] = None
    events_days: Annotated[Days | None, Meta(description="What happened and was said")] = None
    sessions_days: Annotated[Days | None, Meta(description="The session itself, and all of the above")] = None

    def rule(self, tenant: str, agent: str) -> Rule:
        """Return the rule for a tenant's agent."""
        return Rule(
            tenant=tenant,
            agent=agent,
            recordings_days=self.recordings_days,
            events_days=self.events_days,
            sessions_days=self.sessions_days,
        )


class HoldWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why something is held; for those who read it later."""

    reason: Annotated[HoldReason, Meta(description="No content of sessions: it is audited")] = ""


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """A rule; of all that concern a session the most specific one holds, as a whole."""

    tenant: str
    agent: str
    recordings_days: int | None
    events_days: int | None
    sessions_days: int | None
    changed_at: datetime | None = None


class HoldView(msgspec.Struct, frozen=True, kw_only=True):
    """A hold on the sessions of a tenant and agent."""

    tenant: str
    agent: str
    reason: str
    since: datetime


class SessionHoldView(msgspec.Struct, frozen=True, kw_only=True):
    """A hold on one session."""

    session_id: str
    reason: str
    since: datetime


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """What a daily run deleted."""

    due_at: datetime
    finished_at: datetime
    recordings: int
    events: int
    sessions: int


class RetentionView(msgspec.Struct, frozen=True, kw_only=True):
    """How long what is kept, what is held, and how far deleting has come."""

    rules: list[RuleView]
    holds: list[HoldView]
    # Of one session each; how many.
    sessions_held: int
    # To be deleted, and not done yet.
    waiting: int
    last_run: RunView | None


class ErasureView(msgspec.Struct, frozen=True, kw_only=True):
    """A session is going to be erased: that is written down and can't be lost."""

    session_id: str
    requested_at: datetime


_AT: Final = "2026-03-02T09:30:00Z"
RULE_WISH: Final[dict[str, Any]] = {"recordings_days": 30, "events_days": 90, "sessions_days": 365}
RULE: Final[dict[str, Any]] = {"tenant": "acme", "agent": "*", **RULE_WISH, "changed_at": _AT}
HOLD_WISH: Final[dict[str, Any]] = {"reason": "case 4711"}
HOLD: Final[dict[str, Any]] = {"tenant": "acme", "agent": "frontdesk", **HOLD_WISH, "since": _AT}
SESSION_HOLD: Final[dict[str, Any]] = {"session_id": SESSION_ID, **HOLD_WISH, "since": _AT}
ERASURE: Final[dict[str, Any]] = {"session_id": SESSION_ID, "requested_at": _AT}
RETENTION: Final[dict[str, Any]] = {
    "rules": [RULE],
    "holds": [HOLD],
    "sessions_held": 1,
    "waiting": 0,
    "last_run": {
        "due_at": "2026-03-02T02:30:00Z",
        "finished_at": "2026-03-02T02:31:07Z",
        "recordings": 412,
        "events": 398,
        "sessions": 120,
    },
}
