"""What a plan consists of. An action says everything: carrying it out leaves nothing to decide."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from greenroom.common.lifecycle import Ended, Leased, Requeued
from greenroom.common.policy import RolledBack
from greenroom.common.reasons import Reason
from greenroom.scheduler.held import Held


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why an action is taken: a code, the same for people, and the facts it was decided from (counts and names)."""

    reason: str
    text: str
    inputs: dict[str, Any] = {}


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Grant a slot to a waiting session, and ask its runner to start it."""

    decision: ClassVar[str] = "lease"
    session_id: str
    transition: Leased
    why: Why


class ColdLease(msgspec.Struct, frozen=True, kw_only=True):
    """Grant a waiting session a runner that is to be launched for it, and ask the launcher for that one."""

    decision: ClassVar[str] = "cold_start"
    session_id: str
    transition: Leased
    why: Why


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a runner to start the session that was leased to it by a scheduler which may not have got to that."""

    decision: ClassVar[str] = "reconcile"
    session_id: str
    why: Why


class AskLauncher(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the launcher for the runner of a cold lease, which another scheduler granted and may not have asked for."""

    decision: ClassVar[str] = "reconcile"
    session_id: str
    why: Why


class Requeue(msgspec.Struct, frozen=True, kw_only=True):
    """Let a session wait again: its lease ran out, or its runner is lost and it may be tried on another."""

    decision: ClassVar[str] = "requeue"
    session_id: str
    transition: Requeued
    why: Why


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that may not wait: a limit refuses it, or its room has a session; `held` says which limit."""

    decision: ClassVar[str] = "refuse"
    session_id: str
    transition: Ended
    why: Why
    held: Held | None = None


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that has waited for as long as its caller would."""

    decision: ClassVar[str] = "expire"
    session_id: str
    transition: Ended
    why: Why


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that was tried as often as a session may be."""

    decision: ClassVar[str] = "give_up"
    session_id: str
    transition: Ended
    why: Why


class MarkLost(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that went down with its runner and mustn't be tried again."""

    decision: ClassVar[str] = "lost"
    session_id: str
    transition: Ended
    why: Why


class EndUnheld(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that was about to end and that no runner holds any more."""

    decision: ClassVar[str] = "end"
    session_id: str
    transition: Ended
    why: Why


class EndOverdue(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that should long be over by its own limits, and that its runner hasn't ended."""

    decision: ClassVar[str] = "end"
    session_id: str
    transition: Ended
    why: Why


class RollBack(msgspec.Struct, frozen=True, kw_only=True):
    """Give an agent's canary to nobody any more, since too many of its starts fail. Concerns no single session."""

    decision: ClassVar[str] = "roll_back"
    rolled_back: RolledBack
    why: Why


type Ending = Refuse | Expire | GiveUp | MarkLost | EndUnheld | EndOverdue
type SessionAction = Lease | ColdLease | Ask | AskLauncher | Requeue | Ending
type Action = SessionAction | RollBack


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, in this order. Why the others wait is told by the board when somebody asks."""

    actions: Sequence[Action] = ()


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A session that stays where it is: its place among those that wait in its pool, from 1, and why."""

    session_id: str
    position: int
    of: int
    reason: Reason
    # For people, e.g. `tenant acme at 20/20`.
    text: str
    # Until the next slot of the kind that it waits for, and until that of its own, in seconds; None: can't be told.
    next_s: float | None = None
    expected_s: float | None = None

    def __str__(self) -> str:
        """Return it as the caller reads it, e.g. `2nd of 9: tenant acme at 20/20; next slot expected in ~14 s`."""
        expected = f"; next slot expected in ~{math.ceil(self.next_s)} s" if self.next_s is not None else ""
        return f"{_ordinal(self.position)} of {self.of}: {self.text}{expected}"


def _ordinal(number: int) -> str:
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
