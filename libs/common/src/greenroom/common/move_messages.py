"""How a live session comes to another room: what the api asks of the leading scheduler. See `lifecycle.Moving`."""

import msgspec


class MoveQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the leading scheduler to keep a room for a session that is in another one, and to have it go there.

    `room` and `transport_info` are what the session's own are to be. The same `id` is the same move, however often it
    is asked for.
    """

    session_id: str
    tenant: str
    id: str
    room: str | None = None
    transport_info: dict[str, str]


class RoomKept(msgspec.Struct, frozen=True, kw_only=True, tag="kept"):
    """The room is the session's: it is on its way, or there already. The ledger says what becomes of it."""

    id: str


class MoveRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The session stays where it is: `room-busy`, `session-not-live` or `session-moves`."""

    code: str
    detail: str = ""


type MoveAnswer = RoomKept | MoveRefused
