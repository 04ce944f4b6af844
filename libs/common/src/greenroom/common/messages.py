"""Every message of the system: its struct, its subject, its kind, its stream and who owns it.

Fields are only ever added, with a default; a breaking change is a new struct with a new tag and
subject version. Constructors don't validate: messages are decoded, and so checked, at every edge.
"""

import enum
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from greenroom.common.lifecycle import Session, State, Transition
from greenroom.common.policy import RolledBack

# ---------------------------------------------------------------------------- the ledger


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger message: what happened, when, and the whole session after it."""

    id: str
    at: datetime
    transition: Transition
    session: Session
    # The trace of whoever wrote it (W3C traceparent).
    traceparent: str | None = None


# ---------------------------------------------------------------------------- events


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of everything that happens in a session.

    `seq` counts one source's events of one epoch from 1; 0 where the source doesn't count.
    """

    id: str
    tenant: str
    session_id: str
    type: str
    at: datetime
    seq: int = 0
    epoch: int = 0
    source: str = "external"
    data: dict[str, Any] = {}


class ExternalEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What other services publish: any part may be left out, and readers complete the envelope.

    The subject says the session and the type; `tenant`, `session_id` and `type`, if given, must agree with it.
    """

    id: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    type: str | None = None
    at: datetime | None = None
    seq: int = 0
    epoch: int = 0
    source: str = "external"
    data: dict[str, Any] = {}


class EventType(enum.StrEnum):
    """The event types that Greenroom itself publishes. The vocabulary is open: others add theirs."""

    CALL_STARTED = "call_started"
    CALL_CONNECTED = "call_connected"
    USER_SPOKE = "user_spoke"
    AGENT_SPOKE = "agent_spoke"
    TOOL_CALLED = "tool_called"
    NODE_ENTERED = "node_entered"
    NODE_TRANSITION = "node_transition"
    METRICS = "metrics"
    ERROR = "error"
    # Keys of the phone, pressed by the caller (`direction` is `in`) or sent by the bot (`out`).
    DTMF = "dtmf"
    # What a carrier says of a call, and who has answered it: somebody, or a machine.
    CALL_STATUS = "call_status"
    CALL_ANSWERED_BY = "call_answered_by"
    CALL_DISCONNECTED = "call_disconnected"
    # What else a room's provider says of it: `kind` (`participant_joined`, `dialin_connected` …), who, and states.
    TRANSPORT = "transport"
    # `seconds_left`: the longest duration is near, and the bot has been told.
    CALL_ENDING_SOON = "call_ending_soon"
    # `kind` (`first-audio`, `no-progress`), `for_s`: a watchdog waits for something that doesn't come.
    CALL_STALLED = "call_stalled"
    CALL_COMPLETED = "call_completed"
    RECORDING_SAVED = "recording_saved"
    # `connected_at`, `after_s`: somebody is connected, and no audio of the session comes.
    RECORDING_MISSING = "recording.missing"
    # `lines`: everything that was said is stored. (What steps found out is `post_call.{step}`.)
    TRANSCRIPT_READY = "transcript.ready"
    COMMAND = "command"
    BOT_HTTP = "bot_http"
    TRANSFER_REQUESTED = "transfer_requested"
    LISTENER_JOINED = "listener_joined"
    LISTENER_LEFT = "listener_left"
    # `listeners`: those who may speak into the call, one of whom does from now on.
    LISTENER_SPOKE = "listener_spoke"
    SCHEDULER_DECISION = "scheduler.decision"
    # By the runner, of the session's process: `bytes`, `warn_bytes`; and `cause`, `text`: where its threads were.
    MEMORY_HIGH = "memory_high"
    STACK_DUMP = "stack_dump"


# ---------------------------------------------------------------------------- audio


class AudioHeader(enum.StrEnum):
    """Headers of an audio chunk; the body is mono PCM, 16 bit little-endian, at most one second."""

    # 1, 2, … per track and epoch.
    SEQ = "Gr-Seq"
    EPOCH = "Gr-Epoch"
    # Index of the first sample on the session process's timeline.
    POSITION = "Gr-Position"
    # When sample 0 of that timeline was, in nanoseconds since 1970.
    ORIGIN_NS = "Gr-Origin-Ns"
    # Samples per second.
    RATE = "Gr-Rate"


type Track = Literal["user", "bot"]
# How a listener gets the two: mixed into one, or side by side.
type Tracks = Literal["mixed", "both"]


# ---------------------------------------------------------------------------- runners


class BotOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A bot that a runner can run."""

    name: str
    description: str = ""
    # Transports that the bot takes, for example `("websocket",)`.
    transports: tuple[str, ...] = ("websocket",)
    # The version of the agent that this runner runs; a rollout decides who gets which.
    version: int = 1
    # JSON Schema of the request's `body`; None takes any.
    body_schema: dict[str, Any] | None = None
    # Why it can't run here (its import failed), the last line of the traceback; it is never scheduled then.
    error: str | None = None
    # The end of that traceback, innermost call last; empty where there is none.
    traceback: str = ""
    # Names of the secrets that it needs, and of those that aren't here: it is never scheduled while there are any.
    secrets: tuple[str, ...] = ()
    missing_secrets: tuple[str, ...] = ()
    # What its sessions are expected to take until that is measured: `voice`, `tools`, `realtime`, `multimodal`; empty:
    # the bot doesn't say.
    resources: str = ""


class HeldSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that occupies a slot of a runner, whatever the ledger says."""

    session_id: str
    tenant: str
    epoch: int
    phase: State
    since: datetime


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a runner's host is."""

    # Share of all cores, 0..1.
    cpu: float = 0.0
    # Bytes still available on the host.
    memory_available: int = 0
    # Worst lateness of the runner's event loop since the last heartbeat, in milliseconds.
    loop_lag_ms: float = 0.0


class BotDensity(msgspec.Struct, frozen=True, kw_only=True):
    """What one session of a bot costs its host, as measured there, and how many more of them the host takes.

    `cores` of one processor and `memory` in bytes (its own) are means; `seen` counts the measurements, one each ten
    seconds of a session. With `seen` 0 they are those of the class that the bot says it is of. `more` is for sessions
    of this bot alone: of two bots, of one of which the host takes 4 more and of the other 2, it takes 2 and 1.
    """

    bot: str
    version: int = 1
    cores: float
    memory: int
    seen: int
    more: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner says of itself each second, and at once when it changes."""

    runner_id: str
    pool: str
    at: datetime
    # Grows with each heartbeat of one runner process.
    seq: int
    slots: int
    sessions: tuple[HeldSession, ...] = ()
    # Warm processes that wait for a session.
    standby: int = 0
    draining: bool = False
    bots: tuple[BotOffer, ...] = ()
    load: Load = Load()
    # Why it takes nothing more although it has slots: what was measured, e.g. `loop lag 80 ms`; None: it doesn't brake.
    brake: str | None = None
    # What sessions of its bots cost here; only bots that ran for long enough, or say what class they are of.
    density: tuple[BotDensity, ...] = ()
    # Whether `slots` is measured, not told. Then they are for the lightest of its bots, and of each it takes only as
    # many more as `density` says; of one that isn't there, as many as of the dearest.
    by_cost: bool = False
    # What sessions may require or prefer, e.g. `{"gpu": "l4", "region": "eu"}`.
    labels: dict[str, str] = {}
    # What the launcher knows it by: its allocation or its process; empty for a runner that was started by hand.
    instance: str = ""
    # Its number among the instances of a group whose size is set; a group shrinks from the highest.
    ordinal: int | None = None
    # The one session that it was launched for, as `{session_id}-{epoch}`: it takes no other.
    claim: str | None = None
    host: str = ""
    version: str = ""
    started_at: datetime


class StartSession(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler tells a runner to run a session it has leased to it.

    `revision` is the ledger revision of the lease, on which the runner's claim is made.
    """

    session: Session
    revision: int


class StartAccepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The runner has a slot and claims the session now. Said again for a start it already has."""

    session_id: str
    epoch: int


class StartRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The runner doesn't take it.

    `code` is `no-slot`, `draining`, `overloaded` (the host has all but no memory left; `detail` has the share),
    `bot-unknown` (not installed here, or in another version), `bot-import-failed`, `secret-missing`, `stale-epoch` or
    `malformed`.
    """

    code: str
    detail: str = ""


type StartAnswer = StartAccepted | StartRefused


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """No new sessions; the ones that run may finish.

    With `agent_version`, `bot` or both only bots of that version or name are withdrawn; a runner that has no others
    drains as a whole.
    """

    reason: str = ""
    agent_version: int | None = None
    bot: str | None = None


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """New sessions again: takes back every `Drain`. A runner that is being stopped goes on to drain."""

    reason: str = ""


class SetStandby(msgspec.Struct, frozen=True, kw_only=True):
    """So many warm processes shall wait; said again before `for_s` is over, or the runner's own setting holds again.

    The runner keeps within its bounds: never more than it has slots for, nor than 64.
    """

    target: int
    for_s: float = 60.0


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A command was carried out; with `done` false it wasn't, and `detail` says why."""

    detail: str = ""
    done: bool = True


# ---------------------------------------------------------------------------- leadership


class LeaderClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, renewed each second; `term` grows with each change of holder."""

    holder: str
    term: int
    at: datetime
    # The holder has stepped down: whoever comes next need not wait.
    released: bool = False


# ---------------------------------------------------------------------------- request/reply


class QueueQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the leading scheduler why a session waits."""

    session_id: str


class QueuePosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session stands; `position` counts from 1, 0 when it doesn't wait."""

    session_id: str
    position: int
    of: int
    reason: str


class WaitingSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session in the queue; `text` is what its caller reads."""

    session_id: str
    tenant: str
    agent: str
    pool: str
    priority: str
    position: int
    of: int
    reason: str
    text: str
    requested_at: datetime
    deadline_at: datetime
    # When a slot is expected for it, in seconds from now; None: can't be told.
    expected_s: float | None = None


class QueuePageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the leading scheduler for a part of the queue, in its order; `tenant` and `pool` None: of all."""

    tenant: str | None = None
    pool: str | None = None
    offset: int = 0
    limit: int = 100


class QueuePage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the queue; `total` counts all that match."""

    total: int
    waiting: tuple[WaitingSession, ...]


class PoolsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the leading scheduler how the pools stand."""


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool stands, as the leading scheduler sees it. Slots unless said otherwise.

    `target` is the warm free slots that are wanted, `target_why` the terms it was computed from. `held_back` says why
    nothing is launched although it would be (a breaker, the cloud guard, a bound), None when nothing is in the way.
    """

    name: str
    runners: int
    draining: int
    braking: int
    slots: int
    busy: int
    warm: int
    waiting: int
    target: int = 0
    target_why: dict[str, float] = {}
    instances: int | None = None
    cold_starts_in_flight: int = 0
    cold_start_p50_s: float | None = None
    cold_start_p95_s: float | None = None
    arrivals_per_s: float = 0.0
    launcher: str = "none"
    held_back: str | None = None
    held_back_until: datetime | None = None


class LimitUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a limit is used, by one key."""

    limit_id: str
    tenant: str
    key: str
    active: int
    waiting: int


class PoolsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The pools, and the use of the limits that are in use; `policy_revision` is the one that is applied."""

    policy_revision: int
    leader: str
    pools: tuple[PoolState, ...]
    usage: tuple[LimitUsage, ...] = ()
    rolled_back: tuple[RolledBack, ...] = ()


# ---------------------------------------------------------------------------- decisions


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler decided and what from; the `data` of a `scheduler.decision` event, and a pool's message.

    `decision` is `lease`, `wait`, `refuse`, `requeue`, `expire`, `give_up`, `lost`, `end`, `cold_start`, `scale`,
    `retire`, `hold_back`, `roll_back`, `reconcile`, `pin_start`, `pin_stop`, `pin_back_off` or `pin_give_up`.
    """

    decision: str
    at: datetime
    reason: str
    text: str
    # The facts that it was decided from: counts and names, never what was said in a session.
    inputs: dict[str, Any] = {}
    policy_revision: int = 0


# ---------------------------------------------------------------------------- written once, taken once


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a media ticket opens; kept under the SHA-256 of the ticket."""

    tenant: str
    session_id: str
    expires_at: datetime
    # Of one for listening in (kept under another digest, so that it opens nothing else): who listens, and how.
    by: str = ""
    tracks: Tracks = "mixed"
    barge_in: bool = False


class IdempotencyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered to an `Idempotency-Key`, or to a command; no `answer` while the first request is under way."""

    body_sha256: str
    session_id: str
    at: datetime
    status: int = 0
    # The JSON as it was sent. (Raw and None together msgspec doesn't decode.)
    answer: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    # Of a command: the epoch of the session process that it went to.
    epoch: int = 0
    # Of a command: it went into the session's mailbox instead, and its answer is there.
    posted: bool = False


# ---------------------------------------------------------------------------- what transports need


class SessionSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """What only the process of a session may know, by name, e.g. `room_token`."""

    values: dict[str, str]


class SessionBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a bot is given (an object), where the ledger can't have it; the session has its size and digest."""

    body: msgspec.Raw


class ReleasePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Something is about to be made at a provider for a session; whoever reads this takes it away when that is over.

    Written before the provider is asked, so that nothing is left behind by a crash in between. `transport` `body` is
    no provider's: a body in BODIES.
    """

    transport: str
    tenant: str
    session_id: str
    # Enough to find it at the provider; no secrets.
    info: dict[str, str] = {}
    at: datetime


# ---------------------------------------------------------------------------- parked


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A message that can't be processed. `payload` is the original body."""

    stream: str
    subject: str
    stream_seq: int
    consumer: str
    reason: str
    at: datetime
    headers: dict[str, str] = {}
    payload: bytes = b""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A parked message was put back where it came from. `stream_seq` is its place there now."""

    at: datetime
    stream_seq: int
    by: str = ""


def encode(message: msgspec.Struct) -> bytes:
    """Return the JSON that goes over the wire."""
    return _ENCODER.encode(message)


def as_data(message: msgspec.Struct) -> dict[str, Any]:
    """Return a message as the `data` of an event: plain JSON values, times as text."""
    return msgspec.to_builtins(message)


def decode[T](data: bytes, kind: type[T]) -> T:
    """Return `data` as a message of `kind`.

    Raises:
        msgspec.ValidationError: it is JSON, but not such a message (the error names the field).
        msgspec.DecodeError: it isn't JSON, or is nested more deeply than anybody's data is.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(data)
    except RecursionError as error:
        raise msgspec.DecodeError("JSON is nested too deeply") from error


_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}
