"""API keys: shown once when they are made, kept as SHA-256 only."""

import hashlib
import secrets
from typing import Final

import msgspec

from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.devtools import database

_PREFIX: Final = "gr_"
# 32 bytes from the kernel: nothing to guess, so an unsalted hash is enough to keep.
_SECRET_BYTES: Final = 32
_SHOWN_CHARS: Final = 10


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept; `prefix` is its first characters, to recognise it by."""

    id: str
    tenant: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: str
    last_used_at: str | None
    revoked: bool


async def create(dsn: str, *, tenant: str, name: str, scopes: tuple[str, ...] = ("*",)) -> str:
    """Make a key and return it: the only time it can be seen.

    Raises:
        DatabaseUnavailable: PostgreSQL doesn't answer, or has no such table (`greenroom migrate`).
    """
    token = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    await ensure(dsn, token, tenant=tenant, name=name, scopes=scopes)
    return token


async def ensure(dsn: str, token: str, *, tenant: str, name: str, scopes: tuple[str, ...] = ("*",)) -> None:
    """Make sure that a key that is known already is valid.

    Raises:
        DatabaseUnavailable: as `create`.
    """
    await database.fetch(
        dsn,
        # A key that is made valid again keeps its row.
        """
        INSERT INTO api_keys (id, tenant, name, prefix, sha256, scopes, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (sha256) DO UPDATE SET revoked_at = NULL
        """,
        uuid7(),
        tenant,
        name,
        token[:_SHOWN_CHARS],
        _digest(token),
        list(scopes),
        utcnow(),
    )


async def listed(dsn: str) -> list[Key]:
    """Return all keys, the newest first.

    Raises:
        DatabaseUnavailable: as `create`.
    """
    rows = await database.fetch(dsn, "SELECT * FROM api_keys ORDER BY created_at DESC")
    return [
        Key(
            id=str(row["id"]),
            tenant=row["tenant"],
            name=row["name"],
            prefix=row["prefix"],
            scopes=tuple(row["scopes"]),
            created_at=row["created_at"].isoformat(timespec="seconds"),
            last_used_at=row["last_used_at"].isoformat(timespec="seconds") if row["last_used_at"] else None,
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
