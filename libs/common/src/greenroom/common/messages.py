"""Every message of the system: its struct, its subject, its kind, its stream and who owns it.

Fields are only ever added, with a default; a breaking change is a new struct with a new tag and
subject version. Constructors don't validate: messages are decoded, and so checked, at every edge.
"""

import enum
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from greenroom.common import subjects
from greenroom.common.lifecycle import Session, State, Transition
from greenroom.common.subjects import Subject

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
    CALL_DISCONNECTED = "call_disconnected"
    CALL_COMPLETED = "call_completed"
    RECORDING_SAVED = "recording_saved"


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


# ---------------------------------------------------------------------------- media (live frames)


class MediaKind(enum.IntEnum):
    """First byte of a media message; four bytes of sequence number follow, then the payload."""

    TEXT = 0
    BINARY = 1
    # Payload: close code (2 bytes, big-endian) and reason (UTF-8).
    CLOSE = 2


class ConnectMedia(msgspec.Struct, frozen=True, kw_only=True):
    """The edge asks the session process to take a client's WebSocket."""

    connection_id: str
    # Handshake headers that a bot may want to see, names in lower case; no cookies, no authorization.
    headers: dict[str, str] = {}
    query: dict[str, str] = {}


class MediaAccepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The session process listens: frames may flow."""

    connection_id: str
    subprotocol: str | None = None


class MediaRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The session process doesn't take the client; `code` is one of the error catalogue."""

    code: str
    detail: str = ""


type MediaAnswer = MediaAccepted | MediaRefused


# ---------------------------------------------------------------------------- runners


class BotOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A bot that a runner can run."""

    name: str
    description: str = ""
    # Transports that the bot takes, for example `("websocket",)`.
    transports: tuple[str, ...] = ("websocket",)
    # JSON Schema of the request's `body`; None takes any.
    body_schema: dict[str, Any] | None = None
    # Why it can't run here (its import failed), the last line of the traceback; it is never scheduled then.
    error: str | None = None


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

    `code` is `no-slot`, `draining`, `bot-unknown`, `bot-import-failed` or `stale-epoch`.
    """

    code: str
    detail: str = ""


type StartAnswer = StartAccepted | StartRefused


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """No new sessions; the ones that run may finish."""

    reason: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A command was carried out."""

    detail: str = ""


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


# ---------------------------------------------------------------------------- written once, taken once


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a media ticket opens; kept under the SHA-256 of the ticket."""

    tenant: str
    session_id: str
    expires_at: datetime


class IdempotencyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered to an `Idempotency-Key`; there is no `answer` while the first request is under way."""

    body_sha256: str
    session_id: str
    at: datetime
    status: int = 0
    # The JSON as it was sent. (Raw and None together msgspec doesn't decode.)
    answer: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


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


# ---------------------------------------------------------------------------- the catalogue

type Kind = Literal["ledger", "event", "audio", "media", "presence", "command", "request", "state", "parked"]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue: which message is on which subject.

    `stream` is None for core NATS (delivered to whoever listens, kept by nobody).
    """

    subject: Subject
    kind: Kind
    owner: str
    message: Any
    reply: Any = None
    stream: str | None = None
    # The value of the subject's last token, where the subject is shared.
    name: str | None = None
    summary: str


CATALOG: Final[tuple[Described, ...]] = (
    Described(
        subject=subjects.SESSION_LIFECYCLE,
        kind="ledger",
        owner="api, scheduler, runner",
        message=LedgerEntry,
        stream="SESSIONS",
        summary="A transition of a session, and the session after it; published with compare-and-set.",
    ),
    Described(
        subject=subjects.SESSION_EVENT,
        kind="event",
        owner="session process, recorder, any service of the house",
        message=Event,
        stream="SESSIONS",
        summary="Something that happened in a session.",
    ),
    Described(
        subject=subjects.SESSION_AUDIO,
        kind="audio",
        owner="session process",
        message=bytes,
        stream="AUDIO",
        summary="Up to one second of one side's audio; headers say where it belongs.",
    ),
    Described(
        subject=subjects.SESSION_MEDIA,
        kind="media",
        owner="api, session process",
        message=bytes,
        summary="A live WebSocket frame, from (`in`) or to (`out`) the client.",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="connect",
        kind="command",
        owner="api",
        message=ConnectMedia,
        reply=MediaAnswer,
        summary="A client's WebSocket has come for the session.",
    ),
    Described(
        subject=subjects.RUNNER_HEARTBEAT,
        kind="presence",
        owner="runner",
        message=Heartbeat,
        summary="Slots, sessions and load of a runner, each second and at every change.",
    ),
    Described(
        subject=subjects.RUNNER_CMD,
        name="start",
        kind="command",
        owner="scheduler",
        message=StartSession,
        reply=StartAnswer,
        summary="Run this session.",
    ),
    Described(
        subject=subjects.RUNNER_CMD,
        name="drain",
        kind="command",
        owner="operator",
        message=Drain,
        reply=Done,
        summary="Take no new sessions.",
    ),
    Described(
        subject=subjects.LEADER,
        kind="state",
        owner="scheduler, recorder",
        message=LeaderClaim,
        stream="LEADERS",
        summary="Who leads, by compare-and-set.",
    ),
    Described(
        subject=subjects.REQUEST,
        name="queue",
        kind="request",
        owner="api",
        message=QueueQuery,
        reply=QueuePosition,
        summary="Where a session stands in the queue (service `scheduler`).",
    ),
    Described(
        subject=subjects.TICKET,
        kind="state",
        owner="api",
        message=Ticket,
        stream="TICKETS",
        summary="What a media ticket opens; an empty message once it is used.",
    ),
    Described(
        subject=subjects.IDEMPOTENCY,
        kind="state",
        owner="api",
        message=IdempotencyRecord,
        stream="IDEMPOTENCY",
        summary="What was answered to an `Idempotency-Key`.",
    ),
    Described(
        subject=subjects.PARKED,
        kind="parked",
        owner="recorder",
        message=Parked,
        stream="PARKED",
        summary="A message that could not be processed, with the reason.",
    ),
)


def encode(message: msgspec.Struct) -> bytes:
    """Return the JSON that goes over the wire."""
    return _ENCODER.encode(message)


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
