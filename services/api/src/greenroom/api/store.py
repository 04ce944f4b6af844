"""What the api reads from PostgreSQL, and the little it writes there (announced agents, last use of keys).

The schema is the recorder's. Every statement is bounded in time; while the server is away a call fails at once
instead of waiting for a connection again and again.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from greenroom.api import sql
from greenroom.api.sql import SessionFilter
from greenroom.common import telemetry
from greenroom.common.errors import DatabaseUnavailable, SchemaNotMigrated
from greenroom.common.lifecycle import Limits, OnLoss, Session
from greenroom.common.messages import BotOffer
from greenroom.common.recordings import RecordingChoice
from greenroom.common.schema import MIGRATIONS

# A page of events takes 2 ms; whoever waits longer than this waits for a server that is in trouble.
_STATEMENT_TIMEOUT_S: Final = 5.0
_CONNECT_TIMEOUT_S: Final = 2.0
_POOL_SIZE: Final = 8
# After a failure nobody tries to connect again for this long.
_AWAY_S: Final = 0.5

# asyncpg ships no types.
type _Pool = Any
type _Connection = Any

_AWAY: Final = (
    OSError,  # TimeoutError and ConnectionError are such
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,  # the connection was closed under the statement
    asyncpg.InternalClientError,  # the server has said goodbye, and hasn't closed the connection yet
)
# A table or column of a later migration than the database has.
_NOT_MIGRATED: Final = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)


class UnstorableAgent(Exception):
    """A bot's description or schema can't be stored, e.g. for a NUL in it; carries the bot's name."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is stored; the key itself is known to its holder only."""

    id: str
    tenant: str
    sha256: str
    scopes: frozenset[str]
    expires_at: datetime | None = None


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent: a bot and how it is configured. Tenant `*` shares one with all tenants."""

    tenant: str
    name: str
    version: int
    bot: str
    pool: str = "default"
    description: str = ""
    body_schema: dict[str, Any] | None = None
    config: dict[str, Any] = {}
    limits: Limits = Limits()
    on_loss: OnLoss = OnLoss.BEFORE_MEDIA
    recording: RecordingChoice = RecordingChoice()
    transports: tuple[str, ...] = ("websocket",)


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is stored; `stream_seq` is what readers resume behind."""

    stream_seq: int
    id: str
    tenant: str
    session_id: str
    type: str
    at: datetime
    seq: int
    epoch: int
    source: str
    data: msgspec.Raw


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed recording; `path` is relative to the recordings' folder."""

    session_id: str
    path: str
    format: str
    duration_s: float
    channels: int
    rate: int
    bytes: int
    sha256: str
    manifest: msgspec.Raw
    saved_at: datetime


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is stored; `sealed` once its recording is, or it is known that there is none."""

    session: Session
    sealed: bool


class Store:
    """PostgreSQL, as the api needs it. Every method raises `DatabaseUnavailable`."""

    def __init__(self, pool: _Pool) -> None:
        """Use a pool made by `open_store`."""
        self._pool = pool
        self._away_until = 0.0

    async def close(self) -> None:
        """Close all connections; those in use are cut."""
        self._pool.terminate()

    async def api_key(self, sha256: str) -> ApiKey | None:
        """Return the key with this digest (hex), unless it is revoked."""
        row = await self._row("api_key", sql.API_KEY, sha256)
        if row is None:
            return None
        return ApiKey(
            id=row["id"],
            tenant=row["tenant"],
            sha256=row["sha256"],
            scopes=frozenset(row["scopes"]),
            expires_at=row["expires_at"],
        )

    async def touch_api_keys(self, used: Mapping[str, datetime]) -> None:
        """Write down when keys (by id) were last used."""
        async with self.connection("touch_api_keys") as connection:
            await connection.execute(sql.TOUCH_API_KEYS, list(used), list(used.values()))

    async def agent(self, tenant: str, name: str) -> Agent | None:
        """Return the newest version of an agent: the tenant's own, else the one shared with all."""
        row = await self._row("agent", sql.AGENT, tenant, name)
        return _agent(row) if row else None

    async def agents(self, tenant: str) -> list[Agent]:
        """Return the newest version of each agent that a tenant can use, by name."""
        async with self.connection("agents") as connection:
            return [_agent(row) for row in await connection.fetch(sql.AGENTS, tenant)]

    async def announce_agent(self, pool: str, offer: BotOffer) -> None:
        """Make or update the agent (tenant `*`, version 1) that a bot is announced as.

        Raises:
            UnstorableAgent: PostgreSQL refuses what the bot says of itself.
        """
        schema = offer.body_schema
        values = (
            offer.name,
            pool,
            offer.description,
            msgspec.json.encode(schema).decode() if schema is not None else None,
            list(offer.transports),
        )
        async with self.connection("announce_agent") as connection:
            try:
                await connection.execute(sql.ANNOUNCE_AGENT, *values)
            except asyncpg.DataError as error:
                raise UnstorableAgent(offer.name) from error

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        """Return a session."""
        row = await self._row("session", sql.SESSION, tenant, session_id)
        if row is None:
            return None
        session = msgspec.json.decode(row["document"], type=Session)
        return StoredSession(session=session, sealed=row["sealed_at"] is not None)

    async def sessions(self, tenant: str, wanted: SessionFilter, limit: int) -> list[Session]:
        """Return sessions, newest first."""
        query, values = sql.sessions(tenant, wanted, limit)
        async with self.connection("sessions") as connection:
            rows = await connection.fetch(query, *values)
        return [msgspec.json.decode(row["document"], type=Session) for row in rows]

    async def session_counts(self, tenant: str) -> dict[str, int]:
        """Return how many sessions of a tenant are in each state, ended ones aside."""
        async with self.connection("session_counts") as connection:
            rows = await connection.fetch(sql.SESSION_COUNTS, tenant)
        return {row["state"]: row["count"] for row in rows}

    async def events(self, session_id: str, *, after: int, limit: int) -> list[EventRow]:
        """Return events of a session behind stream sequence `after`, in order."""
        async with self.connection("events") as connection:
            rows = await connection.fetch(sql.EVENTS, session_id, after, limit)
        return [_event(row) for row in rows]

    async def recording(self, session_id: str) -> Recording | None:
        """Return the sealed recording of a session."""
        row = await self._row("recording", sql.RECORDING, session_id)
        if row is None:
            return None
        fields: dict[str, Any] = {**row, "manifest": msgspec.Raw(row["manifest"].encode())}
        return Recording(**fields)

    async def schema_version(self) -> str | None:
        """Return the name of the newest migration that is applied."""
        row = await self._row("schema_version", sql.SCHEMA_VERSION)
        return row["name"] if row else None

    async def missing_migrations(self) -> list[str]:
        """Return the migrations of this version that aren't applied, in order."""
        async with self.connection("missing_migrations") as connection:
            try:
                applied = {row["name"] for row in await connection.fetch(sql.APPLIED_MIGRATIONS)}
            except asyncpg.UndefinedTableError:
                applied = set[str]()
        return [name for name in MIGRATIONS if name not in applied]

    async def _row(self, name: str, query: str, *values: object) -> Any:
        async with self.connection(name) as connection:
            return await connection.fetchrow(query, *values)

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncGenerator[_Connection]:
        """Lend a connection for what is called `name`, inside a span if there is one to be its parent."""
        with ExitStack() as spans:
            if trace.get_current_span().get_span_context().is_valid:
                attributes = {"db.system.name": "postgresql", "db.operation.name": name}
                spans.enter_context(telemetry.span(f"postgresql {name}", kind=SpanKind.CLIENT, attributes=attributes))
            async with self._lent() as connection:
                yield connection

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[_Connection]:
        if time.monotonic() < self._away_until:
            raise DatabaseUnavailable
        try:
            connection = await self._pool.acquire(timeout=_CONNECT_TIMEOUT_S)
        except (*_AWAY, asyncpg.PostgresError) as error:  # also: no such database, no such user, starting up
            self._away_until = time.monotonic() + _AWAY_S
            raise DatabaseUnavailable from error
        try:
            yield connection
        except _NOT_MIGRATED as error:
            raise SchemaNotMigrated("run `greenroom migrate`") from error
        except _AWAY as error:
            raise DatabaseUnavailable from error
        finally:
            # One that can't be made ready for the next is closed by the pool, and of no concern to this one.
            with suppress(*_AWAY):
                await self._pool.release(connection)


async def open_store(dsn: str) -> Store:
    """Return the store; no connection is made before one is needed, so the server may be away."""
    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=_POOL_SIZE,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_STATEMENT_TIMEOUT_S,
        server_settings={"application_name": "greenroom-api"},
    )
    return Store(pool)


def _agent(row: Mapping[str, Any]) -> Agent:
    schema = row["body_schema"]
    return Agent(
        tenant=row["tenant"],
        name=row["name"],
        version=row["version"],
        bot=row["bot"],
        pool=row["pool"],
        description=row["description"],
        body_schema=msgspec.json.decode(schema, type=dict[str, Any]) if schema is not None else None,
        config=msgspec.json.decode(row["config"], type=dict[str, Any]),
        limits=msgspec.json.decode(row["limits"], type=Limits),
        on_loss=OnLoss(row["on_loss"]),
        recording=msgspec.json.decode(row["recording"], type=RecordingChoice),
        transports=tuple(row["transports"]),
    )


def _event(row: Mapping[str, Any]) -> EventRow:
    fields: dict[str, Any] = {**row, "data": msgspec.Raw(row["data"].encode())}
    return EventRow(**fields)
