"""Close codes of media sockets. docs/api.md explains them to clients."""

from typing import Final

from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.media_frames import Close

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
BOT_FAILED: Final = 1011
TRY_AGAIN: Final = 1013
BAD_TICKET: Final = 4001
SESSION_ENDED: Final = 4004
TOO_SLOW: Final = 4008
ALREADY_CONNECTED: Final = 4009

DRAINING: Final = Close(code=GOING_AWAY, reason="draining")
SLOW: Final = Close(code=TOO_SLOW, reason="too-slow")
BROKER_AWAY: Final = Close(code=TRY_AGAIN, reason="broker-unavailable")

_BY_OUTCOME: Final = {Outcome.COMPLETED: NORMAL, Outcome.FAILED: BOT_FAILED, Outcome.LOST: BOT_FAILED}


def code_of(outcome: Outcome | None) -> int:
    """Return the close code for how a session ended."""
    return _BY_OUTCOME.get(outcome, SESSION_ENDED) if outcome else SESSION_ENDED


def of_session(session: Session) -> Close:
    """Return how the socket of a session that has ended is closed: the reason is the session's."""
    return Close(code=code_of(session.outcome), reason=session.reason or State.ENDED)
