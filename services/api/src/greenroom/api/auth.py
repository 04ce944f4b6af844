"""Who asks: API keys, and what they may do.

A key is `gr_` and 32 or more random characters. Only its SHA-256 is stored; looked-up keys are remembered for some
seconds, and for as long as PostgreSQL is away.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from greenroom.api.cache import Cache
from greenroom.api.store import ApiKey, Store
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import DatabaseUnavailable, Forbidden, KeyExpired, Unauthenticated

# How long a revoked key may still work, and a new one not yet.
KEY_TTL_S: Final = 5.0
UNKNOWN_KEY_TTL_S: Final = 1.0
_TOUCH_EVERY_S: Final = 30.0
_SCHEME: Final = b"bearer "
_PREFIX: Final = b"gr_"
_MAX_KEY_BYTES: Final = 256

SESSIONS_READ: Final = "sessions:read"
SESSIONS_WRITE: Final = "sessions:write"
# Commands to live sessions; of those, a supervisor's alone; and listening in. None of them comes with another scope.
SESSIONS_CONTROL: Final = "sessions:control"
SESSIONS_WHISPER: Final = "sessions:whisper"
SESSIONS_BARGE_IN: Final = "sessions:barge_in"
SESSIONS_LISTEN: Final = "sessions:listen"
# Erasing sessions of the tenant for good; it doesn't come with another scope either.
SESSIONS_ERASE: Final = "sessions:erase"
# What operators decide about scheduling, of all tenants; whoever may change it may see it.
POLICY_READ: Final = "policy:read"
POLICY_WRITE: Final = "policy:write"
# How the sessions of agents are handled: what becomes of them when their runner is lost, how they are recorded.
AGENTS_WRITE: Final = "agents:write"
# Which agent answers calls to the tenant's phone numbers.
NUMBERS_READ: Final = "numbers:read"
NUMBERS_WRITE: Final = "numbers:write"
# Whom the tenant's events are told to.
WEBHOOKS_READ: Final = "webhooks:read"
WEBHOOKS_WRITE: Final = "webhooks:write"
ADMIN: Final = "admin"
# A key with one of these may do everything.
_ALL: Final = frozenset({ADMIN, "*"})

type Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]
type Connection = ASGIConnection[Any, Any, Any, Any]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent a request: a key, and the tenant it belongs to."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    # The key itself: media tickets are derived from it. In no log, no answer, and not in the repr.
    secret: bytes

    def __repr__(self) -> str:
        """Return everything but the key."""
        return f"Caller(tenant={self.tenant!r}, key_id={self.key_id!r}, scopes={sorted(self.scopes)!r})"

    def may(self, *scopes: str) -> bool:
        """Tell whether the key has one of `scopes`."""
        return not self.scopes.isdisjoint(_ALL.union(scopes))

    @property
    def operator(self) -> bool:
        """Whether the key sees what is decided about all tenants, beside its own."""
        return self.may(POLICY_READ, POLICY_WRITE)


class Keys:
    """Knows keys by their digest."""

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        """Look keys up in `store`."""
        self._store = store
        self._clock = clock or SystemClock()
        self._cache: Cache[str, ApiKey] = Cache(
            store.api_key, ttl_s=KEY_TTL_S, absent_ttl_s=UNKNOWN_KEY_TTL_S, clock=self._clock
        )
        self._used: dict[str, datetime] = {}

    async def authenticate(self, authorization: bytes | None) -> Caller:
        """Return whom an `Authorization` header belongs to.

        Raises:
            Unauthenticated: no key, or none that is valid.
            KeyExpired: its time is over.
            DatabaseUnavailable: the key isn't known here and can't be looked up.
        """
        token = _token(authorization)
        digest = hashlib.sha256(token).hexdigest()
        key = await self._cache.get(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest):
            raise Unauthenticated("The key isn't known, or was revoked.")
        now = self._clock.now()
        if key.expires_at is not None and key.expires_at <= now:
            raise KeyExpired(f"The key expired at {key.expires_at.isoformat(timespec='seconds')}.")
        self._used[key.id] = now
        return Caller(tenant=key.tenant, key_id=key.id, scopes=key.scopes, secret=token)

    async def run(self) -> None:
        """Write down from time to time when keys were last used, until cancelled."""
        while True:
            await asyncio.sleep(_TOUCH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write down when keys were last used; what can't be written now is written the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.touch_api_keys(used)
        except DatabaseUnavailable:
            self._used = {**used, **self._used}


def guard(keys: Keys) -> Guard:
    """Return the guard of the whole app: every route needs a key with one of its scopes, unless it is `public`."""

    async def check(connection: Connection, handler: BaseRouteHandler) -> None:
        if handler.opt.get("public"):
            return
        caller = await keys.authenticate(_header(connection, b"authorization"))
        # One, or several of which any will do.
        scope: str | tuple[str, ...] = handler.opt.get("scope", ADMIN)
        scopes = (scope,) if isinstance(scope, str) else scope
        if not caller.may(*scopes):
            raise Forbidden(f"The key lacks the scope {' or '.join(scopes)}.")
        connection.scope["user"] = caller

    return check


def caller_of(connection: Connection) -> Caller:
    """Return who sent a request that has passed the guard."""
    caller = connection.scope["user"]
    if not isinstance(caller, Caller):
        raise Unauthenticated
    return caller


def _token(authorization: bytes | None) -> bytes:
    if authorization is None:
        raise Unauthenticated("Send `Authorization: Bearer <key>`.")
    token = authorization[len(_SCHEME) :].strip()
    if not authorization[: len(_SCHEME)].lower() == _SCHEME or not token.startswith(_PREFIX):
        raise Unauthenticated("Send `Authorization: Bearer <key>`; keys begin with gr_.")
    if len(token) > _MAX_KEY_BYTES:
        raise Unauthenticated("The key isn't known, or was revoked.")
    return token


def _header(connection: Connection, name: bytes) -> bytes | None:
    return next((value for header, value in connection.scope["headers"] if header == name), None)
