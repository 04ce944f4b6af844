"""Sessions for tests of the ledger, and the check of what a ledger holds."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from greenroom.common import lifecycle
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, Transition

AT = datetime(2026, 1, 1, tzinfo=UTC)


def request(session_id: str | None = None, *, tenant: str = "acme") -> Requested:
    """Return a request for a session; times and state are those of whoever stores it."""
    session = Session(
        id=session_id or uuid7(), tenant=tenant, agent="frontdesk", bot="echo", requested_at=AT, queue_deadline_at=AT
    )
    return Requested(session=session)


def leased(epoch: int = 1, runner_id: str = "r1") -> Leased:
    """Return a lease."""
    return Leased(runner_id=runner_id, epoch=epoch, expires_at=AT + timedelta(seconds=30))


def call(epoch: int = 1, runner_id: str = "r1") -> list[Transition]:
    """Return the transitions of a call that goes well, from the lease on."""
    return [
        leased(epoch, runner_id),
        Started(runner_id=runner_id, epoch=epoch),
        Ready(epoch=epoch),
        Ended(by="runner", epoch=epoch, outcome=Outcome.FAILED, reason="process-exited"),
    ]


def assert_legal(history: Sequence[Entry]) -> None:
    """Make sure that a history is a path of the lifecycle table, each document following from the one before."""
    session: Session | None = None
    revision = 0
    for entry in history:
        assert entry.session == lifecycle.apply(session, entry.transition, entry.at)
        assert entry.revision > revision
        session, revision = entry.session, entry.revision
