"""Sessions, heartbeats and fleets in few words, for tests of the scheduler's decisions."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from greenroom.common import lifecycle
from greenroom.common.budgets import Spent
from greenroom.common.lifecycle import Leased, Ready, Requested, Session, Started, Transition
from greenroom.common.messages import BotOffer, Heartbeat, HeldSession
from greenroom.common.policy import Policy
from greenroom.scheduler.actions import Action, ColdLease, Lease, RollBack, Waiting
from greenroom.scheduler.board import Board, Cold
from greenroom.scheduler.fleet import Fleet
from greenroom.scheduler.history import History
from greenroom.scheduler.settle import PlanLimits, Tracked

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ECHO = (BotOffer(name="echo"),)


def at(seconds: float) -> datetime:
    """Return the time so many seconds after the beginning."""
    return T0 + timedelta(seconds=seconds)


def session(session_id: str, *transitions: Transition, requested: float = 0, **fields: Any) -> Session:
    """Return a session after some transitions, all at the time of its request."""
    known: dict[str, Any] = {"tenant": "t", "agent": "a", "bot": "echo"} | fields
    document = Session(id=session_id, requested_at=T0, queue_deadline_at=T0, **known)
    result = lifecycle.apply(None, Requested(session=document), at(requested))
    for transition in transitions:
        result = lifecycle.apply(result, transition, at(requested))
    return result


def lease(runner_id: str, epoch: int = 1, expires: float = 5) -> Leased:
    """Return the transition that leases to a runner."""
    return Leased(runner_id=runner_id, epoch=epoch, expires_at=at(expires))


def running(session_id: str, runner_id: str, **fields: Any) -> Session:
    """Return a session that is ready on a runner."""
    return session(session_id, lease(runner_id), Started(runner_id=runner_id, epoch=1), Ready(epoch=1), **fields)


def heartbeat(
    runner_id: str = "r1", *, seq: int = 1, slots: int = 4, held: tuple[Session, ...] = (), **fields: Any
) -> Heartbeat:
    """Return a heartbeat of a runner that offers `echo` and holds some sessions."""
    sessions = tuple(
        HeldSession(session_id=each.id, tenant=each.tenant, epoch=each.epoch, phase=each.state, since=T0)
        for each in held
    )
    known: dict[str, Any] = {"pool": "default", "bots": ECHO, "standby": 1, "started_at": T0, "at": T0} | fields
    return Heartbeat(runner_id=runner_id, seq=seq, slots=slots, sessions=sessions, **known)


def fleet(*heartbeats: Heartbeat, heard: float = 0, hearing_since: float = -60) -> Fleet:
    """Return a fleet after some heartbeats that all came in at one time."""
    result = Fleet()
    result.ticked(at(hearing_since), connected=True)
    for each in heartbeats:
        result.heard(each, at(heard))
    return result


class Decided(NamedTuple):
    """A plan, and why the others wait once it is being carried out."""

    actions: Sequence[Action]
    waiting: Sequence[Waiting]

    @property
    def leased_to(self) -> dict[str, str]:
        """Which runner each session is leased to."""
        return {each.session_id: each.transition.runner_id for each in self.actions if isinstance(each, Lease)}

    @property
    def texts(self) -> list[str]:
        """What each session that waits is told."""
        return [str(each) for each in self.waiting]


def board_of(
    known: Fleet,
    sessions: Iterable[Tracked],
    limits: PlanLimits | None = None,
    policy: Policy | None = None,
    history: History | None = None,
    *,
    spent: tuple[Spent, ...] = (),
) -> Board:
    """Return a board that was told of some sessions."""
    board = Board(known, limits or PlanLimits(), policy, history=history, spent=spent)
    for tracked in sessions:
        board.session_changed(tracked)
    return board


def begin(board: Board, actions: Iterable[Action], now: datetime) -> None:
    """Tell a board that actions are under way, as the executor does."""
    for action in actions:
        if isinstance(action, RollBack):
            continue
        tracked = board.sessions[action.session_id]
        document = tracked.session
        if isinstance(action, Lease | ColdLease):
            document = lifecycle.apply(document, action.transition, now)
        board.session_changed(msgspec.structs.replace(tracked, session=document, busy=True))


def decide(
    now: float,
    known: Fleet,
    *sessions: Session | Tracked,
    seen: float = 0,
    limits: PlanLimits | None = None,
    policy: Policy | None = None,
    cold: Cold | None = None,
    history: History | None = None,
    spent: tuple[Spent, ...] = (),
) -> Decided:
    """Plan with sessions that this scheduler has seen at some time, and asked for itself."""
    tracked = [
        each if isinstance(each, Tracked) else Tracked(session=each, seen_at=at(seen), asked=True) for each in sessions
    ]
    board = board_of(known, tracked, limits, policy, history, spent=spent)
    actions = board.plan(at(now), cold).actions
    begin(board, actions, at(now))
    return Decided(actions, board.outlook().waiting())
