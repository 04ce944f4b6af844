"""What goes in and out over REST. Fields are only ever added."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from greenroom.common.call_data import CallData
from greenroom.common.lifecycle import BodyRef, Limits, OnLoss, Outcome, Priority, Session, State
from greenroom.common.recordings import RecordingChoice

MAX_METADATA: Final = 32
MAX_METADATA_VALUE: Final = 1024
# The longest that any limit may be: a day.
MAX_LIMIT_S: Final = 86_400.0
MAX_WAIT_S: Final = 60.0
MAX_LABELS: Final = 16
MAX_ACCOUNTS: Final = 16
_NAME: Final = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?(?!\n)$"

type Seconds = Annotated[float, Meta(gt=0, le=MAX_LIMIT_S)]
type SecondsOrNever = Annotated[float, Meta(ge=0, le=MAX_LIMIT_S)]
type MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
type MetadataValue = Annotated[str, Meta(max_length=MAX_METADATA_VALUE)]
# The lookahead is for Python's `$`, which also matches before a last newline.
type PoolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]
type LabelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_./-]{1,64}(?!\n)$")]
type LabelValue = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_./:-]{0,64}(?!\n)$")]
type Labels = Annotated[dict[LabelName, LabelValue], Meta(max_length=MAX_LABELS)]
# What is counted and shown: no control characters, no space at either end.
type Name = Annotated[str, Meta(max_length=128, pattern=_NAME)]
type LongName = Annotated[str, Meta(max_length=512, pattern=_NAME)]
type Explanation = Annotated[str, Meta(max_length=200)]


# ---------------------------------------------------------------------------- in


class LimitsWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each part of a session may take, in seconds; what is left out is as the agent says."""

    queue_timeout_s: Seconds | None = None
    start_timeout_s: Seconds | None = None
    max_duration_s: Seconds | None = None
    join_timeout_s: Seconds | None = None
    end_timeout_s: Seconds | None = None
    ending_soon_s: SecondsOrNever | None = None
    first_audio_timeout_s: SecondsOrNever | None = None
    no_progress_timeout_s: SecondsOrNever | None = None
    silence_timeout_s: SecondsOrNever | None = None
    rejoin_timeout_s: SecondsOrNever | None = None
    requeue_timeout_s: SecondsOrNever | None = None

    def over(self, limits: Limits) -> Limits:
        """Return `limits` with what is wished for."""
        wished = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(limits, **wished) if wished else limits


class CreateSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a session."""

    agent: Annotated[str, Meta(min_length=1, max_length=128, description="Name of the agent, as in `GET /v1/agents`")]
    transport: Annotated[str, Meta(min_length=1, max_length=32, description="How the client will speak")] = "websocket"
    transport_options: Annotated[
        dict[str, Any], Meta(description="What the transport should know; each has its own, see docs/transports.md")
    ] = {}
    body: Annotated[
        dict[str, Any], Meta(description="What the bot is given; checked against the agent's schema if it has one")
    ] = {}
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Meta(max_length=MAX_METADATA, description="The caller's own labels; kept with the session, not read"),
    ] = {}
    limits: LimitsWish = LimitsWish()
    on_loss: Annotated[
        OnLoss | None, Meta(description="What becomes of the session if its runner is lost; default: the agent's")
    ] = None
    pool: Annotated[PoolName | None, Meta(description="Which runners; default: the agent's")] = None
    requires: Annotated[Labels, Meta(description='Labels that a runner must have, e.g. `{"gpu": "l4"}`')] = {}
    prefers: Annotated[Labels, Meta(description="Labels that are better, where there is a choice")] = {}
    priority: Annotated[Priority, Meta(description="Its class in the queue")] = Priority.NORMAL
    room: Annotated[
        LongName | None, Meta(description="The conference room: a tenant has one active session in each")
    ] = None
    carrier: Annotated[
        Name | None, Meta(description="Of a call, for limits by carrier; a phone call of ours has its own")
    ] = None
    number: Annotated[
        Name | None, Meta(description="Of a call, for limits by number; a phone call of ours has its own")
    ] = None
    accounts: Annotated[
        list[Name],
        Meta(max_length=MAX_ACCOUNTS, description="Accounts at providers that it uses, e.g. `openai/main`"),
    ] = []
    sticky_key: Annotated[
        LongName | None, Meta(description="Sessions of one key get the same version of the agent, canary or not")
    ] = None
    user: Annotated[
        LongName | None,
        Meta(description="Who it is with, as you call him; `GET /v1/sessions?user=…&state=ready` finds where he is"),
    ] = None
    wait: Annotated[
        Literal["requested", "leased", "ready"], Meta(description="Answer when the session has come this far")
    ] = "requested"
    wait_timeout_s: Annotated[float, Meta(gt=0, le=MAX_WAIT_S, description="… or after this many seconds")] = 10.0


class MoveSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to take a live session to another room."""

    transport_options: Annotated[
        dict[str, Any],
        Meta(description="As at a start: `room_url` brings a room; without it one is made, as the options say"),
    ] = {}
    timeout_s: Annotated[
        float, Meta(gt=0, le=MAX_WAIT_S, description="How long to wait until the bot is there, or back")
    ] = 45.0


class StopSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to end a session."""

    reason: Annotated[Explanation | None, Meta(description="Why, for people; becomes the session's `detail`")] = None


# ---------------------------------------------------------------------------- out


class IceServer(msgspec.Struct, frozen=True, kw_only=True):
    """A STUN or TURN server, as browsers' `RTCPeerConnection` takes it."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class Transport(msgspec.Struct, frozen=True, kw_only=True):
    """How the client reaches the session."""

    type: str
    # Where to connect, good until `expires_at` (a WebSocket: for one connection); only in the answer to the request.
    url: str | None = None
    expires_at: datetime | None = None
    # What to connect with, for one person; only in the answer to the request.
    token: str | None = None
    # Where the room can be called, if that was asked for; only in the answer to the request.
    sip_uri: str | None = None
    # What is public of it, e.g. the name of the room.
    info: dict[str, str] = {}
    # How a browser gets through NAT (`smallwebrtc`); only in the answer to the request.
    ice_servers: tuple[IceServer, ...] = ()
    # A page of this service to speak with the session on, complete with the token (`smallwebrtc`); only in the answer.
    page_url: str | None = None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """Where a waiting session stands, and why it waits."""

    # Counted from 1; None where the scheduler couldn't be asked, and for one whose runner is being launched.
    position: int | None = None
    of: int | None = None
    reason: str


class Links(msgspec.Struct, frozen=True, kw_only=True, rename={"itself": "self"}):
    """Paths of what belongs to a session."""

    itself: str
    events: str
    stop: str
    recording: str


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session."""

    id: str
    state: State
    # How it went, why, and who decided it; None until that is decided.
    outcome: Outcome | None
    reason: str | None
    ended_by: str | None
    detail: str | None

    agent: str
    agent_version: int
    pool: str
    transport: Transport
    body: dict[str, Any]
    metadata: dict[str, str]
    limits: Limits
    on_loss: OnLoss
    # Counts the tries to run it.
    attempt: int

    requested_at: datetime
    leased_at: datetime | None
    started_at: datetime | None
    ready_at: datetime | None
    ending_at: datetime | None
    ended_at: datetime | None

    # The trace of the whole session (W3C trace id).
    trace_id: str | None
    links: Links

    # Where it may run and what limits count it by, as it was asked for.
    requires: dict[str, str] = {}
    prefers: dict[str, str] = {}
    priority: Priority = Priority.NORMAL
    room: str | None = None
    carrier: str | None = None
    number: str | None = None
    accounts: tuple[str, ...] = ()
    sticky_key: str | None = None
    # Who it is with, as it was asked for.
    user: str | None = None
    # Whether a runner was launched for this very session.
    cold: bool = False
    # Of one that was refused: when asking again may go better, in seconds.
    retry_after_s: float | None = None

    # While it waits.
    queue: Queue | None = None

    # Where `body` has more than 64 KiB: it is shown as `{}`.
    body_ref: BodyRef | None = None
    # Of a phone call.
    call: CallData | None = None


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, newest first."""

    sessions: list[SessionView]
    # Pass as `cursor` for the next page; None on the last.
    next: str | None


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a session. `stream_seq` is what to resume behind."""

    stream_seq: int
    id: str
    session_id: str
    type: str
    at: datetime
    seq: int
    epoch: int
    source: str
    data: dict[str, Any]


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in the order in which they were stored."""

    events: list[EventView]
    # Pass as `after` for the next page; None where nothing is stored behind this one yet.
    next: int | None


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that can be asked for."""

    name: str
    version: int
    description: str
    bot: str
    pool: str
    transports: tuple[str, ...]
    body_schema: dict[str, Any] | None
    limits: Limits
    on_loss: OnLoss
    # How its sessions are recorded; what it leaves out is as the deployment says.
    recording: RecordingChoice
    # Whether a runner is there now that can run it.
    runnable: bool


class AgentList(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by name."""

    agents: list[AgentView]


class HeldView(msgspec.Struct, frozen=True, kw_only=True):
    """A session that occupies a slot."""

    session_id: str
    tenant: str
    phase: State
    since: datetime


class BotView(msgspec.Struct, frozen=True, kw_only=True):
    """A bot that a runner has; `error` says why it can't run there."""

    name: str
    error: str | None
    # The version of the agent that the runner runs.
    version: int = 1
    # Where `error` was raised: the end of the traceback, innermost call last; empty where there is none.
    traceback: str = ""
    # The class of its sessions, as it says; empty: it says none.
    resources: str = ""
    # What a session of it takes there, in cores of a processor and bytes of memory; None: that isn't known so far.
    cores: float | None = None
    memory: int | None = None
    # How many more of it the runner takes, if of no other; None: as many as there are slots free.
    more: int | None = None


class RunnerView(msgspec.Struct, frozen=True, kw_only=True):
    """A runner, as it described itself `age_s` seconds ago."""

    id: str
    pool: str
    state: Literal["serving", "draining", "lost"]
    age_s: float
    slots: int
    # Slots that are free and may be given away.
    free: int
    standby: int
    sessions: list[HeldView]
    bots: list[BotView]
    cpu: float
    memory_available: int
    loop_lag_ms: float
    host: str
    version: str
    started_at: datetime
    # Why it takes nothing more although it has slots: what was measured; None: it doesn't brake.
    brake: str | None = None
    # What sessions may require or prefer.
    labels: dict[str, str] = {}
    # What the launcher knows it by; empty for one that was started by hand.
    instance: str = ""
    # The one session that it was launched for, as `{session_id}-{epoch}`.
    claim: str | None = None


class RunnerList(msgspec.Struct, frozen=True, kw_only=True):
    """Runners by pool and id."""

    runners: list[RunnerView]


class RunnerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet in numbers."""

    serving: int
    draining: int
    lost: int
    slots: int
    held: int


class SchedulerView(msgspec.Struct, frozen=True, kw_only=True):
    """Who places sessions; `leader` is None where nobody does."""

    leader: str | None
    term: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the installation is."""

    version: str
    instance: str
    ready: bool
    # What isn't as it should be, by part.
    problems: dict[str, str]
    # The newest migration that is applied; None while PostgreSQL is away.
    schema_version: str | None
    # Live sessions of the tenant by state; None while PostgreSQL is away.
    sessions: dict[str, int] | None
    runners: RunnerCounts
    scheduler: SchedulerView
    # What this installation is set up for; which of them an agent takes, `GET /v1/agents` says.
    transports: tuple[str, ...] = ()


def session_view(session: Session, *, transport: Transport | None = None, queue: Queue | None = None) -> SessionView:
    """Return a session as callers see it: nothing of hosts, leases and fences."""
    path = f"/v1/sessions/{session.id}"
    return SessionView(
        id=session.id,
        state=session.state,
        outcome=session.outcome,
        reason=session.reason,
        ended_by=session.ended_by,
        detail=session.detail,
        agent=session.agent,
        agent_version=session.agent_version,
        pool=session.pool,
        transport=transport or Transport(type=session.transport, info=session.transport_info),
        body=session.body,
        metadata=session.metadata,
        limits=session.limits,
        on_loss=session.on_loss,
        attempt=session.attempt,
        requested_at=session.requested_at,
        leased_at=session.leased_at,
        started_at=session.started_at,
        ready_at=session.ready_at,
        ending_at=session.ending_at,
        ended_at=session.ended_at,
        trace_id=trace_id_of(session.traceparent),
        links=Links(itself=path, events=f"{path}/events", stop=f"{path}/stop", recording=f"{path}/recording"),
        requires=session.requires,
        prefers=session.prefers,
        priority=session.priority,
        room=session.room,
        carrier=session.carrier,
        number=session.number,
        accounts=session.accounts,
        sticky_key=session.sticky_key,
        user=session.user,
        cold=session.cold,
        retry_after_s=session.retry_after_s,
        queue=queue,
        body_ref=session.body_ref,
        call=session.call,
    )


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id (32 hex digits) of a `traceparent`."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None  # noqa: PLR2004 version, trace, span, flags
