"""How long the answer to a request is held back, until what, and what becomes of the session if nobody gets it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from greenroom.api.refusals import may_be_refused
from greenroom.api.schemas import CreateSession
from greenroom.common.errors import GreenroomError
from greenroom.common.lifecycle import Actor, Ended, Ending, Outcome, Session, State, Transition
from greenroom.common.policy import Policy
from greenroom.common.reasons import Reason

# The scheduler decides within milliseconds; where it can't, its caller doesn't have to wait for that.
DECISION_TIMEOUT_S: Final = 1.0
ENDS: Final = frozenset({State.ENDING, State.ENDED})
_PLACED: Final = frozenset({State.LEASED, State.STARTED, State.READY})

type Test = Callable[[Session], bool]
# Returns when the caller's connection is closed.
type Gone = Callable[[], Awaitable[None]]


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """What is waited for.

    Attributes:
        reached: whether a session has come as far as its caller asked for.
        until: what ends the wait, beside the session's end.
        states: those that are worth a look at the ledger; empty: there is nothing to wait for.
        timeout_s: how long, at most.
        bound: whether the session is for this very connection: when it closes, nobody knows of the session.
    """

    reached: Test
    until: Test
    states: frozenset[State] = frozenset()
    timeout_s: float = 0.0
    bound: bool = False

    def over(self, session: Session) -> bool:
        """Tell whether the wait is over."""
        return self.until(session) or session.state in ENDS

    def answers(self, session: Session) -> bool:
        """Tell whether the session is an answer to what was asked for, rather than its end a problem."""
        return self.reached(session) and session.outcome is not Outcome.REJECTED


def patience(wish: CreateSession, session: Session, policy: Policy, *, unpaid: bool = False) -> Patience:
    """Return what the answer to a request waits for.

    Whoever doesn't ask to wait is still told if the session is refused, where a limit or its room may be a reason to,
    or a budget is one (`unpaid`).
    """
    match wish.wait:
        case "leased":
            states = _PLACED | ENDS
            return Patience(reached=_leased, until=_leased, states=states, timeout_s=wish.wait_timeout_s, bound=True)
        case "ready":
            states = frozenset({State.READY}) | ENDS
            return Patience(reached=_ready, until=_ready, states=states, timeout_s=wish.wait_timeout_s, bound=True)
        case "requested":
            if not unpaid and not may_be_refused(policy, session):
                return Patience(reached=_any, until=_any)
            return Patience(reached=_any, until=_leased, states=_PLACED | ENDS, timeout_s=DECISION_TIMEOUT_S)


async def unless_gone[T](work: Awaitable[T], gone: Gone) -> T | None:
    """Return what `work` returns, or None as soon as the caller is gone; then it is cancelled."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        # Both may be so by now: an answer that nobody gets is none.
        return None if leaving.done() else doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


def give_up(session: Session) -> Transition | None:
    """Return how a session ends whose caller closed the connection that waited for it; None: it ends already."""
    return _end(session, "client", Outcome.CANCELED, Reason.CALLER_GAVE_UP)


def unanswered(session: Session, error: GreenroomError) -> Transition | None:
    """Return how a session ends whose caller can't be told the way in; None: it ends already."""
    return _end(session, "api", Outcome.FAILED, Reason.TRANSPORT_FAILED, str(error))


def _end(session: Session, by: Actor, outcome: Outcome, reason: Reason, detail: str | None = None) -> Transition | None:
    match session.state:
        case State.REQUESTED:
            kind = Ended
        case State.LEASED | State.STARTED | State.READY:
            kind = Ending
        case State.ENDING | State.ENDED:
            return None
    return kind(by=by, epoch=session.epoch, outcome=outcome, reason=reason, detail=detail)


def _any(_session: Session) -> bool:
    return True


def _leased(session: Session) -> bool:
    return session.leased_at is not None


def _ready(session: Session) -> bool:
    return session.ready_at is not None
