"""The end of a session whose supervision broke: written past everything that may have been the cause."""

from typing import Final, cast

import structlog

from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, TopologyMissing
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Outcome, Session, Transition
from greenroom.common.reasons import Reason

_log = structlog.get_logger()

# How long it is tried while the broker is away; after that the scheduler finds the session missing here.
GIVE_UP_S: Final = 60.0
_RETRY_S: Final = 0.5


async def write_last_word(ledger: Ledger, clock: Clock, session: Session, error: Exception) -> None:
    """Write that a session has failed, if it is this runner's still and not over.

    Args:
        ledger: where to.
        clock: time.
        session: as it was leased to this runner.
        error: what broke; its type goes into the detail.
    """
    ended = Ended(
        by="runner",
        epoch=session.epoch,
        outcome=Outcome.FAILED,
        reason=Reason.PROCESS_KILLED,
        detail=f"the runner failed to supervise it ({_type_of(error)})",
    )

    def decide(now: Session) -> Transition | None:
        ours = (now.epoch, now.runner_id) == (session.epoch, session.runner_id)
        return ended if ours and not now.ended else None

    give_up_at = clock.monotonic() + GIVE_UP_S
    while True:
        try:
            await ledger.move(session.tenant, session.id, decide)
            return
        except (BrokerUnavailable, TopologyMissing) as refused:
            if clock.monotonic() >= give_up_at:
                _log.error("session_end_unwritten", code=refused.code)
                return
        except GreenroomError as refused:
            _log.error("session_end_unwritten", code=refused.code)
            return
        await clock.sleep(_RETRY_S)


def _type_of(error: BaseException) -> str:
    """Return the type of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return type(error).__name__
