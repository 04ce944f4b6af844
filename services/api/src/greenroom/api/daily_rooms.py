"""Rooms at Daily that agents go to by themselves: which, how many at once, and what the bot is given there."""

import fnmatch
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from greenroom.api.cache import Cache
from greenroom.api.store import Store
from greenroom.common.clock import Clock
from greenroom.common.errors import GreenroomError

# How long a change may go unnoticed.
_TTL_S: Final = 2.0
_ALL: Final = "*"

_COLUMNS: Final = "tenant, agent, rooms, max_sessions, body, changed_at"
# All choices, or a tenant's.
_LIST: Final = f"""
SELECT {_COLUMNS} FROM daily_rooms WHERE $1::text IS NULL OR tenant = $1 ORDER BY tenant, agent
"""  # noqa: S608 constants
_PUT: Final = f"""
INSERT INTO daily_rooms (tenant, agent, rooms, max_sessions, body) VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT (tenant, agent) DO UPDATE
SET (rooms, max_sessions, body, changed_at) = (excluded.rooms, excluded.max_sessions, excluded.body, now())
RETURNING {_COLUMNS}
"""  # noqa: S608 constants
_DELETE: Final = "DELETE FROM daily_rooms WHERE tenant = $1 AND agent = $2 RETURNING tenant"
# Live sessions only, of which there are at most as many as slots and waiting requests.
_TAKEN: Final = """
SELECT EXISTS (
    SELECT FROM sessions
    WHERE tenant = $1 AND id <> $3 AND state IN ('requested', 'leased', 'started', 'ready', 'ending')
        AND document -> 'transport_info' ->> 'room_url' = $2
)
"""

# Shell patterns, as those of GREENROOM_DAILY_BRING_ROOMS, and no regular expressions: `*` is matched without going back
# over what it has passed, so that no pattern takes long for any name.
type RoomPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_*?-]{1,128}(?!\n)$")]


class DailyRoomsNotFound(GreenroomError):
    """The agent goes to no rooms by itself; `GET /v1/daily-rooms` lists those that do."""

    code = "daily-rooms-not-found"
    status = 404
    title = "The agent goes to no rooms by itself"


class DailyRoomsWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an agent goes as soon as somebody is there."""

    rooms: Annotated[
        tuple[RoomPattern, ...],
        Meta(
            min_length=1, max_length=32, description="Patterns of the rooms' whole names: `*` any characters, `?` one"
        ),
    ]
    max_sessions: Annotated[
        int, Meta(ge=0, le=500, description="How many sessions at once are begun like this; 0: none any more")
    ] = 5
    body: Annotated[dict[str, Any], Meta(description="What the bot is given with each session")] = {}


class DailyRooms(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tenant's agent goes by itself."""

    tenant: str
    agent: str
    rooms: tuple[str, ...]
    max_sessions: int
    body: dict[str, Any]
    changed_at: datetime


class DailyRoomsList(msgspec.Struct, frozen=True, kw_only=True):
    """Agents that go to rooms by themselves, by tenant and name."""

    agents: list[DailyRooms]


class DailyRoomsStore:
    """What was said of all tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
        clock: of what is remembered.
    """

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._store = store
        self._cache: Cache[str, list[DailyRooms]] = Cache(self._load, ttl_s=_TTL_S, absent_ttl_s=_TTL_S, clock=clock)

    async def of_room(self, name: str) -> list[DailyRooms]:
        """Return who goes to a room; while PostgreSQL is away, as it was last known."""
        return going(await self._cache.get(_ALL) or [], name)

    async def taken(self, tenant: str, room_url: str, session_id: str) -> bool:
        """Tell whether another session than this one is in a tenant's room, as far as PostgreSQL knows already."""
        async with self._store.connection("daily_room_taken") as connection:
            return await connection.fetchval(_TAKEN, tenant, room_url, session_id)

    async def all(self, tenant: str | None) -> list[DailyRooms]:
        """Return what was said of a tenant's agents, or of all."""
        async with self._store.connection("daily_rooms") as connection:
            return [_rooms(row) for row in await connection.fetch(_LIST, tenant)]

    async def put(self, tenant: str, agent: str, wish: DailyRoomsWish) -> DailyRooms:
        """Say where an agent goes, in the place of what was said."""
        body = msgspec.json.encode(wish.body).decode()
        async with self._store.connection("put_daily_rooms") as connection:
            row = await connection.fetchrow(_PUT, tenant, agent, wish.rooms, wish.max_sessions, body)
        self._cache.forget(_ALL)
        return _rooms(row)

    async def delete(self, tenant: str, agent: str) -> None:
        """Have an agent go nowhere by itself.

        Raises:
            DailyRoomsNotFound: it doesn't.
        """
        async with self._store.connection("delete_daily_rooms") as connection:
            if await connection.fetchval(_DELETE, tenant, agent) is None:
                raise DailyRoomsNotFound
        self._cache.forget(_ALL)

    async def _load(self, _: str) -> list[DailyRooms]:
        return await self.all(None)


def going(agents: Sequence[DailyRooms], room: str) -> list[DailyRooms]:
    """Return those that go to a room of this name."""
    return [one for one in agents if any(fnmatch.fnmatchcase(room, pattern) for pattern in one.rooms)]


def _rooms(row: Any) -> DailyRooms:
    fields: dict[str, Any] = {**row, "rooms": tuple(row["rooms"]), "body": msgspec.json.decode(row["body"])}
    return DailyRooms(**fields)
