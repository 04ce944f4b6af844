"""Commands to live sessions over REST: what goes in and out, and who may send what."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from greenroom.api.auth import SESSIONS_BARGE_IN, SESSIONS_CONTROL, SESSIONS_LISTEN, SESSIONS_WHISPER
from greenroom.common.commands import BargeIn, Command, CommandId, Snapshot, Whisper
from greenroom.common.messages import Tracks

# Less than the 30 s for which a session's process may answer a request.
MAX_TIMEOUT_S: Final = 25.0

# Which scope allows which command, beside `sessions:control`, which allows all.
SCOPES: Final[dict[type, str]] = {
    BargeIn: SESSIONS_BARGE_IN,
    Whisper: SESSIONS_WHISPER,
    # Whoever hears the call may know how it stands.
    Snapshot: SESSIONS_LISTEN,
}
type CommandStatus = Literal["done", "queued"]

ANY_COMMAND: Final = (SESSIONS_CONTROL, *SCOPES.values())


class SendCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command to a live session."""

    command: Command
    id: Annotated[
        CommandId | None,
        Meta(description="Names the command: the same id is carried out once, and answered the same. Default: made"),
    ] = None
    timeout_s: Annotated[
        float, Meta(gt=0, le=MAX_TIMEOUT_S, description="How long to wait for the session's answer")
    ] = 10.0


class CommandView(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was carried out, or waits until the session is ready (`queued`)."""

    id: str
    session_id: str
    command: str
    status: CommandStatus = "done"
    # Depends on the command; docs/commands.md says what is in it. Empty while it waits.
    result: dict[str, Any]


class ListenWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How somebody wants to listen in."""

    tracks: Annotated[Tracks, Meta(description="Mono of both sides, or stereo: the user left, the bot right")] = "mixed"
    barge_in: Annotated[bool, Meta(description="Whether the listener may speak into the call")] = False


class ListenView(msgspec.Struct, frozen=True, kw_only=True):
    """The way to listen in: a WebSocket whose URL is good for one connection until `expires_at`."""

    session_id: str
    url: str
    expires_at: datetime
    tracks: str
    barge_in: bool
    # PCM, 16 bit little-endian, so many samples per second.
    rate: int
    channels: int
