"""What the runner and its session processes say to each other, over a `SOCK_SEQPACKET` socket pair.

One packet is one message (msgpack). The other end closing is a message too: a session process whose runner is
gone ends within a second, and a runner whose session process is gone waits for its exit.
"""

from typing import Final

import msgspec

from greenroom.common.call_data import CallData
from greenroom.common.lifecycle import Outcome, Session

# The kernel's default limit for one packet is about 208 KiB; a session document is bounded at far less.
MAX_PACKET_BYTES: Final = 160 * 1024


class Assign(msgspec.Struct, frozen=True, kw_only=True, tag="assign"):
    """Run this session now. Sent once in the life of a session process.

    `secrets` are those of its bot, for its environment. `broker` is where to connect for this session, with a login of
    its own; empty: the connection that is there is good for it.
    """

    session: Session
    secrets: dict[str, str] = {}
    broker: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """End in order: the bot may finish its sentence (EndFrame) within `deadline_s`, then the pipeline is canceled."""

    outcome: Outcome
    reason: str
    detail: str | None = None
    deadline_s: float


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """End at once: cancel the pipeline, flush events and audio, exit."""

    reason: str


class Announced(msgspec.Struct, frozen=True, kw_only=True, tag="announced"):
    """The ledger says that the session is ready: nobody else has it."""


class ChangeRoom(msgspec.Struct, frozen=True, kw_only=True, tag="change-room"):
    """Go to another room, or come back if that can't be; `transport_info` is what the session's own will be."""

    id: str
    transport_info: dict[str, str]


type ToSession = Assign | Announced | Stop | Cancel | ChangeRoom


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    """The process is there; beside this comes the file of its memory map (`isolation.usage`)."""


class Stacks(msgspec.Struct, frozen=True, kw_only=True, tag="stacks"):
    """Said next: beside this comes the file that the process writes its stacks to, when it is asked (`stackfile`)."""


class Standby(msgspec.Struct, frozen=True, kw_only=True, tag="standby"):
    """Connected to the broker and warmed: can take a session."""


class PipelineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The bot's pipeline runs (its StartFrame has come through)."""

    # Milliseconds since `Assign`, by stage: `bot` (bot called), `worker` (pipeline built), `pipeline` (started).
    stages_ms: dict[str, float] = {}


class MediaConnected(msgspec.Struct, frozen=True, kw_only=True, tag="connected"):
    """A client is on the line, for the first time or again; `call` is what is known of a phone call by now."""

    call: CallData | None = None


class RoomChanged(msgspec.Struct, frozen=True, kw_only=True, tag="room-changed"):
    """The bot is in the other room, or (`failed` says why) where it was.

    `connected` is whether somebody is with it there.
    """

    id: str
    failed: str | None = None
    connected: bool = False


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """The bot has begun to speak: after the connection (`greeting`), or after something that the user has said.

    What it consists of is in the event `metrics`.
    """

    took_ms: float
    greeting: bool = False


class EndingNotice(msgspec.Struct, frozen=True, kw_only=True, tag="ending"):
    """The session ends by itself (the bot said goodbye, the caller hung up, the bot raised …)."""

    outcome: Outcome
    reason: str
    detail: str | None = None


class Left(msgspec.Struct, frozen=True, kw_only=True, tag="left"):
    """What the broker hasn't taken by the end: an event, or audio (`droppable`). The runner publishes it when it can.

    Sent in the order in which the broker is to have them, before `Finished`.
    """

    subject: str
    data: bytes
    msg_id: str
    headers: dict[str, str]
    droppable: bool


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """Everything is published or left to the runner; the process exits next.

    The last word on the outcome, unless the exit says worse.
    """

    outcome: Outcome
    reason: str
    detail: str | None = None
    # Events and audio chunks there were, messages that the runner has to publish, and those that had to be given up.
    events: int = 0
    chunks: int = 0
    left: int = 0
    lost: int = 0


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag="pong"):
    """Sent each second while a session runs: the worst lateness of the event loop since the last one."""

    loop_lag_ms: float


type FromSession = (
    Begun
    | Stacks
    | Standby
    | PipelineReady
    | MediaConnected
    | RoomChanged
    | Answered
    | EndingNotice
    | Left
    | Finished
    | Pong
)


def encode(message: ToSession | FromSession) -> bytes:
    """Return the packet."""
    return msgspec.msgpack.encode(message)


def decode_to_session(packet: bytes) -> ToSession:
    """Return what the runner said; raises `msgspec.ValidationError` for anything else."""
    return msgspec.msgpack.decode(packet, type=ToSession)


def decode_from_session(packet: bytes) -> FromSession:
    """Return what the session process said; raises `msgspec.ValidationError` for anything else."""
    return msgspec.msgpack.decode(packet, type=FromSession)
