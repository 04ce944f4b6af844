"""What a plan consists of. An action says everything: carrying it out leaves nothing to decide."""

from collections.abc import Sequence

import msgspec

from greenroom.common.lifecycle import Ended, Leased, Requeued
from greenroom.common.reasons import Reason


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Grant a slot to a waiting session, and ask its runner to start it."""

    session_id: str
    transition: Leased


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a runner to start the session that was leased to it by a scheduler which may not have got to that."""

    session_id: str


class Requeue(msgspec.Struct, frozen=True, kw_only=True):
    """Let a session wait again: its lease ran out, or its runner is lost and it may be tried on another."""

    session_id: str
    transition: Requeued


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that has waited for as long as its caller would."""

    session_id: str
    transition: Ended


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that was tried as often as a session may be."""

    session_id: str
    transition: Ended


class MarkLost(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that went down with its runner and mustn't be tried again."""

    session_id: str
    transition: Ended


class EndUnheld(msgspec.Struct, frozen=True, kw_only=True):
    """End a session that was about to end and that no runner holds any more."""

    session_id: str
    transition: Ended


type Action = Lease | Ask | Requeue | Expire | GiveUp | MarkLost | EndUnheld


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A session that stays where it is: its place among those that wait in its pool, from 1, and why."""

    session_id: str
    position: int
    of: int
    reason: Reason
    # For people, e.g. `no free slot in pool default (4/4 busy)`.
    text: str

    def __str__(self) -> str:
        """Return it as the caller reads it, e.g. `2nd of 9: no free slot in pool default (4/4 busy)`."""
        return f"{_ordinal(self.position)} of {self.of}: {self.text}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, in this order, and why the others wait, first come first."""

    actions: Sequence[Action] = ()
    waiting: Sequence[Waiting] = ()


def _ordinal(number: int) -> str:
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
