"""The answer to whoever waited for a session that ended before it had come far enough."""

from typing import Any, ClassVar

from greenroom.common import telemetry
from greenroom.common.errors import GreenroomError
from greenroom.common.lifecycle import Outcome, Session
from greenroom.common.reasons import Reason


class SessionEndedEarly(GreenroomError):
    """The session ended before it had come as far as `wait` asked for; the problem's `code` is the reason of its end.

    What the reason means and whether asking again may help is explained under the reason's own code; `outcome` and
    `session_id` are members of the problem. A session that was refused because of a limit or a budget is a 429 with
    `Retry-After`, one because its room is taken a 409.
    """

    code = "session-ended-early"
    status = 503
    title = "The session ended before it was ready"

    _STATUS: ClassVar = {Outcome.FAILED: 502, Outcome.CANCELED: 409, Outcome.COMPLETED: 409}
    _REFUSED: ClassVar = {
        Reason.LIMIT_REACHED.value: 429,
        Reason.BUDGET_REACHED.value: 429,
        Reason.ROOM_BUSY.value: 409,
    }

    def __init__(self, session: Session) -> None:
        """Tell of the end of `session`."""
        self._session = session
        reason = session.reason or ""
        # A bot may have ended it for a reason of its own.
        known = Reason(reason) if reason in set(Reason) else None
        self._retryable = known is not None and known.retryable
        soon = 1.0 if self._retryable else None
        text = session.detail if session.outcome is Outcome.REJECTED else None
        super().__init__(
            text or (known.summary if known else ""),
            retry_after_s=soon if session.retry_after_s is None else session.retry_after_s,
        )

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """See `GreenroomError.problem`."""
        session = self._session
        code = session.reason or self.code
        return {
            **super().problem(instance),
            "type": f"/errors/{code}",
            "status": self._status(session),
            "code": code,
            "retryable": self._retryable,
            "session_id": session.id,
            "outcome": session.outcome,
            "trace_id": telemetry.current_trace_id(),
        }

    def _status(self, session: Session) -> int:
        if session.outcome is Outcome.REJECTED and session.reason in self._REFUSED:
            return self._REFUSED[session.reason]
        return self._STATUS.get(session.outcome, self.status) if session.outcome else self.status
