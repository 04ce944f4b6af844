"""How a session ends because of its call, or because nobody is in its room: pure decisions for `Ledger.move`."""

from typing import Final

from greenroom.api.carriers.base import CallNews, Status
from greenroom.common.lifecycle import Ended, Ending, Outcome, Session, State, Transition
from greenroom.common.reasons import Reason

_NOT_PUT_THROUGH: Final = {
    Status.BUSY: (Outcome.EXPIRED, Reason.CALL_BUSY),
    Status.NO_ANSWER: (Outcome.EXPIRED, Reason.CALL_NOT_ANSWERED),
    Status.CANCELED: (Outcome.EXPIRED, Reason.CALL_NOT_ANSWERED),
    Status.FAILED: (Outcome.FAILED, Reason.CALL_NOT_PUT_THROUGH),
}


def hung_up(session: Session, news: CallNews) -> Transition | None:
    """Return how a session ends whose call is over; None: it ends already.

    A caller who was there has left; one who hung up while waiting gave up; one who was called and wasn't reached is
    what the carrier says of it.
    """
    if news.status is not None and news.status in _NOT_PUT_THROUGH:
        outcome, reason = _NOT_PUT_THROUGH[news.status]
        return _end(session, outcome, reason, news.cause or None)
    return left(session, news.cause or None)


def left(session: Session, detail: str | None) -> Transition | None:
    """Return how a session ends whose caller isn't there any more; None: it ends already."""
    if session.state is State.READY:
        return _end(session, Outcome.COMPLETED, Reason.CLIENT_LEFT, detail)
    return _end(session, Outcome.CANCELED, Reason.CALLER_GAVE_UP, detail)


def line_busy(session: Session) -> Transition | None:
    """Return how a session ends whose call is refused because no slot is free; None: it ends already."""
    return _end(session, Outcome.REJECTED, Reason.LINE_BUSY, None)


def _end(session: Session, outcome: Outcome, reason: Reason, detail: str | None) -> Transition | None:
    match session.state:
        case State.ENDING | State.ENDED:
            return None
        case State.REQUESTED:
            kind = Ended
        case State.LEASED | State.STARTED | State.READY:
            kind = Ending
    return kind(by="client", epoch=session.epoch, outcome=outcome, reason=reason, detail=detail)
