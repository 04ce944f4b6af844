"""Sessions, heartbeats and fleets in few words, for tests of the scheduler's decisions."""

from datetime import UTC, datetime, timedelta
from typing import Any

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Leased, Ready, Requested, Session, Started, Transition
from greenroom.common.messages import BotOffer, Heartbeat, HeldSession
from greenroom.scheduler import fleet as fleets
from greenroom.scheduler.fleet import Fleet

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
    result = fleets.ticked(Fleet(), at(hearing_since), connected=True)
    for each in heartbeats:
        result = fleets.heard(result, each, at(heard))
    return result
