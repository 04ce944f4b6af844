"""API keys: shown once when they are made, kept as SHA-256 only."""

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.devtools import database

_PREFIX: Final = "gr_"
# 32 bytes from the kernel: nothing to guess, so an unsalted hash is enough to keep.
_SECRET_BYTES: Final = 32
_SHOWN_CHARS: Final = 10
_SPAN: Final = re.compile(r"([0-9]+)([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept; `prefix` is its first characters, to recognise it by."""

    id: str
    tenant: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    expired: bool
    revoked: bool


def expiry(text: str, now: datetime) -> datetime:
    """Return when a key expires that is made now.

    Args:
        text: how long it is good, `90d`, `12h` or `30m`; or until when, in ISO 8601: a date is good to its end, and
            without a time zone UTC is meant.
        now: the time.

    Raises:
        ValueError: it is neither, or over already; the text says so.
    """
    try:
        if found := _SPAN.fullmatch(text):
            at = now + timedelta(**{_UNITS[found[2]]: int(found[1])})
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            at += timedelta(days=1 if _DAY.fullmatch(text) else 0)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a span (90d, 12h, 30m) nor a date (2027-01-31)") from None
    if at <= now:
        raise ValueError(f"{text} is over")
    return at


async def create(
    dsn: str, *, tenant: str, name: str, scopes: tuple[str, ...] = ("*",), expires_at: datetime | None = None
) -> str:
    """Make a key and return it: the only time it can be seen.

    Args:
        dsn: the database.
        tenant: whose it is.
        name: what it is called.
        scopes: what it may do.
        expires_at: until when; None: until it is revoked.

    Raises:
        DatabaseUnavailable: PostgreSQL doesn't answer, or has no such table (`greenroom migrate`).
    """
    token = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    await ensure(dsn, token, tenant=tenant, name=name, scopes=scopes, expires_at=expires_at)
    return token


async def ensure(
    dsn: str,
    token: str,
    *,
    tenant: str,
    name: str,
    scopes: tuple[str, ...] = ("*",),
    expires_at: datetime | None = None,
) -> None:
    """Make sure that a key that is known already is valid.

    Raises:
        DatabaseUnavailable: as `create`.
    """
    await database.fetch(
        dsn,
        # A key that is made valid again keeps its row.
        """
        INSERT INTO api_keys (id, tenant, name, prefix, sha256, scopes, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (sha256) DO UPDATE SET revoked_at = NULL, expires_at = EXCLUDED.expires_at
        """,
        uuid7(),
        tenant,
        name,
        token[:_SHOWN_CHARS],
        _digest(token),
        list(scopes),
        utcnow(),
        expires_at,
    )


async def listed(dsn: str) -> list[Key]:
    """Return all keys, the newest first.

    Raises:
        DatabaseUnavailable: as `create`.
    """
    rows = await database.fetch(dsn, "SELECT *, expires_at <= now() AS expired FROM api_keys ORDER BY created_at DESC")
    return [
        Key(
            id=str(row["id"]),
            tenant=row["tenant"],
            name=row["name"],
            prefix=row["prefix"],
            scopes=tuple(row["scopes"]),
            created_at=row["created_at"].isoformat(timespec="seconds"),
            expires_at=row["expires_at"].isoformat(timespec="seconds") if row["expires_at"] else None,
            last_used_at=row["last_used_at"].isoformat(timespec="seconds") if row["last_used_at"] else None,
            expired=bool(row["expired"]),
            revoked=row["revoked_at"] is not None,
        )
        for row in rows
    ]


async def revoke(dsn: str, key: str) -> int:
    """Revoke keys and return how many they were; in force within seconds.

    Args:
        dsn: the database.
        key: a whole key, or the beginning of some as `listed` shows it. What all keys begin with means none of them.

    Raises:
        DatabaseUnavailable: as `create`.
    """
    if len(key) <= len(_PREFIX):
        return 0
    rows = await database.fetch(
        dsn,
        """
        UPDATE api_keys SET revoked_at = now()
        WHERE (starts_with(prefix, $1) OR sha256 = $2) AND revoked_at IS NULL
        RETURNING id
        """,
        key,
        _digest(key),
    )
    return len(rows)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
