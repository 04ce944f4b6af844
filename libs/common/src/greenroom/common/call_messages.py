"""What the api remembers of phone calls and of rooms at providers, so that each has one session."""

from datetime import datetime

import msgspec


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which session a phone call belongs to.

    Kept under the call, so that one call has one session however often its carrier asks, and under the session, so that
    it is dialled once and can be hung up.
    """

    carrier: str
    tenant: str
    session_id: str
    # The carrier's id of it; empty while it isn't known.
    call_id: str = ""
    # The carrier says that it has ended: nothing has to be hung up.
    over: bool = False
    # Whom it is being or was handed over to: it is no longer ours, and not to be hung up.
    transfer_to: str = ""
    # How the carrier reaches us; empty in records that are older than this.
    origin: str = ""
    at: datetime


class WebhookSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook's nonce was used, with this body."""

    body_sha256: str
    at: datetime


class RoomStart(msgspec.Struct, frozen=True, kw_only=True):
    """The session that an agent has begun by itself in one room. Times are Daily's, in Unix seconds."""

    room: str
    # Empty: its meeting is over, and none was begun.
    session_id: str = ""
    # The last of those who came.
    joined_at: float = 0.0
    # When the room's meeting was last over.
    ended_at: float = 0.0
    # The session is, or never came to be.
    over: bool = False


class RoomStarts(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent has gone by itself: what says that one session is begun in a room, and how many there are."""

    rooms: tuple[RoomStart, ...] = ()


class DialPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody is to be called as soon as the session is ready. Whoever reads this does it, once."""

    carrier: str
    tenant: str
    session_id: str
    to: str
    caller: str
    ring_timeout_s: int
    machine_detection: bool = False
    # How the carrier reaches this service, e.g. `https://voice.example.org`.
    origin: str
    at: datetime
