"""Says what was decided and what from, so that "why was this call not placed" has an answer a week later.

What concerns a session becomes an event of that session (`scheduler.decision`), which the recorder keeps with the
others; what concerns a pool goes to the stream of decisions. Saying so never holds a decision up: it goes out behind.
"""

from collections.abc import Mapping
from typing import Any, Final

from greenroom.common import messages, subjects, telemetry
from greenroom.common.clock import Clock
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Decision, Event, EventType
from greenroom.common.spool import Spool

_SOURCE: Final = "scheduler"


class Decisions:
    """Publishes decisions.

    Args:
        spool: to the broker, run by whoever made it.
        clock: time.
    """

    def __init__(self, spool: Spool, *, clock: Clock) -> None:
        # Of the policy by which is decided.
        self.policy_revision = 0
        self._spool = spool
        self._clock = clock

    def on_session(
        self, session: Session, decision: str, *, reason: str, text: str, inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Say what was decided about a session.

        Args:
            session: as it was when that was decided.
            decision: which kind, see `Decision`.
            reason: its code.
            text: for people.
            inputs: the facts that it was decided from.
        """
        said = Decision(
            decision=decision,
            at=self._clock.now(),
            reason=reason,
            text=text,
            inputs=dict(inputs or {}),
            policy_revision=self.policy_revision,
        )
        event = Event(
            id=uuid7(),
            tenant=session.tenant,
            session_id=session.id,
            type=EventType.SCHEDULER_DECISION,
            at=said.at,
            epoch=session.epoch,
            source=_SOURCE,
            data=messages.as_data(said),
        )
        subject = subjects.SESSION_EVENT.format(
            tenant=session.tenant, session_id=session.id, type=EventType.SCHEDULER_DECISION
        )
        headers = {telemetry.TRACEPARENT: session.traceparent} if session.traceparent else {}
        self._spool.put(subject, messages.encode(event), msg_id=event.id, headers=headers, droppable=True)

    def on_pool(self, pool: str, decision: Decision) -> None:
        """Say what was decided about a pool."""
        subject = subjects.DECISION.format(pool=pool)
        self._spool.put(subject, messages.encode(decision), msg_id=uuid7(), droppable=True)
