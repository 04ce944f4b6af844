"""The catalogue of the wire: which message is on which subject, of what kind, in which stream, and who owns it.

docs/messages.md, asyncapi.json and the golden messages are made from it.
"""

from typing import Any, Final, Literal

import msgspec

from greenroom.common import subjects
from greenroom.common.budgets import BudgetNotice, Spending
from greenroom.common.call_messages import CallRecord, DialPlan, RoomStarts, WebhookSeen
from greenroom.common.commands import (
    CommandAnswer,
    CommandRequest,
    HttpAnswer,
    HttpCall,
    HttpNext,
    HttpPart,
    Listen,
    Listening,
    TransferCall,
)
from greenroom.common.mailbox import Mailbox
from greenroom.common.media_messages import ConnectMedia, MediaAnswer
from greenroom.common.messages import (
    Decision,
    Done,
    Drain,
    Event,
    Heartbeat,
    IdempotencyRecord,
    LeaderClaim,
    LedgerEntry,
    Parked,
    PoolsAnswer,
    PoolsQuery,
    QueuePage,
    QueuePageQuery,
    QueuePosition,
    QueueQuery,
    ReleasePlan,
    Replayed,
    Resume,
    SessionBody,
    SessionSecrets,
    SetStandby,
    StartAnswer,
    StartSession,
    Ticket,
)
from greenroom.common.move_messages import MoveAnswer, MoveQuery
from greenroom.common.notices import LimitNotice
from greenroom.common.peer_messages import OfferPeer, PeerCandidates, PeerReply
from greenroom.common.pins import PinRecords, PinsAnswer, PinsQuery
from greenroom.common.policy import Policy, Verdicts
from greenroom.common.post_call_messages import PostCall
from greenroom.common.subjects import Subject

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
        subject=subjects.SESSION_STORED,
        kind="ledger",
        owner="broker",
        message=LedgerEntry,
        summary="The same once it is stored, with its sequence in the header `Nats-Sequence`: for whoever waits.",
    ),
    Described(
        subject=subjects.SESSION_EVENT,
        kind="event",
        owner="session process, recorder, api, any service of the house",
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
        subject=subjects.SESSION_TAP,
        kind="media",
        owner="api, session process",
        message=bytes,
        summary="Live audio while somebody listens in: of the call (`listen`), and a supervisor's into it (`barge`).",
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
        subject=subjects.SESSION_CMD,
        name="command",
        kind="command",
        owner="api",
        message=CommandRequest,
        reply=CommandAnswer,
        summary="A command to the live session; the same id is answered the same.",
    ),
    Described(
        subject=subjects.SESSION_ASK,
        name="transfer",
        kind="request",
        owner="session process",
        message=TransferCall,
        reply=CommandAnswer,
        summary="The session's phone call is to be handed over by its carrier, whose account the api has.",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="http",
        kind="command",
        owner="api",
        message=HttpCall,
        reply=HttpAnswer,
        summary="An HTTP request for the bot's own routes.",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="http_next",
        kind="command",
        owner="api",
        message=HttpNext,
        reply=HttpPart,
        summary="The next part of an answer of the bot's own routes that comes in parts.",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="listen",
        kind="command",
        owner="api",
        message=Listen,
        reply=Listening,
        summary="Somebody listens in for the next seconds, or has left.",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="offer",
        kind="command",
        owner="api",
        message=OfferPeer,
        reply=PeerReply,
        summary="A client's SDP offer (SmallWebRTC).",
    ),
    Described(
        subject=subjects.SESSION_CMD,
        name="ice",
        kind="command",
        owner="api",
        message=PeerCandidates,
        reply=PeerReply,
        summary="ICE candidates of a client (SmallWebRTC).",
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
        owner="api, operator, scheduler",
        message=Drain,
        reply=Done,
        summary="Take no new sessions.",
    ),
    Described(
        subject=subjects.RUNNER_CMD,
        name="resume",
        kind="command",
        owner="api, operator, scheduler",
        message=Resume,
        reply=Done,
        summary="Take new sessions again.",
    ),
    Described(
        subject=subjects.RUNNER_CMD,
        name="standby",
        kind="command",
        owner="api, scheduler",
        message=SetStandby,
        reply=Done,
        summary="Keep so many processes waiting.",
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
        subject=subjects.REQUEST,
        name="waiting",
        kind="request",
        owner="api",
        message=QueuePageQuery,
        reply=QueuePage,
        summary="Which sessions wait, and why (service `scheduler`).",
    ),
    Described(
        subject=subjects.REQUEST,
        name="pools",
        kind="request",
        owner="api",
        message=PoolsQuery,
        reply=PoolsAnswer,
        summary="How pools and limits stand (service `scheduler`).",
    ),
    Described(
        subject=subjects.REQUEST,
        name="pins",
        kind="request",
        owner="api",
        message=PinsQuery,
        reply=PinsAnswer,
        summary="How the pins stand (service `scheduler`).",
    ),
    Described(
        subject=subjects.REQUEST,
        name="move",
        kind="request",
        owner="api",
        message=MoveQuery,
        reply=MoveAnswer,
        summary="To keep another room for a live session (service `scheduler`).",
    ),
    Described(
        subject=subjects.POLICY,
        name="current",
        kind="state",
        owner="api",
        message=Policy,
        stream="POLICY",
        summary="Limits, pools, reservations and rollouts: the whole of it at each change.",
    ),
    Described(
        subject=subjects.POLICY,
        name="verdicts",
        kind="state",
        owner="scheduler",
        message=Verdicts,
        stream="POLICY",
        summary="Which canaries were rolled back, by compare-and-set.",
    ),
    Described(
        subject=subjects.POLICY,
        name="pins",
        kind="state",
        owner="scheduler",
        message=PinRecords,
        stream="POLICY",
        summary="What the slots of pins have been through, by compare-and-set.",
    ),
    Described(
        subject=subjects.POLICY,
        name="spending",
        kind="state",
        owner="recorder",
        message=Spending,
        stream="POLICY",
        summary="How budgets stand, each minute: the whole of it, by compare-and-set.",
    ),
    Described(
        subject=subjects.NOTICE,
        name="budget.warning",
        kind="event",
        owner="recorder",
        message=BudgetNotice,
        stream="NOTICES",
        summary="A budget has come to its warning.",
    ),
    Described(
        subject=subjects.NOTICE,
        name="budget.reached",
        kind="event",
        owner="recorder",
        message=BudgetNotice,
        stream="NOTICES",
        summary="A budget has come to its end.",
    ),
    Described(
        subject=subjects.NOTICE,
        name="limit.reached",
        kind="event",
        owner="scheduler",
        message=LimitNotice,
        stream="NOTICES",
        summary="A limit holds a session back, as it hasn't for some minutes.",
    ),
    Described(
        subject=subjects.DECISION,
        kind="event",
        owner="scheduler",
        message=Decision,
        stream="DECISIONS",
        summary="Why capacity of a pool was launched, retired or held back.",
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
        subject=subjects.SECRET,
        kind="state",
        owner="api, session process",
        message=SessionSecrets,
        stream="SECRETS",
        summary="What only the process of a session may know; an empty message once it has it.",
    ),
    Described(
        subject=subjects.BODY,
        kind="state",
        owner="api",
        message=SessionBody,
        stream="BODIES",
        summary="What a bot is given, where that is too large for the ledger; an empty message once it isn't needed.",
    ),
    Described(
        subject=subjects.MAILBOX,
        kind="state",
        owner="api, session process",
        message=Mailbox,
        stream="COMMANDS",
        summary="What waits for the process of a session: commands from before it was ready, and its desired settings.",
    ),
    Described(
        subject=subjects.MAILBOX_STORED,
        kind="state",
        owner="broker",
        message=Mailbox,
        summary="The same once it is stored: for the session process, which then looks.",
    ),
    Described(
        subject=subjects.RELEASE,
        kind="state",
        owner="api",
        message=ReleasePlan,
        stream="RELEASES",
        summary="What was made at a provider for a session, until it is taken away.",
    ),
    Described(
        subject=subjects.CALL,
        kind="state",
        owner="api",
        message=CallRecord,
        stream="CALLS",
        summary="Which session a phone call belongs to.",
    ),
    Described(
        subject=subjects.WEBHOOK,
        kind="state",
        owner="api",
        message=WebhookSeen,
        stream="CALLS",
        summary="That the nonce of a carrier's webhook was used.",
    ),
    Described(
        subject=subjects.ROOMS,
        kind="state",
        # The recorder leaves out sessions that are erased.
        owner="api, recorder",
        message=RoomStarts,
        stream="CALLS",
        summary="In which rooms an agent of a tenant has begun sessions by itself.",
    ),
    Described(
        subject=subjects.POST_CALL,
        kind="state",
        owner="recorder",
        message=PostCall,
        stream="POSTCALL",
        summary="A step to be run for a session that is over.",
    ),
    Described(
        subject=subjects.DIAL,
        kind="state",
        owner="api",
        message=DialPlan,
        stream="DIALS",
        summary="Who is to be called once a session is ready.",
    ),
    Described(
        subject=subjects.IDEMPOTENCY,
        kind="state",
        owner="api",
        message=IdempotencyRecord,
        stream="IDEMPOTENCY",
        summary="What was answered to an `Idempotency-Key`, or to a command.",
    ),
    Described(
        subject=subjects.PARKED,
        kind="parked",
        owner="recorder, api",
        message=Parked,
        stream="PARKED",
        summary="A message that could not be processed, with the reason.",
    ),
    Described(
        subject=subjects.REPLAYED,
        kind="parked",
        owner="operator",
        message=Replayed,
        stream="PARKED",
        summary="A parked message was put back, by `greenroom parked replay`.",
    ),
)
