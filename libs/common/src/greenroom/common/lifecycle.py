"""The life of a session: one table, and the one function that moves a session along it.

Everything that affects the state of a session is in this file. The transitions are the messages of
the ledger; `apply` is pure and is used by everyone who writes (before the compare-and-set) and by
everyone who reads (the recorder, before it believes what it has read).
"""

import enum
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from greenroom.common.call_data import CallData
from greenroom.common.errors import IllegalTransition, StaleEpoch
from greenroom.common.recordings import RecordingChoice


class State(enum.StrEnum):
    """Where a session is."""

    REQUESTED = "requested"
    LEASED = "leased"
    STARTED = "started"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


class Outcome(enum.StrEnum):
    """How it went, once a session has ended.

    State and outcome are separate things: a call may end in order and have failed.
    """

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    LOST = "lost"


class OnLoss(enum.StrEnum):
    """What becomes of a session whose runner is lost."""

    NEVER = "never"
    BEFORE_MEDIA = "before_media"
    ALWAYS = "always"


class Priority(enum.StrEnum):
    """Which sessions are placed first while slots are short; within a class tenants take turns."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


type Actor = Literal["client", "api", "scheduler", "runner", "session", "recorder"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long each part of a session may take, in seconds."""

    # The caller's patience: after this a queued session is `expired`.
    queue_timeout_s: float = 30.0
    # From the lease to `ready`; a warm start takes 20 ms, a first import of a bot's models some seconds.
    start_timeout_s: float = 30.0
    # From `ready`: the default is Pipecat Cloud's, 2 h.
    max_duration_s: float = 7200.0
    # Nobody came: the time between `ready` and the first connection.
    join_timeout_s: float = 120.0
    # The end ladder as a whole, goodbye included.
    end_timeout_s: float = 10.0
    # How long before `max_duration_s` the bot hears that its time runs out, half of it at most; 0: it doesn't.
    ending_soon_s: float = 30.0
    # From the connection to the bot's first sound; 0: it may be silent as long as it likes.
    first_audio_timeout_s: float = 0.0
    # Audio comes in, but nothing moves through the pipeline; 0: for ever. A slow answer of a model is no such thing.
    no_progress_timeout_s: float = 60.0
    # Neither side speaks; 0: that is left to the pipeline's own idle limit.
    silence_timeout_s: float = 0.0
    # Everybody has left and may come back, where the transport allows that; 0: the session ends with the connection.
    rejoin_timeout_s: float = 0.0
    # How long it may wait for another runner when its own was lost; 0: as long as it might at first.
    requeue_timeout_s: float = 0.0

    @property
    def second_wait_s(self) -> float:
        """How long a session waits that had been running."""
        return self.requeue_timeout_s or self.queue_timeout_s


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """Which slot of which pin a session keeps filled; see greenroom.common.pins."""

    pin: str
    uid: str
    slot: int
    # 1 for the first session of the slot, one more for each that follows.
    generation: int


class BodyRef(msgspec.Struct, frozen=True, kw_only=True):
    """A body that is too large for the ledger, of the session that has this; see greenroom.common.bodies.

    `size_bytes` and `sha256` (hexadecimal) are those of its JSON, without spaces.
    """

    size_bytes: int
    sha256: str


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The room that a session is on its way to. It is kept for the session, beside the one that the session is in.

    `room` and `transport_info` are what the session's own will be.
    """

    id: str
    room: str | None = None
    transport_info: dict[str, str]
    at: datetime


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole document of a session, as each ledger message carries it.

    Times are UTC. `epoch` counts the leases that were granted: it fences what an old lease may still write.
    """

    id: str
    tenant: str
    agent: str
    bot: str
    agent_version: int = 1
    pool: str = "default"
    transport: str = "websocket"
    # What is public of the way that was prepared, e.g. the name of a room; secrets lie in SECRETS.
    transport_info: dict[str, str] = {}
    body: dict[str, Any] = {}
    # Where `body` is too large to stand here: it is empty then.
    body_ref: BodyRef | None = None
    config: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    limits: Limits = Limits()
    on_loss: OnLoss = OnLoss.BEFORE_MEDIA
    recording: RecordingChoice = RecordingChoice()
    traceparent: str | None = None

    # Where it may run and when: labels that a runner must have, labels that are preferred, its class in the queue.
    requires: dict[str, str] = {}
    prefers: dict[str, str] = {}
    priority: Priority = Priority.NORMAL
    # What limits count it by, beside tenant and agent: the conference room (one active session each), the carrier and
    # number of a phone call, and the accounts at providers that it uses, e.g. `openai/main`.
    room: str | None = None
    carrier: str | None = None
    number: str | None = None
    accounts: tuple[str, ...] = ()
    # Sessions of one key get the same version of the agent while a canary runs; None: each session decides anew.
    sticky_key: str | None = None
    # Who it is with, as the tenant calls him: his live session is found by that.
    user: str | None = None
    # An operator keeps it running; None: somebody asked for it.
    pin: Pinned | None = None
    # Of a phone call: who calls whom, and the carrier's ids.
    call: CallData | None = None

    state: State = State.REQUESTED
    epoch: int = 0
    # Counts the tries to run it: 1 from the request on, one more each time it is put back after a runner tried.
    attempt: int = 1
    runner_id: str | None = None
    lease_expires_at: datetime | None = None
    # The lease is on a runner that is being launched for this very session, and claims it when it is up.
    cold: bool = False
    # What tells the process that made the claim from another runner of the same id; None: nobody has, or didn't say.
    claim: str | None = None
    # Runners that refused this session, or let its lease run out.
    refused_by: tuple[str, ...] = ()
    # Whether somebody was connected in this attempt; decides for `on_loss = before_media`.
    media_connected: bool = False
    # Where it is going; None: it stays where it is. And the last move that came to its end there.
    moving: Move | None = None
    moved: str | None = None

    requested_at: datetime
    queue_deadline_at: datetime
    leased_at: datetime | None = None
    started_at: datetime | None = None
    ready_at: datetime | None = None
    ending_at: datetime | None = None
    ended_at: datetime | None = None

    outcome: Outcome | None = None
    reason: str | None = None
    # Who decided the end.
    ended_by: Actor | None = None
    detail: str | None = None
    # For whoever was refused: when asking again may go better, in seconds.
    retry_after_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self.state is State.ENDED


class Requested(msgspec.Struct, frozen=True, kw_only=True, tag="requested"):
    """Somebody asked for a session: the commit point of the system."""

    by: Actor = "api"
    session: Session


class Leased(msgspec.Struct, frozen=True, kw_only=True, tag="leased"):
    """The scheduler granted a slot of `runner_id` until `expires_at`, fenced by `epoch` (the previous one + 1).

    With `cold` the runner isn't there yet: it is launched for this session and claims it by itself. Until it has, the
    lease may be moved to a slot that has become free: the runner that is launched finds that its epoch is over.
    """

    by: Actor = "scheduler"
    runner_id: str
    epoch: int
    expires_at: datetime
    cold: bool = False
    # Which version of the agent runs; None leaves it as it was requested.
    agent_version: int | None = None


class Requeued(msgspec.Struct, frozen=True, kw_only=True, tag="requeued"):
    """A runner refused, a lease ran out, or a runner was lost and the agent allows another try."""

    by: Actor = "scheduler"
    epoch: int
    reason: str
    # Whether the runner that held the lease must not be asked again for this session.
    exclude_runner: bool = True
    # Whether it counts as a try: the runner was there and had a slot for it.
    tried: bool = True


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The runner that holds the lease has a process for the session: the fenced claim."""

    by: Actor = "runner"
    runner_id: str
    epoch: int
    # Which one claims: a cold runner that is launched twice is two processes with one id. Empty: of an older version.
    claim: str = ""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The pipeline runs: whoever connects now is answered."""

    by: Actor = "runner"
    epoch: int


class Connected(msgspec.Struct, frozen=True, kw_only=True, tag="connected"):
    """Somebody is on the line. Doesn't change the state; from here on a loss can't be undone unheard."""

    by: Actor = "runner"
    epoch: int
    # Of a phone call: what is known of it by now; None: nothing more than before.
    call: CallData | None = None


class Moving(msgspec.Struct, frozen=True, kw_only=True, tag="moving"):
    """The scheduler keeps another room for the session, beside its own: the cue for its runner to send the bot there.

    It ends with `Moved` or `Stayed`; a session that is put back, or ends, goes nowhere.
    """

    by: Actor = "scheduler"
    epoch: int
    id: str
    room: str | None = None
    transport_info: dict[str, str]


class Moved(msgspec.Struct, frozen=True, kw_only=True, tag="moved"):
    """The bot is in the other room, which is the session's now; the one that it was in is free."""

    by: Actor = "runner"
    epoch: int
    id: str


class Stayed(msgspec.Struct, frozen=True, kw_only=True, tag="stayed"):
    """The bot couldn't get into the other room, and is where it was; the other room is free."""

    by: Actor = "runner"
    epoch: int
    id: str
    detail: str = ""


class Ending(msgspec.Struct, frozen=True, kw_only=True, tag="ending"):
    """Somebody decided that the session ends; `outcome` and `reason` are what the end will say unless it goes worse."""

    by: Actor
    epoch: int
    outcome: Outcome = Outcome.COMPLETED
    reason: str
    detail: str | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The session is over, and its process (if there was one) has been seen to exit or its runner was lost."""

    by: Actor
    epoch: int
    outcome: Outcome
    reason: str
    detail: str | None = None
    retry_after_s: float | None = None


type Transition = Requested | Leased | Requeued | Started | Ready | Connected | Moving | Moved | Stayed | Ending | Ended

# The table. From each state: the transitions that are legal there and where they lead.
TABLE: Final[dict[State | None, dict[type, State]]] = {
    None: {Requested: State.REQUESTED},
    State.REQUESTED: {Leased: State.LEASED, Ended: State.ENDED},
    State.LEASED: {
        # Only a cold lease, which nobody has claimed yet, to a runner that is there: see `apply`.
        Leased: State.LEASED,
        Started: State.STARTED,
        Requeued: State.REQUESTED,
        Ending: State.ENDING,
        Ended: State.ENDED,
    },
    State.STARTED: {
        Ready: State.READY,
        Connected: State.STARTED,
        Requeued: State.REQUESTED,
        Ending: State.ENDING,
        Ended: State.ENDED,
    },
    State.READY: {
        Connected: State.READY,
        # One at a time, each with one end: see `apply`.
        Moving: State.READY,
        Moved: State.READY,
        Stayed: State.READY,
        Requeued: State.REQUESTED,
        Ending: State.ENDING,
        Ended: State.ENDED,
    },
    State.ENDING: {Ended: State.ENDED},
    State.ENDED: {},
}


def may_requeue(session: Session) -> bool:
    """Tell whether a session whose runner is lost may be tried again on another one."""
    if session.state in {State.REQUESTED, State.ENDING, State.ENDED}:
        return False
    if session.state is State.LEASED or session.on_loss is OnLoss.ALWAYS:
        return True
    return session.on_loss is OnLoss.BEFORE_MEDIA and not session.media_connected


def apply(session: Session | None, transition: Transition, at: datetime) -> Session:
    """Return the session after `transition`, made at `at` (UTC).

    Raises:
        IllegalTransition: the table has no such arc from the session's state.
        StaleEpoch: the transition belongs to a lease that is no longer the current one.
    """
    state = session.state if session else None
    target = TABLE[state].get(type(transition))
    if target is None:
        name = type(transition).__name__.lower()
        raise IllegalTransition(f"{name} isn't possible in state {state or 'none'}")
    if session is None or isinstance(transition, Requested):
        return _requested(transition, at)
    expected = session.epoch + 1 if isinstance(transition, Leased) else session.epoch
    if transition.epoch != expected:
        raise StaleEpoch(f"epoch {transition.epoch} isn't the current one, {session.epoch}")
    if isinstance(transition, Started) and transition.runner_id != session.runner_id:
        raise StaleEpoch(f"runner {transition.runner_id} doesn't hold the lease")
    if isinstance(transition, Leased) and state is State.LEASED and (transition.cold or not session.cold):
        raise IllegalTransition("only a cold lease can be moved, and only to a runner that is there")
    if isinstance(transition, Moving) and session.moving is not None:
        raise IllegalTransition("it is on its way to another room already")
    if isinstance(transition, Moved | Stayed) and (session.moving is None or session.moving.id != transition.id):
        raise IllegalTransition("it isn't on its way to that room")
    return msgspec.structs.replace(session, state=target, **_changes(session, transition, at))


def _requested(transition: Transition, at: datetime) -> Session:
    if not isinstance(transition, Requested):
        raise IllegalTransition("a session begins by being requested")
    deadline = at + timedelta(seconds=transition.session.limits.queue_timeout_s)
    return msgspec.structs.replace(
        transition.session, state=State.REQUESTED, epoch=0, attempt=1, requested_at=at, queue_deadline_at=deadline
    )


def _changes(session: Session, transition: Transition, at: datetime) -> dict[str, Any]:
    match transition:
        case Leased():
            return _leased(session, transition, at)
        case Requeued():
            return _requeued(session, transition, at)
        case Started() | Ready() | Connected():
            return _progress(session, transition, at)
        case Moving() | Moved() | Stayed():
            return _move(session, transition, at)
        case Ending() | Ended():
            when = {"ending_at": at} if isinstance(transition, Ending) else {"ended_at": at, "lease_expires_at": None}
            return {
                **when,
                # Who ends on the way has both rooms until he is gone.
                "moving": session.moving if isinstance(transition, Ending) else None,
                "outcome": transition.outcome,
                "reason": transition.reason,
                "ended_by": transition.by,
                "detail": transition.detail,
                "retry_after_s": transition.retry_after_s if isinstance(transition, Ended) else None,
            }
        case Requested():
            return {}


def _leased(session: Session, transition: Leased, at: datetime) -> dict[str, Any]:
    return {
        "epoch": transition.epoch,
        "runner_id": transition.runner_id,
        "lease_expires_at": transition.expires_at,
        "leased_at": at,
        "cold": transition.cold,
        "agent_version": session.agent_version if transition.agent_version is None else transition.agent_version,
    }


def _progress(session: Session, transition: Started | Ready | Connected, at: datetime) -> dict[str, Any]:
    if isinstance(transition, Connected):
        return {"media_connected": True, "call": transition.call or session.call}
    if isinstance(transition, Started):
        return {"started_at": at, "lease_expires_at": None, "claim": transition.claim or None}
    return {"ready_at": at}


def _move(session: Session, transition: Moving | Moved | Stayed, at: datetime) -> dict[str, Any]:
    if isinstance(transition, Moving):
        info = transition.transport_info
        return {"moving": Move(id=transition.id, room=transition.room, transport_info=info, at=at)}
    if isinstance(transition, Stayed) or session.moving is None:
        return {"moving": None}
    there = session.moving
    return {"room": there.room, "transport_info": there.transport_info, "moving": None, "moved": there.id}


def _requeued(session: Session, transition: Requeued, at: datetime) -> dict[str, Any]:
    refused = session.refused_by
    if transition.exclude_runner and session.runner_id and session.runner_id not in refused:
        refused = (*refused, session.runner_id)
    deadline = session.queue_deadline_at
    if session.state is not State.LEASED:
        # It had been running: the caller's patience starts anew, since the time on the lost runner wasn't waiting.
        deadline = at + timedelta(seconds=session.limits.second_wait_s)
    return {
        "attempt": session.attempt + transition.tried,
        "runner_id": None,
        "lease_expires_at": None,
        "cold": False,
        "claim": None,
        "refused_by": refused,
        "media_connected": False,
        # The next process begins in the room that the ledger names, wherever this one had come to.
        "moving": None,
        "queue_deadline_at": deadline,
        "leased_at": None,
        "started_at": None,
        "ready_at": None,
    }


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for state, arcs in TABLE.items():
        source = state or "[*]"
        lines += [f"    {source} --> {target}: {kind.__name__}" for kind, target in arcs.items()]
    lines.append(f"    {State.ENDED} --> [*]")
    return "\n".join(lines)
